"""Starts for a mixture from mixtures that differ by one component or in their covariance type.

A mixture of k components is close to one of k − 1 with a component split in two, to one of k + 1
with two components merged, and to one of k components with covariances of another form.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from gmm_dask.errors import NumericalError
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.moves import split_each
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import MixtureSpec


def converted(parameters: MixtureParameters, covariance_type: str) -> MixtureParameters:
    """Return the mixture of another covariance type with the same weights and means.

    Raises
    ------
    IllConditionedError
        A covariance is not positive definite in the other form.
    """
    covariances = COVARIANCE_TYPES[covariance_type].from_matrices(
        parameters.matrices, parameters.weights
    )
    return MixtureParameters.from_covariances(
        covariance_type, parameters.weights, parameters.means, covariances
    )


def with_a_split(
    expectation: ExpectationOn, parameters: MixtureParameters, spec: MixtureSpec
) -> Iterator[MixtureParameters]:
    """Yield mixtures in which one component is split in two, the most promising first.

    Parameters
    ----------
    expectation
        Over a few thousand rows, by which components are split.
    parameters
        A mixture of k − 1 components.
    spec
        The mixture wanted; its ``reg_covar`` is used.
    """
    X, sample_weight = expectation.X, expectation.sample_weight
    shares = assign(parameters, X, responsibilities=True).responsibilities  # (m, k − 1)
    assert shares is not None
    if sample_weight is not None:
        shares *= sample_weight[:, None]
    splits = split_each(X, shares, parameters, spec)
    order = sorted(range(len(splits)), key=lambda c: (-splits[c][0], c))
    for c in order:
        halves = splits[c][1]
        if halves is not None:
            with suppress(NumericalError):
                yield _split_in_two(parameters, c, halves)


def _split_in_two(
    parameters: MixtureParameters, c: int, halves: MixtureParameters
) -> MixtureParameters:
    """Put the halves of component c at its place and at the end."""
    weights = np.append(parameters.weights, 0.0)  # (k,)
    means = np.vstack([parameters.means, halves.means[1:]])  # (k, d)
    weights[[c, -1]] = weights[c] * halves.weights
    means[c] = halves.means[0]
    covariances = parameters.covariances
    if parameters.covariance.by_component:
        covariances = np.concatenate([covariances, halves.covariances[1:]])
        covariances[c] = halves.covariances[0]
    return MixtureParameters.from_covariances(
        parameters.covariance_type, weights / weights.sum(), means, covariances
    )


def with_a_merge(parameters: MixtureParameters) -> Iterator[MixtureParameters]:
    """Yield mixtures in which two components are merged into one, the most promising first.

    The merged component has the moments of the two. Pairs are ordered by the bound of what is
    lost by it, ½ [(π₁ + π₂) log|Σ| − π₁ log|Σ₁| − π₂ log|Σ₂|] (Runnalls, 2007).
    """
    k = parameters.n_components
    weights, means, matrices = parameters.weights, parameters.means, parameters.matrices
    first, second = np.triu_indices(k, 1)  # (p,)
    together = weights[first] + weights[second]
    share = np.where(together > 0, weights[first] / np.where(together > 0, together, 1.0), 0.5)
    apart = means[first] - means[second]  # (p, d)
    merged = (
        share[:, None, None] * matrices[first]
        + (1.0 - share)[:, None, None] * matrices[second]
        + (share * (1.0 - share))[:, None, None] * apart[:, :, None] * apart[:, None, :]
    )  # (p, d, d)
    sizes = np.linalg.slogdet(matrices)[1]  # (k,)
    losses = together * np.linalg.slogdet(merged)[1]
    losses -= weights[first] * sizes[first] + weights[second] * sizes[second]
    for pair in np.argsort(losses, kind="stable").tolist():
        a, b = int(first[pair]), int(second[pair])
        others = [c for c in range(k) if c not in (a, b)]
        middle = means[b] + share[pair] * apart[pair]  # (d,)
        all_weights = np.append(weights[others], together[pair])  # (k − 1,)
        covariances = parameters.covariance.from_matrices(
            np.concatenate([matrices[others], merged[pair : pair + 1]]), all_weights
        )
        with suppress(NumericalError):
            yield MixtureParameters.from_covariances(
                parameters.covariance_type,
                all_weights / all_weights.sum(),
                np.vstack([means[others], middle]),
                covariances,
            )
