"""The colours of components, which people with red-green blindness can tell apart as well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gmm_dask.arrays import FloatArray

# The first six are from Okabe and Ito. Each of the others is as far as possible in OKLab from those
# before it (the least of three distances counts: as seen with normal, protanope and deuteranope
# eyes), and neither pale nor shrill on white.
COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00",
    "#78003c", "#1e2d96", "#784b00", "#69d296", "#8778f0", "#964b78",
    "#4b3c69", "#00694b", "#4b4ba5", "#87c3c3", "#b4a569", "#781e00",
    "#b42d4b", "#4b96d2", "#00d2f0", "#a5694b", "#a56996", "#b4c369",
    "#f0782d", "#0f4b87", "#4b69d2", "#c39696", "#8796ff", "#e16969",
)  # fmt: skip


def component_colors(component_ids: Sequence[int]) -> FloatArray:
    """Colours of components by their ids: RGB between 0 and 1, (k, 3); see `color_codes`."""
    codes = color_codes(component_ids)
    return np.array([[int(code[i : i + 2], 16) / 255.0 for i in (1, 3, 5)] for code in codes])


def color_codes(component_ids: Sequence[int]) -> list[str]:
    """Colours of components by their ids, so that models show a component alike: ``#rrggbb``.

    Id i has colour i modulo 30, or the next free colour if a lower id has that one. Beyond 30
    components colours repeat.
    """
    n_colors = len(COLORS)
    color_of: dict[int, int] = {}
    for component_id in sorted(component_ids):
        if len(color_of) % n_colors == 0:
            free = set(range(n_colors))
        preferred = component_id % n_colors
        color = min(free, key=lambda color: (color - preferred) % n_colors)
        free.discard(color)
        color_of[component_id] = color
    return [COLORS[color_of[component_id]] for component_id in component_ids]
