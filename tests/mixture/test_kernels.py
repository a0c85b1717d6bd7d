"""The fused passes against the oracle: shapes, layouts, weights, offsets, scales, extremes."""

import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gmm_dask.mixture import assignment, engine
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.kernels.densities import _log, exp_of_small, reduce
from gmm_dask.mixture.kernels.tiles import ROWS
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics
from tests.mixture.oracle import expectation

TYPES = list(COVARIANCE_TYPES)
STATISTICS = "counts", "residual_sums", "residual_products", "log_likelihood"
property_test = settings(max_examples=50, derandomize=True)

row_counts = st.sampled_from([0, 1, 7, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS]) | st.integers(0, 400)
# Features are worked on in blocks of 4: fewer, exactly 4, every remainder, several blocks.
feature_counts = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 19])
scales = st.sampled_from([1e-12, 1e-6, 1.0, 1e5, 1e12])
# In standard deviations: near enough for tied to whiten rows once, and too far for that.
separations = st.sampled_from([0.0, 1.5, 8.0, 60.0])


def mixture(covariance_type, k, d, rng, scale=1.0, separation=1.5, offset=0.0):
    """Well-conditioned components."""
    A = rng.normal(size=(k, d, d)) / np.sqrt(d)
    matrices = (A @ A.mT + 0.5 * np.eye(d)) * scale**2
    covariances = {
        "full": matrices,
        "tied": matrices[0],
        "diag": np.diagonal(matrices, axis1=1, axis2=2),
        "spherical": matrices[:, 0, 0],
    }[covariance_type]
    means = scale * (separation * rng.normal(size=(k, d)) + offset)
    return MixtureParameters.from_covariances(
        covariance_type, rng.dirichlet(np.full(k, 3.0)), means, covariances
    )


def rows_of(parameters, n, rng):
    """Rows drawn near the means, (n, d)."""
    component = rng.integers(0, parameters.n_components, n)
    deviation = np.sqrt(np.diagonal(parameters.matrices, axis1=1, axis2=2))  # (k, d)
    noise = rng.normal(size=(n, parameters.n_features))
    return parameters.means[component] + deviation[component] * noise


LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "slice of an F-ordered block": lambda X: np.asfortranarray(np.vstack([X[:0], X, X]))[: len(X)],
    "every second row and column": lambda X: np.repeat(np.repeat(X, 2, 0), 2, 1)[::2, ::2],
    "backwards": lambda X: X[::-1, ::-1].copy()[::-1, ::-1],
    "one row over and over": lambda X: np.broadcast_to(X[:1], X.shape),
}
layouts = st.sampled_from(list(LAYOUTS))
weightings = st.sampled_from(["none", "random", "many zeros", "strided"])


def weights_of(weighting, n, rng):
    w = rng.exponential(size=n)
    if weighting == "none":
        return None
    if weighting == "many zeros":
        return w * (rng.random(n) < 0.3)
    return np.repeat(w, 3)[::3] if weighting == "strided" else w


def assert_statistics(actual, expected, tolerance=1e-12):
    """Compare relative to the sizes of the terms of each sum; values to e^−230 are flushed to 0."""
    for name in STATISTICS:
        error = np.abs(np.asarray(getattr(actual, name)) - getattr(expected, name))
        allowed = tolerance * np.asarray(expected.sizes[name]) + 1e-90
        assert (error <= allowed).all(), (name, error.max())


