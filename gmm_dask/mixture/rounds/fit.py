"""Runs of EM beside each other, each on a thread of its own, compared at intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np

from gmm_dask.mixture.covariance import diag, full, spherical, tied
from gmm_dask.mixture.covariance.steps import COMPILED_FEATURES
from gmm_dask.mixture.em import Candidate, EMState, Status, em_steps, fit_em, start_em
from gmm_dask.mixture.engine import LEAST_SINGLE_ROWS, MANY_COMPONENTS
from gmm_dask.mixture.expectation import PIECE_ROWS, ExpectationOn
from gmm_dask.mixture.iterations import Iteration
from gmm_dask.mixture.kernels.addresses import RowsAddress, VectorAddress, rows_at, vector_at
from gmm_dask.mixture.kernels.compile import Kernel
from gmm_dask.mixture.kernels.tiles import ROWS
from gmm_dask.mixture.maximization import TINY_WEIGHT
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import has_holes
from gmm_dask.mixture.rounds.climb import (
    CONVERGED,
    Calls,
    Limits,
    Point,
    Spread,
    Steps,
    Sums,
    climb,
)
from gmm_dask.mixture.single_precision import passes
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.threads import WORTH_THREADS

#: Iterations between two comparisons of runs that climb.
COMPARED_EVERY = 4
#: A density takes as long as so many multiplications, with its exponential and its logarithm.
_DENSITY = 64

_UPDATES: dict[str, Kernel] = {
    "full": full.update_covariances,
    "tied": tied.update_covariances,
    "diag": diag.update_covariances,
    "spherical": spherical.update_covariances,
}


def fit_runs(
    expectation: ExpectationOn,
    parameters: Sequence[MixtureParameters],
    spec: MixtureSpec,
    options: EMOptions,
    compare: Callable[[EMState], EMState] | None = None,
    patience: int = 0,
) -> tuple[Candidate, ...]:
    """Run EM of candidates of the same form to their ends, as `fit_em` does.

    Each climbs by itself on a few thousand complete rows in float32; else they take their
    iterations together.

    Parameters
    ----------
    compare
        As for `fit_em`; called every `COMPARED_EVERY` iterations where candidates climb.
    patience
        Iterations before it can stop any.
    """
    if not (parameters and _climbs(expectation, parameters[0])):
        return fit_em(expectation, parameters, spec, options, compare or (lambda state: state))
    state = start_em(parameters, options)
    while state.running:
        most = options.max_iter
        if compare is not None:
            most = min(max(patience, state.iteration + COMPARED_EVERY), most)
        state = _advance_each(expectation, state, spec, options, most)
        if compare is not None:
            state = compare(state)
    return state.candidates


def _climbs(expectation: ExpectationOn, parameters: MixtureParameters) -> bool:
    """Whether a mixture climbs on these rows: one piece of them, for which there is a kernel."""
    X, many = expectation.X, MANY_COMPONENTS[parameters.covariance.factor_form]
    return (
        X.dtype == np.float32
        and LEAST_SINGLE_ROWS <= len(X) <= PIECE_ROWS
        and X.shape[1] <= COMPILED_FEATURES
        and parameters.n_components < many
        and expectation.labelling is None
        and not has_holes(X)
    )


def _advance_each(
    expectation: ExpectationOn, state: EMState, spec: MixtureSpec, options: EMOptions, most: int
) -> EMState:
    """Advance the running candidates to their ``most``-th iteration, on threads if that pays."""
    running = [state.candidates[index] for index in state.running]
    advance = partial(_advance, replace(expectation, pool=None), spec, options, most)
    k, size = running[0].parameters.n_components, running[0].parameters.means.size
    by_row = size + running[0].parameters.covariances.size + k * _DENSITY
    multiplications = len(expectation.X) * by_row * len(running) * (most - state.iteration)
    pool = expectation.pool if multiplications >= WORTH_THREADS else None
    advanced = iter(pool.map(advance, running) if pool else map(advance, running))
    return EMState(
        tuple(
            next(advanced) if candidate.status is Status.RUNNING else candidate
            for candidate in state.candidates
        ),
        most,
    )


def _advance(
    expectation: ExpectationOn,
    spec: MixtureSpec,
    options: EMOptions,
    most: int,
    candidate: Candidate,
) -> Candidate:
    """Advance one candidate; what the kernel leaves is done one iteration at a time."""
    candidate = _climb(expectation, spec, options, most, candidate)
    if candidate.status is Status.RUNNING and len(candidate.history) < most:
        steps = em_steps(expectation, EMState((candidate,)), spec, options)
        for state in islice(steps, most - len(candidate.history)):
            (candidate,) = state.candidates
    return candidate


def _climb(
    expectation: ExpectationOn,
    spec: MixtureSpec,
    options: EMOptions,
    most: int,
    candidate: Candidate,
) -> Candidate:
    """Return a candidate after the iterations that one call of the kernel takes."""
    X, weight, history = expectation.X, expectation.sample_weight, candidate.history
    point, steps = _point(candidate.parameters), _room(candidate.parameters, most - len(history))
    total = float(len(X)) if weight is None else float(np.sum(weight))
    mean = total / len(X)
    limits = Limits(
        history[-1].log_likelihood if history else candidate.before,
        float(options.tol),
        float(spec.reg_covar),
        total,
        1.0 / mean if 0.0 < mean < TINY_WEIGHT else 1.0,
    )
    form, shape = (
        candidate.parameters.covariance.factor_form,
        candidate.parameters.covariances.shape,
    )
    rows, sums = (rows_at(X), vector_at(weight)), _sums(point, len(X))
    calls = _calls(form, shape, rows, point, sums, limits)
    ahead = Spread(np.empty(point.covariances.size), np.empty(point.factors.size))
    taken, ending = climb(calls, *rows, point, ahead, sums, steps, limits)
    if not taken:
        return candidate
    history = (*history, *_iterations(steps, taken))
    status = Status.RUNNING
    if ending == CONVERGED:
        status = Status.CONVERGED
    elif len(history) >= options.max_iter:
        status = Status.MAX_ITER
    parameters = MixtureParameters(
        candidate.parameters.covariance_type,
        point.weights,
        point.means,
        point.covariances.reshape(shape),
        point.factors.reshape(shape),
    )
    return Candidate(parameters, status, history, steps.counts, len(X), total)


def _point(parameters: MixtureParameters) -> Point:
    """Copy parameters, which the kernel changes in place."""
    return Point(
        np.array(parameters.weights, np.float64),
        np.array(parameters.means, np.float64, order="C"),
        np.array(parameters.log_constants, np.float64),
        np.array(parameters.covariances, np.float64, order="C").reshape(-1),
        np.array(parameters.precisions_cholesky, np.float64, order="C").reshape(-1),
    )


def _sums(point: Point, rows: int) -> Sums:
    k, d = point.means.shape
    return Sums(
        np.empty(k),
        np.empty((k, d)),
        np.empty(point.covariances.size),
        np.empty((1, k)),
        np.empty((1, k, d)),
        np.empty((1, k, d)),
        np.empty((1, k), np.bool_),
        np.empty(1, np.bool_),
        np.empty(rows // ROWS + 1, np.int64),
    )


def _calls(
    form: str,
    shape: tuple[int, ...],
    rows: tuple[RowsAddress, VectorAddress],
    point: Point,
    sums: Sums,
    limits: Limits,
) -> Calls:
    """Load the pass and the M-step; ``shape`` is that of the covariances."""
    spread = [flat.reshape(shape) for flat in (point.covariances, point.factors, sums.S)]
    covariances, factors, S = spread
    parameters = point.constants, point.means, factors, covariances
    expect = passes.KERNELS[form].address(*rows, *parameters, sums.N, sums.F, S, sums.left_out)
    outcome = sums.shifts, sums.guarded, sums.definite, sums.counts, sums.deltas
    covariances, factors, S = (array[None] for array in spread)
    update = _UPDATES[form].address(covariances, factors, *outcome, S, limits.reg_covar)
    return Calls(expect, update, len(shape), form in ("full", "tied"))


def _room(parameters: MixtureParameters, iterations: int) -> Steps:
    """Allocate what the kernel records of so many iterations."""
    k, d = parameters.means.shape
    return Steps(
        np.empty(iterations),
        np.empty(iterations),
        np.empty(iterations),
        np.empty((iterations, k)),
        np.empty((iterations, k, d)),
        np.empty((iterations, k), np.bool_),
        np.empty(k),
    )


def _iterations(steps: Steps, taken: int) -> list[Iteration]:
    columns = (steps.log_likelihoods, steps.moved, steps.expected)
    return [
        Iteration(
            log_likelihood,
            steps.weights[i],
            steps.means[i],
            tuple(steps.guarded[i].nonzero()[0].tolist()),
            moved,
            expected,
        )
        for i, (log_likelihood, moved, expected) in enumerate(
            zip(*(column[:taken].tolist() for column in columns), strict=True)
        )
    ]
