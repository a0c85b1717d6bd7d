"""Rows divided among many components: the same as the plain pass, whatever rows and parameters."""

import sys
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_dask.mixture import assignment, engine
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.kernels.compile import kernel
from gmm_dask.mixture.kernels.passes import PASSES
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import find_patterns
from gmm_dask.mixture.sparse import blocks, guide, passes
from gmm_dask.mixture.sparse.pairs import SPAN
from gmm_dask.mixture.statistics import sum_statistics
from tests.mixture.oracle import expectation
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
    monkeypatch.setattr(blocks, "_WORTH_ROWS", 0)
    monkeypatch.setattr(blocks, "_WORTH", 0)
    monkeypatch.setattr(blocks, "_WORTH_ROWS_SHARED", 0)
    monkeypatch.setattr(blocks, "_WORTH_SHARED", 0)
    monkeypatch.setattr(blocks, "LEAST_ROWS", 0)
    monkeypatch.setattr(guide, "worth_of", lambda _: np.inf)
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


def components_apart(covariance_type, k=40, d=6, n=2_000, separation=12.0):
    rng = np.random.default_rng(1)
    parameters = mixture(covariance_type, k, d, rng, separation=separation)
    return parameters, rows_of(parameters, n, rng)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_what_is_left_out_is_far_behind(covariance_type):
    parameters, X = components_apart(covariance_type)
    X[::40] += 30.0 * np.random.default_rng(2).normal(size=X[::40].shape)  # strays
    behind = expectation(parameters, X).log_joint
    behind = behind.max(axis=1, keepdims=True) - behind
    division, *_ = blocks._divide(blocks.guide_for(parameters), X)
    left_out = np.empty(behind.shape, bool)
    for b in range(division.bundles):
        rows = division.order[division.bounds[b] : division.bounds[b + 1]]
        left_out[rows] = ~division.active[b]
    assert np.sort(division.order).tolist() == list(range(len(X)))
    assert behind[left_out].min() > SPAN + np.log(parameters.n_components) - 1e-6
    assert left_out.mean() > 0.7, "hardly anything was left out"


