"""The way of EM through its iterations, as far as memory allows: what a report replays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gmm_dask.mixture.em import EMState, em_steps, start_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.initialization import seeded
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sample import Sample, sample_slope
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.threads import single_threaded
from gmm_dask.mixture.transforms import Transforms

#: Most iterations that are kept.
MOST_FRAMES = 60
#: Most numbers in all frames together: 8 MiB, of memory and of each checkpoint.
MOST_NUMBERS = 1 << 20
#: When EM from the start of the search stops, and the most rows on which it runs.
CLIMB = EMOptions(1e-4, 60)
MOST_CLIMBED_ROWS = 8_192


@dataclass(frozen=True, eq=False)
class Frame:
    """The parameters of every candidate after an iteration.

    Attributes
    ----------
    iteration
        Number of M-steps done.
    mixtures
        Parameters of each candidate.
    """

    iteration: int
    mixtures: tuple[MixtureParameters, ...]

    def of(self, candidates: Sequence[int]) -> Frame:
        """Return the frame of some of the candidates only."""
        return Frame(self.iteration, tuple(self.mixtures[index] for index in candidates))


def add_frame(frames: tuple[Frame, ...], em: EMState) -> tuple[Frame, ...]:
    """Add the latest iteration, and keep every second frame where they become too many.

    The frames kept are the multiples of a power of two. Which ones depends on the number of
    iterations and the size of the mixtures alone, so a resumed fit keeps the same.
    """
    frame = Frame(em.iteration, tuple(candidate.parameters for candidate in em.candidates))
    numbers = sum(
        mixture.weights.size + mixture.means.size + 2 * mixture.covariances.size
        for mixture in frame.mixtures
    )
    most = min(MOST_FRAMES, MOST_NUMBERS // numbers)
    stride = 1
    while em.iteration // stride > most:
        stride *= 2
    return tuple(frame for frame in (*frames, frame) if frame.iteration % stride == 0)


@dataclass(frozen=True, eq=False)
class SearchStep:
    """An iteration of EM from the start of the search that won.

    Attributes
    ----------
    parameters
        Before the iteration.
    log_likelihood
        Mean over the rows of the sample, nats, in natural units.
    """

    parameters: MixtureParameters
    log_likelihood: float


def climb_again(
    first: MixtureParameters,
    sample: Sample,
    spec: MixtureSpec,
    transforms: Transforms | None = None,
) -> tuple[SearchStep, ...]:
    """Run EM again from the start that won, on rows of the sample, iteration by iteration.

    A search keeps no parameters on its way, which would cost more than the iterations. Its own way
    differs: it ran on other rows of the sample, and it moved components.
    """
    rows = sample.head(min(len(sample.X), MOST_CLIMBED_ROWS), seeded(0))
    slope = sample_slope(rows, transforms)
    expectation = ExpectationOn(rows.X, rows.sample_weight)
    parameters, steps = first, []
    with single_threaded():
        for state in em_steps(expectation, start_em([first], CLIMB), spec, CLIMB):
            (candidate,) = state.candidates
            if candidate.problem:
                break
            steps.append(SearchStep(parameters, candidate.log_likelihood + slope))
            parameters = candidate.parameters
    return tuple(steps)


def replay_of(
    frames: tuple[Frame, ...],
    candidate: int,
    initial: MixtureParameters,
    final: MixtureParameters,
    n_iter: int,
) -> Mapping[int, MixtureParameters]:
    """Return the parameters of one candidate by the number of M-steps done, first and last too.

    A candidate that converged before the others has frames beyond its last iteration; these are
    left out.
    """
    between = {
        frame.iteration: frame.mixtures[candidate]
        for frame in frames
        if 0 < frame.iteration < n_iter
    }
    return {0: initial, **between, n_iter: final}
