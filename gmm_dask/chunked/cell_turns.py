"""The search for starts of all cells of a selection, turn by turn, on one sample in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import NamedTuple

from gmm_dask.chunked.fit import too_few_rows
from gmm_dask.chunked.fit_records import CellSearch, FitOptions, FitState
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.selection_records import SelectionOptions
from gmm_dask.chunked.starting import drop_weightless, make_starts, searches
from gmm_dask.errors import NumericalError, TooFewRowsError
from gmm_dask.events import Stage, StageAdvanced, StageFinished, StageStarted, silent
from gmm_dask.mixture.cell_search import cell_effort, challenge, challengers, label_starts
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.search import SearchSummary, is_small
from gmm_dask.mixture.spec import Cell
from gmm_dask.mixture.starts import SharedSample
from gmm_dask.mixture.threads import available_cores, single_threaded


def options_of(options: SelectionOptions, cell: Cell) -> FitOptions:
    """Return how a cell is fitted."""
    k, kind = cell
    spec = replace(options.fit.spec, n_components=k, covariance_type=kind)
    return replace(options.fit, spec=spec)


class _Turn(NamedTuple):
    """A turn: the places of the cells of one number of components, and which way it goes."""

    places: tuple[int, ...]
    upward: bool


class _Task(NamedTuple):
    """The search of a cell in a turn; without a place, the labels of the starts of its cells."""

    turn: int
    place: int | None


#: What each task waits for, in the order in which they begin if threads are free.
_Needs = dict[_Task, frozenset[_Task]]


def search_cells(
    scanner: Scanner,
    state: FitState,
    options: SelectionOptions,
    save: Callable[[FitState], None],
) -> FitState:
    """Find starts for every cell: first from few components to many, then back.

    On the way up a cell has fresh starts and splits of its neighbour with fewer components; on the
    way back it is challenged by merges of the one with more, and by the other covariance types.
    Each turn is one number of components. A cell is searched as soon as those are done from which
    it learns. It sees these alone, so that the result does not depend on the threads.
    """
    turns = _list_turns(options)
    state = replace(state, cells=state.cells or (CellSearch(),) * len(options.cells))
    began = time.perf_counter()
    rows = len(state.survey.draw.numbers)
    scanner.notify(StageStarted(Stage.SEARCH, len(turns), "turns", f"on {rows:,} rows"))
    for turn in range(state.turns):  # done before an interruption
        scanner.notify(StageAdvanced(Stage.SEARCH, turn + 1))
    least = min(cell.n_components for cell in options.cells)
    weighted = drop_weightless(state.survey.sample, least)
    shared = SharedSample(weighted, options.fit.random_state)
    for latest in _take_turns(state, options, shared, turns):
        state = latest
        save(state)
        shared.forget_unused()
        scanner.notify(StageAdvanced(Stage.SEARCH, state.turns))
    seconds = time.perf_counter() - began
    sentence = f"{len(options.cells)} cells on {rows:,} rows"
    scanner.notify(StageFinished(Stage.SEARCH, seconds, sentence))
    return state


def _list_turns(options: SelectionOptions) -> list[_Turn]:
    ks = sorted({cell.n_components for cell in options.cells})
    places = [
        tuple(place for place, cell in enumerate(options.cells) if cell.n_components == k)
        for k in ks
    ]
    turns = [_Turn(of_k, upward=True) for of_k in places]
    if options.fit.search_rows is not None:  # else starts are polished as they are
        turns += [_Turn(of_k, upward=False) for of_k in reversed(places)]
    return turns


def _take_turns(
    state: FitState, options: SelectionOptions, shared: SharedSample, turns: Sequence[_Turn]
) -> Iterator[FitState]:
    """Yield the state after each turn that was not done before an interruption."""
    begun, needs = state, _list_needs(turns, options)
    results = {
        _Task(turn, place): state.cells[place]
        for turn in range(state.turns)
        for place in turns[turn].places
    }

    def work(task: _Task) -> CellSearch:
        cells = [CellSearch()] * len(options.cells)
        for other in sorted(needs[task], key=lambda need: need.turn):  # the latest of a cell counts
            if other.place is not None:
                cells[other.place] = results[other]
        # A BLAS that runs on OpenMP has a limit for each thread.
        with single_threaded():
            turn, seen = turns[task.turn], replace(begun, cells=tuple(cells))
            if task.place is None:
                fit = options_of(options, options.cells[turn.places[0]])
                _label_starts(seen, fit, shared)
                return CellSearch()
            search = _search_cell if turn.upward else _challenge_cell
            threads = max(available_cores() // len(turn.places), 1)
            return search(seen, options, shared, task.place, threads)

    waiting = {task: others for task, others in needs.items() if task.turn >= state.turns}
    for task, result in _work_through(waiting, work):
        results[task] = result
        while state.turns < len(turns):
            places = turns[state.turns].places
            if not all(_Task(state.turns, place) in results for place in places):
                break
            cells = list(state.cells)
            for place in places:
                cells[place] = results[_Task(state.turns, place)]
            state = replace(state, cells=tuple(cells), turns=state.turns + 1)
            yield state


def _list_needs(turns: Sequence[_Turn], options: SelectionOptions) -> _Needs:
    """Return which tasks must be done before each task.

    On the way up a cell learns from the one of its type with a component less. On the way back it
    learns from the one with a component more, and from all with as many, as the way up left them.
    Nothing begins before the turn two before it is done, so that what is shared can be freed.
    """
    needs: _Needs = {}
    latest: dict[Cell, _Task] = {}
    for number, (places, upward) in enumerate(turns):
        common = [] if number < 2 else [_Task(number - 2, p) for p in turns[number - 2].places]
        if upward:
            labels = _Task(number, None)
            needs[labels] = frozenset(common)
            common.append(labels)
        else:
            common += [latest[options.cells[place]] for place in places]
        for place in places:
            k, kind = options.cells[place]
            neighbour = latest.get(Cell(k - 1 if upward else k + 1, kind))
            needs[_Task(number, place)] = frozenset(
                common if neighbour is None else [*common, neighbour]
            )
        latest |= {options.cells[place]: _Task(number, place) for place in places}
    return needs


def _work_through(
    waiting: _Needs, work: Callable[[_Task], CellSearch]
) -> Iterator[tuple[_Task, CellSearch]]:
    """Do tasks on threads and yield each with its result; a task waits for those it learns from."""
    done: set[_Task] = set().union(*waiting.values()) - waiting.keys()
    waiting, running = dict(waiting), dict[Future[CellSearch], _Task]()
    cores = available_cores()
    with ThreadPoolExecutor(cores) as pool:
        while waiting or running:
            ready = [task for task, others in waiting.items() if others <= done]
            for task in ready[: cores - len(running)]:
                del waiting[task]
                running[pool.submit(work, task)] = task
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                done.add(task)
                yield task, future.result()


def _label_starts(state: FitState, fit: FitOptions, shared: SharedSample) -> None:
    m, d = _shape(state)
    k = fit.spec.n_components
    if k <= len(shared.sample.X) and searches(shared.sample, fit) and not is_small(m, d, k):
        label_starts(shared, fit.spec, cell_effort(m, d, fit.spec, fit.n_init))


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