@st.composite
def cases(draw, covariance_type):
    """A mixture and rows of it in some dtype, layout, offset and scale, with weights or not."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    single = draw(st.booleans())
    offset = draw(st.sampled_from([0.0, 100.0] if single else [0.0, 1e3, 1e9]))
    parameters = mixture(
        covariance_type,
        draw(st.integers(1, 6)),
        draw(feature_counts),
        rng,
        draw(scales),
        draw(separations),
        offset,
    )
    X = rows_of(parameters, draw(row_counts), rng).astype(np.float32 if single else np.float64)
    X = LAYOUTS[draw(layouts)](X)
    return parameters, X, weights_of(draw(weightings), len(X), rng)


@pytest.mark.parametrize("covariance_type", TYPES)
@property_test
@given(data=st.data())
def test_statistics_are_the_oracles(covariance_type, data):
    parameters, X, sample_weight = data.draw(cases(covariance_type))
    statistics = sum_statistics(parameters, X, sample_weight)
    assert_statistics(statistics, expectation(parameters, X, sample_weight))
    assert statistics.rows == len(X)


def assign(parameters, X, with_responsibilities=True):
    n, k = len(X), parameters.n_components
    labels = np.full(n, -1, dtype=np.int32)
    log_densities = np.full(n, np.nan)
    responsibilities = np.full((n if with_responsibilities else 0, k), np.nan)
    engine.assign(parameters, X, labels, log_densities, responsibilities)
    return labels, log_densities, responsibilities


@pytest.mark.parametrize("covariance_type", TYPES)
@property_test
@given(data=st.data(), with_responsibilities=st.booleans())
def test_assignment_is_the_oracles(covariance_type, data, with_responsibilities):
    parameters, X, _ = data.draw(cases(covariance_type))
    labels, log_densities, responsibilities = assign(parameters, X, with_responsibilities)
    expected = expectation(parameters, X)
    # log p in nats: its error is that of the squares in it.
    size = 1.0 + np.abs(expected.log_joint).max(axis=1, initial=0.0)
    assert (np.abs(log_densities - expected.log_densities) <= 1e-13 * size).all()
    chosen = np.take_along_axis(expected.log_joint, labels[:, None], axis=1)[:, 0]
    assert (expected.log_joint.max(axis=1, initial=-np.inf) - chosen <= 1e-12 * size).all()
    if with_responsibilities:
        error = np.abs(responsibilities - expected.responsibilities)
        assert (error <= 1e-12 * size[:, None]).all()
        np.testing.assert_allclose(responsibilities.sum(axis=1), 1.0, rtol=1e-14)
    else:
        assert responsibilities.shape == (0, parameters.n_components)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_every_layout_and_dtype_gives_the_same_bits(covariance_type):
    rng = np.random.default_rng(0)
    parameters = mixture(covariance_type, 3, 6, rng)
    X = rows_of(parameters, 3 * ROWS + 5, rng).astype(np.float32)
    w = rng.random(len(X))
    reference = sum_statistics(parameters, X.astype(np.float64), w)
    assert np.abs(reference.residual_products).max() > 1.0
    for name, layout in LAYOUTS.items():
        if name == "one row over and over":
            continue
        for dtype in (np.float32, np.float64):
            laid_out = layout(X.astype(dtype))
            laid_out.flags.writeable = False
            again = sum_statistics(parameters, laid_out, w)
            for statistic in STATISTICS:
                np.testing.assert_array_equal(
                    getattr(again, statistic), getattr(reference, statistic), err_msg=name
                )


@pytest.mark.parametrize("covariance_type", TYPES)
def test_unaligned_swapped_and_long_values_are_read_right(covariance_type):
    rng = np.random.default_rng(1)
    parameters = mixture(covariance_type, 2, 3, rng)
    X = rows_of(parameters, 200, rng)
    reference = sum_statistics(parameters, X)
    records = np.zeros(200, dtype=[("flag", "i1"), ("row", "f8", 3)])  # rows at odd addresses
    records["row"] = X
    for odd in (records["row"], X.astype(">f8"), X.astype(np.longdouble)):
        np.testing.assert_array_equal(
            sum_statistics(parameters, odd).residual_products, reference.residual_products
        )


@pytest.mark.parametrize("covariance_type", TYPES)
def test_no_rows_are_the_neutral_element(covariance_type):
    parameters = mixture(covariance_type, 3, 4, np.random.default_rng(0))
    statistics = sum_statistics(parameters, np.empty((0, 4)))
    assert statistics.log_likelihood == 0.0
    assert not statistics.counts.any()
    assert not statistics.residual_products.any()
    labels, log_densities, responsibilities = assign(parameters, np.empty((0, 4), np.float32))
    assert labels.shape == log_densities.shape == (0,)
    assert responsibilities.shape == (0, 3)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_predictions_go_to_strided_arrays(covariance_type):
    rng = np.random.default_rng(3)
    parameters = mixture(covariance_type, 3, 2, rng)
    X = rows_of(parameters, ROWS + 40, rng)
    labels, log_densities, responsibilities = assign(parameters, X)
    n = len(X)
    sparse_labels = np.full(3 * n, -1, dtype=np.int32)
    sparse_densities = np.full(2 * n, 7.0)
    columns = np.full((3, n), 7.0)  # written as its transpose
    engine.assign(parameters, X, sparse_labels[::3], sparse_densities[::2], columns.T)
    np.testing.assert_array_equal(sparse_labels[::3], labels)
    assert (sparse_labels[1::3] == -1).all()
    np.testing.assert_array_equal(sparse_densities[::2], log_densities)
    assert (sparse_densities[1::2] == 7.0).all()
    np.testing.assert_array_equal(columns.T, responsibilities)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_certainties_are_the_largest_responsibilities(covariance_type):
    rng = np.random.default_rng(6)
    parameters = mixture(covariance_type, 4, 3, rng)
    X = rows_of(parameters, 2 * ROWS + 9, rng)
    assigned = assignment.assign(parameters, X, responsibilities=True, certainties=True)
    np.testing.assert_array_equal(assigned.certainties, assigned.responsibilities.max(axis=1))
    assert assignment.assign(parameters, X).certainties is None


ANSWERS = "labels", "log_densities", "certainties"


@pytest.mark.parametrize("covariance_type", TYPES)
def test_one_pass_gives_statistics_and_assignment_the_bits_of_two(covariance_type):
    rng = np.random.default_rng(8)
    sizes = [(1, 1), (4, 2), (3, 5), (8, 8), (3, 19)]
    # Tied covariances: means that are near, and means that are too far apart to whiten rows once.
    for (k, d), separation in itertools.product(sizes, (1.5, 60.0)):
        parameters = mixture(covariance_type, k, d, rng, separation=separation)
        for n, layout in itertools.product((1, ROWS, 3 * ROWS + 7), ("C", "F")):
            X = LAYOUTS[layout](rows_of(parameters, n, rng))
            # With tied covariances, rows close to a mean need a second way over them.
            for rows in (X, parameters.means[-1] + 1e-3 * X):
                expected = assignment.assign(parameters, rows, certainties=True)
                for weights in (None, rng.exponential(size=n)):
                    sums, assigned = assignment.sum_and_assign(parameters, rows, weights)
                    alone = sum_statistics(parameters, rows, weights)
                    for name in STATISTICS:
                        assert_same_bits(getattr(sums, name), getattr(alone, name))
                    for name in ANSWERS:
                        assert_same_bits(getattr(assigned, name), getattr(expected, name))


def assert_same_bits(array, expected):
    assert np.asarray(array).tobytes() == np.asarray(expected).tobytes()


def test_one_pass_assigns_only_where_it_gives_the_bits():
    rng = np.random.default_rng(9)
    parameters = mixture("full", 3, 2, rng)
    X = rows_of(parameters, 2_000, rng)
    assert assignment.sum_and_assign(parameters, X, None)[1] is not None
    assert assignment.sum_and_assign(parameters, X.astype(np.float32), None)[1] is None
    X[7, 1] = np.nan
    assert assignment.sum_and_assign(parameters, X, None)[1] is None
    many_features = mixture("diag", 2, engine.MANY_FEATURES["diag"], rng)
    assert not engine.assigns_too(many_features, rows_of(many_features, 200, rng))
    many = mixture("full", engine.MANY_COMPONENTS["full"], 8, rng, separation=60.0)
    X = rows_of(many, 8_192, rng)
    assert not engine.assigns_too(many, X)
    assert engine.assigns_too(many, X[:1_000])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_prediction_says_whether_all_rows_were_finite(covariance_type, dtype, bad, monkeypatch):
    monkeypatch.setattr(assignment, "LEAST_SLICE_ROWS", ROWS)
    rng = np.random.default_rng(5)
    parameters = mixture(covariance_type, 3, 5, rng)
    X = rows_of(parameters, 3 * ROWS + 7, rng).astype(dtype)
    for threads in (1, 3):
        assert assignment.assign(parameters, X, threads=threads).finite
        for row, column in [(0, 0), (ROWS, 4), (3 * ROWS + 6, 2)]:
            spoilt = X.copy()
            spoilt[row, column] = bad
            assert not assignment.assign(parameters, spoilt, threads=threads).finite


@pytest.mark.parametrize("covariance_type", TYPES)
def test_parameters_may_be_read_only_and_strided(covariance_type):
    rng = np.random.default_rng(4)
    parameters = mixture(covariance_type, 3, 4, rng)
    X = rows_of(parameters, 100, rng)
    reference = assign(parameters, X)
    U = np.asfortranarray(parameters.precisions_cholesky)
    means = np.asfortranarray(parameters.means)
    weights = np.repeat(parameters.weights, 2)[::2]
    for array in (U, means, weights):
        array.flags.writeable = False
    odd = replace(parameters, weights=weights, means=means, precisions_cholesky=U)
    again = np.empty(100, np.int32), np.empty(100), np.empty((100, 3))
    engine.assign(odd, X, *again)
    for actual, expected in zip(again, reference, strict=True):
        np.testing.assert_array_equal(actual, expected)


def allocated_by_a_pass(layout, dtype):
    """The most that a pass allocates at any instant, as a share of the rows' bytes."""
    rng = np.random.default_rng(5)
    parameters = mixture("full", 4, 8, rng)
    X = LAYOUTS[layout](rows_of(parameters, 100_000, rng).astype(dtype))
    sum_statistics(parameters, X)
    tracemalloc.start()
    try:
        sum_statistics(parameters, X)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return peak / X.nbytes


