"""All of scikit-learn's checks of an estimator."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from gmm_dask import GaussianMixture

# scikit-learn expects its own KMeans to fail this too: a start drawn at random from weighted rows
# is not the start drawn from repeated rows, so EM ends in another optimum. From the same start,
# weights and repetitions agree: tests/mixture/test_laws.py.
WEIGHTED_STARTS = "k-means draws other starts from weighted rows than from repeated ones"
EXPECTED_FAILURES = {"check_sample_weight_equivalence_on_dense_data": WEIGHTED_STARTS}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [GaussianMixture(n_components=2)],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
)
def test_scikit_learn_check(estimator: GaussianMixture, check: Any) -> None:
    check(estimator)
