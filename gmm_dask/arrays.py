"""Types of arrays. Imports numpy only."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
#: Rows as the kernels read them: float32 or float64.
RowsArray = npt.NDArray[np.floating[Any]]
MaskArray = npt.NDArray[np.bool_]
IndexArray = npt.NDArray[np.intp]
LabelsArray = npt.NDArray[np.integer[Any]]
#: Hashes that decide which rows a sample holds.
PrioritiesArray = npt.NDArray[np.uint64]
#: Arrays by name, as safetensors takes and gives them.
NamedArrays = dict[str, npt.NDArray[Any]]
