"""Types of arrays. Imports numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
#: Rows as the kernels read them: float32 or float64.
RowsArray = npt.NDArray[np.floating[Any]]
