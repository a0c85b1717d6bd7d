"""Iterations of EM: what is recorded of each, and what they promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gmm_dask.arrays import FloatArray

#: What rounding may leave of a gain of 0, nats per row.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Iteration:
    """One iteration of one candidate.

    Attributes
    ----------
    log_likelihood
        Mean, nats per unit of weight, under the parameters *before* the M-step.
    weights, means
        The parameters before the M-step: (k,) and (k, d).
    guarded
        Components whose covariance was kept because its update would have lost its digits.
    moved
        The longest move of a mean in the M-step, in standard deviations of its component.
    expected
        What the M-step gained of the expected log-likelihood, nats per unit of weight.
    replaced
        Components that were placed again after the M-step; the next iteration cannot converge.
    """

    log_likelihood: float
    weights: FloatArray
    means: FloatArray
    guarded: tuple[int, ...]
    moved: float
    expected: float = np.inf
    replaced: tuple[int, ...] = ()


def promised_gain(history: Sequence[Iteration]) -> float:
    """Extrapolate what EM will still gain, nats per row; infinite where that cannot be told.

    EM converges linearly: gains shrink by a factor a, and what follows the last gain g sums up to
    g·a/(1 − a) (Aitken; Böhning and others, 1994). After two iterations only one gain is known.
    Near a maximum, the next one is at most twice what the last M-step gained of the expected
    log-likelihood, and such gains shrink by a factor b, whose root is taken for a.
    """
    latest = history[-3:]
    if len(latest) < 2 or latest[-1].guarded or any(step.replaced for step in latest):
        return np.inf
    if len(latest) == 2:
        before, gain = (step.expected for step in latest)
        gain = 0.0 if abs(gain) < _ROUNDING else gain
        return 2.0 * gain / (1.0 - np.sqrt(gain / before)) if 0.0 <= gain < before else np.inf
    first, second, third = (step.log_likelihood for step in latest)
    before, gain = second - first, third - second
    if not 0.0 <= gain < before:
        return np.inf
    ratio = gain / before
    return gain * ratio / (1.0 - ratio)
