"""The origins of parts from two versions, counted in one list: the run's first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gmm_dask.storage.predictions.dataset import Origin
from gmm_dask.storage.predictions.parts import Part


def shifted(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Count the origins of parts of the current version behind that of the run."""
    return tuple(
        replace(part, origins=tuple(origin + 1 for origin in part.origins)) for part in parts
    )


def renumber(
    origins: Sequence[Origin], parts: Sequence[Part]
) -> tuple[list[Origin], tuple[Part, ...]]:
    """Leave out the origins that no part has any more."""
    used = sorted({origin for part in parts for origin in part.origins})
    numbers = {origin: number for number, origin in enumerate(used)}
    numbered = (
        replace(part, origins=tuple(numbers[origin] for origin in part.origins)) for part in parts
    )
    return [origins[origin] for origin in used], tuple(numbered)
