"""The store of units beside a model: what each file, or run of files, added to its statistics.

::

    statistics.safetensors   one file: arrays of all units, and an index as JSON in its metadata

It is a further file of the model's version, so both are published together or not at all, and its
sha256 is in the version's ``run.json``. A store that cannot be read is no store: the next fit reads
everything.

The store holds sums, extremes and a uniform sample of the rows, kept apart by unit. So what is left
after a unit is left out is what a store would hold that had never seen it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from gmm_dask.arrays import NamedArrays
from gmm_dask.chunked.defects import no_defects
from gmm_dask.chunked.draw import Draw
from gmm_dask.chunked.moments import Moments
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.mixture.units import UnitStatistics

#: File beside a model that holds its store.
STATISTICS = "statistics.safetensors"
FORMAT = 1
#: Most bytes of a store.
MOST_BYTES = 256_000_000
#: Most rows of the sample, and most bytes of their values.
SAMPLE_ROWS, SAMPLE_BYTES = 65_536, 64_000_000

_SUMS = ("counts", "residual_sums", "residual_products", "rows", "weight", "entropy", "slope")
_MOMENTS = ("mean", "squares", "minimum", "maximum")


@dataclass(frozen=True, eq=False)
class Unit:
    """A file, or a run of consecutive files, whose sums are kept as one.

    Attributes
    ----------
    files
        Its files: by path, the digest of what the filter left of each, which are row groups and
        what was asked of each row. What a file held is beside the store (``input_content.json``).
    read
        The night on which it was read last, counted from the last full fit.
    young
        Whether the weight of a row did not yet decay then (`Rows.young`).
    survey
        Survey of its rows, with its rows of the sample.
    """

    files: Mapping[str, str]
    read: int
    young: bool
    survey: Survey


@dataclass(frozen=True, eq=False)
class UnitStore:
    """The units of a model, and their statistics under its parameters.

    Attributes
    ----------
    units
        In the order of the input.
    statistics
        Of each unit, in the same order.
    settings
        What the sums depend on besides the files, by name.
    night
        Incremental fits since the last full one.
    threshold
        Rows with a priority up to this are in the sample.
    today
        The day from which ages were counted; None without a half-life.
    """

    units: tuple[Unit, ...]
    statistics: UnitStatistics
    settings: Mapping[str, Any]
    night: int
    threshold: int
    today: date | None = None

    @property
    def survey(self) -> Survey:
        """The survey of all rows, with the sample."""
        return add_surveys([unit.survey for unit in self.units])

    def take(self, places: Sequence[int]) -> UnitStore:
        """Return the store of some of the units."""
        units = tuple(self.units[place] for place in places)
        return replace(self, units=units, statistics=self.statistics.take(places))


def add_surveys(surveys: Sequence[Survey]) -> Survey:
    """Add the surveys of one unit or more, in their order."""
    total = reduce(add, surveys)
    return replace(total, draws=(total.draw,))


def unit_bytes(parameters: MixtureParameters) -> int:
    """Bytes that a unit takes beside its rows of the sample: k·(1 + d + d²) numbers, and a few."""
    k, d = parameters.means.shape
    sums = k * (1 + d) + parameters.covariances.size
    return 8 * (sums + 5 * d + 12) + 400  # paths and digests of a file


def sample_rows(d: int) -> int:
    """Return the most rows of the sample, for d features."""
    return max(1, min(SAMPLE_ROWS, SAMPLE_BYTES // (8 * d)))


def most_units(parameters: MixtureParameters) -> int:
    """Return how many units a store may have."""
    d = parameters.n_features
    return (MOST_BYTES - 8 * (d + 3) * sample_rows(d)) // unit_bytes(parameters)


def trim_sample(units: Sequence[Unit], threshold: int, most: int) -> tuple[tuple[Unit, ...], int]:
    """Leave out rows above the threshold, and lower it until at most ``most`` rows are left.

    What is left is a uniform sample: of the rows of all units, those of the smallest priorities.
    """
    draws = [unit.survey.draw.priorities for unit in units]
    priorities = np.concatenate(draws) if draws else np.empty(0, np.uint64)
    priorities = priorities[priorities <= np.uint64(threshold)]
    if len(priorities) >= most:  # what lies above was perhaps not drawn
        threshold = int(np.partition(priorities, most - 1)[most - 1])
    return tuple(replace(unit, survey=_cut(unit.survey, threshold)) for unit in units), threshold


def _cut(survey: Survey, threshold: int) -> Survey:
    draw = survey.draw
    kept = draw.priorities <= np.uint64(threshold)
    if kept.all():
        return survey
    return replace(survey, draws=(_choose(draw, kept),))


def _choose(draw: Draw, chosen: Any) -> Draw:
    """Return the chosen rows of a draw, by a mask or a slice."""
    return Draw(
        draw.wanted,
        draw.priorities[chosen],
        draw.numbers[chosen],
        draw.values.T[:, chosen].T,
        draw.weights[chosen] if len(draw.weights) else draw.weights,
    )


def encode_store(store: UnitStore) -> bytes:
    """Return a store as the bytes of a file; `decode_store` reads them back."""
    surveys = [unit.survey for unit in store.units]
    draws = [survey.draw for survey in surveys]
    arrays: NamedArrays = {name: getattr(store.statistics, name) for name in _SUMS}
    for name in _MOMENTS:
        arrays[f"moments.{name}"] = np.array([getattr(s.moments, name) for s in surveys])
    arrays["moments.counts"] = np.array([s.moments.counts for s in surveys], np.int64)
    arrays["survey.rows"] = np.array(
        [(s.source_rows, s.rows, s.outside, s.incomplete) for s in surveys], np.int64
    )
    arrays["survey.sums"] = np.array([(s.weight, s.weight_squares, s.log_slopes) for s in surveys])
    arrays["sample.unit"] = np.repeat(
        np.arange(len(draws), dtype=np.int32), [len(draw.priorities) for draw in draws]
    )
    arrays["sample.priorities"] = np.concatenate([draw.priorities for draw in draws])
    arrays["sample.numbers"] = np.concatenate([draw.numbers for draw in draws])
    arrays["sample.weights"] = np.concatenate([draw.weights for draw in draws])
    arrays["sample.values"] = np.concatenate([draw.values.T for draw in draws], axis=1)
    index = {
        "format": FORMAT,
        "parameters": store.statistics.parameters_digest,
        "settings": store.settings,
        "night": store.night,
        "threshold": store.threshold,
        "today": None if store.today is None else store.today.isoformat(),
        "wanted": draws[0].wanted,
        "units": [[unit.read, unit.young, dict(unit.files)] for unit in store.units],
    }
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(contiguous, {"index": json.dumps(index, separators=(",", ":"))})


def decode_store(
    content: bytes, parameters: MixtureParameters, transforms: Transforms | None
) -> UnitStore:
    """Read what `encode_store` wrote.

    Parameters
    ----------
    parameters, transforms
        Of the model that the store lies beside.

    Raises
    ------
    ValueError
        The content is not a store of this format, or it is that of other parameters.
    """
    try:
        header = int.from_bytes(content[:8], "little")
        index = json.loads(json.loads(content[8 : 8 + header])["__metadata__"]["index"])
        if index["format"] != FORMAT:
            raise ValueError(f"has format {index['format']!r}, this gmm-dask reads {FORMAT}")
        arrays = safetensors.numpy.load(content)
        statistics = UnitStatistics(
            **{name: arrays[name] for name in _SUMS}, parameters_digest=index["parameters"]
        )
        if statistics.parameters_digest != parameters.digest:
            raise ValueError("belongs to other parameters than its model has")
        surveys = _decode_surveys(arrays, len(index["units"]), index["wanted"], transforms)
        units = tuple(
            Unit(dict(files), int(read), bool(young), survey)
            for (read, young, files), survey in zip(index["units"], surveys, strict=True)
        )
        today = index["today"]
        return UnitStore(
            units,
            statistics,
            index["settings"],
            int(index["night"]),
            int(index["threshold"]),
            None if today is None else date.fromisoformat(today),
        )
    except (
        LookupError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError,
        safetensors.SafetensorError,
    ) as error:  # fmt: skip
        raise ValueError(f"cannot be understood ({type(error).__name__}: {error})") from error


def _decode_surveys(
    arrays: NamedArrays, count: int, wanted: int, transforms: Transforms | None
) -> list[Survey]:
    bounds = np.searchsorted(arrays["sample.unit"], np.arange(count + 1)).tolist()
    whole = Draw(
        wanted,
        arrays["sample.priorities"],
        arrays["sample.numbers"],
        arrays["sample.values"].T,
        arrays["sample.weights"],
    )
    d = arrays["moments.mean"].shape[1]
    surveys = []
    for unit in range(count):
        source_rows, rows, outside, incomplete = arrays["survey.rows"][unit].tolist()
        weight, weight_squares, log_slopes = arrays["survey.sums"][unit].tolist()
        counts = tuple(arrays["moments.counts"][unit].tolist())
        observed = None if counts == (rows,) * d else counts
        mean, squares, lowest, highest = (arrays[f"moments.{name}"][unit] for name in _MOMENTS)
        surveys.append(
            Survey(
                source_rows,
                Moments(rows, mean, squares, lowest, highest, observed),
                weight,
                no_defects(d),
                (_choose(whole, slice(bounds[unit], bounds[unit + 1])),),
                outside,
                incomplete,
                weight_squares,
                transforms,
                log_slopes,
            )
        )
    return surveys
