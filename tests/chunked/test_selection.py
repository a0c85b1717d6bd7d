"""A selection: every cell as if fitted alone, for the scans of the slowest; and the choice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmm_dask.arrays import RowsArray
from gmm_dask.chunked import cell_turns, selection
from gmm_dask.chunked.evaluation import evaluate
from gmm_dask.chunked.fit import fit
from gmm_dask.chunked.fit_records import FitOptions, FitResult, FitState
from gmm_dask.chunked.rows import MemoryChunks
from gmm_dask.chunked.scan import Executor, Scanner
from gmm_dask.chunked.selection import TIE, choose, select
from gmm_dask.chunked.selection_records import (
    CellRow,
    CellStatus,
    Choice,
    SelectionOptions,
    SelectionTable,
)
from gmm_dask.chunked.threads import Threads
from gmm_dask.errors import NumericalError, TooFewRowsError
from gmm_dask.mixture.em import Candidate, EMState, Status
from gmm_dask.mixture.initialization import initial_parameters
from gmm_dask.mixture.iterations import Iteration, promised_gain
from gmm_dask.mixture.selection import Contest
from gmm_dask.mixture.spec import COVARIANCE_NAMES, Cell, EMOptions, MixtureSpec, make_cells
from gmm_dask.nulls import NullPolicy
from tests.row_sources import DrawnRows, drawn

TOL = 1e-3
#: The sample is smaller than the data, so the polish scans the chunks.
FIT = FitOptions(em=EMOptions(1e-5, 60), search_rows=1_500)
CELLS = make_cells(range(1, 5), COVARIANCE_NAMES)


def clouds(n: int, d: int = 3, seed: int = 0) -> RowsArray:
    """Rows of three Gaussians of different shapes, which overlap a little."""
    random = np.random.default_rng(seed)
    centres = 4.0 * random.normal(size=(3, d))
    shapes = random.normal(size=(3, d, d)) / np.sqrt(d) + np.eye(d)
    component = random.integers(3, size=n)
    noise = np.einsum("nij,nj->ni", shapes[component], random.normal(size=(n, d)))
    return np.asfortranarray(centres[component] + noise)


def scanner_of(X: RowsArray, **keywords: Any) -> Scanner:
    columns = tuple(f"x{number}" for number in range(X.shape[1]))
    return Scanner(MemoryChunks(X, None, 1_000, columns), Threads(2), **keywords)


def selected(scanner: Scanner, options: SelectionOptions, **keywords: Any) -> Choice:
    result = select(scanner, options, **keywords)
    survey = result.results[0].survey
    mixtures = [fit.parameters for fit in result.results]
    return choose(result, options, evaluate(scanner, mixtures, survey))


def alone(X: RowsArray, cell: Cell, options: FitOptions) -> tuple[FitResult, float, int]:
    """The fit of a cell by itself, its log-likelihood and its scans with the evaluation."""
    scanner = scanner_of(X)
    result = fit(scanner, replace(options, spec=MixtureSpec(*cell)))
    (densities,) = evaluate(scanner, [result.parameters], result.survey)
    return result, densities.mean_log_likelihood, scanner.scans


def bits(result: FitResult) -> tuple[Any, ...]:
    return (
        result.parameters.digest,
        result.initial.digest,
        result.best.lower_bounds,
        result.best.status,
        result.warnings,
    )


@pytest.fixture(scope="module")
def X() -> RowsArray:
    return clouds(12_000)


def test_without_a_search_every_cell_has_the_bits_of_a_fit_alone(X: RowsArray) -> None:
    options = replace(FIT, search_rows=None, n_init=2, em=EMOptions(TOL, 60))
    X = np.vstack([X, X[:10_000]])  # more rows than the sample without a search
    scanner = scanner_of(X)
    choice = selected(scanner, SelectionOptions(CELLS, fit=options))
    slowest = 0
    for row in choice.table.cells:
        result, log_likelihood, scans = alone(X, row.cell, options)
        slowest = max(slowest, scans)
        if row.status != CellStatus.BEATEN:
            assert bits(choice.fits[row.cell]) == bits(result), row
            assert row.log_likelihood == log_likelihood
        assert row.log_likelihood == pytest.approx(log_likelihood, abs=TOL)
    assert scanner.scans <= slowest


def test_no_cell_ends_below_a_fit_alone_and_the_scans_are_those_of_the_slowest(
    tmp_path: Path, X: RowsArray, small_groups: int
) -> None:
    scanner = scanner_of(X)
    choice = selected(scanner, SelectionOptions(CELLS, fit=FIT))
    assert choice.table.chosen == Cell(3, "full")
    slowest = 0
    for row in choice.table.cells:
        _, log_likelihood, scans = alone(X, row.cell, FIT)
        slowest = max(slowest, scans)
        assert row.log_likelihood is not None
        assert row.log_likelihood >= log_likelihood - TOL, row
    assert scanner.scans <= slowest + 2


def test_scans_are_counted_by_what_is_read(tmp_path: Path, small_groups: int) -> None:
    source = drawn(8, 1_000, place=str(tmp_path))
    scanner = Scanner(source, Threads(2), cache=False)
    choice = selected(scanner, SelectionOptions(CELLS, fit=FIT))
    assert [len(source.readings(chunk)) for chunk in range(8)] == [scanner.scans] * 8
    iterations = max(fit.best.n_iter for fit in choice.fits.values())
    assert scanner.scans == iterations + 2  # and the survey and the evaluation


@pytest.fixture(scope="module")
def source() -> DrawnRows:
    return drawn(20, 500, missing=0.01, weighted=True)


def table_bits(choice: Choice) -> tuple[Any, ...]:
    return choice.table, {cell: bits(fit) for cell, fit in choice.fits.items()}


SMALL = SelectionOptions(make_cells([1, 2, 3], ["full", "diag"]), fit=replace(FIT, n_init=2))


@pytest.fixture
def reference(source: DrawnRows, small_groups: int) -> tuple[Any, ...]:
    options = replace(SMALL, fit=replace(SMALL.fit, nulls=NullPolicy.DROP))
    return options, table_bits(selected(Scanner(source, Threads(1)), options))


def test_threads_and_workers_give_the_same_bits(
    source: DrawnRows, reference: tuple[Any, ...], any_executor: Executor
) -> None:
    options, expected = reference
    assert table_bits(selected(Scanner(source, any_executor), options)) == expected


@pytest.mark.parametrize("cores", [1, 5])
def test_any_number_of_cores_searches_to_the_same_bits(
    source: DrawnRows, reference: tuple[Any, ...], cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They decide which cells are searched at the same time, and what is done when one begins."""
    options, expected = reference
    monkeypatch.setattr(cell_turns, "available_cores", lambda: cores)
    assert table_bits(selected(Scanner(source, Threads(1)), options)) == expected


