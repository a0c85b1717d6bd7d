"""The matching of components: distances, pairs, and permanent ids."""

import numpy as np
import pytest

from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.initialization import initial_parameters
from gmm_dask.mixture.matching import bhattacharyya, match, match_by_ids, matched_ids
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import MixtureSpec


def mixture(covariance_type="full", k=5, seed=0):
    X = np.random.default_rng(seed).normal(size=(400, 3))
    random_state = np.random.RandomState(seed)
    return initial_parameters(X, None, MixtureSpec(k, covariance_type), random_state)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_components_in_another_order_are_matched(covariance_type):
    old = mixture(covariance_type)
    order = np.array([3, 0, 4, 1, 2])
    matches = match(old.reordered(order), old)
    assert [pair.new for pair in matches] == list(range(5))
    assert [pair.old for pair in matches] == order.tolist()
    for pair in matches:
        assert pair.distance == pytest.approx(0.0, abs=1e-9)
        assert pair.moved == pytest.approx(0.0, abs=1e-9)
        assert pair.weight_change == 0.0


def test_the_distance_of_two_gaussians_by_hand():
    """One dimension: (μ₁ − μ₂)²/(4(σ₁² + σ₂²)) + ½ log((σ₁² + σ₂²)/(2σ₁σ₂))."""
    wide = MixtureParameters.from_covariances(
        "full", np.ones(1), np.array([[1.0]]), np.array([[[4.0]]])
    )
    narrow = MixtureParameters.from_covariances(
        "full", np.ones(1), np.array([[3.0]]), np.array([[[1.0]]])
    )
    expected = 4.0 / (4 * 5.0) + 0.5 * np.log(5.0 / 4.0)
    assert bhattacharyya(wide, narrow)[0, 0] == pytest.approx(expected)
    (pair,) = match(wide, narrow)
    assert pair.moved == pytest.approx(2.0)  # in standard deviations of the old component
    assert match(narrow, wide)[0].moved == pytest.approx(1.0)


def test_new_components_get_new_ids_and_no_id_is_given_twice():
    old = mixture(k=3)
    order = np.array([2, 0, 1])
    new = mixture(k=5)
    matches = match(new, old)
    assert len(matches) == 3
    ids = matched_ids(matches, 5, (7, 11, 4), 12)
    assert sorted(set(ids) - {7, 11, 4}) == [12, 13]
    assert len(set(ids)) == 5
    assert matched_ids(match(old.reordered(order), old), 3, (7, 11, 4), 12) == (4, 7, 11)


def test_ids_of_vanished_components_stay_unused():
    old = mixture(k=5)
    ids = matched_ids(match(mixture(k=2, seed=1), old), 2, (0, 1, 2, 3, 4), 5)
    assert len(set(ids)) == 2
    assert set(ids) <= set(range(5))


def test_spread_and_shifts_by_hand():
    """σ 2 and 1 become 3 and 4: the geometric mean of 1.5 and 4; the mean goes by 1 and −1."""
    old, new = (
        MixtureParameters.from_covariances(kind, np.ones(1), np.array([mean]), covariance)
        for kind, mean, covariance in (
            ("diag", [1.0, 1.0], np.array([[4.0, 1.0]])),
            ("full", [2.0, 0.0], np.array([np.diag([9.0, 16.0])])),
        )
    )
    (pair,) = match(new, old)
    assert pair.spread == pytest.approx(np.sqrt(1.5 * 4.0))
    assert pair.shifts == pytest.approx((0.5, -1.0))
    assert pair.moved == pytest.approx(np.hypot(0.5, 1.0))


def test_ids_pair_components_whatever_their_distance():
    old = mixture(k=3)
    new = old.reordered(np.array([2, 0, 1]))
    by_ids = match_by_ids(new, old, (5, 4, 9), (4, 5, 6))
    assert [(pair.new, pair.old) for pair in by_ids] == [(0, 1), (1, 0)]
    for pair in by_ids:
        assert pair.distance == bhattacharyya(new, old)[pair.new, pair.old]
    assert by_ids[1].distance == pytest.approx(0.0, abs=1e-12)
    assert match_by_ids(new, old, (1, 2, 3), (4, 5, 6)) == ()
