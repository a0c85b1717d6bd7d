"""Lost components that are placed again: which rows they get, how often, and when it is no use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.em import Candidate, EMState, Status, em_steps, start_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.replacing import (
    LOWEST_ROWS,
    MOST_REPLACEMENTS,
    LowestRows,
    Replacement,
    count_replacements,
    find_lowest,
)
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.spec import COVARIANCE_NAMES, EMOptions, MixtureSpec

OPTIONS = EMOptions(1e-6, 300, "replace")


def cloud_and_atom(n: int = 900, seed: int = 0) -> FloatArray:
    """Rows of two wide Gaussians, a third of which have the same value."""
    X = np.random.default_rng(seed).normal(size=(n, 2))
    X[: n // 3] += 8.0
    X[n // 3 : 2 * n // 3] = [3.0, -2.0]
    return X


def collapsed_on_the_atom(X: FloatArray) -> MixtureParameters:
    covariances = np.array([np.eye(2), np.eye(2), 1e-6 * np.eye(2)])
    means = np.array([[8.0, 8.0], [0.0, 0.0], [3.0, -2.0]])
    return MixtureParameters.from_covariances("full", np.full(3, 1 / 3), means, covariances)


def replacement_on(X: FloatArray, max_iter: int = 300, reg_covar: float = 1e-6) -> Replacement:
    return Replacement.over(Sample(X, None), max_iter, reg_covar, X.var(axis=0))


def finder(X: FloatArray, weight: FloatArray | None = None) -> Any:
    return lambda batch: [
        find_lowest(parameters, X, weight, np.arange(len(X))) for parameters in batch
    ]


def bits(lowest: LowestRows) -> tuple[bytes, ...]:
    return (lowest.values.tobytes(), lowest.log_densities.tobytes(), lowest.numbers.tobytes())


@settings(max_examples=30)
@given(
    cuts=st.lists(st.integers(0, 400), min_size=0, max_size=4).map(sorted),
    seed=st.integers(0, 1_000),
    weighted=st.booleans(),
)
def test_the_lowest_of_parts_are_those_of_the_whole(
    cuts: list[int], seed: int, weighted: bool
) -> None:
    random = np.random.default_rng(seed)
    X = random.integers(0, 12, size=(400, 2)).astype(float)  # many rows have the same density
    weight = random.integers(0, 3, size=400).astype(float) if weighted else None
    parameters = collapsed_on_the_atom(X)
    numbers = np.arange(400)
    parts = [
        find_lowest(parameters, X[part], weight[part] if weight is not None else None, part)
        for part in np.split(numbers, cuts)
    ]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged + part
    whole = find_lowest(parameters, X, weight, numbers)
    assert whole.numbers.tolist() == merged.numbers.tolist()
    assert np.allclose(whole.log_densities, merged.log_densities, rtol=1e-12)
    assert np.isclose(whole.log_likelihood, merged.log_likelihood)
    # The lowest of all rows that have a weight, the first of those that are equal.
    eligible = numbers if weight is None else numbers[weight > 0.0]
    densities = find_lowest_densities(parameters, X[eligible])
    expected = eligible[np.lexsort((eligible, densities))[:LOWEST_ROWS]]
    assert whole.numbers.tolist() == expected.tolist()


def find_lowest_densities(parameters: MixtureParameters, X: FloatArray) -> FloatArray:
    from gmm_dask.mixture.assignment import assign

    return assign(parameters, X).log_densities


def candidate_after_a_step(X: FloatArray, parameters: MixtureParameters) -> Candidate:
    spec = MixtureSpec(parameters.n_components, parameters.covariance_type)
    state = start_em([parameters], OPTIONS)
    (candidate,) = next(em_steps(ExpectationOn(X, None), state, spec, OPTIONS)).candidates
    return candidate


def test_a_collapsed_component_is_set_on_the_lowest_row_with_the_covariance_of_all() -> None:
    X = cloud_and_atom()
    candidate = candidate_after_a_step(X, collapsed_on_the_atom(X))
    replacement = replacement_on(X)
    assert replacement.find_lost(candidate) == (2,)
    state = replacement(EMState((candidate,), 1), finder(X))
    (moved,) = state.candidates
    lowest = find_lowest(candidate.parameters, X, None, np.arange(len(X)))
    assert moved.parameters.means[2].tolist() == X[lowest.numbers[0]].tolist()
    assert np.allclose(moved.parameters.covariances[2], np.cov(X.T, bias=True) + 1e-6 * np.eye(2))
    assert moved.parameters.means[:2].tolist() == candidate.parameters.means[:2].tolist()
    assert np.isclose(moved.parameters.weights.sum(), 1.0)
    assert moved.status is Status.RUNNING
    assert moved.history[-1].replaced == (2,)
    assert count_replacements(moved).tolist() == [0, 0, 1]


@pytest.mark.parametrize("kind", COVARIANCE_NAMES)
def test_a_starved_component_is_placed_again_for_every_type(kind: str) -> None:
    random = np.random.default_rng(1)
    X = np.vstack([random.normal(size=(200, 2)), random.normal(size=(200, 2)) + 9.0])
    means = np.array([[0.0, 0.0], [9.0, 9.0], [500.0, 500.0]])  # the third has no rows
    shape = {"full": (3, 2, 2), "tied": (2, 2), "diag": (3, 2), "spherical": (3,)}[kind]
    covariances = np.broadcast_to(np.eye(2) if kind in ("full", "tied") else 1.0, shape).copy()
    start = MixtureParameters.from_covariances(kind, np.full(3, 1 / 3), means, covariances)
    candidate = candidate_after_a_step(X, start)
    replacement = replacement_on(X)
    lost = replacement.find_lost(candidate)
    if kind == "tied":  # the covariance of all rows holds it up, so that it cannot do harm
        assert lost == ()
        return
    assert lost == (2,)
    (moved,) = replacement(EMState((candidate,), 1), finder(X)).candidates
    assert np.abs(moved.parameters.means[2]).max() < 20.0


def test_two_lost_components_get_rows_far_from_each_other_and_each_attempt_another() -> None:
    X = cloud_and_atom()
    X[:2] = [[60.0, 0.0], [-60.0, 0.0]]
    candidate = candidate_after_a_step(X, collapsed_on_the_atom(X))
    replacement = replacement_on(X)
    lowest = find_lowest(candidate.parameters, X, None, np.arange(len(X)))
    both = replacement.replace_lost(candidate, (1, 2), lowest)
    assert {tuple(mean) for mean in both.parameters.means[1:]} == {(60.0, 0.0), (-60.0, 0.0)}
    again = replacement.replace_lost(both, (2,), lowest)
    assert tuple(again.parameters.means[2]) not in {tuple(mean) for mean in X[:2]}


def test_a_component_is_placed_again_a_bounded_number_of_times() -> None:
    """The rows are one cloud and one repeated value: a component always returns to the value."""
    X = np.random.default_rng(3).normal(size=(600, 2))
    X[:200] = [4.0, 4.0]
    spec = MixtureSpec(2, "full")
    means = np.array([[0.0, 0.0], [4.0, 4.0]])
    covariances = np.array([np.eye(2), 1e-6 * np.eye(2)])
    start = MixtureParameters.from_covariances("full", np.full(2, 0.5), means, covariances)
    replacement = replacement_on(X)
    state = start_em([start], OPTIONS)
    steps = em_steps(
        ExpectationOn(X, None), state, spec, OPTIONS, lambda em: replacement(em, finder(X))
    )
    for latest in steps:
        state = latest
    (last,) = state.candidates
    counts = count_replacements(last)
    assert counts.max() == MOST_REPLACEMENTS
    assert counts.sum() <= 2 * MOST_REPLACEMENTS
    assert last.status is Status.CONVERGED


def test_where_all_rows_are_as_narrow_nothing_is_placed_again() -> None:
    X = cloud_and_atom()
    X[:, 1] = 2.0 * X[:, 0]  # the features depend on each other
    parameters = MixtureParameters.from_covariances(
        "full",
        np.array([0.5, 0.5]),
        np.array([[0.0, 0.0], [8.0, 16.0]]),
        np.broadcast_to(np.cov(X.T, bias=True) + 1e-6 * np.eye(2), (2, 2, 2)).copy(),
    )
    assert replacement_on(X).find_lost(candidate_after_a_step(X, parameters)) == ()


def test_without_a_floor_the_component_that_broke_down_is_placed_again() -> None:
    X = cloud_and_atom()
    spec = MixtureSpec(3, "full", reg_covar=0.0)
    replacement = replacement_on(X, reg_covar=0.0)
    start = collapsed_on_the_atom(X)
    plain = EMOptions(1e-6, 300)
    broken = start_em([start], plain)
    for latest in em_steps(ExpectationOn(X, None), broken, spec, plain):
        broken = latest
    assert broken.candidates[0].status is Status.ILL_CONDITIONED
    assert broken.candidates[0].broken == 2
    (moved,) = replacement(broken, finder(X)).candidates
    assert moved.status is Status.RUNNING
    assert moved.problem == ""
    assert moved.history[-1].replaced == (2,)
    expected = mean_log_density(broken.candidates[0].parameters, X)
    assert np.isclose(moved.history[-1].log_likelihood, expected)


def mean_log_density(parameters: MixtureParameters, X: FloatArray) -> float:
    return float(find_lowest_densities(parameters, X).mean())


def test_the_iteration_after_one_is_placed_again_cannot_converge() -> None:
    X = cloud_and_atom()
    spec, loose = MixtureSpec(3, "full"), EMOptions(1e9, 50, "replace")
    replacement = replacement_on(X, max_iter=50)
    state = start_em([collapsed_on_the_atom(X)], loose)
    histories = [
        state.candidates[0]
        for state in em_steps(
            ExpectationOn(X, None), state, spec, loose, lambda em: replacement(em, finder(X))
        )
    ]
    assert [candidate.status for candidate in histories[:2]] == [Status.RUNNING, Status.RUNNING]


def test_nothing_is_placed_again_in_the_last_iteration_nor_in_a_beaten_candidate() -> None:
    X = cloud_and_atom()
    candidate = candidate_after_a_step(X, collapsed_on_the_atom(X))
    assert replacement_on(X, max_iter=1).find_lost(candidate) == ()
    beaten = replace(candidate, status=Status.BEATEN)
    assert replacement_on(X).find_lost(beaten) == ()
