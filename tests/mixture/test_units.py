"""Laws of the sums that are kept: forgetting, carrying, merging, and the bound."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_dask.errors import NumericalError
from gmm_dask.mixture.incremental import refit
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import find_patterns
from gmm_dask.mixture.spec import COVARIANCE_NAMES, MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics
from gmm_dask.mixture.units import UnitStatistics, carry
from tests.mixture import oracle
from tests.mixture.test_laws import covariances_of, mixtures, rows_near, seeds

law = settings(max_examples=40, derandomize=True)
ARRAYS = ("counts", "residual_sums", "residual_products", "rows", "weight", "entropy", "slope")


def another(parameters, seed):
    """A mixture of the same form, near the first."""
    random = np.random.default_rng(seed)
    k, d = parameters.means.shape
    factors = random.normal(size=(k, d, d)) / np.sqrt(d)
    return MixtureParameters.from_covariances(
        parameters.covariance_type,
        random.dirichlet(np.full(k, 5.0)),
        parameters.means + random.normal(size=(k, d)),
        covariances_of(parameters.covariance_type, factors @ factors.mT + 0.5 * np.eye(d)),
    )


@st.composite
def read_units(draw, holes=False):
    """A mixture, the rows and weights of units, and their statistics."""
    parameters = draw(mixtures())
    parts = []
    for seed in draw(st.lists(seeds, min_size=1, max_size=5)):
        random = np.random.default_rng(seed)
        X = rows_near(parameters, draw(st.integers(1, 60)), seed)
        if holes:
            X[random.uniform(size=X.shape) < 0.2] = np.nan
        parts.append((X, random.uniform(0.5, 1.5, len(X))))
    return parameters, parts, statistics_of(parameters, parts)


def statistics_of(parameters, parts):
    sums = [sum_statistics(parameters, X, w, find_patterns(X)) for X, w in parts]
    return UnitStatistics.of(parameters, sums)


def sizes_of(units):
    """The size of the terms of each array's sums, against which rounding is measured."""
    products = np.abs(units.residual_products).max(initial=0.0)
    weight = units.weight.sum()
    return {
        "counts": weight,
        "residual_sums": np.sqrt(weight * products),
        "residual_products": products,
        "rows": 1.0,
        "weight": weight,
        "entropy": weight,
        "slope": weight,
    }


def assert_close(left, right, sizes, tolerance=1e-12):
    for name in ARRAYS:
        np.testing.assert_allclose(
            getattr(left, name),
            getattr(right, name),
            rtol=0,
            atol=tolerance * sizes[name] + 1e-300,
            err_msg=name,
        )
    assert left.parameters_digest == right.parameters_digest


@law
@given(read_units(holes=True), st.data())
def test_a_unit_that_is_left_out_leaves_nothing_behind(read, data):
    parameters, parts, units = read
    stay = data.draw(st.sets(st.integers(0, len(parts) - 1)).map(sorted))
    never_seen = statistics_of(parameters, [parts[index] for index in stay])
    left = units.take(stay)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(left, name), getattr(never_seen, name))
    joined = left.joined(units.take([i for i in range(len(parts)) if i not in stay]))
    total, other = joined.total(), units.total()  # the order matters by rounding only
    assert_close(total, other, sizes_of(units))
    assert np.isclose(total.bound(parameters), other.bound(parameters), rtol=1e-12)


@law
@given(read_units(), st.data())
def test_runs_of_units_are_merged_into_one(read, data):
    _, parts, units = read
    inner = data.draw(st.sets(st.integers(1, max(len(parts) - 1, 1))))
    starts = [0, *sorted(start for start in inner if start < len(parts))]
    merged = units.merged(starts)
    for place, (start, stop) in enumerate(zip(starts, [*starts[1:], len(parts)], strict=True)):
        run = units.take(range(start, stop)).total()
        alone = merged.take([place]).total()
        assert_close(alone, run, sizes_of(units))


def test_runs_that_lose_a_unit_are_refused():
    parameters = MixtureParameters.from_covariances("full", [1.0], [[0.0]], [[[1.0]]])
    units = statistics_of(parameters, [(np.zeros((2, 1)), np.ones(2))] * 3)
    for starts in ([], [1], [0, 3], [0, 2, 1]):
        with pytest.raises(ValueError, match="runs of 3 units cannot begin at"):
            units.merged(starts)


