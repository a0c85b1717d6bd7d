"""Density summaries as arrays and JSON for a checkpoint, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import NamedArrays
from gmm_dask.chunked.evaluation import DensitySummary

_SUMS = (
    "weight", "log_likelihood", "uncertainty", "lowest", "highest", "ceiling", "complete_weight",
    "complete_log_likelihood",
)  # fmt: skip
_ARRAYS = ("occupancy", "bins")


def encode_densities(
    evaluated: Mapping[str, DensitySummary], arrays: NamedArrays
) -> list[dict[str, Any]]:
    """Add the arrays of summaries to others, and return what JSON can hold.

    Parameters
    ----------
    evaluated
        Summaries by the digest of their mixtures.
    """
    return [
        _encode(digest, summary, f"evaluated.{number}", arrays)
        for number, (digest, summary) in enumerate(evaluated.items())
    ]


def decode_densities(
    meta: list[dict[str, Any]], arrays: Mapping[str, npt.NDArray[Any]]
) -> dict[str, DensitySummary]:
    """Rebuild what `encode_densities` was given."""
    return {
        item["digest"]: _decode(item, f"evaluated.{number}", arrays)
        for number, item in enumerate(meta)
    }


def _encode(
    digest: str, summary: DensitySummary, prefix: str, arrays: NamedArrays
) -> dict[str, Any]:
    for name in _ARRAYS:
        arrays[f"{prefix}.{name}"] = getattr(summary, name)
    arrays[f"{prefix}.sums"] = np.array([getattr(summary, name) for name in _SUMS])
    for number, counts in enumerate(summary.label_counts.values()):
        arrays[f"{prefix}.label.{number}"] = counts
    return {"digest": digest, "rows": summary.rows, "labels": list(summary.label_counts)}


def _decode(
    meta: dict[str, Any], prefix: str, arrays: Mapping[str, npt.NDArray[Any]]
) -> DensitySummary:
    labels = enumerate(meta["labels"])
    summary = {
        "rows": meta["rows"],
        "label_counts": {name: arrays[f"{prefix}.label.{number}"] for number, name in labels},
        **{name: arrays[f"{prefix}.{name}"] for name in _ARRAYS},
        **dict(zip(_SUMS, arrays[f"{prefix}.sums"].tolist(), strict=True)),
    }
    return DensitySummary(**summary)
