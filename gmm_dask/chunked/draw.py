"""A uniform sample of rows, drawn part by part, whatever the parts are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, IndexArray, PrioritiesArray, RowsArray


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
    codes
        Labels of the rows, (m,); (0,) without labels.
    """

    wanted: int
    priorities: PrioritiesArray
    numbers: npt.NDArray[np.int64]
    values: RowsArray
    weights: FloatArray
    codes: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def merge(cls, draws: Sequence[Draw]) -> Draw:
        """Keep the rows of smallest priority of all draws, which are in the order of the input."""
        wanted = draws[0].wanted
        if len(draws) == 1 and len(draws[0].priorities) <= wanted:
            return draws[0]
        joined = cls.join(draws)
        if len(joined.priorities) > wanted:
            joined = joined.take(np.sort(np.argpartition(joined.priorities, wanted)[:wanted]))
        return joined

    @classmethod
    def join(cls, draws: Sequence[Draw]) -> Draw:
        """Put all rows of draws together, one draw after the other."""
        return cls(
            draws[0].wanted,
            np.concatenate([draw.priorities for draw in draws]),
            np.concatenate([draw.numbers for draw in draws]),
            np.concatenate([draw.values.T for draw in draws], axis=1).T,  # feature-major
            np.concatenate([draw.weights for draw in draws]),
            np.concatenate([draw.codes for draw in draws]),
        )

    def take(self, rows: IndexArray) -> Draw:
        """Return the draw of some of its rows."""
        return Draw(
            self.wanted,
            self.priorities[rows],
            self.numbers[rows],
            self.values.T.take(rows, axis=1).T,  # feature-major as before
            self.weights[rows] if len(self.weights) else self.weights,
            self.codes[rows] if len(self.codes) else self.codes,
        )
