"""The options, the state and the result of a fit: frozen dataclasses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gmm_dask.chunked.evaluation import DensitySummary
from gmm_dask.chunked.replay import Frame
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.mixture.criteria import Health
from gmm_dask.mixture.em import Candidate, EMState
from gmm_dask.mixture.labels import Ownership
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.search import SearchSummary
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.nulls import NullPolicy


@dataclass(frozen=True, eq=False)
class FitOptions:
    """What to fit, and how.

    Attributes
    ----------
    spec
        The mixture, and how its first parameters are found.
    em
        Tolerance and most iterations of the polish.
    n_init
        Number of candidates that are polished on all rows; they share every scan.
    random_state
        Seed of the sample and of every start.
    search_rows
        Rows of the sample on which the search runs; ``"auto"`` is max(65,536, 50·k·d). None: no
        search, the starts are polished as they are.
    nulls
        ``ERROR`` refuses rows that hold a null, ``DROP`` drops them, ``MARGINALIZE`` fits to what
        they have.
    components_per_label
        Components that each label of the rows owns, the others are free; None: labels take no
        part in the fit.
    """

    spec: MixtureSpec = field(default_factory=MixtureSpec)
    em: EMOptions = field(default_factory=EMOptions)
    n_init: int = 1
    random_state: int = 0
    search_rows: int | Literal["auto"] | None = "auto"
    nulls: NullPolicy = NullPolicy.ERROR
    components_per_label: int | None = None


@dataclass(frozen=True, eq=False)
class CellSearch:
    """What the search has found so far for one cell of a selection.

    Attributes
    ----------
    starts
        The best so far; empty where every start broke down.
    summary
        What the search did; None without a search.
    problem
        Why every start broke down; empty otherwise.
    """

    starts: tuple[MixtureParameters, ...] = ()
    summary: SearchSummary | None = None
    problem: str = ""


@dataclass(frozen=True, eq=False)
class FitState:
    """All that a fit has computed so far: a checkpoint holds it, and a fit can resume from it.

    Attributes
    ----------
    survey
        Survey of all rows.
    fingerprints
        Fingerprint of each chunk in the first scan; None where values cannot change.
    starts
        First parameters of each candidate of the polish; empty until the search has ended.
    fresh
        For each start, whether this fit made it, so that its components may still be ordered.
    search
        What the search did; None without a search.
    em
        State of the polish; None before it.
    scans
        Scans of the source so far.
    digests
        Of the row groups of the input's files, as the first scan read them.
    frames
        Parameters of the candidates at iterations of the polish, evenly spaced.
    replaced_on_sample
        How often a component of a start was placed again, before the polish.
    cells
        Of a selection: what has been found for each cell, in their order.
    turns
        Of a selection: turns of its search that are done.
    ownership
        In a fit with labels: the components of each label, of every candidate alike.
    evaluated
        Densities of all rows in mixtures that scans of the polish have evaluated as well, by the
        digest of their parameters.
    """

    survey: Survey
    fingerprints: tuple[int, ...] | None
    starts: tuple[MixtureParameters, ...] = ()
    fresh: tuple[bool, ...] = ()
    search: SearchSummary | None = None
    em: EMState | None = None
    scans: int = 0
    digests: tuple[str, ...] = ()
    frames: tuple[Frame, ...] = ()
    cells: tuple[CellSearch, ...] = ()
    turns: int = 0
    replaced_on_sample: int = 0
    ownership: Ownership | None = None
    evaluated: Mapping[str, DensitySummary] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class FitResult:
    """A fitted mixture, and how it was found.

    Attributes
    ----------
    best
        The candidate that won: its parameters, status and history. The components of a fresh fit
        are ordered by weight, the heaviest first, then by mean.
    initial
        First parameters of the winner, its components in the same order.
    candidates
        All candidates at the end of the polish.
    survey
        Survey of all rows.
    search
        What the search did; None without a search.
    health
        Which components of the winner collapsed or starved.
    scans
        Scans of the source so far.
    warnings
        One sentence for each thing that the user should look at.
    replay
        Parameters of the winner by the number of M-steps done, evenly spaced, in the same order:
        0 is ``initial``, the last is ``best``.
    replaced_on_sample
        How often a component of a start was placed again, before the polish.
    first
        The start of the search from which ``initial`` came, in the same order; None without one.
    ownership
        In a fit with labels: the components of each label, in the same order.
    evaluated
        What need not be evaluated any more, as in `FitState`: as a rule the result.
    """

    best: Candidate
    initial: MixtureParameters
    candidates: tuple[Candidate, ...]
    survey: Survey
    search: SearchSummary | None
    health: Health
    scans: int
    warnings: tuple[str, ...]
    replay: Mapping[int, MixtureParameters] = field(default_factory=dict)
    first: MixtureParameters | None = None
    replaced_on_sample: int = 0
    ownership: Ownership | None = None
    evaluated: Mapping[str, DensitySummary] = field(default_factory=dict)

    @property
    def replaced(self) -> tuple[tuple[int, int], ...]:
        """Components of the winner that were placed again: after which iteration, and which."""
        return tuple(
            (number, component)
            for number, iteration in enumerate(self.best.history, start=1)
            for component in iteration.replaced
        )

    @property
    def in_memory(self) -> bool:
        """Whether the polish ran on the sample in memory, without any scan."""
        return self.survey.in_memory

    @property
    def parameters(self) -> MixtureParameters:
        """Parameters of the winner."""
        return self.best.parameters
