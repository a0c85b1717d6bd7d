"""Rows with holes in chunks: surveyed, fitted and evaluated by what they have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gmm_dask.chunked.evaluation import DensitySummary, evaluate, evaluate_rows
from gmm_dask.chunked.fit import fit
from gmm_dask.chunked.fit_records import FitOptions, FitResult, FitState
from gmm_dask.chunked.rows import MemoryChunks, Rows, find_holes
from gmm_dask.chunked.scan import Executor, Scanner
from gmm_dask.chunked.selection import choose, select
from gmm_dask.chunked.selection_records import SelectionOptions
from gmm_dask.chunked.survey import survey_source
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.chunked.threads import Threads
from gmm_dask.errors import TooFewRowsError
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.patterns import count_patterns
from gmm_dask.mixture.spec import EMOptions, MixtureSpec, make_cells
from gmm_dask.nulls import NullPolicy
from tests.row_sources import drawn

SPEC, EM = MixtureSpec(3), EMOptions(1e-5, 100)
FIT = FitOptions(SPEC, EM, search_rows=1_000, nulls=NullPolicy.MARGINALIZE)
#: Polished on all rows from a plain start.
PLAIN = replace(FIT, search_rows=None)


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    """Three clouds; a quarter of the values is missing, and thirty rows have none."""
    random = np.random.default_rng(1)
    rows = random.normal(size=(6_000, 3)) + 6.0 * np.eye(3)[random.integers(3, size=6_000)]
    rows = np.where(random.uniform(size=rows.shape) < 0.25, np.nan, rows)
    rows[::200] = np.nan
    return rows


def scanner_of(
    X: np.ndarray, weights: np.ndarray | None = None, chunk_rows: int = 700, **options: Any
) -> Scanner:
    columns = tuple(f"c{number}" for number in range(X.shape[1]))
    return Scanner(MemoryChunks(X, weights, chunk_rows, columns), Threads(2), **options)


def survey(scanner: Scanner, rows: int = 100, nulls: NullPolicy = FIT.nulls) -> Survey:
    return survey_source(scanner, rows, 0, nulls)


def bits(result: FitResult) -> tuple[Any, ...]:
    parameters = result.parameters
    arrays = (parameters.weights, parameters.means, parameters.covariances)
    return (*(array.tobytes() for array in arrays), result.best.lower_bounds)


@pytest.mark.parametrize("chunk_rows", [1, 700, 6_000])
def test_a_survey_measures_what_each_feature_has(X: np.ndarray, chunk_rows: int) -> None:
    weights = np.random.default_rng(0).uniform(size=len(X))
    rows = X[:2_000] if chunk_rows == 1 else X
    surveyed = survey(scanner_of(rows, weights[: len(rows)], chunk_rows))
    has_value = ~np.isnan(rows).all(axis=1)
    np.testing.assert_allclose(surveyed.moments.mean, np.nanmean(rows, axis=0), rtol=1e-12)
    np.testing.assert_allclose(surveyed.variances, np.nanvar(rows, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(surveyed.moments.maximum, np.nanmax(rows, axis=0))
    assert surveyed.moments.counts == tuple((~np.isnan(rows)).sum(axis=0).tolist())
    assert surveyed.rows == has_value.sum()
    assert surveyed.dropped == len(rows) - has_value.sum()
    assert surveyed.incomplete == (has_value & np.isnan(rows).any(axis=1)).sum()
    assert surveyed.weight == pytest.approx(weights[: len(rows)][has_value].sum())
    assert surveyed.nulls_left is NullPolicy.MARGINALIZE
    # The sample is the same for any chunks, and holds no row without a value.
    whole = survey(scanner_of(rows, weights[: len(rows)], 6_000))
    np.testing.assert_array_equal(surveyed.sample.X, whole.sample.X)
    assert not np.isnan(surveyed.sample.X).all(axis=1).any()


def test_rows_without_holes_go_todays_way(X: np.ndarray) -> None:
    complete = np.nan_to_num(X)
    results = [
        fit(scanner_of(complete), replace(PLAIN, nulls=nulls))
        for nulls in (NullPolicy.ERROR, NullPolicy.MARGINALIZE)
    ]
    assert results[1].survey.nulls_left is NullPolicy.ERROR
    assert bits(results[0]) == bits(results[1])
    empty = np.where(np.arange(6_000)[:, None] % 9 == 4, np.nan, complete)
    results = [
        fit(scanner_of(empty), replace(PLAIN, nulls=nulls))
        for nulls in (NullPolicy.DROP, NullPolicy.MARGINALIZE)
    ]
    assert bits(results[0]) == bits(results[1])


def test_a_column_without_a_value_is_refused(X: np.ndarray) -> None:
    X = X.copy()
    X[:, 1] = np.nan
    message = "column 'c1' holds nothing but nulls in [0-9,]+ rows; leave it out"
    with pytest.raises(TooFewRowsError, match=message):
        survey(scanner_of(X))
    with pytest.raises(TooFewRowsError, match="column 'c0' holds nothing but nulls"):
        survey(scanner_of(np.full((50, 2), np.nan)))


def test_a_fit_is_the_same_in_memory_and_in_chunks(X: np.ndarray) -> None:
    whole = fit(scanner_of(X), replace(FIT, search_rows=6_000))
    assert whole.in_memory
    scanner = scanner_of(X)
    chunked = fit(scanner, FIT)
    assert not chunked.in_memory
    order = np.argmax(whole.parameters.means, axis=0), np.argmax(chunked.parameters.means, axis=0)
    np.testing.assert_allclose(
        chunked.parameters.means[order[1]], whole.parameters.means[order[0]], atol=0.01
    )
    again = fit(scanner_of(X, None, 123), FIT)
    assert chunked.best.log_likelihood == pytest.approx(again.best.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(chunked.parameters.means, again.parameters.means, rtol=1e-9)
    # Of every row that has a value, its density of what it has.
    (summary,) = evaluate(scanner, [chunked.parameters], chunked.survey)
    expected = assign(chunked.parameters, X).log_densities
    assert summary.mean_log_likelihood == pytest.approx(np.nanmean(expected), rel=1e-12)
    assert summary.rows == chunked.survey.rows == np.count_nonzero(~np.isnan(expected))
    means = 6.0 * np.eye(3)
    found = chunked.parameters.means[np.argmax(chunked.parameters.means, axis=0)]
    np.testing.assert_allclose(found, means, atol=0.25)


def test_quantiles_are_of_complete_rows(X: np.ndarray) -> None:
    parameters = fit(scanner_of(X), PLAIN).parameters
    rows = find_holes(Rows(X, None, 0, 0))
    (summary,) = evaluate_rows(rows, (parameters,)).summaries
    complete = X[~np.isnan(X).any(axis=1)]
    (expected,) = evaluate_rows(Rows(complete, None, 0, 0), (parameters,)).summaries
    assert summary.complete_weight == len(complete)
    for share in (0.001, 0.5, 0.99):
        assert summary.quantile(share) == expected.quantile(share)
    threshold = expected.quantile(0.1)
    assert summary.share_below(threshold) == pytest.approx(0.1, abs=0.002)
    assert summary.complete_mean_log_likelihood == pytest.approx(expected.mean_log_likelihood)
    partial = find_holes(Rows(X[np.isnan(X).any(axis=1)], None, 0, 0))
    (nothing,) = evaluate_rows(partial, (parameters,)).summaries
    assert isinstance(nothing, DensitySummary)
    assert np.isnan([nothing.quantile(0.5), nothing.share_below(0.0)]).all()
    assert (nothing + expected).quantile(0.5) == expected.quantile(0.5)


@pytest.fixture(scope="module")
def reference() -> tuple[Any, ...]:
    source = drawn(12, 300, missing=0.3, weighted=True)
    options = replace(FIT, n_init=2, search_rows=300, em=EMOptions(1e-3, 3))
    states: list[FitState] = []
    result = fit(Scanner(source, Threads(1)), options, save=states.append)
    return source, options, bits(result), states


def test_threads_and_workers_give_the_same_bits(
    reference: tuple[Any, ...], any_executor: Executor
) -> None:
    source, options, expected, _ = reference
    scanner = Scanner(source, any_executor)
    result = fit(scanner, options)
    assert bits(result) == expected
    evaluate(scanner, [result.parameters], result.survey)
    uncached = fit(Scanner(source, any_executor, cache=False), options)
    assert bits(uncached) == expected


def test_a_fit_goes_on_from_any_state_with_the_same_bits(reference: tuple[Any, ...]) -> None:
    source, options, expected, states = reference
    for state in states:
        assert bits(fit(Scanner(source, Threads(2)), options, resume=state)) == expected


def test_a_selection_takes_rows_with_holes(X: np.ndarray) -> None:
    quick = replace(FIT, em=EMOptions(1e-3, 20), search_rows=500)
    options = SelectionOptions(make_cells([2, 3], ["full", "spherical"]), fit=quick)
    scanner = scanner_of(X[:1_500])
    result = select(scanner, options)
    mixtures = [cell.parameters for cell in result.results]
    choice = choose(result, options, evaluate(scanner, mixtures, result.results[0].survey))
    assert choice.table.chosen.n_components == 3


def test_a_fit_says_what_its_holes_cost_and_cannot_tell(X: np.ndarray) -> None:
    random = np.random.default_rng(0)
    wide = random.normal(size=(2_000, 9))
    wide = np.where(random.uniform(size=wide.shape) < 0.4, np.nan, wide)
    wide[:1_000, 0], wide[1_000:, 1] = np.nan, np.nan
    options = replace(FIT, spec=MixtureSpec(1, "diag"), search_rows=None)
    cost, unknown = fit(scanner_of(wide), options).warnings
    patterns = count_patterns(wide[~np.isnan(wide).all(axis=1)])
    assert f"have {patterns:,} patterns of missing values; rows of rare patterns take" in cost
    assert unknown.startswith("columns 'c0' and 'c1' are never there in the same row")
