"""EM over candidates of different covariance types and numbers of components at once."""

from dataclasses import replace

import numpy as np
import pytest

from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.em import EMState, Status, em_steps, fit_em, start_em
from gmm_dask.mixture.engine import divides
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.initialization import initial_parameters
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec

OPTIONS = EMOptions(1e-6, 30)
CELLS = [(k, kind) for k in (1, 2, 4) for kind in COVARIANCE_TYPES]


@pytest.fixture(scope="module")
def X():
    random = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    return centres[random.integers(3, size=900)] + random.normal(size=(900, 3))


def start(X, k, kind):
    return initial_parameters(X, None, MixtureSpec(k, kind), np.random.RandomState(k))


def bits(candidate):
    parameters = candidate.parameters
    arrays = (parameters.weights, parameters.means, parameters.covariances)
    return candidate.status, candidate.lower_bounds, [array.tobytes() for array in arrays]


def test_a_candidate_ends_with_the_same_bits_alone_and_in_any_company(X):
    expectation = ExpectationOn(X, None)
    starts = [start(X, k, kind) for k, kind in CELLS]
    together = fit_em(expectation, starts, MixtureSpec(), OPTIONS)
    assert len({candidate.n_iter for candidate in together}) > 2
    for (k, kind), begun, candidate in zip(CELLS, starts, together, strict=True):
        (alone,) = fit_em(expectation, [begun], MixtureSpec(k, kind), OPTIONS)
        assert bits(candidate) == bits(alone), (k, kind)


def test_many_components_have_their_bits_beside_few():
    """Rows of the first are divided among its components, in larger pieces; those of others not."""
    random = np.random.default_rng(0)
    means = 30.0 * random.normal(size=(40, 8))
    X = means[random.integers(40, size=60_000)] + random.normal(size=(60_000, 8))
    many, few = (
        MixtureParameters.from_covariances(
            "full", np.full(k, 1 / k), means[:k], np.stack([np.eye(8)] * k)
        )
        for k in (40, 5)
    )
    assert divides(many, len(X))
    expectation = ExpectationOn(X, None)
    for batch in ([many, few], [few, many]):
        for sums, parameters in zip(expectation(batch), batch, strict=True):
            (alone,) = expectation([parameters])
            assert sums.residual_products.tobytes() == alone.residual_products.tobytes()
            assert sums.log_likelihood == alone.log_likelihood


def test_one_that_breaks_down_takes_no_other_with_it(X):
    X = np.column_stack([X, np.zeros(len(X))])  # singular without reg_covar
    expectation = ExpectationOn(X, None)
    sound = start(X, 2, "spherical")
    means = np.zeros((2, 4))
    means[1, 0] = 4.0
    singular = MixtureParameters.from_covariances(
        "full", np.full(2, 0.5), means, np.stack([np.eye(4)] * 2)
    )
    starts = [singular, sound]
    first, second = fit_em(expectation, starts, MixtureSpec(reg_covar=0.0), OPTIONS)
    assert first.status is Status.ILL_CONDITIONED
    assert "covariance" in first.problem
    (alone,) = fit_em(expectation, [sound], MixtureSpec(reg_covar=0.0), OPTIONS)
    assert bits(second) == bits(alone)


def test_a_comparison_can_stop_a_candidate_and_let_it_go_on(X):
    """What is stopped takes part in no E-step until it runs again, from where it was."""
    sizes = []

    def expectation(batch):
        sizes.append([parameters.n_components for parameters in batch])
        return ExpectationOn(X, None)(batch)

    def compare(state: EMState) -> EMState:
        first, second = state.candidates
        if state.iteration in (1, 2):
            second = replace(second, status=Status.BEATEN)
        elif second.status is Status.BEATEN:
            second = replace(second, status=Status.RUNNING)
        return EMState((first, second), state.iteration)

    starts = [start(X, 2, "full"), start(X, 3, "diag")]
    options = EMOptions(0.0, 4)
    states = [*em_steps(expectation, start_em(starts, options), MixtureSpec(), options, compare)]
    assert sizes[:4] == [[2, 3], [2], [2], [2, 3]]
    assert states[3].candidates[1].n_iter == 2
