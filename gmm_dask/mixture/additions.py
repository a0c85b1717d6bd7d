"""A component added to a mixture for what new rows say: the Gaussian that gains most.

The places that are tried are the halves of the new rows of each component, as `moves.split` cuts
them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.moves import split_each
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.spec import MixtureSpec

#: Rows by which places are compared; the gain of the best place is of all rows.
_COMPARED = 4_096


def best_addition(
    parameters: MixtureParameters, sample: Sample, share: float, spec: MixtureSpec
) -> tuple[float, float, MixtureParameters | None]:
    """Find the Gaussian that gains most, added to the mixture: a half of a component's new rows.

    Returns
    -------
    gain
        Of log-likelihood, nats per unit of weight of all rows, new and old; the old ones, which
        are thought to have nothing of the new component, lose its weight.
    weight
        Of the new component among all rows.
    gaussian
        A mixture of this component alone; None if no component can be split.
    """
    X = sample.X
    rows = np.ones(len(X)) if sample.sample_weight is None else sample.sample_weight
    total = float(rows.sum())
    if not total > 0.0:
        return -np.inf, 0.0, None
    assigned = assign(parameters, X, responsibilities=True)
    assert assigned.responsibilities is not None
    shares = assigned.responsibilities * rows[:, None]
    splits = split_each(X, shares, parameters, spec)
    split = [(c, halves) for c, (_, halves) in enumerate(splits) if halves is not None]
    if not split:
        return -np.inf, 0.0, None
    sizes = shares.sum(axis=0) / total  # (k,)
    weights = share * np.concatenate([halves.weights * sizes[c] for c, halves in split])  # (h,)
    gaussians = _side_by_side(parameters, [halves for _, halves in split])
    some = slice(None, None, -(-len(X) // _COMPARED))
    gains = _gains(gaussians, weights, X[some], rows[some], assigned.log_densities[some], share)
    best = slice(int(gains.argmax()), int(gains.argmax()) + 1)
    gaussian = _alone(gaussians, best.start)
    (gain,) = _gains(gaussian, weights[best], X, rows, assigned.log_densities, share)
    return float(gain), float(weights[best.start]), gaussian


def _gains(
    gaussians: MixtureParameters,
    weights: FloatArray,
    X: RowsArray,
    rows: FloatArray,
    log_densities: FloatArray,
    share: float,
) -> FloatArray:
    """Return what each of h Gaussians gains, added alone with its weight, (h,).

    Parameters
    ----------
    gaussians
        A mixture of them, of equal weights.
    weights
        Of each among all rows, (h,).
    X, rows, log_densities
        New rows, their weights and log-densities in the mixture that is added to.
    share
        Of the weight of all rows, what the new ones have.
    """
    total = float(rows.sum())
    left = np.log1p(-weights)
    if not total > 0.0:
        return (1.0 - share) * left
    assigned = assign(gaussians, X, responsibilities=True)
    assert assigned.responsibilities is not None
    # log N(x)/p(x), (h, m): so far away that nothing is added, it is −∞.
    with np.errstate(divide="ignore"):
        ratios = np.log(assigned.responsibilities.T, order="C")
    ratios += assigned.log_densities - log_densities + np.log(len(weights))
    ratios += (np.log(weights) - left)[:, None]
    added = np.log1p(np.exp(-np.abs(ratios))) + np.maximum(ratios, 0.0)
    return np.asarray(share * (added @ rows) / total + left)


def _side_by_side(
    parameters: MixtureParameters, pairs: Sequence[MixtureParameters]
) -> MixtureParameters:
    """Make one mixture of all halves, of equal weights.

    Where components share a covariance, it is that of the mixture.
    """
    means = np.concatenate([halves.means for halves in pairs])
    covariances = parameters.covariances
    if parameters.covariance.by_component:
        covariances = np.concatenate([halves.covariances for halves in pairs])
    weights = np.full(len(means), 1.0 / len(means))
    return MixtureParameters.from_covariances(
        parameters.covariance_type, weights, means, covariances
    )


def _alone(gaussians: MixtureParameters, component: int) -> MixtureParameters:
    """Make a mixture of one component."""
    covariances = gaussians.covariances
    return MixtureParameters.from_covariances(
        gaussians.covariance_type,
        np.ones(1),
        gaussians.means[[component]],
        covariances[[component]] if gaussians.covariance.by_component else covariances,
    )
