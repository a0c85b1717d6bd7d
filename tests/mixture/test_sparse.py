"""Rows divided among many components: the same as the plain pass, whatever rows and parameters."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_dask.mixture import engine
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sparse import blocks
from tests.mixture.test_kernels import (
    LAYOUTS,
    STATISTICS,
    TYPES,
    layouts,
    mixture,
    rows_of,
    weightings,
    weights_of,
)

property_test = settings(max_examples=30, derandomize=True)
# From components on each other to such that lie apart; in standard deviations.
separations = st.sampled_from([0.0, 1.5, 8.0, 60.0, 1e4])
surprises = st.sampled_from(["none", "weightless", "narrow", "thin", "a far row", "one mean"])


@pytest.fixture(autouse=True)
def every_block_is_divided(monkeypatch):
    """Small blocks, divided whatever it costs."""
    monkeypatch.setattr(blocks, "_WORTH", 0)
    monkeypatch.setattr(blocks, "LEAST_ROWS", 0)
    monkeypatch.setattr(blocks, "_CROWDED", np.inf)
    monkeypatch.setattr(blocks, "STATISTICS_ROWS", 150)
    monkeypatch.setattr(blocks, "ASSIGN_ROWS", 150)
    for name in TYPES:
        monkeypatch.setitem(engine.MANY_COMPONENTS, name, 1)


def surprise(parameters, X, kind):
    """Change the mixture, or a row, in a way that could mislead."""
    if kind == "weightless" and parameters.n_components > 1:
        weights = parameters.weights.copy()
        weights[0] = 0.0
        return replace(parameters, weights=weights / weights.sum())
    if kind in ("narrow", "thin"):
        covariances = parameters.covariances.copy()
        first = covariances if parameters.covariance_type == "tied" else covariances[:1]
        if kind == "narrow" or parameters.covariance_type == "spherical":
            first *= 1e-8
        elif parameters.covariance_type == "diag":
            first[:, 0] *= 1e-10
        else:
            first[..., 0, :] *= 1e-5
            first[..., :, 0] *= 1e-5
        return MixtureParameters.from_covariances(
            parameters.covariance_type, parameters.weights, parameters.means, covariances
        )
    if kind == "one mean":
        means = np.broadcast_to(parameters.means[0], parameters.means.shape).copy()
        return replace(parameters, means=means)
    if kind == "a far row" and len(X):
        X[len(X) // 2] *= -1e6
    return parameters


@st.composite
def cases(draw, covariance_type):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k, d = draw(st.sampled_from([1, 2, 33, 50])), draw(st.sampled_from([1, 2, 3, 5, 9, 17, 35]))
    parameters = mixture(covariance_type, k, d, rng, separation=draw(separations))
    X = rows_of(parameters, draw(st.integers(0, 300)), rng)
    parameters = surprise(parameters, X, draw(surprises))
    X = X.astype(draw(st.sampled_from([np.float32, np.float64])))
    return parameters, LAYOUTS[draw(layouts)](X), weights_of(draw(weightings), len(X), rng)


def sizes_of(parameters, X, sample_weight, plain):
    """What errors of the statistics are measured against, component by component."""
    counts, _, products, _ = plain
    k = len(counts)
    by_component = parameters.covariance.by_component
    squares = np.abs(products.reshape(k if by_component else 1, -1)).max(axis=1)  # (k or 1,)
    weight = np.ones(len(X)) if sample_weight is None else sample_weight
    densities = assign(parameters, X).log_densities
    return (
        counts + 1e-4 * weight.sum(),  # a share below 1e-16 is 0
        np.sqrt(counts * squares)[:, None] + 1e-4 * weight.sum(),
        (squares if by_component else squares[0]).reshape(-1, *[1] * (products.ndim - 1)) + 1.0,
        weight @ np.abs(densities),
    )


@pytest.mark.parametrize("covariance_type", TYPES)
@property_test
@given(data=st.data())
def test_statistics_are_the_plain_ones(covariance_type, data):
    parameters, X, sample_weight = data.draw(cases(covariance_type))
    plain = engine.statistics(parameters, X, sample_weight, divided=False)
    divided = engine.statistics(parameters, X, sample_weight, divided=True)
    sizes = sizes_of(parameters, X, sample_weight, plain)
    for name, ours, theirs, size in zip(STATISTICS, divided, plain, sizes, strict=True):
        assert (np.abs(ours - theirs) <= 1e-12 * size + 1e-90).all(), name


def predict(parameters, X, divided):
    n, k = len(X), parameters.n_components
    answers = np.empty(n, np.int32), np.empty(n), np.empty((n, k)), np.empty(n)
    assert engine.assign(parameters, X, *answers, divided=divided)
    return answers


@pytest.mark.parametrize("covariance_type", TYPES)
@property_test
@given(data=st.data())
def test_predictions_are_the_plain_ones(covariance_type, data):
    parameters, X, _ = data.draw(cases(covariance_type))
    labels, densities, shares, certainties = predict(parameters, X, True)
    _, expected, expected_shares, expected_certainties = predict(parameters, X, False)
    np.testing.assert_allclose(densities, expected, rtol=1e-12, atol=1e-12)
    # Of squares of whitened residuals, 1e-13 of themselves, which are as large as densities are.
    tolerance = 1e-12 * (1.0 + np.abs(expected))
    assert (np.abs(shares - expected_shares) <= tolerance[:, None]).all()
    assert (np.abs(certainties - expected_certainties) <= tolerance).all()
    np.testing.assert_array_equal(labels, shares.argmax(axis=1))