def test_it_goes_on_from_any_state_and_ends_with_the_same_bits(
    source: DrawnRows, reference: tuple[Any, ...]
) -> None:
    options, expected = reference
    states: list[FitState] = []
    selected(Scanner(source, Threads(2)), options, save=states.append)
    turns = 2 * len({cell.n_components for cell in options.cells})
    assert len(states) > turns + 2  # after every turn and every iteration
    for state in states:
        scanner = Scanner(source, Threads(2))
        assert table_bits(selected(scanner, options, resume=state)) == expected


def test_what_a_search_found_is_not_searched_again(
    source: DrawnRows, reference: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    options, _ = reference
    states: list[FitState] = []
    select(Scanner(source, Threads(2)), options, save=states.append)
    searched: list[Cell] = []

    def search_cell(state: FitState, options: Any, shared: Any, place: int, threads: int) -> Any:
        searched.append(options.cells[place])
        return state.cells[place]

    monkeypatch.setattr(cell_turns, "_search_cell", search_cell)
    state = next(state for state in states if state.turns == 2)
    select(Scanner(source, Threads(2)), options, resume=state)
    assert sorted(searched) == sorted(options.cells[4:])


# Cells that break down.


def test_a_cell_that_breaks_down_is_a_row_that_says_why(X: RowsArray) -> None:
    constant = np.column_stack([X[:, :2], np.zeros(len(X))])
    spec = MixtureSpec(reg_covar=0.0)
    options = SelectionOptions(CELLS, fit=replace(FIT, spec=spec))
    choice = selected(scanner_of(constant), options)
    rows = {row.cell: row for row in choice.table.cells}
    broken = rows[Cell(2, "full")]
    assert broken.status == "ill_conditioned"
    assert broken.log_likelihood is broken.bic is broken.icl is broken.aic is None
    assert "covariance" in broken.reason
    assert choice.table.chosen.covariance_type == "spherical"
    assert Cell(2, "full") not in choice.fits


def test_more_components_than_rows_are_rows_that_say_so() -> None:
    few = clouds(5)
    cells = make_cells([1, 2, 7], ["spherical"])
    table = selected(scanner_of(few), SelectionOptions(cells)).table
    last = table.cells[-1]
    assert last.status == "too_few_rows"
    assert "n_components = 7, n_samples = 5" in last.reason
    with pytest.raises(TooFewRowsError, match="n_components = 7, n_samples = 5"):
        selected(scanner_of(few), SelectionOptions(make_cells([7, 9], ["full"])))


def test_if_every_cell_breaks_down_the_error_says_why() -> None:
    constant = np.column_stack([clouds(500)[:, :2], np.zeros(500)])
    cells = make_cells([2, 3], ["full", "tied", "diag"])
    options = SelectionOptions(cells, fit=replace(FIT, spec=MixtureSpec(reg_covar=0.0)))
    with pytest.raises(NumericalError, match=r"every cell broke down: .*covariance"):
        selected(scanner_of(constant), options)


def test_a_collapsed_cell_is_marked_and_not_chosen_unless_allowed() -> None:
    """All rows lie near 0 or 10, nearer than reg_covar: two components shrink onto it."""
    random = np.random.default_rng(0)
    X = 10.0 * random.integers(2, size=4_000) + 1e-5 * random.normal(size=4_000)
    X = np.asfortranarray(X[:, None])
    options = SelectionOptions(make_cells([1, 2], ["full"]), fit=replace(FIT, search_rows=1_000))
    choice = selected(scanner_of(X), options)
    first, second = choice.table.cells
    assert second.status == "collapsed"
    assert second.reason == "components 0, 1 collapsed"
    assert first.bic is not None
    assert second.bic is not None
    assert second.bic < first.bic
    assert choice.table.chosen == first.cell
    allowed = selected(scanner_of(X), replace(options, allow_collapsed=True))
    assert allowed.table.chosen == second.cell
    with pytest.raises(NumericalError, match=r"no cell can be chosen.*\(2 full: component"):
        selected(scanner_of(X), replace(options, cells=options.cells[1:]))


# The choice.


def test_the_criterion_decides() -> None:
    """Two clouds that overlap heavily: by ICL they are not worth two components."""
    random = np.random.default_rng(1)
    X = np.concatenate([random.normal(0, 1, 3_000), random.normal(2.3, 1, 3_000)])[:, None]
    X = np.asfortranarray(X)
    cells = make_cells([1, 2, 3], ["tied"])
    chosen = {
        criterion: selected(scanner_of(X), SelectionOptions(cells, criterion)).table.chosen
        for criterion in ("bic", "icl", "aic")
    }
    assert chosen["bic"] == Cell(2, "tied")
    assert chosen["icl"] == Cell(1, "tied")


def test_where_cells_tie_the_fewest_parameters_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one dimension full and diag are equal, and the first of the two wins."""
    X = clouds(400, d=1)
    options = SelectionOptions(make_cells([1, 2], ["diag", "full"]))
    table = selected(scanner_of(X), options).table
    assert table.cells[2].bic == pytest.approx(table.cells[3].bic, abs=TIE)
    assert table.chosen.covariance_type == "diag"
    monkeypatch.setattr(selection, "TIE", 1e9)  # now all tie
    options = SelectionOptions(make_cells([1, 2], ["full", "spherical"]))
    assert selected(scanner_of(clouds(400)), options).table.chosen == Cell(1, "spherical")


def test_a_table_comes_back_from_json(X: RowsArray) -> None:
    table = selected(scanner_of(X[:500]), SelectionOptions(CELLS[:6])).table
    assert SelectionTable.from_json(table.to_json()) == table
    later = table.to_json()
    later["cells"][0]["new"] = 1
    assert SelectionTable.from_json(later) == table


def test_the_best_rows_are_the_chosen_one_and_the_next_by_its_criterion() -> None:
    values = {1: 5.0, 2: 1.0, 3: 2.0, 4: 3.0}
    rows = [CellRow(k, "full", -1.0, value, 0.0, 0.0, "converged") for k, value in values.items()]
    rows[1] = replace(rows[1], status="collapsed")
    table = SelectionTable("bic", Cell(3, "full"), tuple(rows))
    assert [row.n_components for row in table.best(3)] == [3, 4, 1]
    header, texts = table.grid()
    assert header[0] == "k"
    assert texts[2] == ["3", "2.0 *1"]
    assert texts[1] == ["2", "1.0 c "]
    assert "c collapsed" in table.legend


# Which candidates are given up.


def running(
    X: RowsArray, k: int, bounds: list[float], status: Status = Status.RUNNING
) -> Candidate:
    spec = MixtureSpec(k)
    parameters = initial_parameters(X, None, spec, np.random.RandomState(0))
    history = tuple(
        Iteration(bound, parameters.weights, parameters.means, (), 0.0) for bound in bounds
    )
    counts = len(X) * parameters.weights
    return Candidate(parameters, status, history, counts, len(X), len(X))


def statuses(contest: Contest, *candidates: Candidate) -> list[Status]:
    state = contest.stop_beaten(EMState(candidates, 5))
    return [candidate.status for candidate in state.candidates]


def test_a_promise_is_what_a_geometric_series_still_adds(X: RowsArray) -> None:
    assert promised_gain(running(X, 1, [-3.0, -2.0, -1.5]).history) == pytest.approx(0.5)
    assert promised_gain(running(X, 1, [-3.0, -2.0]).history) == np.inf  # no ratio yet
    assert promised_gain(running(X, 1, [-3.0, -2.0, -1.0]).history) == np.inf  # gains do not shrink
    assert promised_gain(running(X, 1, [-3.0, -2.0, -2.1]).history) == np.inf  # it fell
    two = running(X, 1, [-3.0, -2.0])
    gained = [
        replace(step, expected=gain) for step, gain in zip(two.history, (0.04, 0.01), strict=True)
    ]
    assert promised_gain(gained) == pytest.approx(0.04)
    assert promised_gain(gained[::-1]) == np.inf
    guarded = running(X, 1, [-3.0, -2.0, -1.5])
    last = replace(guarded.history[-1], guarded=(0,))
    guarded = replace(guarded, history=(*guarded.history[:-1], last))
    assert promised_gain(guarded.history) == np.inf


def test_only_what_cannot_reach_the_best_three_and_has_settled_is_given_up(X: RowsArray) -> None:
    contest = Contest("bic", len(X), X.var(axis=0), 1e-6)
    settled = [-9.0, -8.001, -8.0]  # promises 1e-6
    best = [running(X, k, [-7.1, -7.0005, -7.0]) for k in (1, 2, 3)]
    loser, rising = running(X, 4, settled), running(X, 4, [-9.0, -8.1, -8.0])
    run, beaten = Status.RUNNING, Status.BEATEN
    assert statuses(contest, *best, loser) == [run, run, run, beaten]
    assert statuses(contest, *best, rising) == [run, run, run, run]
    assert statuses(contest, *best[:2], loser) == [run, run, run]  # it is among the best three
    near = running(X, 4, [-7.1, -7.0005, -7.0])
    assert statuses(contest, *best, near)[3] is beaten  # more parameters for no more likelihood
    assert statuses(replace(contest, criterion="icl"), *best, near)[3] is run  # ICL is not known
    assert statuses(replace(contest, criterion="icl"), *best, loser)[3] is run


def test_what_was_beaten_goes_on_if_one_of_the_best_collapses(X: RowsArray) -> None:
    contest = Contest("bic", len(X), X.var(axis=0), 1e-6)
    best = [running(X, k, [-7.1, -7.0005, -7.0]) for k in (1, 2, 3)]
    beaten = running(X, 4, [-9.0, -8.001, -8.0], status=Status.BEATEN)
    starved = replace(best[2], counts=np.zeros(3))
    assert statuses(contest, *best, beaten)[3] is Status.BEATEN
    assert statuses(contest, *best[:2], starved, beaten)[3] is Status.RUNNING
    allowing = replace(contest, allow_collapsed=True)
    assert statuses(allowing, *best[:2], starved, beaten)[3] is Status.BEATEN


def test_what_is_given_up_stops_costing_and_is_as_exact_as_by_default(X: RowsArray) -> None:
    """With a small tol the losers are stopped; their rows are within 0.001 of their ends."""
    options = SelectionOptions(CELLS, fit=replace(FIT, em=EMOptions(1e-8, 500)))
    choice = selected(scanner_of(X), options)
    beaten = [row for row in choice.table.cells if row.status == CellStatus.BEATEN]
    assert beaten
    assert not {row.cell for row in choice.table.best(3)} & {row.cell for row in beaten}
    spared = 0
    for row in beaten:
        stopped, scanner = choice.fits[row.cell], scanner_of(X)
        spec = MixtureSpec(*row.cell)
        result = fit(scanner, replace(options.fit, spec=spec), start=[stopped.initial])
        (densities,) = evaluate(scanner, [result.parameters], result.survey)
        spared += result.best.n_iter - stopped.best.n_iter
        assert row.log_likelihood == pytest.approx(densities.mean_log_likelihood, abs=TOL)
    assert spared > 0
