"""The passes over tiles, by the form of the factors U."""

from __future__ import annotations

from typing import NamedTuple

from gmm_dask.mixture.kernels import diag, full, spherical, tied
from gmm_dask.mixture.kernels.compile import Kernel


class Passes(NamedTuple):
    """The compiled passes for one form of the factors U."""

    statistics: Kernel
    assign: Kernel


PASSES = {
    "full": Passes(full.statistics, full.assign),
    "tied": Passes(tied.statistics, tied.assign),
    "diag": Passes(diag.statistics, diag.assign),
    "spherical": Passes(spherical.statistics, spherical.assign),
}
