"""The assignment of rows to components: labels, log-densities, certainties, responsibilities."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture import engine
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.transforms import Transforms

#: The fewest rows that are worth a thread.
LEAST_SLICE_ROWS = 32_768


@dataclass(frozen=True, eq=False)
class Assignment:
    """The predictions of a mixture for n rows.

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
) -> Assignment:
    """Evaluate a mixture on rows in memory.

    Parameters
    ----------
    X
        (n, d) float32 or float64. The predictions for a row that is not finite have no meaning.
    responsibilities, certainties
        Whether to return them.
    transforms
        Those that X has had: log-densities are then in natural units.
    threads
        Threads that share the rows; the result does not depend on their number.
    """
    n = X.shape[0]
    labels = np.empty(n, dtype=np.int32)
    log_densities = np.empty(n)
    probabilities = np.empty((n if responsibilities else 0, parameters.n_components))
    largest = np.empty(n) if certainties else None
    step = max(-(-n // threads), LEAST_SLICE_ROWS)

    def assign_slice(start: int) -> bool:
        rows = slice(start, start + step)
        return engine.assign(
            parameters,
            X[rows],
            labels[rows],
            log_densities[rows],
            probabilities[rows],
            None if largest is None else largest[rows],
        )

    if n <= step:
        finite = assign_slice(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            finite = all(list(pool.map(assign_slice, range(0, n, step))))
    if transforms is not None:
        log_densities += transforms.log_slopes(X)
    return Assignment(
        labels, log_densities, probabilities if responsibilities else None, largest, finite
    )


def sum_assignment(assigned: Assignment) -> tuple[float, float, float]:
    """Sum over rows: log p(x) in nats, 1, and −log r of the most probable component.

    The rows must have been assigned with their certainties.
    """
    assert assigned.certainties is not None
    uncertainty = -float(np.log(assigned.certainties).sum())
    return float(assigned.log_densities.sum()), float(len(assigned.labels)), uncertainty