def test_overlapping_components_have_the_bits_of_the_plain_pass(monkeypatch):
    overlapping, X = components_apart("full", separation=0.1)
    assert blocks.guide_for(overlapping) is None
    apart, _ = components_apart("full")
    monkeypatch.undo()  # blocks are crowded again
    spread = X * 20.0  # not what the parameters promise
    assert blocks._divide_block(blocks.guide_for(apart), spread) is None
    monkeypatch.setattr(blocks, "LEAST_ROWS", 0)
    for parameters, rows in ((overlapping, X), (apart, spread)):
        plain = engine.statistics(parameters, rows, None, divided=False)
        for ours, theirs in zip(
            engine.statistics(parameters, rows, None, divided=True), plain, strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_layouts_dtypes_and_threads_give_the_same_bits(covariance_type, monkeypatch):
    monkeypatch.setattr(assignment, "LEAST_SLICE_ROWS", 1)
    monkeypatch.setattr(assignment, "ASSIGN_ROWS", 150)
    parameters, X = components_apart(covariance_type)
    X = X.astype(np.float32)
    sums = engine.statistics(parameters, X, None, divided=True)
    alone = assign(parameters, X, responsibilities=True, certainties=True)
    for layout in (np.asfortranarray, np.ascontiguousarray):
        for dtype in (np.float32, np.float64):
            again = layout(X.astype(dtype))
            for ours, theirs in zip(
                engine.statistics(parameters, again, None, divided=True), sums, strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)
            together = assign(parameters, again, responsibilities=True, certainties=True, threads=3)
            for field in ("labels", "log_densities", "responsibilities", "certainties"):
                np.testing.assert_array_equal(getattr(together, field), getattr(alone, field))


def test_a_row_that_is_not_finite_spares_the_others():
    parameters, X = components_apart("full")
    spoilt = X.copy()
    spoilt[7, 2], spoilt[11, 0], spoilt[300] = np.nan, np.inf, 1e200
    ours, plain = assign(parameters, X), assign(parameters, spoilt)
    assert not plain.finite
    spared = np.delete(np.arange(len(X)), [7, 11, 300])
    np.testing.assert_allclose(plain.log_densities[spared], ours.log_densities[spared], rtol=1e-13)
    assert np.isnan(sum_statistics(parameters, spoilt).log_likelihood)


def test_few_components_or_rows_are_not_divided(monkeypatch):
    monkeypatch.undo()
    parameters, _ = components_apart("full")
    assert engine.divides(parameters, 10**6)
    few, _ = components_apart("full", k=4)
    assert not engine.divides(few, 10**9)
    assert not engine.divides(parameters, 100)


def counted_divisions(monkeypatch):
    """The numbers of rows that the engine divides from now on, pass by pass."""
    divided = []

    def count(parameters, guide, X, *others):
        divided.append(len(X))
        return sum_blocks(parameters, guide, X, *others)

    sum_blocks = blocks.sum_blocks
    monkeypatch.setattr(engine, "sum_blocks", count)
    return divided


def test_parts_of_many_rows_are_divided_where_they_alone_would_not_be(monkeypatch):
    """Chunks of a scan and pieces of a search are small, but all of them share a guide."""
    monkeypatch.undo()
    parameters, X = components_apart("full", n=60_000)
    assert not engine.divides(parameters, 6_000)
    assert engine.divides(parameters, 6_000, repeated=True)
    divided = counted_divisions(monkeypatch)
    sum_statistics(parameters, X[:6_000])
    (searched,) = ExpectationOn(X, None)([parameters])
    assert divided == [6_000, 16_384, 16_384, 16_384, 60_000 - 3 * 16_384]
    plain = engine.statistics(parameters, X, None, divided=False)
    np.testing.assert_allclose(searched.counts, plain[0], rtol=1e-12)


def test_rows_with_holes_are_divided_by_how_many_share_their_pattern(monkeypatch):
    """Of rows in memory, those of a pattern share a guide of its marginal with no others."""
    monkeypatch.undo()
    monkeypatch.setattr(blocks, "_WORTH", 5e6)  # ns: 40,000 rows
    parameters, X = components_apart("full", n=88_000)
    X[:8_000, 0] = X[8_000:48_000, 1] = np.nan
    divided = counted_divisions(monkeypatch)
    (searched,) = ExpectationOn(X, None)([parameters])
    assert sorted(divided) == 2 * [40_000 - 2 * 16_384] + 4 * [16_384]
    assert searched.counts.sum() == pytest.approx(len(X), rel=1e-12)
    divided.clear()
    sum_statistics(parameters, X[:30_000], patterns=find_patterns(X[:30_000]))
    assert sorted(divided) == [8_000, 22_000]  # the chunks of a scan have these patterns again


def test_dividing_gains_where_pairs_cost_more_than_finding_them(monkeypatch):
    monkeypatch.undo()

    def worth(covariance_type, k, d):
        return guide.worth_of(mixture(covariance_type, k, d, np.random.default_rng(3)))

    assert worth("full", 16, 1) < worth("full", 32, 2) < worth("full", 64, 2) < worth("full", 64, 8)
    assert worth("spherical", 64, 2) < worth("full", 64, 2)
    assert worth("diag", 20, 2) < 0.0
    assert worth("full", 256, 16) == guide._MOST_PAIRS


def test_where_a_plain_pass_is_short_fewer_components_may_be_near(monkeypatch):
    monkeypatch.undo()
    mixtures = {
        name: components_apart(name, k=64, d=8, n=1, separation=5.0)[0] for name in ("full", "diag")
    }
    assert guide.guide_of(mixtures["full"]) is not None
    assert guide.guide_of(mixtures["diag"]) is None
    # Rows of a tied covariance are whitened for each component where these lie far apart.
    close, apart = (
        components_apart("tied", k=64, d=8, n=1, separation=separation)[0]
        for separation in (2.0, 12.0)
    )
    assert guide.worth_of(close) < guide.worth_of(apart)


def test_a_block_is_left_whole_where_to_look_at_pairs_would_take_too_long(monkeypatch):
    monkeypatch.undo()
    parameters, X = components_apart("full", k=64, d=8, n=4_000)
    made = guide.guide_of(parameters)
    assert blocks._divide_block(made._replace(look=0.0), X) is not None
    assert blocks._divide_block(made._replace(look=1e6), X) is None


def test_the_guides_that_are_kept_are_bounded(monkeypatch):
    monkeypatch.setattr(blocks, "_guides", WeakKeyDictionary())
    mixtures = [components_apart("full")[0] for _ in range(4)]
    first = blocks.guide_for(mixtures[0])
    monkeypatch.setattr(blocks, "_MOST_KEPT", 2 * blocks._bytes_of(first))
    for parameters in mixtures:
        assert blocks.guide_for(parameters) is not None
    assert set(blocks._guides) == set(mixtures[2:])
    monkeypatch.setattr(blocks, "_MOST_KEPT", 0)
    again = blocks.guide_for(mixtures[0])  # the one in use stays
    assert list(blocks._guides) == mixtures[:1]
    for part, other in zip(again, first, strict=True):
        np.testing.assert_array_equal(part, other)


@kernel("pass that fails")
def _failing(source, weight, constants, means, factors, N, F, S, answers):
    if source.n > 0:
        raise MemoryError
    return 0.0


@pytest.mark.parametrize("weighted", [False, True])
def test_a_pass_that_fails_for_a_bundle_is_no_pass_over_nothing(monkeypatch, weighted):
    """What fails in a kernel that is called by its address cannot be raised there."""
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    parameters, X = components_apart("full")
    w = np.random.default_rng(0).integers(0, 2, len(X)).astype(float) if weighted else None
    sum_statistics(parameters, X, w)
    failing = PASSES["full"]._replace(statistics=_failing)
    monkeypatch.setattr(passes, "PASSES", {"full": failing})
    with pytest.raises(MemoryError, match="a bundle of rows"):
        sum_statistics(parameters, X, w)
    assert ignored[0].exc_type is MemoryError


@kernel("prediction that fails")
def _failing_assign(source, constants, means, factors, labels, densities, certainties, shares):
    if source.n > 0:
        raise MemoryError
    return True


def test_a_prediction_that_fails_for_a_bundle_is_an_error(monkeypatch):
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    parameters, X = components_apart("full")
    failing = PASSES["full"]._replace(assign=_failing_assign)
    monkeypatch.setattr(passes, "PASSES", {"full": failing})
    with pytest.raises(MemoryError, match="a bundle of rows"):
        assign(parameters, X, certainties=True, repeated=True)
    assert ignored[0].exc_type is MemoryError