@pytest.mark.parametrize("layout", ["C", "F", "slice of an F-ordered block", "backwards"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_pass_copies_nothing(layout, dtype, measure):
    assert measure(allocated_by_a_pass, layout, dtype) < 0.1


# Extremes.


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_component_of_weight_0_gets_nothing(covariance_type):
    rng = np.random.default_rng(6)
    template = mixture(covariance_type, 3, 3, rng)
    for absent in range(3):
        weights = np.array([0.5, 0.5, 0.5])
        weights[absent] = 0.0
        parameters = MixtureParameters.from_covariances(
            covariance_type, weights, template.means, template.covariances
        )
        X = np.vstack([rows_of(parameters, 150, rng), np.full((1, 3), 1e3)])
        statistics = sum_statistics(parameters, X)
        assert statistics.counts[absent] == 0.0
        assert not statistics.residual_sums[absent].any()
        assert statistics.counts.sum() == pytest.approx(151, rel=1e-14)
        labels, log_densities, responsibilities = assign(parameters, X)
        assert (labels != absent).all()
        assert (responsibilities[:, absent] == 0.0).all()
        assert np.isfinite(log_densities).all()


@pytest.mark.parametrize("covariance_type", TYPES)
def test_a_component_without_rows_stays_finite(covariance_type):
    rng = np.random.default_rng(7)
    parameters = mixture(covariance_type, 2, 4, rng, separation=0.0)
    means = np.vstack([parameters.means[0], parameters.means[0] + 1e6])
    parameters = MixtureParameters.from_covariances(
        covariance_type, [0.5, 0.5], means, parameters.covariances
    )
    X = means[0] + 0.5 * rng.normal(size=(300, 4))
    statistics = sum_statistics(parameters, X)
    assert statistics.counts.tolist() == [300.0, 0.0]
    for name in STATISTICS:
        assert np.isfinite(getattr(statistics, name)).all()
    counts = statistics.counts + 10 * np.finfo(float).eps
    step = parameters.covariance.update(
        parameters.covariances[None],
        parameters.precisions_cholesky[None],
        counts[None],
        (statistics.residual_sums / counts[:, None])[None],
        statistics.residual_products[None],
        MixtureSpec(),
    )
    assert np.isfinite(step.covariances).all()
    assert not step.shifts[0, 1].any()
    assert not step.guarded.any()


@pytest.mark.parametrize("far", [1e10, 1e100, 1e149, 1e150])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_far_out_leave_everything_finite(covariance_type, far):
    rng = np.random.default_rng(8)
    parameters = mixture(covariance_type, 3, 5, rng)
    X = rows_of(parameters, 300, rng)
    X[17] = far
    X[200, 2] = -far
    statistics = sum_statistics(parameters, X)
    for name in STATISTICS:
        assert np.isfinite(getattr(statistics, name)).all(), name
    assert statistics.counts.sum() == pytest.approx(300, rel=1e-13)
    _, log_densities, responsibilities = assign(parameters, X)
    assert np.isfinite(log_densities).all()
    np.testing.assert_allclose(responsibilities.sum(axis=1), 1.0, rtol=1e-14)
    # The other rows of the tile are not affected.
    near = np.delete(np.arange(300), [17, 200])
    np.testing.assert_array_equal(log_densities[near], assign(parameters, X[near])[1])
    if far <= 1e149:
        expected = expectation(parameters, X)
        np.testing.assert_allclose(log_densities, expected.log_densities, rtol=1e-12)


@pytest.mark.parametrize("far", [1e151, 1e160, 1e200, 1e300, np.finfo(np.float64).max])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_rows_whose_squares_overflow_are_clipped(covariance_type, far):
    rng = np.random.default_rng(9)
    # A small scale whitens 1e300 to beyond the range of doubles.
    for scale in (1.0, 1e-12):
        parameters = mixture(covariance_type, 3, 5, rng, scale)
        X = rows_of(parameters, 10, rng)
        X[3] = far
        X[4, 1] = -far
        X[5] = far * np.array([1.0, -1.0, 1.0, -1.0, 1.0])
        _, log_densities, responsibilities = assign(parameters, X)
        assert np.isfinite(log_densities).all()
        assert (log_densities[3:6] < -1e200).all()
        np.testing.assert_allclose(responsibilities.sum(axis=1), 1.0, rtol=1e-14)
        assert (responsibilities >= 0.0).all()
        statistics = sum_statistics(parameters, X)
        for name in STATISTICS:
            assert np.isfinite(getattr(statistics, name)).all(), name
        assert statistics.counts.sum() == pytest.approx(10, rel=1e-13)


@pytest.mark.parametrize("covariance_type", TYPES)
def test_near_singular_components_far_away_do_not_underflow_to_nan(covariance_type):
    d = 4
    # Standard deviations of 1e-8 a million away: every exponent is below e^−10²⁷.
    matrices = np.array([np.eye(d) * 1e-16] * 3)
    covariances = {
        "full": matrices,
        "tied": matrices[0],
        "diag": np.full((3, d), 1e-16),
        "spherical": np.full(3, 1e-16),
    }[covariance_type]
    means = np.array([[0.0] * d, [1.0] * d, [1e6] * d])
    parameters = MixtureParameters.from_covariances(
        covariance_type, [0.2, 0.3, 0.5], means, covariances
    )
    X = np.array([[0.4] * d, [0.6] * d, [9e5] * d, [-1e6] * d])
    labels, log_densities, responsibilities = assign(parameters, X)
    assert labels.tolist() == [0, 1, 2, 0]
    assert np.isfinite(log_densities).all()
    np.testing.assert_array_equal(responsibilities, np.eye(3)[[0, 1, 2, 0]])
    statistics = sum_statistics(parameters, X)
    assert statistics.counts.tolist() == [2.0, 1.0, 1.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("covariance_type", TYPES)
def test_nan_and_infinity_are_not_hidden(covariance_type, bad):
    rng = np.random.default_rng(10)
    parameters = mixture(covariance_type, 3, 5, rng)
    X = rows_of(parameters, 40, rng)
    X[7, 2] = bad
    _, log_densities, _ = assign(parameters, X)
    if np.isnan(bad):
        assert np.flatnonzero(np.isnan(log_densities)).tolist() == [7]
        assert np.isnan(sum_statistics(parameters, X).log_likelihood)
    else:  # infinity is clipped to the farthest value allowed
        assert log_densities[7] < -1e200


def test_small_responsibilities_are_flushed_and_never_denormal():
    parameters = MixtureParameters.from_covariances(
        "spherical", [0.5, 0.5], np.array([[0.0], [1.0]]), np.array([1.0, 1e-3])
    )
    X = np.linspace(-1.5, 1.0, 2001)[:, None]
    _, _, responsibilities = assign(parameters, X)
    tiny = responsibilities[:, 1][responsibilities[:, 1] < 1e-90]
    assert (tiny == 0.0).any()
    assert tiny[tiny > 0.0].min() > 1e-101


@pytest.mark.parametrize("covariance_type", TYPES)
def test_weights_of_one_are_no_weights(covariance_type):
    rng = np.random.default_rng(8)
    parameters = mixture(covariance_type, 3, 2, rng)
    X = rows_of(parameters, 3 * ROWS + 5, rng)
    without = engine.statistics(parameters, X, None)
    for part, other in zip(without, engine.statistics(parameters, X, np.ones(len(X))), strict=True):
        np.testing.assert_array_equal(part, other)


@pytest.mark.parametrize("k", [1, 2, 1000])
def test_the_likelihood_of_many_equal_components_is_that_of_one(k):
    # Of such rows the sum over components is largest, and the product of eight of them.
    rng = np.random.default_rng(9)
    same = MixtureParameters.from_covariances(
        "diag", np.full(k, 1.0 / k), np.zeros((k, 2)), np.ones((k, 2))
    )
    X = rng.normal(size=(2 * ROWS, 2))
    expected = (-0.5 * np.square(X).sum(axis=1) - np.log(2.0 * np.pi)).sum()
    assert engine.statistics(same, X, None)[3] == pytest.approx(expected, rel=1e-13)


def test_two_features_are_read_alike_in_every_layout():
    rng = np.random.default_rng(10)
    parameters = mixture("full", 2, 2, rng)
    rows = rows_of(parameters, ROWS + 3, rng).astype(np.float32).astype(np.float64)
    expected = engine.statistics(parameters, rows, None)
    wide = np.repeat(rows.astype(np.float32), 2, axis=1)  # strides of two doubles and of one
    for X in (np.asfortranarray(rows), np.repeat(rows, 2, axis=1)[:, ::2], wide[:, ::2]):
        for part, other in zip(engine.statistics(parameters, X, None), expected, strict=True):
            np.testing.assert_array_equal(part, other)


# The functions that replace those of libm.


def ulps(actual, expected):
    return np.abs(actual - expected) / np.spacing(np.abs(expected))


def _exp(x):
    """Exp in the two steps of the passes."""
    t, power = reduce(x)
    return exp_of_small(t) * power


@settings(max_examples=300, derandomize=True)
@given(st.floats(-230.0, 0.0))
@example(0.0)
@example(-230.0)
@example(-5e-324)
def test_exp_is_libms_to_an_ulp(x):
    assert ulps(_exp(x), np.exp(x)) <= 1.0


def test_exp_ends_at_zero():
    assert _exp(np.nextafter(-230.0, -np.inf)) == 0.0
    assert _exp(-1e300) == 0.0
    assert _exp(-np.inf) == 0.0
    assert np.isnan(_exp(np.nan))
    assert _exp(0.0) == 1.0


@settings(max_examples=300, derandomize=True)
@given(st.floats(1.0, 1e6))
@example(1.0)
@example(2.0)
@example(np.sqrt(2.0))
@example(1.0 + 2.0**-52)
def test_log_is_libms_to_two_ulps(x):
    assume(x >= 1.0)
    assert abs(_log(x) - np.log(x)) <= 2.0 * np.spacing(max(np.log(x), 1e-300)) or x == 1.0
    assert _log(1.0) == 0.0


def test_log_of_nan_is_nan():
    assert np.isnan(_log(np.nan))


@pytest.mark.parametrize("dtype", [np.float32, np.int32, bool, ">f8"])
def test_sample_weights_of_any_number_type_are_read_as_what_they_are(dtype):
    rng = np.random.default_rng(3)
    parameters = mixture("full", 3, 4, rng)
    X, weights = rng.normal(size=(300, 4)), rng.integers(0, 2, size=300)
    reference = sum_statistics(parameters, X, weights.astype(np.float64))
    again = sum_statistics(parameters, X, weights.astype(dtype))
    assert again.log_likelihood == reference.log_likelihood
    np.testing.assert_array_equal(again.residual_products, reference.residual_products)
