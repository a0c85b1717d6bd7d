"""The survey against numpy; its sample depends only on the rows and the seed."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest

from gmm_dask.chunked.array import array_chunks
from gmm_dask.chunked.rows import MemoryChunks
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey import survey_source
from gmm_dask.chunked.survey_record import Survey, frequent_values
from gmm_dask.chunked.threads import Threads
from gmm_dask.errors import InputError, NonFiniteError, TooFewRowsError
from gmm_dask.mixture.kernels.sampling import rows_below
from gmm_dask.mixture.sample import Sample
from gmm_dask.nulls import NullPolicy
from tests.row_sources import DrawnRows, drawn


def survey_array(
    X: np.ndarray,
    sample_rows: int = 100,
    *,
    weights: np.ndarray | None = None,
    chunk_rows: int = 70,
    nulls: NullPolicy = NullPolicy.ERROR,
    seed: int = 0,
) -> Survey:
    columns = tuple(f"c{number}" for number in range(X.shape[1]))
    chunks = MemoryChunks(X, weights, chunk_rows, columns)
    return survey_source(Scanner(chunks, Threads(2)), sample_rows, seed, nulls)


def splitmix64(seed: int, number: int) -> int:
    """The hash as Steele, Lea and Flood print it, on integers of any size."""
    mixed = (number + 1) * 0x9E3779B97F4A7C15 % 2**64
    mixed ^= (seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
    return mixed ^ (mixed >> 31)


def smallest(seed: int, numbers: np.ndarray, wanted: int) -> np.ndarray:
    """The row numbers of smallest priority, in ascending order."""
    return np.array(sorted(sorted(numbers.tolist(), key=lambda n: splitmix64(seed, n))[:wanted]))


@pytest.fixture
def X() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1000, 3)) * [1.0, 10.0, 0.1] + [0.0, 5.0, 1e6]


@pytest.mark.parametrize("chunk_rows", [1, 70, 1000])
@pytest.mark.parametrize("order", ["C", "F"])
def test_moments_agree_with_numpy(
    X: np.ndarray, small_groups: int, chunk_rows: int, order: Any
) -> None:
    survey = survey_array(np.asarray(X, order=order), chunk_rows=chunk_rows)
    assert (survey.source_rows, survey.rows, survey.dropped, survey.weight) == (
        1000,
        1000,
        0,
        1000.0,
    )
    np.testing.assert_allclose(survey.moments.mean, X.mean(axis=0), rtol=1e-13)
    np.testing.assert_array_equal(survey.moments.minimum, X.min(axis=0))
    np.testing.assert_array_equal(survey.moments.maximum, X.max(axis=0))
    np.testing.assert_allclose(survey.variances, X.var(axis=0), rtol=1e-9)


def test_float32_is_summed_in_float64() -> None:
    X = np.full((50_000, 1), 0.1, dtype=np.float32)
    survey = survey_array(X, chunk_rows=10_000)
    assert survey.moments.mean[0] == pytest.approx(float(np.float32(0.1)), rel=1e-14)
    assert survey.sample.X.dtype == np.float32


def test_the_sample_is_exactly_the_rows_of_smallest_priority(X: np.ndarray) -> None:
    survey = survey_array(X, 100, seed=3)
    chosen = smallest(3, np.arange(1000), 100)
    np.testing.assert_array_equal(survey.sample.X, X[chosen])
    assert survey.sample.sample_weight is None
    assert survey.sample.X.T.flags.c_contiguous
    reseeded = survey_array(X, 100, seed=4)
    assert not np.array_equal(survey.sample.X, reseeded.sample.X)


@pytest.mark.parametrize("first", [0, 511, 2**45])
@pytest.mark.parametrize("rows", [0, 1, 511, 512, 1500])
def test_rows_below_a_threshold_are_found_wherever_a_chunk_begins(first: int, rows: int) -> None:
    threshold = 2**62  # a quarter of them
    numbers, priorities = rows_below(12345, first, rows, threshold)
    all_priorities = {n: splitmix64(12345, n) for n in range(first, first + rows)}
    assert dict(zip(numbers.tolist(), priorities.tolist(), strict=True)) == {
        number: priority for number, priority in all_priorities.items() if priority <= threshold
    }
    assert (np.diff(numbers) > 0).all()
    assert len(rows_below(12345, first, rows, 2**64 - 1)[0]) == rows


def test_a_sample_as_large_as_the_input_is_the_input(X: np.ndarray) -> None:
    np.testing.assert_array_equal(survey_array(X, 5000).sample.X, X)


def test_the_sample_is_uniform() -> None:
    X = np.arange(100_000.0)[:, None]
    sample = survey_array(X, 20_000, chunk_rows=9_000).sample.X[:, 0]
    counts, _ = np.histogram(sample, bins=50, range=(0, 100_000))
    # 400 expected in each bin; χ² with 49 degrees of freedom exceeds 95 once in 10,000 seeds.
    assert ((counts - 400) ** 2 / 400).sum() < 95


@pytest.mark.parametrize("chunks", [(5000,), (1, 999, 0, 2500, 1500), (1250,) * 4])
def test_the_sample_does_not_depend_on_chunks_or_executor(
    any_executor: Any, small_groups: int, chunks: tuple[int, ...]
) -> None:
    X = np.random.default_rng(2).normal(size=(5000, 2))
    X[::17, 1] = np.nan
    weights = np.random.default_rng(3).random(5000)
    array = da.from_array(X, chunks=(chunks, 2))
    scanner = Scanner(array_chunks(array, weights), any_executor)
    survey = survey_source(scanner, 300, 7, NullPolicy.DROP)
    assert survey.nulls_left is NullPolicy.DROP
    complete = np.flatnonzero(~np.isnan(X[:, 1]))
    chosen = smallest(7, complete, 300)
    np.testing.assert_array_equal(survey.sample.X, X[chosen])
    np.testing.assert_array_equal(survey.sample.sample_weight, weights[chosen])
    assert survey.weight == pytest.approx(weights[complete].sum(), rel=1e-13)
    assert survey.dropped == 5000 - len(complete)


def test_moments_are_the_same_bits_on_any_executor(small_groups: int, executor: Any) -> None:
    source = drawn(30, 700, weighted=True, missing=0.01)
    first, *others = [
        survey_source(Scanner(source, runner), 500, 0, NullPolicy.DROP)
        for runner in (Threads(1), Threads(3), executor)
    ]
    for survey in others:
        np.testing.assert_array_equal(survey.moments.squares, first.moments.squares)
        np.testing.assert_array_equal(survey.moments.mean, first.moments.mean)
        np.testing.assert_array_equal(survey.sample.X, first.sample.X)
        assert survey.weight == first.weight


def test_nulls_are_counted_and_the_first_is_named(X: np.ndarray) -> None:
    X[[640, 130, 900], [1, 1, 0]] = np.nan
    message = r"contains NaN: column 'c0' holds 1 null or NaN, the first at row 900; leave such"
    with pytest.raises(NonFiniteError, match=message):
        survey_array(X)
    X[900, 0] = 0.0
    with pytest.raises(NonFiniteError, match=r"column 'c1' holds 2 nulls or NaN, .* at row 130;"):
        survey_array(X)
    survey = survey_array(X, nulls=NullPolicy.DROP)
    complete = np.delete(X, [130, 640], axis=0)
    assert (survey.rows, survey.dropped) == (998, 2)
    np.testing.assert_allclose(survey.moments.mean, complete.mean(axis=0), rtol=1e-13)


@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("nulls", NullPolicy)
def test_infinity_is_always_refused(X: np.ndarray, value: float, nulls: str) -> None:
    X[[5, 700], [2, 2]] = value
    X[3, 1] = np.nan
    message = r"contains infinity: column 'c2' holds 2 infinite values, the first at row 5; remove"
    with pytest.raises(NonFiniteError, match=message):
        survey_array(X, nulls=nulls)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            slice(700, 702),
            -1.0,
            r"sample_weight: 2 weights are negative, infinite or above 1e\+140, .* at row 700; ",
        ),
        (17, np.inf, r"sample_weight: 1 weight is negative, infinite or above .* at row 17; wei"),
        (slice(4, 7), 1e308, r"sample_weight: 3 weights are .* or above 1e\+140, .* at row 4; wei"),
        (17, np.nan, r"^sample_weight: 1 weight is null or NaN, the first at row 17; fill them in"),
        (slice(None), 0.0, r"sample_weight: all weights are 0; at least one must be above 0"),
    ],
)
@pytest.mark.parametrize("nulls", NullPolicy)
def test_unusable_weights_are_refused(
    X: np.ndarray, place: Any, value: float, message: str, nulls: str
) -> None:
    weights = np.ones(1000)
    weights[place] = value
    with pytest.raises(InputError, match=message):
        survey_array(X, weights=weights, nulls=nulls)


def test_no_complete_row_is_an_error_that_names_the_empty_column(X: np.ndarray) -> None:
    X[:, 1] = np.nan
    with pytest.raises(
        TooFewRowsError,
        match=r"in 1,000: column 'c1' holds nothing but nulls, the first at .*row 0; ",
    ):
        survey_array(X, nulls=NullPolicy.DROP)
    X[:500, 1] = 0.0
    X[500:, 2] = np.nan
    X[:500, 0] = np.nan
    with pytest.raises(
        TooFewRowsError,
        match=r"in 1,000: every row has a null, the first at .*row 0; ",
    ):
        survey_array(X, nulls=NullPolicy.DROP)


def test_a_source_of_empty_chunks_has_no_rows() -> None:
    with pytest.raises(TooFewRowsError, match="the input has no rows"):
        survey_source(Scanner(DrawnRows((0, 0), (0, 1)), Threads(1)), 10, 0, NullPolicy.ERROR)


def test_a_value_that_many_rows_share_is_found() -> None:
    X = np.random.default_rng(0).normal(size=(2000, 2))
    X[:40, 1] = 7.5
    assert frequent_values(Sample(X, None)) == [(1, 7.5, 0.02)]
    X[19:40, 1] = np.arange(21)
    assert frequent_values(Sample(X, None)) == []
    just_below = np.random.default_rng(0).normal(size=(2_050, 1))
    just_below[:20] = 7.5  # 20 of 2,050 are less than 1 %
    assert frequent_values(Sample(just_below, None)) == []
    just_below[20] = 7.5
    assert [value for _, value, _ in frequent_values(Sample(just_below, None))] == [7.5]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_values_of_other_bits_are_one_frequent_value(dtype: type) -> None:
    X = np.random.default_rng(0).normal(size=(4_000, 3)).astype(dtype)
    X[:30, 0], X[30:60, 0] = 0.0, -0.0
    X[:2_000, 1] = np.nan  # a hole is no value
    assert frequent_values(Sample(X, None)) == [(0, 0.0, 0.015)]
    assert frequent_values(Sample(X[:0], None)) == []