@law
@given(read_units(), seeds, st.sampled_from([0.0, 1e9]))
def test_carried_sums_are_those_of_the_rows(read, seed, offset):
    parameters, parts, _ = read
    parameters = replace(parameters, means=parameters.means + offset)
    parts = [(X + offset, w) for X, w in parts]
    after = another(parameters, seed)
    carried = carry(statistics_of(parameters, parts), parameters, after)
    k, d = parameters.means.shape
    U = oracle.full_factors(parameters.covariance_type, after.precisions_cholesky, k, d)
    for u, (X, w) in enumerate(parts):
        shares = w * oracle.expectation(parameters, X).responsibilities.T  # (k, n)
        y = np.einsum("knm,kmj->knj", X[None] - after.means[:, None], U)
        sums = np.einsum("kn,knj->kj", shares, y)
        products = oracle.in_form(
            parameters.covariance_type, np.einsum("kn,kni,knj->kij", shares, y, y)
        )
        size = np.einsum("kn,knj->", shares, y * y)
        np.testing.assert_allclose(carried.residual_products[u], products, atol=3e-14 * size)
        atol = 3e-14 * np.sqrt(size * w.sum())
        np.testing.assert_allclose(carried.residual_sums[u], sums, atol=atol)


@law
@given(read_units(holes=True), seeds, seeds)
def test_carrying_composes_and_there_and_back_is_where_it_was(read, first, second):
    parameters, _, units = read
    over, last = another(parameters, first), another(parameters, second)
    by_way = carry(carry(units, parameters, over), over, last)
    straight = carry(units, parameters, last)
    sizes = sizes_of(carry(units, parameters, over))
    condition = max(1.0, *(np.linalg.cond(m) for p in (parameters, over, last) for m in p.matrices))
    assert_close(by_way, straight, {n: s * condition for n, s in sizes.items()})
    back = carry(carry(units, parameters, over), over, parameters)
    assert_close(back, units, {name: size * condition for name, size in sizes.items()})


@law
@given(read_units(holes=True), seeds)
def test_the_bound_is_the_log_likelihood_where_it_was_read_and_below_it_elsewhere(read, seed):
    parameters, parts, units = read
    exact = sum(sum_statistics(parameters, X, w, find_patterns(X)).log_likelihood for X, w in parts)
    assert np.isclose(units.total().bound(parameters), exact, rtol=1e-12)
    after = another(parameters, seed)
    under_after = statistics_of(after, parts).total()
    carried = carry(units, parameters, after).total()
    least = under_after.bound(after) + 1e-10 * abs(carried.bound(after))
    assert carried.bound(after) <= least
    np.testing.assert_allclose(carried.weight, under_after.weight)
    if not any(np.isnan(X).any() for X, _ in parts):
        assert (units.entropy >= -1e-10 * units.weight).all()


@law
@given(read_units(), st.floats(0.01, 1.0))
def test_scaled_units_are_those_of_scaled_weights(read, factor):
    parameters, parts, units = read
    factors = factor ** np.arange(len(units))
    lighter = [(X, w * scale) for (X, w), scale in zip(parts, factors, strict=True)]
    assert_close(units.scaled(factors), statistics_of(parameters, lighter), sizes_of(units))


@law
@given(read_units(holes=True), seeds, st.integers(0, 4))
def test_the_bound_never_falls(read, seed, kept_units):
    """Without ``reg_covar``, which an M-step adds whatever it costs."""
    parameters, parts, units = read
    kept = units.take(slice(0, min(kept_units, len(units) - 1)))
    new = parts[len(kept) :]
    start = another(parameters, seed)
    spec = MixtureSpec(parameters.n_components, parameters.covariance_type, 0.0)
    result = refit(
        carry(kept, parameters, start),
        start,
        statistics_of(start, new),
        lambda batch: [statistics_of(mixture, new) for mixture in batch],
        spec,
        -1e300,
    )
    bounds = [result.before, *result.bounds]
    slack = 1e-11 * max(map(abs, bounds))
    assert all(later >= earlier - slack for earlier, later in pairwise(bounds))
    # And it is a bound of all rows, those that were never read again among them.
    exact = statistics_of(result.parameters, parts).total()
    assert result.bound <= exact.mean_bound(result.parameters) + slack


@pytest.mark.parametrize("kind", COVARIANCE_NAMES)
def test_units_of_other_parameters_are_refused(kind):
    shape = {"full": (1, 1, 1), "tied": (1, 1), "diag": (1, 1), "spherical": (1,)}[kind]
    first, second = (
        MixtureParameters.from_covariances(kind, [1.0], [[mean]], np.ones(shape))
        for mean in (0.0, 1.0)
    )
    part = [(np.array([[0.0], [0.5]]), np.ones(2))]
    units = statistics_of(first, part)
    for refused in (
        lambda: units.joined(carry(units, first, second)),
        lambda: carry(units, second, first),
        lambda: UnitStatistics.of(first, [sum_statistics(second, *part[0])]),
        lambda: units.total().bound(second),
        lambda: units.total() + carry(units, first, second).total(),
    ):
        with pytest.raises(NumericalError, match="cannot be used together"):
            refused()
