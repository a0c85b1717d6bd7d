"""Two components merged for a third: what is kept of their rows, and what is said of the cost."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.placing import cheapest_merge, merge_pair, merge_units, place_component
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.spec import COVARIANCE_NAMES, MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics
from gmm_dask.mixture.units import carry
from tests.mixture import oracle
from tests.mixture.test_incremental import mixture_of
from tests.mixture.test_laws import mixtures
from tests.mixture.test_units import law, read_units, statistics_of


def merged_by_hand(parameters, merged, parts, kept, freed):
    """N and S of the merged mixture, from responsibilities that are added row by row; its bound."""
    k, d = parameters.means.shape
    kind = parameters.covariance_type
    U = oracle.full_factors(kind, merged.precisions_cholesky, k, d)
    counts, products, total = np.zeros(k), 0.0, 0.0
    for X, w in parts:
        r = oracle.expectation(parameters, X).responsibilities.T.copy()  # (k, n)
        r[kept] += r[freed]
        r[freed] = 0.0
        y = np.einsum("knm,kmj->knj", X[None] - merged.means[:, None], U)
        counts += r @ w
        products = products + oracle.in_form(kind, np.einsum("n,kn,kni,knj->kij", w, r, y, y))
        joint = oracle.expectation(merged, X).log_joint.T
        used = r > 0.0
        total += float(((w * r)[used] * (joint[used] - np.log(r[used]))).sum())
    return counts, products, total


@law
@given(read_units(), st.data())
def test_merged_units_have_the_sums_of_both_and_their_bound_is_one(read, data):
    parameters, parts, units = read
    k = parameters.n_components
    if k < 2:
        return
    kept, freed = data.draw(st.permutations(range(k)))[:2]
    merged = merge_pair(parameters, kept, freed)
    both = merge_units(
        carry(units, parameters, merged), kept, freed, parameters.covariance.by_component
    ).total()
    counts, products, exact = merged_by_hand(parameters, merged, parts, kept, freed)
    np.testing.assert_allclose(both.counts, counts, atol=1e-12 * both.weight)
    size = np.abs(products).max()
    np.testing.assert_allclose(both.residual_products, products, atol=1e-12 * size)
    assert both.bound(merged) <= exact + 1e-10 * abs(exact)


def test_of_two_equal_components_nothing_is_lost():
    random = np.random.default_rng(0)
    for kind in COVARIANCE_NAMES:
        parameters = mixture_of(kind, [[0.0, 0.0], [0.0, 0.0], [3.0, 1.0]])
        part = [(random.normal(size=(300, 2)), np.ones(300))]
        units = statistics_of(parameters, part)
        merged = merge_pair(parameters, 1, 0)
        carried = carry(units, parameters, merged)
        both = merge_units(carried, 1, 0, parameters.covariance.by_component)
        exact = sum_statistics(merged, *part[0]).log_likelihood
        assert np.isclose(both.total().bound(merged), exact, rtol=1e-12)
        cost, slack, pair = cheapest_merge(parameters)
        assert sorted(pair) == [0, 1]
        assert max(cost, slack) < 1e-12


@settings(max_examples=15, derandomize=True)
@given(mixtures(most_components=4, most_features=3))
def test_cost_and_slack_are_those_of_rows_drawn_from_the_mixture(parameters):
    k, d = parameters.means.shape
    if k < 2:
        return
    cost, slack, (kept, freed) = cheapest_merge(parameters)
    random = np.random.default_rng(0)
    labels = random.choice(k, p=parameters.weights, size=8_000)
    noise = random.normal(size=(8_000, d, 1))
    factors = np.linalg.cholesky(parameters.matrices)
    X = parameters.means[labels] + (factors[labels] @ noise)[..., 0]
    merged = merge_pair(parameters, kept, freed)
    units = statistics_of(parameters, [(X, np.ones(len(X)))])
    carried = carry(units, parameters, merged)
    both = merge_units(carried, kept, freed, parameters.covariance.by_component)
    _, _, exact = merged_by_hand(parameters, merged, [(X, np.ones(len(X)))], kept, freed)
    before = units.total().bound(parameters)
    assert abs((before - exact) / len(X) - cost) < 0.02
    assert abs((exact - both.total().bound(merged)) / len(X) - slack) < 0.02


def test_nothing_is_placed_where_nothing_is_promised():
    random = np.random.default_rng(0)
    X = random.normal(size=(400, 2))
    apart = mixture_of("full", [[0.0, 0.0], [9.0, 0.0]])
    spec = MixtureSpec(2, "full")
    assert place_component(apart, Sample(X, None), 0.01, spec) is None
    assert place_component(mixture_of("full", [[0.0, 0.0]]), Sample(X, None), 0.01, spec) is None
    assert place_component(apart, Sample(X, np.zeros(400)), 0.01, spec) is None
    assert place_component(apart, Sample(X[:2], None), 0.01, spec) is None


def test_new_rows_with_holes_and_weights_get_their_component():
    random = np.random.default_rng(0)
    shared = mixture_of("full", [[0.0, 0.0], [0.2, 0.0], [9.0, 0.0]])
    X = random.normal(size=(400, 2))
    X[300:] += [0.0, 9.0]
    X[::5, 0] = np.nan
    weights = random.uniform(0.5, 1.5, len(X))
    placement = place_component(shared, Sample(X, weights), 0.05, MixtureSpec(3, "full"))
    assert {placement.kept, placement.freed} == {0, 1}
    np.testing.assert_allclose(placement.parameters.means[placement.freed], [0.0, 9.0], atol=0.3)
    share = assign(placement.parameters, X, responsibilities=True).responsibilities
    assert (share[300:, placement.freed] > 0.9).mean() > 0.9
    assert isinstance(placement.merged, MixtureParameters)
