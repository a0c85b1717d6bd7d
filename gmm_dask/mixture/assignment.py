"""Rows to components: the most probable component, the density, the responsibilities."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture import engine
from gmm_dask.mixture.parameters import MixtureParameters

#: Fewer rows than this are not worth a thread.
LEAST_SLICE_ROWS = 32_768


@dataclass(frozen=True, eq=False)
class Assignment:
    """What a mixture says of n rows.

    Attributes
    ----------
    labels
        Index of the most probable component, (n,) int32.
    log_densities
        log p(x), nats, (n,).
    responsibilities
        p(component | x), (n, k), rows sum to 1; None unless asked for.
    finite
        Whether all rows were finite; False also where sums of them leave the range of float64.
    """

    labels: npt.NDArray[np.int32]
    log_densities: FloatArray
    responsibilities: FloatArray | None
    finite: bool = True


def assign(
    parameters: MixtureParameters,
    X: RowsArray,
    *,
    responsibilities: bool = False,
    threads: int = 1,
) -> Assignment:
    """Evaluate a mixture on rows in memory, X (n, d), which says nothing of a row not finite.

    ``threads`` share the rows; the outcome does not depend on their number.
    """
    n = X.shape[0]
    labels = np.empty(n, dtype=np.int32)
    log_densities = np.empty(n)
    shares = np.empty((n if responsibilities else 0, parameters.n_components))
    step = max(-(-n // threads), LEAST_SLICE_ROWS)

    def assign_slice(start: int) -> bool:
        rows = slice(start, start + step)
        return engine.assign(parameters, X[rows], labels[rows], log_densities[rows], shares[rows])

    if n <= step:
        finite = assign_slice(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            finite = all(list(pool.map(assign_slice, range(0, n, step))))
    return Assignment(labels, log_densities, shares if responsibilities else None, finite)
