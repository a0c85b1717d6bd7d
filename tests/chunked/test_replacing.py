"""Lost components placed again in a fit: on the sample, in scans, with the same bits everywhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.conclusion import component_order, conclude
from gmm_dask.chunked.fit import fit
from gmm_dask.chunked.fit_records import FitOptions, FitResult, FitState
from gmm_dask.chunked.rows import MemoryChunks, Rows
from gmm_dask.chunked.scan import Executor, Scanner
from gmm_dask.chunked.selection import select
from gmm_dask.chunked.selection_records import SelectionOptions
from gmm_dask.chunked.threads import Threads
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec, make_cells
from gmm_dask.nulls import NullPolicy
from tests.row_sources import DrawnRows

REPLACE = EMOptions(on_collapse="replace")
REPORT = EMOptions(on_collapse="report")


def minutes(n: int = 6_000, zeros: float = 0.08, seed: int = 5) -> FloatArray:
    """Rows of three clouds with a column of whole minutes, of which many are 0."""
    random = np.random.default_rng(seed)
    cloud = random.integers(3, size=n)
    X = random.normal(size=(n, 2)) * [1.0, 9.0] + np.array([[0, 20], [6, 40], [12, 10]])[cloud]
    X[:, 1] = np.abs(np.round(X[:, 1]))
    X[random.random(n) < zeros, 1] = 0.0
    return np.asfortranarray(X)


class MinuteRows(DrawnRows):
    """Chunks of such rows, which any process draws again."""

    def _drawn(self, chunk: int) -> Rows:
        m = self.rows[chunk]
        return Rows(minutes(m, 0.03, seed=chunk), None, chunk, sum(self.rows[:chunk]))


def source(X: FloatArray) -> MemoryChunks:
    return MemoryChunks(X, None, 500, ("distance", "minute"))


#: More rows than the sample of a fit with a given start, so that the polish scans them.
MANY = MinuteRows((2_000,) * 12, tuple(range(12)), d=2)


def options(em: EMOptions, k: int = 4, reg_covar: float = 1e-6, rows: int = 2_000) -> FitOptions:
    return FitOptions(MixtureSpec(k, "full", reg_covar), em, search_rows=rows)


def on_the_minute() -> MixtureParameters:
    """A mixture in which a component lies on the repeated value."""
    means = np.array([[0.0, 20.0], [6.0, 40.0], [12.0, 10.0], [6.0, 0.0]])
    covariances = np.array([np.diag([1.0, 81.0])] * 3 + [np.diag([30.0, 1e-6])])
    return MixtureParameters.from_covariances("full", np.full(4, 0.25), means, covariances)


def bits(result: FitResult) -> tuple[object, ...]:
    parameters = result.parameters
    return (
        *(getattr(parameters, name).tobytes() for name in ("weights", "means", "covariances")),
        result.best.lower_bounds,
        result.replaced,
        result.scans,
    )


def test_a_fit_has_no_lost_component_where_the_plain_one_has_and_says_what_it_did() -> None:
    X = minutes()
    plain = fit(Scanner(source(X), Threads(2)), options(REPORT))
    assert plain.health.defects > 0
    result = fit(Scanner(source(X), Threads(2)), options(REPLACE))
    assert result.health.defects == 0
    assert result.replaced_on_sample > 0
    assert not any("lost" in sentence for sentence in result.warnings)
    # It was mended on the sample, so that the polish costs what it always does.
    assert result.scans <= plain.scans + 2


@pytest.fixture
def reference(small_groups: int) -> FitResult:
    given = on_the_minute()
    result = fit(Scanner(MANY, Threads(1)), options(REPLACE), start=[given])
    assert result.replaced
    assert result.health.defects == 0
    return result


def test_threads_and_workers_place_the_same_components_again(
    reference: FitResult, any_executor: Executor
) -> None:
    scanner = Scanner(MANY, any_executor)
    result = fit(scanner, options(REPLACE), start=[on_the_minute()])
    assert bits(result) == bits(reference)
    # One scan for the survey, one an iteration, and one whenever components were placed again.
    times = len({iteration for iteration, _ in result.replaced})
    assert result.scans == 1 + result.best.n_iter + times


def test_a_fit_goes_on_from_any_state_and_ends_with_the_same_bits(reference: FitResult) -> None:
    states: list[FitState] = []
    start = [on_the_minute()]
    fit(Scanner(MANY, Threads(2)), options(REPLACE), start=start, save=states.append)
    for state in states:
        scanner = Scanner(MANY, Threads(2))
        resumed = fit(scanner, options(REPLACE), start=start, resume=state)
        assert bits(resumed)[:-1] == bits(reference)[:-1]


def test_where_no_mixture_without_lost_components_is_found_it_says_so() -> None:
    X = np.random.default_rng(0).normal(size=(3_000, 2))
    X[:400] = [3.0, 3.0]
    result = fit(Scanner(source(X), Threads(2)), options(REPLACE, k=3))
    assert result.health.defects > 0
    assert any(
        "no mixture of 3 components was found of which none is lost" in s for s in result.warnings
    )


def test_without_a_floor_a_fit_that_broke_down_ends_well() -> None:
    X = minutes()
    X[:, 0] = np.round(X[:, 0])  # pixels
    with pytest.raises(NumericalError, match="broke down"):
        fit(Scanner(source(X), Threads(2)), options(REPORT, k=5, reg_covar=0.0))
    result = fit(Scanner(source(X), Threads(2)), options(REPLACE, k=5, reg_covar=0.0))
    assert result.health.defects == 0


def test_the_cells_of_a_selection_are_mended_too() -> None:
    X = minutes()
    cells = make_cells([3, 4], ["full", "diag"])
    statuses = []
    for em in (REPORT, REPLACE):
        wanted = SelectionOptions(cells, "bic", False, options(em))
        fits = select(Scanner(source(X), Threads(2)), wanted).fits
        statuses.append([cell.result.health.defects for cell in fits if cell.result is not None])
    assert max(statuses[0]) > 0
    assert max(statuses[1]) == 0


def test_rows_that_a_filter_leaves_out_are_numbered_as_in_the_source() -> None:
    from gmm_dask.chunked.replacing import scan_lowest

    X = minutes(500)
    rows = next(source(X).read(0, 1))
    used = np.ones(500, dtype=bool)
    used[::2] = False
    masked = replace(rows, values=X[used], used=used, first=1_000)
    (lowest,) = scan_lowest(masked, (on_the_minute(),)).lowest
    assert set(lowest.numbers.tolist()) <= set((1_000 + np.flatnonzero(used)).tolist())
    for number, value in zip(lowest.numbers, lowest.values, strict=True):
        assert X[number - 1_000].tolist() == value.tolist()


def test_rows_with_holes_are_mended_too() -> None:
    X = minutes()
    X[np.random.default_rng(1).random(len(X)) < 0.1, 0] = np.nan
    marginalize = replace(options(REPLACE), nulls=NullPolicy.MARGINALIZE)
    plain = fit(Scanner(source(X), Threads(2)), replace(marginalize, em=REPORT))
    assert plain.health.defects > 0
    assert fit(Scanner(source(X), Threads(2)), marginalize).health.defects == 0


def test_components_keep_their_numbers_in_the_history_when_they_are_ordered() -> None:
    states: list[FitState] = []
    scanner = Scanner(source(minutes(zeros=0.03)), Threads(2))
    given = fit(scanner, options(REPLACE), start=[on_the_minute()], save=states.append)
    em = states[-1].em
    assert em is not None
    order = component_order(given.parameters)
    moving = next(number for number in range(4) if order[number] != number)
    history = tuple(
        replace(step, guarded=(moving,), replaced=(moving,)) for step in em.candidates[0].history
    )
    em = replace(em, candidates=(replace(em.candidates[0], history=history),))
    ordered = conclude(scanner, replace(states[-1], em=em, fresh=(True,)), options(REPLACE))
    for before, after in zip(given.best.history, ordered.best.history, strict=True):
        for (number,) in (after.guarded, after.replaced):
            assert after.means[number].tolist() == before.means[moving].tolist()
