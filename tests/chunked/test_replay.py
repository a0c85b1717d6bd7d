"""The frames of a replay are evenly spaced and bounded, and say where each iteration was."""

import numpy as np
import pytest

from gmm_dask.chunked import replay
from gmm_dask.chunked.replay import add_frame, replay_of
from gmm_dask.mixture.em import EMOptions, EMState, em_steps, start_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import MixtureSpec


def mixture(mean, d=1):
    return MixtureParameters.from_covariances(
        "diag", np.array([1.0]), np.full((1, d), float(mean)), np.ones((1, d))
    )


def frames_after(iterations, d=1):
    frames = ()
    for number in range(1, iterations + 1):
        state = start_em([mixture(number, d)], EMOptions())
        frames = add_frame(frames, EMState(state.candidates, number))
    return frames


@pytest.mark.parametrize(
    ("iterations", "stride"), [(1, 1), (60, 1), (61, 2), (121, 2), (122, 4), (500, 16)]
)
def test_frames_are_the_multiples_of_a_power_of_two(iterations, stride):
    frames = frames_after(iterations)
    assert [frame.iteration for frame in frames] == list(range(stride, iterations + 1, stride))
    assert all(frame.mixtures[0].means[0, 0] == frame.iteration for frame in frames)


def test_frames_of_a_large_mixture_stay_within_the_bound(monkeypatch):
    monkeypatch.setattr(replay, "MOST_NUMBERS", 100)
    assert [frame.iteration for frame in frames_after(9, d=8)] == [2, 4, 6, 8]  # 25 numbers each
    assert frames_after(9, d=40) == ()


def test_a_replay_runs_from_the_start_to_the_end_of_its_candidate():
    rows = np.concatenate([np.linspace(-3, -1, 40), np.linspace(1, 4, 60)])[:, None]
    starts = [
        MixtureParameters.from_covariances(
            "full", np.array([0.5, 0.5]), np.array(means), np.ones((2, 1, 1))
        )
        for means in ([[-0.1], [0.3]], [[-2.0], [2.5]])
    ]
    options = EMOptions(1e-6, 40)
    frames, state = (), start_em(starts, options)
    spec = MixtureSpec(n_components=2)
    for state in em_steps(ExpectationOn(rows, None), state, spec, options):  # noqa: B020
        frames = add_frame(frames, state)
    assert state.candidates[0].n_iter > state.candidates[1].n_iter > 2
    for number, candidate in enumerate(state.candidates):
        way = replay_of(frames, number, starts[number], candidate.parameters, candidate.n_iter)
        assert list(way) == list(range(candidate.n_iter + 1))
        assert way[0] is starts[number]
        assert way[candidate.n_iter] is candidate.parameters
        for before, iteration in enumerate(candidate.history):
            assert way[before].means is iteration.means
