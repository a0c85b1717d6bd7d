"""Passes over rows of many features: the oracle, layouts, threads, and what is left out."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gmm_dask.mixture import engine
from gmm_dask.mixture.assignment import BLOCK_ROWS
from gmm_dask.mixture.assignment import assign as assign_rows
from gmm_dask.mixture.covariance.full import Full
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.row_major.blocks import SPAN
from gmm_dask.mixture.spec import MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics
from tests.mixture.oracle import expectation
from tests.mixture.test_kernels import (
    LAYOUTS,
    STATISTICS,
    TYPES,
    assert_statistics,
    assign,
    mixture,
    rows_of,
)

# Enough for row-major blocks, and no multiple of 4 or 8.
FEATURES = {name: engine.MANY_FEATURES.get(name, 128) + 5 for name in TYPES}
# Of the means, in standard deviations: every component may matter for every row; for a few rows
# more than one; for none.
SEPARATIONS = 0.02, 0.3, 3.0
# The types whose passes leave out what cannot matter.
STAGED = list(engine.MANY_FEATURES)


@pytest.mark.parametrize("separation", SEPARATIONS)
@pytest.mark.parametrize("n", [0, 1, BLOCK_ROWS + 7])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_statistics_and_assignment_are_the_oracles(covariance_type, n, separation):
    rng = np.random.default_rng(n)
    parameters = mixture(
        covariance_type, 4, FEATURES[covariance_type], rng, separation=separation, offset=1e6
    )
    X = rows_of(parameters, n, rng)
    w = rng.exponential(size=n) * (rng.random(n) < 0.9)
    expected = expectation(parameters, X, w)
    assert_statistics(sum_statistics(parameters, X, w), expected)
    labels, log_densities, responsibilities = assign(parameters, X)
    expected = expectation(parameters, X)
    np.testing.assert_allclose(log_densities, expected.log_densities, rtol=1e-12)
    np.testing.assert_allclose(responsibilities, expected.responsibilities, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(labels, responsibilities.argmax(axis=1))


@pytest.mark.parametrize("separation", SEPARATIONS)
@pytest.mark.parametrize("covariance_type", TYPES)
def test_layouts_dtypes_and_threads_give_the_same_bits(covariance_type, separation):
    rng = np.random.default_rng(0)
    parameters = mixture(covariance_type, 3, FEATURES[covariance_type], rng, separation=separation)
    X = rows_of(parameters, 500, rng).astype(np.float32)
    sums, predictions = sum_statistics(parameters, X), assign(parameters, X)
    for name, layout in LAYOUTS.items():
        if name == "one row over and over":
            continue
        for dtype in (np.float32, np.float64):
            again = layout(X.astype(dtype))
            for statistic in STATISTICS:
                value = getattr(sum_statistics(parameters, again), statistic)
                np.testing.assert_array_equal(value, getattr(sums, statistic))
            for value, reference in zip(assign(parameters, again), predictions, strict=True):
                np.testing.assert_array_equal(value, reference)


@pytest.mark.parametrize("covariance_type", STAGED)
def test_predictions_do_not_depend_on_the_number_of_threads(covariance_type, monkeypatch):
    monkeypatch.setattr("gmm_dask.mixture.assignment.LEAST_SLICE_ROWS", 1)
    rng = np.random.default_rng(1)
    parameters = mixture(covariance_type, 3, FEATURES[covariance_type], rng, separation=0.1)
    X = rows_of(parameters, 3 * BLOCK_ROWS + 100, rng)
    alone = assign_rows(parameters, X, responsibilities=True)
    for threads in (2, 3, 5):
        together = assign_rows(parameters, X, responsibilities=True, threads=threads)
        np.testing.assert_array_equal(together.log_densities, alone.log_densities)
        np.testing.assert_array_equal(together.responsibilities, alone.responsibilities)


@pytest.mark.parametrize("covariance_type", STAGED)
def test_only_what_cannot_matter_is_left_out(covariance_type):
    rng = np.random.default_rng(2)
    parameters = mixture(covariance_type, 5, FEATURES[covariance_type], rng, separation=0.7)
    X = rows_of(parameters, 500, rng)
    expected = expectation(parameters, X)
    _, _, responsibilities = assign(parameters, X)
    behind = expected.log_joint.max(axis=1, keepdims=True) - expected.log_joint
    assert (responsibilities[behind < SPAN - 1e-6] > 0.0).all()
    assert (responsibilities == 0.0).any(), "nothing was left out"


@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_with_infinities_and_far_values_spare_the_others(covariance_type):
    rng = np.random.default_rng(3)
    parameters = mixture(covariance_type, 3, FEATURES[covariance_type], rng)
    X = rows_of(parameters, 300, rng)
    log_densities = assign(parameters, X)[1]
    X[17, 5], X[200] = np.nan, 1e200
    again = assign(parameters, X)[1]
    assert np.flatnonzero(np.isnan(again)).tolist() == [17]
    assert again[200] < -1e100
    spared = np.delete(np.arange(300), [17, 200])
    np.testing.assert_allclose(again[spared], log_densities[spared], rtol=1e-13)
    assert np.isnan(sum_statistics(parameters, X).log_likelihood)
    assert np.isfinite(sum_statistics(parameters, X[100:]).residual_products).all()


def test_few_rows_are_pieces_for_threads_and_matrices_are_taken_one_by_one():
    """Neither the threads nor the other components change the bits of a component."""
    rng = np.random.default_rng(0)
    k, d = 3, 130
    parameters = mixture("full", k, d, rng, separation=0.5)
    X = rows_of(parameters, 1_500, rng)
    alone = ExpectationOn(X, None)([parameters])[0]
    with ThreadPoolExecutor(3) as pool:
        (shared,) = ExpectationOn(X, None, pool, 3)([parameters])
    assert len(ExpectationOn(X, None)._cut_for(parameters)) == 3
    for name in STATISTICS:
        np.testing.assert_array_equal(getattr(shared, name), getattr(alone, name))
    given = parameters.covariances[None], parameters.precisions_cholesky[None]
    sums = alone.counts[None], alone.residual_sums[None] / alone.counts[:, None]
    together = Full().update(*given, *sums, alone.residual_products[None], MixtureSpec(k))
    for c in range(k):
        part = slice(c, c + 1)
        one = Full().update(
            *(array[:, part] for array in (*given, *sums, alone.residual_products[None])),
            MixtureSpec(1),
        )
        for array, of_one in zip(together[:4], one[:4], strict=True):
            np.testing.assert_array_equal(array[:, part], of_one)
