"""The search for starts of all cells of a selection, turn by turn, on one sample in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from gmm_dask.chunked.fit import too_few_rows
from gmm_dask.chunked.fit_records import CellSearch, FitOptions, FitState
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.selection_records import SelectionOptions
from gmm_dask.chunked.starting import drop_weightless, make_starts, searches
from gmm_dask.chunked.threads import available_cores
from gmm_dask.errors import NumericalError, TooFewRowsError
from gmm_dask.events import Stage, StageAdvanced, StageFinished, StageStarted, silent
from gmm_dask.mixture.cell_search import cell_effort, challenge, challengers, label_starts
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.search import SearchSummary, is_small
from gmm_dask.mixture.spec import Cell
from gmm_dask.mixture.starts import SharedSample
from gmm_dask.mixture.threads import single_threaded


def options_of(options: SelectionOptions, cell: Cell) -> FitOptions:
    """Return how a cell is fitted."""
    k, kind = cell
    spec = replace(options.fit.spec, n_components=k, covariance_type=kind)
    return replace(options.fit, spec=spec)


def search_cells(
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
    weighted = drop_weightless(state.survey.sample, min(ks))
    shared = SharedSample(weighted, options.fit.random_state)
    with ThreadPoolExecutor(available_cores()) as pool:
        for done, (k, upward) in enumerate(turns):
            if done >= state.turns:  # else it was done before an interruption
                state = _take_turn(state, options, shared, k, upward, pool)
                save(state)
                shared.forget_unused()
            scanner.notify(StageAdvanced(Stage.SEARCH, done + 1))
    seconds = time.perf_counter() - began
    sentence = f"{len(options.cells)} cells on {rows:,} rows"
    scanner.notify(StageFinished(Stage.SEARCH, seconds, sentence))
    return state


def _take_turn(
    state: FitState,
    options: SelectionOptions,
    shared: SharedSample,
    k: int,
    upward: bool,
    pool: ThreadPoolExecutor,
) -> FitState:
    """Search the cells of one number of components, all at the same time."""
    search = _search_cell if upward else _challenge_cell
    places = [place for place, cell in enumerate(options.cells) if cell.n_components == k]
    threads = max(available_cores() // len(places), 1)
    if upward:
        _label_starts(state, options_of(options, options.cells[places[0]]), shared, pool)

    def work(place: int) -> CellSearch:
        # A BLAS that runs on OpenMP has a limit for each thread.
        with single_threaded():
            return search(state, options, shared, place, threads)

    cells = list(state.cells)
    for place, result in zip(places, pool.map(work, places), strict=True):
        cells[place] = result
    return replace(state, cells=tuple(cells), turns=state.turns + 1)


def _label_starts(
    state: FitState, fit: FitOptions, shared: SharedSample, pool: ThreadPoolExecutor
) -> None:
    m, d = _shape(state)
    k = fit.spec.n_components
    if k <= len(shared.sample.X) and searches(shared.sample, fit) and not is_small(m, d, k):
        label_starts(shared, fit.spec, cell_effort(m, d, fit.spec, fit.n_init), pool)


def _search_cell(
    state: FitState, options: SelectionOptions, shared: SharedSample, place: int, threads: int
) -> CellSearch:
    """Search with fresh starts, among which those from smaller neighbours compete."""
    cell = options.cells[place]
    fit, survey = options_of(options, cell), state.survey
    if cell.n_components > survey.rows:
        return CellSearch(problem=str(too_few_rows(survey.rows, cell.n_components)))
    m, d = _shape(state)
    effort = cell_effort(m, d, fit.spec, fit.n_init)
    try:
        rivals = _rivals(state, options, shared, cell, grow=True)
        searched = searches(survey.sample, fit)
        starts, summary = make_starts(
            silent,
            survey,
            fit,
            threads,
            effort=effort,
            rivals=rivals if searched else (),
            shared=shared,
        )
        search = CellSearch(starts, summary)
    except TooFewRowsError as error:  # rows of weight 0 are no rows
        return CellSearch(problem=str(error))
    except NumericalError as error:
        search, searched = CellSearch(problem=str(error)), False
    return search if searched else _compete(options, shared, cell, search, rivals, threads)


def _shape(state: FitState) -> tuple[int, int]:
    """Return rows and features of the sample."""
    m, d = state.survey.sample.X.shape
    return m, d


def _challenge_cell(
    state: FitState, options: SelectionOptions, shared: SharedSample, place: int, threads: int
) -> CellSearch:
    """Let the neighbour with more components and the other covariance types compete."""
    cell, search = options.cells[place], state.cells[place]
    if cell.n_components > len(shared.sample.X):
        return search
    rivals = _rivals(state, options, shared, cell, grow=False)
    return _compete(options, shared, cell, search, rivals, threads)


def _rivals(
    state: FitState, options: SelectionOptions, shared: SharedSample, cell: Cell, grow: bool
) -> tuple[MixtureParameters, ...]:
    """Make starts for a cell from the best of its neighbours so far.

    None where they cannot help: one Gaussian has one optimum, and the search on a small sample is
    thorough. With more starts there, the highest likelihood is soon that of a thin component on a
    few rows.
    """
    fit = options_of(options, cell)
    incomplete = state.survey.sample.incomplete
    small = is_small(*_shape(state), cell.n_components, incomplete)
    if cell.n_components == 1 or fit.search_rows is None or small:
        return ()
    best = {
        other: search.starts[0]
        for other, search in zip(options.cells, state.cells, strict=True)
        if search.starts
    }
    return (*challengers(shared, fit.spec, best, grow=grow),)


def _compete(
    options: SelectionOptions,
    shared: SharedSample,
    cell: Cell,
    search: CellSearch,
    rivals: Sequence[MixtureParameters],
    threads: int,
) -> CellSearch:
    """Let rivals challenge the starts that a cell has."""
    if not rivals:
        return search
    fit = options_of(options, cell)
    starts, summary = challenge(
        shared,
        fit.spec,
        search.starts,
        rivals,
        search.summary or SearchSummary(len(shared.sample.X), 0, 0, (), 0, 0.0),
        keep=fit.n_init,
        threads=threads,
    )
    return CellSearch(starts, summary, "" if starts else search.problem)
