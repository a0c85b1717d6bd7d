"""A selection: every number of components and covariance type fitted in the same scans.

One survey draws one sample. The search finds a start for each cell on it, and cells help each
other. The polish runs EM over all rows for the candidates of all cells together, and one more scan
evaluates them. So the table costs as many scans as its slowest cell alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from gmm_dask.chunked.conclusion import conclude
from gmm_dask.chunked.evaluation import DensitySummary
from gmm_dask.chunked.fit import begin, drop_weightless, make_starts, polish, searches, too_few_rows
from gmm_dask.chunked.fit_records import CellSearch, FitOptions, FitState
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.selection_records import (
    CellFit,
    CellRow,
    CellStatus,
    Choice,
    SelectionOptions,
    SelectionResult,
    SelectionTable,
)
from gmm_dask.chunked.threads import available_cores
from gmm_dask.errors import NumericalError, TooFewRowsError
from gmm_dask.events import Stage, StageAdvanced, StageFinished, StageStarted, silent
from gmm_dask.mixture.cell_search import cell_effort, challenge, challengers
from gmm_dask.mixture.criteria import aic, bic, icl, n_parameters
from gmm_dask.mixture.em import EMState
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.search import SearchSummary, is_small
from gmm_dask.mixture.selection import Contest, cell_of
from gmm_dask.mixture.spec import Cell
from gmm_dask.mixture.threads import single_threaded

#: Criteria that differ by less are equal: a difference of 2 is already called weak evidence.
TIE = 0.01


def select(
    scanner: Scanner,
    options: SelectionOptions,
    *,
    start: Sequence[MixtureParameters] = (),
    resume: FitState | None = None,
    save: Callable[[FitState], None] = lambda state: None,
) -> SelectionResult:
    """Fit every cell to all rows of a scanner's source, in shared scans.

    Costs one scan for the survey and one for each iteration of the slowest cell; none for the
    polish if the sample holds all complete rows.

    Parameters
    ----------
    start
        Parameters that are polished as well, each in its cell.
    resume, save
        As for `gmm_dask.chunked.fit.fit`.

    Raises
    ------
    NumericalError
        Every candidate of every cell broke down.
    TooFewRowsError, NonFiniteError, InputError, InputChangedError, ClusterError
        As `gmm_dask.chunked.fit.fit`; too few rows are fewer than the fewest components.
    """
    ks = [cell.n_components for cell in options.cells]
    largest = _options_of(options, max(options.cells))
    with single_threaded():
        state = begin(scanner, largest, resume, save, least_rows=min(ks))
        if not state.starts:
            state = _search_cells(scanner, state, options, save)
            state = _with_starts(state, options, tuple(start))
            save(state)
        state = polish(scanner, state, largest, save, compare=_comparison(state, options))
    fits = tuple(_conclude_cell(scanner, state, options, cell) for cell in options.cells)
    result = SelectionResult(fits, state.survey.rows, scanner.scans)
    if not result.results:
        raise NumericalError(f"every cell broke down: {fits[0].problem}")
    return result


def _comparison(state: FitState, options: SelectionOptions) -> Callable[[EMState], EMState]:
    """Return what stops beaten candidates; in memory no scan is saved, and all run to their end."""
    survey = state.survey
    if survey.in_memory:
        return lambda em: em
    reg_covar = options.fit.spec.reg_covar
    contest = Contest(
        options.criterion, survey.weight, survey.variances, reg_covar, options.allow_collapsed
    )
    return contest.stop_beaten


def _options_of(options: SelectionOptions, cell: Cell) -> FitOptions:
    k, kind = cell
    spec = replace(options.fit.spec, n_components=k, covariance_type=kind)
    return replace(options.fit, spec=spec)


def _search_cells(
    scanner: Scanner,
    state: FitState,
    options: SelectionOptions,
    save: Callable[[FitState], None],
) -> FitState:
    """Find starts for every cell: first from few components to many, then back.

    On the way up a cell has fresh starts and splits of its neighbour with fewer components; on the
    way back it is challenged by merges of the one with more, and by the other covariance types.
    Each turn is one number of components. Its cells see what was found before the turn, so that
    threads can share them and the result does not depend on the threads.
    """
    ks = sorted({cell.n_components for cell in options.cells})
    turns = [(k, True) for k in ks]
    if options.fit.search_rows is not None:  # else starts are polished as they are
        turns += [(k, False) for k in reversed(ks)]
    state = replace(state, cells=state.cells or (CellSearch(),) * len(options.cells))
    began = time.perf_counter()
    rows = len(state.survey.draw.numbers)
    scanner.notify(StageStarted(Stage.SEARCH, len(turns), "turns", f"on {rows:,} rows"))
    with ThreadPoolExecutor(available_cores()) as pool:
        for done, (k, upward) in enumerate(turns):
            if done >= state.turns:  # else it was done before an interruption
                state = _take_turn(state, options, k, upward, pool)
                save(state)
            scanner.notify(StageAdvanced(Stage.SEARCH, done + 1))
    seconds = time.perf_counter() - began
    sentence = f"{len(options.cells)} cells on {rows:,} rows"
    scanner.notify(StageFinished(Stage.SEARCH, seconds, sentence))
    return state


def _take_turn(
    state: FitState, options: SelectionOptions, k: int, upward: bool, pool: ThreadPoolExecutor
) -> FitState:
    """Search the cells of one number of components, all at the same time."""
    search = _search_cell if upward else _challenge_cell
    places = [place for place, cell in enumerate(options.cells) if cell.n_components == k]
    threads = max(available_cores() // len(places), 1)

    def work(place: int) -> CellSearch:
        # A BLAS that runs on OpenMP has a limit for each thread.
        with single_threaded():
            return search(state, options, options.cells[place], state.cells[place], threads)

    cells = list(state.cells)
    for place, result in zip(places, pool.map(work, places), strict=True):
        cells[place] = result
    return replace(state, cells=tuple(cells), turns=state.turns + 1)


def _search_cell(
    state: FitState, options: SelectionOptions, cell: Cell, search: CellSearch, threads: int
) -> CellSearch:
    """Search with fresh starts, among which those from smaller neighbours compete."""
    fit, survey = _options_of(options, cell), state.survey
    if cell.n_components > survey.rows:
        return CellSearch(problem=str(too_few_rows(survey.rows, cell.n_components)))
    m, d = _shape(state)
    effort = cell_effort(m, cell.n_components, d, fit.n_init)
    try:
        rivals = _rivals(state, options, cell, grow=True)
        searched = searches(survey.sample, fit)
        starts, summary = make_starts(
            silent, survey, fit, threads, effort=effort, rivals=rivals if searched else ()
        )
        search = CellSearch(starts, summary)
    except TooFewRowsError as error:  # rows of weight 0 are no rows
        return CellSearch(problem=str(error))
    except NumericalError as error:
        search, searched = CellSearch(problem=str(error)), False
    return search if searched else _compete(state, options, cell, search, rivals, threads)


def _shape(state: FitState) -> tuple[int, int]:
    """Return rows and features of the sample."""
    m, d = state.survey.sample.X.shape
    return m, d


def _challenge_cell(
    state: FitState, options: SelectionOptions, cell: Cell, search: CellSearch, threads: int
) -> CellSearch:
    """Let the neighbour with more components and the other covariance types compete."""
    if cell.n_components > state.survey.rows:
        return search
    rivals = _rivals(state, options, cell, grow=False)
    return _compete(state, options, cell, search, rivals, threads)


def _rivals(
    state: FitState, options: SelectionOptions, cell: Cell, grow: bool
) -> tuple[MixtureParameters, ...]:
    """Make starts for a cell from the best of its neighbours so far.

    None where they cannot help: one Gaussian has one optimum, and the search on a small sample is
    thorough. With more starts there, the highest likelihood is soon that of a thin component on a
    few rows.
    """
    fit = _options_of(options, cell)
    incomplete = state.survey.sample.incomplete
    small = is_small(*_shape(state), cell.n_components, incomplete)
    if cell.n_components == 1 or fit.search_rows is None or small:
        return ()
    best = {
        other: search.starts[0]
        for other, search in zip(options.cells, state.cells, strict=True)
        if search.starts
    }
    sample = drop_weightless(state.survey.sample, cell.n_components)
    return (*challengers(sample, fit.spec, best, grow=grow, random_state=fit.random_state),)


def _compete(
    state: FitState,
    options: SelectionOptions,
    cell: Cell,
    search: CellSearch,
    rivals: Sequence[MixtureParameters],
    threads: int,
) -> CellSearch:
    """Let rivals challenge the starts that a cell has."""
    if not rivals:
        return search
    fit = _options_of(options, cell)
    sample = drop_weightless(state.survey.sample, cell.n_components)
    starts, summary = challenge(
        sample,
        fit.spec,
        search.starts,
        rivals,
        search.summary or SearchSummary(len(sample.X), 0, 0, (), 0, 0.0),
        random_state=fit.random_state,
        keep=fit.n_init,
        threads=threads,
    )
    return CellSearch(starts, summary, "" if starts else search.problem)


def _with_starts(
    state: FitState, options: SelectionOptions, start: tuple[MixtureParameters, ...]
) -> FitState:
    """Put the starts of all cells into one batch, with those that are given."""
    fresh = tuple(parameters for search in state.cells for parameters in search.starts)
    given = tuple(parameters for parameters in start if cell_of(parameters) in options.cells)
    if not fresh and not given:
        raise NumericalError(f"every cell broke down: {state.cells[0].problem}")
    return replace(
        state, starts=(*fresh, *given), fresh=(True,) * len(fresh) + (False,) * len(given)
    )


def _conclude_cell(
    scanner: Scanner, state: FitState, options: SelectionOptions, cell: Cell
) -> CellFit:
    """Choose the best candidate of a cell, as a fit of that cell alone would."""
    em, search = state.em, state.cells[options.cells.index(cell)]
    assert em is not None
    places = [place for place, start in enumerate(state.starts) if cell_of(start) == cell]
    if not places:
        few = cell.n_components > state.survey.rows
        return CellFit(cell, problem=search.problem, too_few_rows=few)
    alone = replace(
        state,
        starts=tuple(state.starts[place] for place in places),
        fresh=tuple(state.fresh[place] for place in places),
        search=search.summary,
        em=EMState(tuple(em.candidates[place] for place in places), em.iteration),
        frames=tuple(frame.of(places) for frame in state.frames),
    )
    try:
        return CellFit(cell, conclude(scanner, alone, _options_of(options, cell)))
    except NumericalError as error:
        return CellFit(cell, problem=str(error))


def choose(
    result: SelectionResult, options: SelectionOptions, densities: Sequence[DensitySummary]
) -> Choice:
    """Compute the criteria of every cell and choose the best.

    Where cells tie, the one with the fewest parameters is chosen.

    Parameters
    ----------
    densities
        Of ``result.results``, over all rows.

    Raises
    ------
    NumericalError
        Every cell broke down, collapsed or starved.
    """
    fits = {cell_of(fit.parameters): fit for fit in result.results}
    by_cell = dict(zip(fits, densities, strict=True))
    rows = tuple(_row(fit, by_cell.get(fit.cell)) for fit in result.fits)
    able = {CellStatus.CONVERGED, CellStatus.MAX_ITER}
    if options.allow_collapsed:
        able |= {CellStatus.COLLAPSED, CellStatus.STARVED}
    eligible = [row for row in rows if row.status in able]
    if not eligible:
        raise NumericalError(
            "no cell can be chosen: all collapsed, starved or broke down "
            f"({rows[0].cell}: {rows[0].reason}); try fewer components or a larger reg_covar"
        )
    criterion = {row.cell: getattr(row, options.criterion) for row in eligible}
    lowest = min(criterion.values())
    tied = [cell for cell, value in criterion.items() if value - lowest <= TIE]
    chosen = min(tied, key=lambda cell: n_parameters(fits[cell].parameters))
    return Choice(SelectionTable(options.criterion, chosen, rows), fits, by_cell)


def _row(fit: CellFit, densities: DensitySummary | None) -> CellRow:
    if fit.result is None or densities is None:
        status = CellStatus.TOO_FEW_ROWS if fit.too_few_rows else CellStatus.ILL_CONDITIONED
        return CellRow(*fit.cell, None, None, None, None, status.value, fit.problem)
    health = fit.result.health
    status, reason = CellStatus(fit.result.best.status.value), ""
    for word, mask in (
        (CellStatus.STARVED, health.starved),
        (CellStatus.COLLAPSED, health.collapsed),
    ):
        if mask.any():
            status = word
            components = "component" if mask.sum() == 1 else "components"
            reason = f"{components} {', '.join(map(str, mask.nonzero()[0].tolist()))} {word}"
    values = criteria(fit.result.parameters, densities)
    return CellRow(
        *fit.cell,
        densities.mean_log_likelihood,
        values["bic"],
        values["icl"],
        values["aic"],
        status.value,
        reason,
    )


def criteria(parameters: MixtureParameters, densities: DensitySummary) -> dict[str, float]:
    """Return every criterion of a mixture by its name; lower is better."""
    log_likelihood, weight = densities.log_likelihood, densities.weight
    return {
        "bic": bic(parameters, log_likelihood, weight),
        "icl": icl(parameters, log_likelihood, weight, densities.uncertainty),
        "aic": aic(parameters, log_likelihood),
    }
