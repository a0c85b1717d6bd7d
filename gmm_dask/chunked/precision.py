"""What the log says of float32 rows: whether the statistics of a polish are computed in float64."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from gmm_dask.chunked.scan import Scanner
from gmm_dask.mixture import engine
from gmm_dask.mixture.parameters import MixtureParameters

logger = logging.getLogger("gmm_dask")


def tell_precision(scanner: Scanner, starts: Sequence[MixtureParameters], tol: float) -> None:
    """Log, before a polish, how many of its mixtures begin in float64 for float32 rows, and why."""
    reasons = [why_doubles(scanner, parameters, tol) for parameters in starts]
    doubles = [reason for reason in reasons if reason]
    if doubles:
        few = f"{len(doubles)} of {len(starts)} mixtures begin with statistics of the float32 rows"
        many = "statistics of the float32 rows are"
        logger.info(
            "%s computed in float64: %s",
            many if len(doubles) == len(starts) else few,
            "; ".join(dict.fromkeys(doubles)),
        )


def tell_change(
    scanner: Scanner, start: MixtureParameters, end: MixtureParameters, tol: float
) -> None:
    """Log, after a polish, that what its best mixture took in float32 it took in float64 at last.

    It may take twice as long then.
    """
    reason = why_doubles(scanner, end, tol)
    if reason and not why_doubles(scanner, start, tol):
        logger.info("at last, statistics of the float32 rows were computed in float64: %s", reason)


def why_doubles(scanner: Scanner, parameters: MixtureParameters, tol: float) -> str:
    """Say why statistics of float32 rows are computed in float64; empty if they are not.

    Also where the rows are float64 themselves, or so few that it does not matter.
    """
    if scanner.chunks.dtype != np.float32 or scanner.rows < engine.LEAST_SINGLE_ROWS:
        return ""
    least = engine.least_single_tol(parameters.n_features)
    if tol < least:
        return f"tol is below {least:g}"
    return engine.why_doubles(parameters, max(scanner.chunks.rows))
