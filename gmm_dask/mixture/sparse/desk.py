"""The buffers for the rows of a tile while they are divided."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gmm_dask.mixture.kernels.compile import allocating, inlined
from gmm_dask.mixture.kernels.tiles import ROWS, aligned, aligned_rows

#: Axes by which the component of a row is guessed.
GUESSED = 8


class Desk(NamedTuple):
    """The buffers for the rows of a tile.

    Attributes
    ----------
    tile
        x, or x − μ', feature-major, (d · ROWS,).
    places
        z, or z' = Vᵀ(x − μ'), (p, ROWS).
    powers
        z and |z|², (GUESSED + 1, ROWS), float32.
    best, guess
        The best score of each row, and the component that has it, (ROWS,), float32.
    squares, whitened
        |y'|², and one feature of y', (ROWS,).
    least
        log π p of the guessed component, less SPAN and log k, (ROWS,).
    along, direction
        vᵀ(x − μ'), (ROWS,), and a, (p,).
    origin
        Zeros, (d,).
    """

    tile: Any
    places: Any
    powers: Any
    best: Any
    guess: Any
    squares: Any
    whitened: Any
    least: Any
    along: Any
    direction: Any
    origin: Any


@allocating
@inlined
def begin_desk(d, p):  # type: ignore[no-untyped-def]
    """Allocate the buffers for rows of d features along p axes."""
    return Desk(
        aligned(d * ROWS),
        aligned_rows(p, ROWS),
        np.empty((GUESSED + 1, ROWS), np.float32),
        np.empty(ROWS, np.float32),
        np.empty(ROWS, np.float32),
        aligned(ROWS),
        aligned(ROWS),
        aligned(ROWS),
        aligned(ROWS),
        np.empty(p),
        np.zeros(d),
    )
