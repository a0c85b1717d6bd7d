"""The assignment of rows to components: labels, log-densities, certainties, responsibilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture import engine
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import (
    Pattern,
    Patterns,
    Scattered,
    find_patterns,
    has_holes,
    marginal,
)
from gmm_dask.mixture.scattered import assign_scattered
from gmm_dask.mixture.sparse.blocks import ASSIGN_ROWS
from gmm_dask.mixture.statistics import SufficientStatistics, sum_statistics
from gmm_dask.mixture.transforms import Transforms

#: Threads share rows in multiples of this: no more rows are in a block of a pass, so that the
#: blocks are the same for any number of threads.
BLOCK_ROWS = 1_024
#: The fewest rows that are worth a thread.
LEAST_SLICE_ROWS = 32_768
#: Rows that are looked at for holes, before a pass over all rows that would find them too late.
LOOK_ROWS = 1_024


@dataclass(frozen=True, eq=False)
class Assignment:
    """The predictions of a mixture for n rows.

    Of a row with holes they are those of what it has. A row without any value has the label −1,
    and NaN for the rest.

    Attributes
    ----------
    labels
        Index of the most probable component, (n,) int32.
    log_densities
        log p(x), nats, (n,).
    responsibilities
        p(component | x), (n, k), each row sums to 1; None unless requested.
    certainties
        The largest p(component | x) of each row, (n,); None unless requested.
    finite
        Whether all values were finite. Also False where a sum of values overflows float64.
    """

    labels: npt.NDArray[np.int32]
    log_densities: FloatArray
    responsibilities: FloatArray | None
    certainties: FloatArray | None = None
    finite: bool = True


def assign(
    parameters: MixtureParameters,
    X: RowsArray,
    *,
    responsibilities: bool = False,
    certainties: bool = False,
    transforms: Transforms | None = None,
    threads: int = 1,
    patterns: Patterns = (),
    repeated: bool = False,
) -> Assignment:
    """Evaluate a mixture on rows in memory.

    Parameters
    ----------
    X
        (n, d) float32 or float64. The predictions for a row with infinities have no meaning.
    responsibilities, certainties
        Whether to return them.
    transforms
        Those that X has had: log-densities are then in natural units.
    threads
        Threads that share the rows; the result does not depend on their number.
    patterns
        Of the rows, if they are known to have holes: a pass is saved.
    repeated
        Whether the rows are a part of many more, as the chunks of a scan are.
    """
    n = X.shape[0]
    assigned = _unassigned(parameters, n, responsibilities, certainties)
    if not patterns and n > LOOK_ROWS and has_holes(X[:LOOK_ROWS]):
        patterns = find_patterns(X)
    if not patterns:
        divided = engine.divides(parameters, n, repeated)
        block = ASSIGN_ROWS if divided else BLOCK_ROWS
        least = block if engine.takes_blocks(parameters) else LEAST_SLICE_ROWS
        step = max(-(-n // (threads * block)) * block, least)
        pieces = [slice(start, start + step) for start in range(0, n, step)]
        finite = all(
            _each(
                lambda rows: _assign_rows(parameters, X[rows], assigned, rows, divided),
                pieces,
                threads,
            )
        )
        if finite:
            return in_natural_units(assigned, X, transforms)
        patterns = tuple(pattern for pattern in find_patterns(X) if not pattern.complete)
    parts = [
        pattern.part(start, start + LEAST_SLICE_ROWS)
        for pattern in patterns
        for start in range(0, len(pattern.rows), LEAST_SLICE_ROWS)
    ]
    _each(lambda part: _assign_pattern(parameters, X, assigned, part), parts, threads)
    return in_natural_units(replace(assigned, finite=False), X, transforms)


def sum_and_assign(
    parameters: MixtureParameters, X: RowsArray, sample_weight: FloatArray | None
) -> tuple[SufficientStatistics, Assignment | None]:
    """Take the statistics of complete rows, and assign them in the same pass.

    Both have the bits that `sum_statistics` gives, and `assign` with certainties; log-densities
    are in model units. Where one pass cannot give them (`engine.assigns_too`), and where a value
    is not finite, there is no assignment.
    """
    if not engine.assigns_too(parameters, X):
        return sum_statistics(parameters, X, sample_weight), None
    assigned = _unassigned(parameters, len(X), responsibilities=False, certainties=True)
    assert assigned.certainties is not None
    answers = assigned.labels, assigned.log_densities, assigned.certainties
    sums = sum_statistics(parameters, X, sample_weight, assigned=answers)
    return sums, assigned if isfinite(sums.log_likelihood) else None


def in_natural_units(
    assigned: Assignment, X: RowsArray, transforms: Transforms | None
) -> Assignment:
    """Add the slopes of the transforms that X has had to the log-densities."""
    if transforms is not None:
        log_densities = assigned.log_densities
        log_densities += transforms.log_slopes(X)
    return assigned


def _each(work: Callable[[Any], bool], pieces: Sequence[Any], threads: int) -> list[bool]:
    if len(pieces) <= 1 or threads == 1:
        return [work(piece) for piece in pieces]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, pieces))


def _unassigned(
    parameters: MixtureParameters, n: int, responsibilities: bool, certainties: bool
) -> Assignment:
    """Make the arrays of an assignment; their content has no meaning yet."""
    return Assignment(
        np.empty(n, dtype=np.int32),
        np.empty(n),
        np.empty((n, parameters.n_components)) if responsibilities else None,
        np.empty(n) if certainties else None,
    )


def _assign_rows(
    parameters: MixtureParameters,
    X: RowsArray,
    assigned: Assignment,
    rows: slice,
    divided: bool,
) -> bool:
    """Fill in the predictions of complete rows X; return whether all were finite.

    Whether they are divided must not depend on how many threads share them.
    """
    return engine.assign(parameters, X, *_outputs(parameters, assigned, rows), divided=divided)


def _outputs(
    parameters: MixtureParameters, assigned: Assignment, rows: slice
) -> tuple[npt.NDArray[np.int32], FloatArray, FloatArray, FloatArray | None]:
    """Return where a pass writes the predictions of these rows."""
    shares, largest = assigned.responsibilities, assigned.certainties
    return (
        assigned.labels[rows],
        assigned.log_densities[rows],
        np.empty((0, parameters.n_components)) if shares is None else shares[rows],
        None if largest is None else largest[rows],
    )


def _assign_pattern(
    parameters: MixtureParameters, X: RowsArray, assigned: Assignment, pattern: Pattern | Scattered
) -> bool:
    """Fill in the predictions of the rows of a pattern, by its marginal; or of scattered rows."""
    rows, shares, largest = pattern.rows, assigned.responsibilities, assigned.certainties
    part = _unassigned(parameters, len(rows), shares is not None, largest is not None)
    if isinstance(pattern, Scattered):
        assign_scattered(parameters, pattern.take(X), *_outputs(parameters, part, slice(None)))
    elif len(pattern.observed):
        if not pattern.complete:
            parameters = marginal(parameters, pattern.observed).parameters
        _assign_rows(parameters, pattern.take(X), part, slice(None), False)
    else:
        part.labels[:] = -1
        for array in (part.log_densities, part.responsibilities, part.certainties):
            if array is not None:
                array[:] = np.nan
    assigned.labels[rows] = part.labels
    assigned.log_densities[rows] = part.log_densities
    if shares is not None:
        shares[rows] = part.responsibilities
    if largest is not None:
        largest[rows] = part.certainties
    return True


def sum_assignment(assigned: Assignment) -> tuple[float, float, float]:
    """Sum over rows: log p(x) in nats, 1, and −log r of the most probable component.

    The rows must have been assigned with their certainties. Rows without any value do not count.
    """
    assert assigned.certainties is not None
    log_densities, certainties = assigned.log_densities, assigned.certainties
    if not assigned.finite:
        counted = assigned.labels >= 0
        log_densities, certainties = log_densities[counted], certainties[counted]
    uncertainty = -float(np.log(certainties).sum())
    return float(log_densities.sum()), float(len(log_densities)), uncertainty
