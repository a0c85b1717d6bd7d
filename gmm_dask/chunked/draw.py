"""A uniform sample of rows, drawn part by part, whatever the parts are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, PrioritiesArray, RowsArray


@dataclass(frozen=True, eq=False)
class Draw:
    """A uniform sample: the rows of smallest priority among those seen so far.

    The priority of a row is a hash of the seed and of the row's number in the whole input. So the
    sample does not depend on chunks or workers, nor on the order in which chunks are read.

    Attributes
    ----------
    wanted
        Most rows that the sample may hold.
    priorities, numbers
        Priority of each row of the sample, and its number in the input, (m,).
    values
        (m, d), feature-major.
    weights
        Sample weights, (m,); (0,) without weights.
    """

    wanted: int
    priorities: PrioritiesArray
    numbers: npt.NDArray[np.int64]
    values: RowsArray
    weights: FloatArray

    @classmethod
    def merge(cls, draws: Sequence[Draw]) -> Draw:
        """Keep the rows of smallest priority of all draws, which are in the order of the input."""
        wanted = draws[0].wanted
        if len(draws) == 1 and len(draws[0].priorities) <= wanted:
            return draws[0]
        # (m,), (m,), (d, m) and (m,)
        priorities = np.concatenate([draw.priorities for draw in draws])
        numbers = np.concatenate([draw.numbers for draw in draws])
        values = np.concatenate([draw.values.T for draw in draws], axis=1)
        weights = np.concatenate([draw.weights for draw in draws])
        if len(priorities) > wanted:
            chosen = np.sort(np.argpartition(priorities, wanted)[:wanted])
            priorities, numbers = priorities[chosen], numbers[chosen]
            values = values.take(chosen, axis=1)  # (d, wanted), feature-major as before
            weights = weights[chosen] if len(weights) else weights
        return cls(wanted, priorities, numbers, values.T, weights)
