"""Dask arrays as sources of rows, on threads and on a cluster, and predictions as lazy arrays."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client

from gmm_dask.chunked.array import ArrayChunks, array_chunks, predict_array
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.errors import InputChangedError, NonFiniteError, SchemaError, TooFewRowsError
from gmm_dask.events import Stage
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.parameters import MixtureParameters
from tests.row_sources import row_sums

X = np.random.default_rng(0).normal(size=(1000, 4))
SUMS = X.sum(axis=0)


def values_of(chunks: ArrayChunks) -> np.ndarray:
    return np.concatenate([rows.values for rows in chunks.read(0, len(chunks.rows))])


@pytest.mark.parametrize(
    "rows", [(1000,), (300, 300, 300, 100), (0, 1, 998, 0, 1), (999, 1)], ids=str
)
def test_blocks_are_chunks_however_ragged(any_executor: Any, rows: tuple[int, ...]) -> None:
    chunks = array_chunks(da.from_array(X, chunks=(rows, 4)))
    assert chunks.rows == rows
    assert chunks.entries == tuple(range(len(rows)))
    assert chunks.columns == ("x0", "x1", "x2", "x3")
    np.testing.assert_array_equal(values_of(chunks), X)
    firsts = [block.first for block in chunks.read(0, len(rows))]
    assert firsts == [sum(rows[:chunk]) for chunk in range(len(rows))]
    sums = Scanner(chunks, any_executor).reduce(row_sums, 1.0, Stage.SURVEY)
    np.testing.assert_allclose(sums, SUMS)


def test_blocks_of_columns_are_joined() -> None:
    chunks = array_chunks(da.from_array(X, chunks=(300, (1, 3))), columns=tuple("abcd"))
    assert chunks.rows == (300, 300, 300, 100)
    assert chunks.columns == ("a", "b", "c", "d")
    np.testing.assert_array_equal(values_of(chunks), X)


def test_rows_of_unknown_number_are_counted() -> None:
    array = da.from_array(X, chunks=(300, 4))
    positive = array[array[:, 0] > 0]
    assert np.isnan(positive.shape[0])
    chunks = array_chunks(positive)
    expected = X[X[:, 0] > 0]
    assert sum(chunks.rows) == len(expected)
    np.testing.assert_array_equal(values_of(chunks), expected)
    weighted = array_chunks(positive, np.arange(len(expected)))
    np.testing.assert_array_equal(weights_of(weighted), np.arange(float(len(expected))))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float64", "float64"),
        ("float32", "float32"),
        ("float16", "float64"),
        ("int8", "float64"),
        ("uint32", "float64"),
        ("bool", "float64"),
    ],
)
def test_numbers_of_any_type_are_read(dtype: str, expected: str) -> None:
    values = (X * 10).astype(dtype)
    chunks = array_chunks(da.from_array(values, chunks=(400, 4)))
    assert chunks.dtype == np.dtype(expected)
    read = values_of(chunks)
    assert read.dtype == np.dtype(expected)
    np.testing.assert_array_equal(read, values.astype(expected))


def weights_of(chunks: ArrayChunks) -> np.ndarray:
    assert chunks.weighted
    read = [rows.sample_weight for rows in chunks.read(0, len(chunks.rows))]
    assert all(weights.dtype == np.float64 for weights in read if weights is not None)
    return np.concatenate([weights for weights in read if weights is not None])


@pytest.mark.parametrize("kind", ["list", "numpy", "dask", "dask in other chunks"])
def test_weights_travel_with_their_rows(kind: str) -> None:
    weights = np.arange(1000)
    sample_weight: Any = {
        "list": weights.tolist(),
        "numpy": weights,
        "dask": da.from_array(weights, chunks=300),
        "dask in other chunks": da.from_array(weights, chunks=77),
    }[kind]
    chunks = array_chunks(da.from_array(X, chunks=(300, 4)), sample_weight)
    np.testing.assert_array_equal(weights_of(chunks), weights)
    assert chunks.digest != array_chunks(da.from_array(X, chunks=(300, 4))).digest


@pytest.mark.parametrize(
    ("array", "weights", "message"),
    [
        (da.ones(10), None, r"Expected 2D array, got 1D array instead; .* use X\.reshape\(-1, 1\)"),
        (da.ones((2, 2, 2)), None, "Expected 2D array, got 3D array instead"),
        (da.from_array(np.array([["a"]])), None, "X has dtype <U1; only numbers can be used"),
        (da.ones((10, 2)) * 1j, None, "X has dtype complex128; only numbers"),
        (da.ones((10, 2)), np.array(["1"] * 10), "sample_weight has dtype <U1; only numbers"),
        (da.ones((10, 2)), np.ones(9), r"sample_weight has shape \(9,\); X has 10 rows"),
        (da.ones((10, 2)), da.ones((10, 1)), r"sample_weight has shape \(10, 1\); X has 10 rows"),
    ],
)
def test_what_cannot_be_used_is_refused(array: da.Array, weights: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        array_chunks(array, weights)


def test_a_block_of_another_length_than_the_array_says_is_an_error() -> None:
    array = da.from_array(X, chunks=(500, 4)).map_blocks(lambda block: block[:-1], dtype=float)
    with pytest.raises(
        InputChangedError, match=r"block 0 rows 0–500: 499 rows were read, 500 were"
    ):
        Scanner(array_chunks(array), Threads(1)).reduce(row_sums, 1.0, Stage.SURVEY)


def test_a_block_of_text_is_refused_though_the_array_says_numbers() -> None:
    array = da.from_array(X, chunks=(500, 4)).map_blocks(
        lambda block: block.astype(str), dtype=float
    )
    with pytest.raises(
        SchemaError, match="a block of X has dtype <U32; only numbers can be used: conv"
    ):
        Scanner(array_chunks(array), Threads(1)).reduce(row_sums, 1.0, Stage.SURVEY)


@pytest.mark.parametrize("weights", [np.ones(999), np.ones(1001)], ids=len)
def test_a_block_of_other_weights_than_rows_is_refused(weights: np.ndarray) -> None:
    array = da.from_array(X, chunks=(1000, 4))
    given = da.ones(1000, chunks=1000).map_blocks(lambda block: weights, dtype=float)
    message = f"block 0 rows 0–1,000: 1,000 rows have {len(weights):,} sample weights; take the"
    with pytest.raises(SchemaError, match=message):
        Scanner(array_chunks(array, given), Threads(1)).reduce(row_sums, 1.0, Stage.SURVEY)


def test_a_graph_that_gives_other_values_the_second_time_is_an_error() -> None:
    calls = []

    def drifting(block: np.ndarray) -> np.ndarray:
        calls.append(1)
        return block + len(calls)

    array = da.from_array(X, chunks=(1000, 4)).map_blocks(drifting, dtype=float, meta=X[:0])
    scanner = Scanner(array_chunks(array), Threads(1, memory=0))
    scanner.reduce(row_sums, 1.0, Stage.SURVEY)
    with pytest.raises(InputChangedError, match=r"block 0 .* the values are not those of the"):
        scanner.reduce(row_sums, 1.0, Stage.SURVEY)


def test_a_block_is_described_by_its_rows() -> None:
    chunks = array_chunks(da.from_array(X, chunks=(300, 4)))
    assert chunks.describe(3) == "block 3 rows 900–1,000"
    assert chunks.describe(3, 5) == "block 3 row 905"


@pytest.mark.parametrize("derived", [False, True])
def test_a_persisted_array_is_read_from_the_workers(
    client: Client, executor: Any, derived: bool
) -> None:
    with client.as_current():
        array = da.from_array(X, chunks=(130, 4)).persist()
        weights = da.ones(1000, chunks=130).persist() * 2.0
    if derived:
        array = array[:, ::-1] + 1.0
    expected = X[:, ::-1] + 1.0 if derived else X
    chunks = array_chunks(array, weights)
    assert chunks.persisted
    np.testing.assert_array_equal(values_of(chunks), expected)
    np.testing.assert_array_equal(weights_of(chunks), np.full(1000, 2.0))
    # Each of the two workers holds some of the blocks.
    sums = Scanner(chunks, executor).reduce(row_sums, 1.0, Stage.SURVEY)
    np.testing.assert_allclose(sums, expected.sum(axis=0))


def test_arrays_persisted_here_are_read_here() -> None:
    with dask.config.set(scheduler="synchronous"):
        array = da.from_array(X, chunks=(300, 4)).persist()
    chunks = array_chunks(array)
    assert not chunks.persisted
    np.testing.assert_array_equal(values_of(chunks), X)


@pytest.fixture
def mixture() -> MixtureParameters:
    return MixtureParameters.from_covariances(
        "diag", np.array([0.3, 0.7]), np.array([[-1.0] * 4, [1.0] * 4]), np.ones((2, 4))
    )


@pytest.mark.parametrize("chunks", [(1000, 4), ((0, 600, 400), (2, 2))])
@pytest.mark.parametrize("what", ["labels", "log_densities", "responsibilities"])
def test_predictions_are_lazy_and_those_of_the_array(
    mixture: MixtureParameters, what: str, chunks: Any
) -> None:
    predicted = predict_array(da.from_array(X, chunks=chunks), mixture, what)
    expected = getattr(assign(mixture, X, responsibilities=True), what)
    assert isinstance(predicted, da.Array)
    assert predicted.shape == expected.shape
    computed = predicted.compute(scheduler="synchronous")
    assert predicted.dtype == computed.dtype
    np.testing.assert_array_equal(computed, expected)


def test_a_row_that_cannot_be_predicted_is_named(mixture: MixtureParameters) -> None:
    bad = X.copy()
    bad[700, 2] = np.nan
    predicted = predict_array(da.from_array(bad, chunks=(500, 4)), mixture, "labels")
    message = r"contains NaN: column 'x2' holds 1 null or NaN, the first at row 700; leave"
    with pytest.raises(NonFiniteError, match=message):
        predicted.compute(scheduler="synchronous")


def test_a_row_of_an_unknown_number_is_named_within_its_block(mixture: MixtureParameters) -> None:
    bad = X.copy()
    bad[700, 2] = np.nan
    array = da.from_array(bad, chunks=(500, 4))
    predicted = predict_array(array[array[:, 0] < np.inf], mixture, "labels")
    with pytest.raises(NonFiniteError, match="the first at row 200 of block 1; leave"):
        predicted.compute(scheduler="synchronous")


def test_arrays_without_rows_or_features_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"Found array with 0 feature\(s\) \(shape=\(10, 0\)\)"):
        array_chunks(da.zeros((10, 0)))
    with pytest.raises(TooFewRowsError, match=r"Found array with 0 sample\(s\) \(shape=\(0, 3\)\)"):
        array_chunks(da.zeros((0, 3)))
