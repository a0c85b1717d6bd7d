"""Passes over blocks of rows, each divided or left whole: statistics and predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.kernels.addresses import rows_at, vector_at, writable
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sparse.guide import Guide, guide_of, plain_time
from gmm_dask.mixture.sparse.passes import assign, assign_of, statistics, statistics_of
from gmm_dask.mixture.sparse.regions import divide

Statistics = tuple[FloatArray, FloatArray, FloatArray, float]

#: Rows of a block. The more, the fewer components have to share a tile.
STATISTICS_ROWS = 32_768
#: Threads that share the rows of a prediction share them by such blocks.
ASSIGN_ROWS = 16_384
#: A block with fewer rows is left whole.
LEAST_ROWS = 1_024
#: The share of a block that is divided first, to see whether it is crowded.
_TRIED = 32
_LEAST_TRIED = 512
#: Of the rows that are tried, so many times the pairs that may matter are what the block costs: a
#: constant, times d, up to so many. So many times the looks are what it takes, in fuller tiles.
_MORE_PAIRS, _MOST_FEATURES, _FEWER_LOOKS = (1.25, 0.15), 8, 0.5
#: Once a block is divided, only passes are left to pay for: up to this share of all pairs.
_MOST_COST = 0.8
#: A guide is worth its cost from so many rows on, and so many ns of a plain pass: where components
#: overlap, to find that out takes less than 5 % of the pass.
_WORTH_ROWS, _WORTH = 8_192, 1e7
#: The same where many calls share the guide, as those of a scan do.
_WORTH_ROWS_SHARED, _WORTH_SHARED = 2_048, 1e6


class Division(NamedTuple):
    """A block of rows, divided.

    Attributes
    ----------
    order
        Numbers of the rows, bundle by bundle, (n,).
    bounds
        Where each bundle begins in it, and where the last one ends.
    bundles
        How many there are.
    active
        Which components may matter in each, (2k, k).
    """

    order: npt.NDArray[np.int64]
    bounds: npt.NDArray[np.int64]
    bundles: int
    active: npt.NDArray[np.bool_]


#: Bytes of the guides that are kept; beyond, the oldest is made again when it is needed. One has
#: three tables of k² doubles: 24 MB for 1,000 components.
_MOST_KEPT = 2**28
_guides: WeakKeyDictionary[MixtureParameters, Guide | None] = WeakKeyDictionary()
_keeping = Lock()


def is_worth(parameters: MixtureParameters, n: int, repeated: bool = False) -> bool:
    """Tell whether so many rows are worth the guide of a mixture.

    With ``repeated``, the rows are a part of many more, and all of them share the guide.
    """
    rows, least = (_WORTH_ROWS_SHARED, _WORTH_SHARED) if repeated else (_WORTH_ROWS, _WORTH)
    return n >= rows and n * plain_time(parameters) >= least


def guide_for(parameters: MixtureParameters) -> Guide | None:
    """Return the guide of a mixture, which is made once; None if components overlap."""
    with _keeping:
        if parameters in _guides:
            return _guides[parameters]
    guide = guide_of(parameters)  # two threads may make the same, bit for bit
    with _keeping:
        guide = _guides.setdefault(parameters, guide)
        kept = sum(_bytes_of(other) for other in _guides.values())
        for oldest in list(_guides):
            if kept <= _MOST_KEPT or oldest is parameters:
                break
            kept -= _bytes_of(_guides.pop(oldest))
    return guide


def _bytes_of(guide: Guide | None) -> int:
    return 0 if guide is None else sum(np.asarray(part).nbytes for part in guide)


class Shares(NamedTuple):
    """What a division costs, as shares of all pairs of a row and a component.

    Attributes
    ----------
    cost
        The pairs that bundles pass over.
    pairs
        Those that may matter.
    looks
        Those that were looked at to tell.
    """

    cost: float
    pairs: float
    looks: float


def _divide(guide: Guide, X: RowsArray) -> tuple[Division, Shares]:
    """Divide rows; return also what that costs."""
    n, k = len(X), len(guide.means)
    order, bounds = np.empty(n, np.int64), np.empty(2 * k + 1, np.int64)
    active = np.empty((2 * k, k), np.bool_)
    keys, least = np.empty(n, np.int32), np.empty(n)
    bundles, *counts = divide(rows_at(X), guide, keys, least, order, bounds, active)
    shares = Shares(*(count / max(n * k, 1) for count in counts))
    return Division(order, bounds, bundles, active), shares


def _divide_block(guide: Guide, X: RowsArray) -> Division | None:
    """Divide a block, a few of its rows first; None if it is crowded, or has hardly any rows.

    The decision is by the rows of the block alone, so that it is the same whichever thread works on
    which blocks.
    """
    if len(X) < LEAST_ROWS:
        return None
    _, tried = _divide(guide, X[: max(len(X) // _TRIED, _LEAST_TRIED)])
    constant, by_d = _MORE_PAIRS
    cost = (constant + by_d * min(X.shape[1], _MOST_FEATURES)) * tried.pairs
    if cost + _FEWER_LOOKS * tried.looks * guide.look > guide.worth:
        return None
    division, shares = _divide(guide, X)
    return None if shares.cost > max(guide.worth, _MOST_COST) else division


def _blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def sum_blocks(
    parameters: MixtureParameters,
    guide: Guide,
    X: RowsArray,
    sample_weight: FloatArray | None,
    whole: Callable[[RowsArray, FloatArray | None], Statistics],
) -> Statistics:
    """Take the sums of an E-step as `gmm_dask.mixture.engine.statistics` does.

    Parameters
    ----------
    whole
        The plain pass, for blocks that are not divided.
    """
    k, d = parameters.means.shape
    shape = parameters.covariance.shape(k, d)
    sums = np.zeros(k), np.zeros((k, d)), np.zeros(shape)
    log_likelihood = 0.0
    factors = writable(parameters.precisions_cholesky).reshape(-1)
    for rows in _blocks(len(X), STATISTICS_ROWS):
        block = X[rows]
        weights = None if sample_weight is None else sample_weight[rows]
        division = _divide_block(guide, block)
        if division is None:
            *parts, of_block = whole(block, weights)
            for total, part in zip(sums, parts, strict=True):
                total += part
        else:
            of_block = statistics(
                statistics_of(parameters),
                rows_at(block),
                vector_at(weights),
                *division,
                parameters.log_constants,
                writable(parameters.means),
                factors,
                *sums[:2],
                sums[2].reshape(-1),
            )
        log_likelihood += of_block
    return *sums, log_likelihood


def assign_blocks(
    parameters: MixtureParameters,
    guide: Guide,
    X: RowsArray,
    answers: tuple[npt.NDArray[np.int32], FloatArray, FloatArray, FloatArray | None],
    whole: Callable[..., bool],
) -> bool:
    """Predict rows as `gmm_dask.mixture.engine.assign` does.

    Parameters
    ----------
    answers
        Labels, log-densities, responsibilities, certainties: what is filled.
    whole
        The plain pass, for blocks that are not divided.
    """
    finite = True
    factors = writable(parameters.precisions_cholesky).reshape(-1)
    for rows in _blocks(len(X), ASSIGN_ROWS):
        block = X[rows]
        labels, densities, shares = (answer[rows] for answer in answers[:3])
        certainties = None if answers[3] is None else answers[3][rows]
        division = _divide_block(guide, block)
        if division is None:
            finite = whole(block, labels, densities, shares, certainties) and finite
            continue
        finite = (
            assign(
                assign_of(parameters),
                rows_at(block),
                *division,
                parameters.log_constants,
                writable(parameters.means),
                factors,
                vector_at(labels),
                vector_at(densities),
                vector_at(certainties),
                rows_at(shares),
            )
            and finite
        )
    return finite
