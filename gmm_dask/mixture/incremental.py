"""An incremental refit: EM that reads only the rows that are new, and keeps the sums of the others.

Incremental EM (Neal and Hinton, 1998): an E-step on some of the units, an M-step from the sums of
all of them. It climbs the bound (`gmm_dask.mixture.units`), which is never above the log-likelihood
of all rows and never falls, but for rounding and what ``reg_covar`` adds.

The first E-step on the rows that are read is under the model that was in use before them. The last
one is under the parameters that are returned: there is no M-step after it. So the sums that are
kept of these rows hold their responsibilities under the model they belong to, their bound is
their log-likelihood, and the rows are read once for each E-step, never once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.criteria import Health, health
from gmm_dask.mixture.em import Status
from gmm_dask.mixture.maximization import maximize
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.placing import Placement, least_gain, place_component
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.spec import MixtureSpec
from gmm_dask.mixture.units import UnitStatistics, UnitTotals, carry

#: E-steps on the rows that are read: the first is under the model before.
MOST_SCANS = 4

#: From mixtures to the statistics of the units that are read, of each mixture: one scan of them.
UnitExpectation = Callable[[Sequence[MixtureParameters]], Sequence[UnitStatistics]]


@dataclass(frozen=True, eq=False)
class Refit:
    """What an incremental refit found.

    Attributes
    ----------
    parameters
        Of the last E-step.
    kept
        The units that were not read, under ``parameters``.
    read
        The units that were read, under ``parameters``, with the responsibilities of these.
    first
        The units that were read, under the model before.
    before
        Bound of all units under the model before, nats per unit of weight.
    bounds
        Bound of all units after each later E-step, nats per unit of weight; empty if the first
        M-step broke down. With a placed component, its first one may be below ``before``.
    status
        ``CONVERGED``: a step gained little enough. ``MAX_ITER``: the last scan was used.
        ``ILL_CONDITIONED``: an M-step broke down, and the parameters are those before it.
    problem
        For ``ILL_CONDITIONED``, the message of the error.
    health
        Which components are lost.
    placed
        Components that were given up and placed on rows that were read: not the same as in the
        model before.
    """

    parameters: MixtureParameters
    kept: UnitStatistics
    read: UnitStatistics
    first: UnitStatistics
    before: float
    bounds: tuple[float, ...]
    status: Status
    problem: str
    health: Health
    placed: tuple[int, ...] = ()

    @property
    def units(self) -> UnitStatistics:
        """All units under ``parameters``: those kept, then those read."""
        return self.kept.joined(self.read)

    @property
    def bound(self) -> float:
        """Bound of all units under ``parameters``, nats per unit of weight."""
        return self.bounds[-1] if self.bounds else self.before

    @property
    def scans(self) -> int:
        """Scans of the rows that were read, with that of ``first``."""
        return 1 + len(self.bounds)


@dataclass(frozen=True, eq=False)
class _Climb:
    """A mixture on its way: sums that are kept (of one unit), and of the rows read, under it."""

    parameters: MixtureParameters
    kept: UnitStatistics
    read: UnitStatistics
    before: float = -np.inf
    bounds: tuple[float, ...] = ()
    status: Status = Status.RUNNING
    problem: str = ""
    placement: Placement | None = None

    @property
    def bound(self) -> float:
        return self.bounds[-1] if self.bounds else self.before

    @property
    def total(self) -> UnitTotals:
        return self.kept.total() + self.read.total()


def refit(
    kept: UnitStatistics,
    parameters: MixtureParameters,
    first: UnitStatistics,
    expectation: UnitExpectation,
    spec: MixtureSpec,
    tol: float,
    sample: Sample | None = None,
) -> Refit:
    """Refit a mixture to units of which some are read and the others kept as sums.

    Costs 1 to `MOST_SCANS` − 1 scans of the units that are read, besides that of ``first``.

    Parameters
    ----------
    kept
        The units that are not read, under ``parameters``; units that are gone are left out of it.
    parameters
        The model in use.
    first
        The units that are read, under ``parameters``: the first E-step.
    expectation
        Takes the statistics of the units that are read, under each of several mixtures.
    spec
        Its ``reg_covar`` is added by the M-step.
    tol
        A step that gains at most ``tol`` nats per unit of the weight *read* ends the refit: the
        weight that is kept would hide any step.
    sample
        Of the rows that are read, in model units. Where they promise it, a rival runs in the same
        scans, in which a component is placed on them (`gmm_dask.mixture.placing`). It wins where
        it is better by more than `least_gain`, its bound is not below that of the model in use,
        and it has lost no more components.

    Raises
    ------
    NumericalError
        The kept units belong to other parameters, or there is no weight at all.
    """
    pooled = kept.merged([0]) if len(kept) else kept
    total = pooled.total() + first.total()
    if not total.weight > 0.0:
        raise NumericalError("no unit has any weight: nothing is kept, and nothing was read")
    before = total.mean_bound(parameters)
    climbs = [_maximize(_Climb(parameters, pooled, first, before), spec)]
    if sample is not None:
        share = float(first.weight.sum()) / total.weight
        placement = place_component(parameters, sample, share, spec)
        if placement is not None:
            start = placement.parameters
            sums = placement.carry(pooled, parameters, start)
            climbs.append(_Climb(start, sums, first.take([]), placement=placement))
    best = _choose(_climb_all(climbs, expectation, spec, tol), before, spec)
    move = carry if best.placement is None else best.placement.carry
    return Refit(
        best.parameters,
        move(kept, parameters, best.parameters),
        best.read,
        first,
        before,
        best.bounds,
        best.status,
        best.problem,
        _health_of(best, spec),
        () if best.placement is None else (best.placement.freed,),
    )


def _climb_all(
    climbs: list[_Climb], expectation: UnitExpectation, spec: MixtureSpec, tol: float
) -> list[_Climb]:
    """Run all mixtures to their ends, in shared scans."""
    for scan in range(2, MOST_SCANS + 1):
        running = [i for i, climb in enumerate(climbs) if climb.status is Status.RUNNING]
        if not running:
            break
        sums = expectation([climbs[index].parameters for index in running])
        for index, read in zip(running, sums, strict=True):
            climb = _advance(climbs[index], read, tol, last=scan == MOST_SCANS)
            climbs[index] = _maximize(climb, spec) if climb.status is Status.RUNNING else climb
    return climbs


def _choose(climbs: list[_Climb], before: float, spec: MixtureSpec) -> _Climb:
    """Return the mixture in use, refitted, or a rival that is better by enough."""
    best, *rivals = climbs
    for rival in rivals:
        assert rival.placement is not None
        weight = rival.total.weight
        slack = rival.placement.slack * float(rival.kept.weight.sum()) / weight
        better = rival.bound + slack > best.bound + least_gain(rival.parameters, weight)
        sound = _health_of(rival, spec).defects <= _health_of(best, spec).defects
        if better and rival.bound >= before and sound:
            best = rival
    return best


def _maximize(climb: _Climb, spec: MixtureSpec) -> _Climb:
    """Take the M-step of all units."""
    try:
        parameters = maximize(climb.parameters, climb.total, spec).parameters
    except NumericalError as error:
        return replace(climb, status=Status.ILL_CONDITIONED, problem=str(error))
    kept = carry(climb.kept, climb.parameters, parameters)
    return replace(climb, parameters=parameters, kept=kept)


def _advance(climb: _Climb, read: UnitStatistics, tol: float, last: bool) -> _Climb:
    """Take over the E-step of the units that are read, and decide whether another may help."""
    total = climb.kept.total() + read.total()
    bound = total.mean_bound(climb.parameters)
    status = Status.MAX_ITER if last else Status.RUNNING
    if (bound - climb.bound) * total.weight <= tol * float(read.weight.sum()):
        status = Status.CONVERGED
    return replace(climb, read=read, bounds=(*climb.bounds, bound), status=status)


def _health_of(climb: _Climb, spec: MixtureSpec) -> Health:
    total = climb.total
    row_counts = total.counts * (total.rows / total.weight)
    return health(climb.parameters, row_counts, variances_of(climb.parameters), spec.reg_covar)


def variances_of(parameters: MixtureParameters) -> FloatArray:
    """Return the variances of the features in the whole mixture, (d,).

    After an M-step they are those of the rows, but for spherical covariances, whose mean they have.
    """
    weights, means = parameters.weights, parameters.means
    within = weights @ np.diagonal(parameters.matrices, axis1=1, axis2=2)
    apart = means - weights @ means
    return np.asarray(within + weights @ np.square(apart))
