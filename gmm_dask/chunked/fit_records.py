"""What goes into a fit, where it stands, and what comes out: three frozen records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gmm_dask.chunked.survey import Survey
from gmm_dask.mixture.criteria import Health
from gmm_dask.mixture.em import Candidate, EMState
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.search import SearchSummary
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.nulls import NullPolicy


@dataclass(frozen=True, eq=False)
class FitOptions:
    """What to fit and how.

    Attributes
    ----------
    spec
        The mixture, and how its first parameters are found.
    em
        Tolerance and iterations at the most.
    n_init
        Candidates that are polished on all rows; they share every scan.
    random_state
        Seed of the sample and of every start.
    search_rows
        Rows sampled for the search, ``"auto"`` for max(65,536, 50·k·d); None: no search, the
        starts are polished as they are.
    nulls
        What becomes of rows that hold a null.
    """

    spec: MixtureSpec = field(default_factory=MixtureSpec)
    em: EMOptions = field(default_factory=EMOptions)
    n_init: int = 1
    random_state: int = 0
    search_rows: int | Literal["auto"] | None = "auto"
    nulls: NullPolicy = NullPolicy.ERROR


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
    search: SearchSummary | None = None
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
    """

    best: Candidate
    initial: MixtureParameters
    candidates: tuple[Candidate, ...]
    survey: Survey
    search: SearchSummary | None
    health: Health
    scans: int
    warnings: tuple[str, ...]

    @property
    def in_memory(self) -> bool:
        """Whether the polish ran on rows held in memory, so that it read nothing."""
        return self.survey.in_memory

    @property
    def parameters(self) -> MixtureParameters:
        """Of the winner."""
        return self.best.parameters
