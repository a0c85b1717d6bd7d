"""The colours of components: told apart by people with and without red-green blindness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import to_rgb

from gmm_dask.arrays import FloatArray

# The first six are of Okabe and Ito. Each further one is the colour, neither pale nor shrill on
# white, farthest in OKLab from those before it as seen with normal, protanope and deuteranope
# eyes, the nearest of the three counting.
COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00",
    "#78003c", "#1e2d96", "#784b00", "#69d296", "#8778f0", "#964b78",
    "#4b3c69", "#00694b", "#4b4ba5", "#87c3c3", "#b4a569", "#781e00",
    "#b42d4b", "#4b96d2", "#00d2f0", "#a5694b", "#a56996", "#b4c369",
    "#f0782d", "#0f4b87", "#4b69d2", "#c39696", "#8796ff", "#e16969",
)  # fmt: skip


def component_colors(component_ids: Sequence[int]) -> FloatArray:
    """Colours (k, 3), RGB between 0 and 1, that stay with the ids from one model to the next.

    Id i has colour i modulo their number; where another of the ids already has that one, the
    next free one. Beyond 30 components colours repeat.
    """
    n_colors = len(COLORS)
    taken: dict[int, int] = {}
    for component_id in sorted(component_ids):
        if len(taken) % n_colors == 0:
            free = set(range(n_colors))
        wish = component_id % n_colors
        index = min(free, key=lambda color: (color - wish) % n_colors)
        free.discard(index)
        taken[component_id] = index
    return np.array([to_rgb(COLORS[taken[component_id]]) for component_id in component_ids])
