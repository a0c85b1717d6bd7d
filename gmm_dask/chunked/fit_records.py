"""What goes into a fit, where it stands, and what comes out: three frozen records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gmm_dask.chunked.survey import Survey
from gmm_dask.mixture.criteria import Health
from gmm_dask.mixture.em import Candidate, EMOptions, EMState
from gmm_dask.mixture.initialization import GivenParameters
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.search import SearchRecord


@dataclass(frozen=True, eq=False)
class FitOptions:
    """What to fit and how.

    Attributes
    ----------
    n_components, covariance_type
        The mixture.
    em
        Tolerance, iterations at the most, and the floor under the covariances.
    n_init
        Candidates that are polished on all rows; they share every scan.
    init_params
        A key of `INITIALIZATIONS`.
    random_state
        Seed of the sample and of every start.
    search_rows
        Rows sampled for the search, ``"auto"`` for max(65,536, 50·k·d); None: no search, the
        starts are polished as they are.
    nulls
        ``"error"`` or ``"drop"``.
    given
        What the caller fixed of the first parameters.
    """

    n_components: int = 1
    covariance_type: str = "full"
    em: EMOptions = field(default_factory=EMOptions)
    n_init: int = 1
    init_params: str = "kmeans"
    random_state: int = 0
    search_rows: int | Literal["auto"] | None = "auto"
    nulls: str = "error"
    given: GivenParameters = field(default_factory=GivenParameters)


@dataclass(frozen=True, eq=False)
class FitState:
    """All that a fit has found so far: what a checkpoint holds, and where it resumes.

    Attributes
    ----------
    survey
        Of all rows.
    fingerprints
        Of the values of the first scan; None where they cannot change.
    starts
        First parameters of the polish; empty until the search is over.
    fresh
        For each start, whether its components have no order yet that must be kept.
    search
        What the search did, if there was one.
    em
        The polish; None before it.
    scans
        So far.
    """

    survey: Survey
    fingerprints: tuple[int, ...] | None
    starts: tuple[MixtureParameters, ...] = ()
    fresh: tuple[bool, ...] = ()
    search: SearchRecord | None = None
    em: EMState | None = None
    scans: int = 0


@dataclass(frozen=True, eq=False)
class FitResult:
    """A fitted mixture and how it came about.

    Attributes
    ----------
    best
        The candidate that won: its parameters, status and history. A fresh fit's components are
        in order of weight, the heaviest first, then of mean.
    initial
        Where its polish began, in the same order.
    candidates
        All that were polished, as they ended.
    survey
        Of all rows.
    search
        What the search did, or None.
    health
        Which components collapsed or starved.
    scans
        Readings of all rows so far.
    warnings
        Sentences that a person should read.
    start
        Parameters that the caller wanted polished.
    """

    best: Candidate
    initial: MixtureParameters
    candidates: tuple[Candidate, ...]
    survey: Survey
    search: SearchRecord | None
    health: Health
    scans: int
    warnings: tuple[str, ...]
    start: tuple[MixtureParameters, ...] = ()

    @property
    def in_memory(self) -> bool:
        """Whether the polish ran on rows held in memory, so that it read nothing."""
        return self.survey.in_memory

    @property
    def parameters(self) -> MixtureParameters:
        """Of the winner."""
        return self.best.parameters
