"""scikit-learn's own checks of an estimator, all of them."""

from __future__ import annotations

from typing import Any

from sklearn.utils.estimator_checks import parametrize_with_checks

from gmm_dask import GaussianMixture


@parametrize_with_checks([GaussianMixture(n_components=2)])
def test_scikit_learn_check(estimator: GaussianMixture, check: Any) -> None:
    check(estimator)
