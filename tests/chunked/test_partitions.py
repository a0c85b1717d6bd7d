"""Dask data frames as dask arrays: partitions as they are, columns by name, any type of number."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Client

from gmm_dask import GaussianMixture
from gmm_dask.chunked.array import array_chunks
from gmm_dask.chunked.partitions import count_rows, frame_array, series_array
from gmm_dask.chunked.scan import Executor, Scanner
from gmm_dask.errors import InputError, NonFiniteError, SchemaError
from gmm_dask.events import Stage
from tests.row_sources import row_sums

FRAME = pd.DataFrame(np.random.default_rng(0).normal(size=(1000, 3)), columns=list("abc"))
FLOAT64, FLOAT32 = np.dtype(np.float64), np.dtype(np.float32)
ROWS = (300, 0, 1, 699)


def slices(frame: pd.DataFrame) -> list[pd.DataFrame]:
    stops = np.cumsum(ROWS)
    return [frame[stop - rows : stop] for rows, stop in zip(ROWS, stops, strict=True)]


def part(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


def lazy(partitions: list[pd.DataFrame], meta: pd.DataFrame | None = None) -> Any:
    """A dask frame of partitions; dask believes ``meta`` of them."""
    meta = partitions[0][:0] if meta is None else meta
    return dd.from_map(part, partitions, meta=meta, enforce_metadata=False)


def test_partitions_are_blocks_however_ragged(any_executor: Executor) -> None:
    frame = lazy(slices(FRAME))
    assert count_rows(frame) == ROWS
    chunks = array_chunks(frame_array(frame, FLOAT64, ROWS), unit="partition")
    values = [rows.values for rows in chunks.read(0, 4)]
    np.testing.assert_array_equal(np.concatenate(values), FRAME)
    sums = Scanner(chunks, any_executor).reduce(row_sums, 1.0, Stage.SURVEY)
    np.testing.assert_allclose(sums, FRAME.sum())


def test_rows_are_counted_in_one_column_and_other_columns_are_not_read(tmp_path: Path) -> None:
    asked = []

    def read(part: pd.DataFrame, columns: list[str] | None = None) -> pd.DataFrame:
        asked.append(columns)
        return part if columns is None else part[columns]

    frame = dd.from_map(read, slices(FRAME.assign(d=1.0)), meta=FRAME[:0].assign(d=1.0))
    assert count_rows(frame[["c", "a"]]) == ROWS
    assert asked == [["c"]] * 4
    asked.clear()
    np.testing.assert_array_equal(
        frame_array(frame[["c", "a"]], FLOAT64).compute(), FRAME[["c", "a"]]
    )
    assert asked == [["a", "c"]] * 4 or asked == [["c", "a"]] * 4


def test_small_parquet_files_stay_partitions_of_their_own(tmp_path: Path) -> None:
    for number in range(6):
        FRAME[100 * number : 100 * (number + 1)].to_parquet(tmp_path / f"{number}.parquet")
    frame = dd.read_parquet(tmp_path)
    features, weights = frame[["a"]], frame["c"]
    # dask's own arrays of them have fewer blocks, and not of the same rows.
    assert features.to_dask_array().numblocks[0] < 6
    assert frame_array(features, FLOAT64).numblocks == (6, 1)
    assert series_array(weights).numblocks == (6,)
    assert count_rows(features) == (100,) * 6


@pytest.mark.parametrize("derived", [False, True])
def test_persisted_partitions_are_read_from_the_workers(
    client: Client, executor: Executor, derived: bool
) -> None:
    with client.as_current():
        frame = dd.from_pandas(FRAME, npartitions=8).persist()
    frame = frame[["b", "a"]] + 1.0 if derived else frame
    expected = FRAME[["b", "a"]] + 1.0 if derived else FRAME
    rows = count_rows(frame, client)
    assert rows == (125,) * 8
    chunks = array_chunks(frame_array(frame, FLOAT64, rows))
    assert chunks.persisted
    sums = Scanner(chunks, executor).reduce(row_sums, 1.0, Stage.SURVEY)
    np.testing.assert_allclose(sums, expected.sum())


@pytest.mark.parametrize("change", ["shuffle", "sort_values"])
def test_shuffled_frames_are_read_though_a_client_is_current(
    client: Client, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    with client.as_current():  # dask would shuffle by messages between its workers
        frame = getattr(dd.from_pandas(FRAME, npartitions=8), change)("a")
        chunks = array_chunks(frame_array(frame, FLOAT64, count_rows(frame)))
    values = np.concatenate([rows.values for rows in chunks.read(0, len(chunks.rows))])
    np.testing.assert_array_equal(np.sort(values, axis=0), np.sort(FRAME, axis=0))
    assert "every scan computes these again for each; persist X first" in caplog.text


def test_a_sum_over_all_rows_in_each_block_is_told_and_a_plain_frame_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    frame = dd.from_pandas(FRAME, npartitions=20)
    array_chunks(frame_array(frame[frame.a > 0] * 2.0, FLOAT64))
    assert not caplog.text
    array = da.from_array(FRAME.to_numpy(), chunks=(50, 3))
    array_chunks(array - array.mean(axis=0))
    assert "each block of X is computed from many others" in caplog.text


def test_a_shuffle_by_messages_is_refused() -> None:
    frame = dd.from_pandas(FRAME, npartitions=8).shuffle("a", shuffle_method="p2p")
    with pytest.raises(InputError, match=r"by messages between workers \(p2p\).* persist X first"):
        array_chunks(frame_array(frame, FLOAT64, (125,) * 8))


def test_a_frame_that_dask_persists_in_part_is_refused(tmp_path: Path) -> None:
    for number in range(6):
        FRAME[100 * number : 100 * (number + 1)].to_parquet(tmp_path / f"{number}.parquet")
    frame = dd.read_parquet(tmp_path)[["a"]].persist(scheduler="synchronous")
    with pytest.raises(SchemaError, match=r"^X cannot be computed: [1-6] of the results"):
        count_rows(frame)


NUMBERS = [
    [1, 2, 3],
    [True, False, True],
    np.array([1, 2, 3], dtype=np.float16),
    np.array([1, None, 3.5], dtype=object),
    pd.Categorical([5, None, 7]),
    pd.arrays.SparseArray([0.0, 0.0, 1.5]),
    pd.array([True, None, False], "boolean"),
    *(pd.array([1, None, 3], kind) for kind in ("Int8", "Int64", "Float32", "int64[pyarrow]")),
]


@pytest.mark.parametrize("beside", [[0.5, 1.5, 2.5], None])
@pytest.mark.parametrize("values", NUMBERS, ids=str)
def test_partitions_may_differ_in_type_as_long_as_they_hold_numbers(
    values: Any, beside: list[float] | None
) -> None:
    other = pd.DataFrame({"a": values} if beside is None else {"a": values, "b": beside})
    meta = pd.DataFrame(dict.fromkeys(other.columns, np.array([0.25], dtype=np.float32)))
    with dask.config.set({"dataframe.convert-string": False}):  # objects would become text
        array = frame_array(lazy([meta, other], meta[:0]), FLOAT32)
    first, second = dask.compute(*array.to_delayed()[:, 0], scheduler="synchronous")
    assert first.dtype == np.float32
    expected = pd.Series(values).astype(object).astype("Float64").to_numpy(float, na_value=np.nan)
    np.testing.assert_array_equal(second[:, 0], expected)


def test_a_wider_partition_is_not_rounded() -> None:
    narrow = pd.DataFrame({"a": np.array([0.5], dtype=np.float32)})
    wide = pd.DataFrame({"a": [1 / 3]})
    array = frame_array(lazy([narrow, wide], narrow[:0]), FLOAT32)
    assert array.blocks[1].compute(scheduler="synchronous").tolist() == [[1 / 3]]
    integers = frame_array(lazy([narrow, pd.DataFrame({"a": [2**24 + 1]})], narrow[:0]), FLOAT32)
    assert integers.blocks[1].compute(scheduler="synchronous").tolist() == [[2**24 + 1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda part: part.assign(b="7"), "partition 2: column 'b' is of type .*, not a number"),
        (lambda part: part.assign(b=pd.Timestamp(0)), "partition 2: column 'b' is of type dateti"),
        (lambda part: part.drop(columns="b"), "partition 2: column 'b' is missing, though the"),
    ],
)
def test_a_partition_that_cannot_be_read_is_named(change: Any, message: str) -> None:
    partitions = slices(FRAME)
    partitions[2] = change(partitions[2])
    frame = lazy(partitions)
    with pytest.raises(SchemaError, match=message) as caught:
        frame_array(frame, FLOAT64).compute(scheduler="synchronous")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # from a worker


def test_columns_of_a_partition_are_taken_by_name() -> None:
    partitions = slices(FRAME)
    partitions[3] = partitions[3][["c", "a", "b"]].assign(unasked=1.0)
    frame = lazy(partitions)
    np.testing.assert_array_equal(frame_array(frame, FLOAT64).compute(), FRAME)


def weights_of(chunks: Any) -> np.ndarray:
    return np.concatenate([rows.sample_weight for rows in chunks.read(0, len(chunks.rows))])


def test_weights_of_a_column_travel_with_their_rows() -> None:
    frame = lazy(slices(FRAME.assign(w=pd.array(range(1000), "Int64"))))
    array = frame_array(frame[["a", "b", "c"]], FLOAT64, ROWS)
    for weights in (frame["w"], series_array(frame["w"]), np.arange(1000), range(1000)):
        np.testing.assert_array_equal(weights_of(array_chunks(array, weights)), np.arange(1000))
    missing = lazy(slices(FRAME.assign(w=pd.array([None, *range(999)], "Int64"))))["w"]
    assert np.isnan(weights_of(array_chunks(array, missing))[0])


def test_weights_of_other_partitions_are_refused() -> None:
    frame = lazy(slices(FRAME))
    array = frame_array(frame, FLOAT64, ROWS)
    with pytest.raises(SchemaError, match="sample_weight has 2 partitions and X has 4; take"):
        array_chunks(array, frame["a"].repartition(npartitions=2), unit="partition")
    chunks = array_chunks(array, frame[frame["a"] > 0]["a"], unit="partition")
    message = r"partition 0 rows 0–300: 300 rows have \d+ sample weights; take the weights from"
    with pytest.raises(SchemaError, match=message):
        weights_of(chunks)
    with pytest.raises(SchemaError, match=r"^column 'a' is of type str"):
        array_chunks(array, frame["a"].astype("string[pyarrow]"))


def on_a_worker(number: int, here: int) -> pd.DataFrame:
    assert os.getpid() != here, "a partition was read by the client's process"
    return FRAME[125 * number : 125 * (number + 1)]


def test_a_fit_on_workers_reads_nothing_here_and_has_the_bits_of_threads(client: Client) -> None:
    keywords: dict[str, Any] = {"n_components": 2, "random_state": 0, "search_rows": 200}
    X = dd.from_map(on_a_worker, range(8), here=os.getpid(), meta=FRAME[:0])
    model = GaussianMixture(**keywords).fit(X, sample_weight=X["a"].abs(), client=client)
    here = dd.from_pandas(FRAME, npartitions=8)
    expected = GaussianMixture(**keywords).fit(here, sample_weight=here["a"].abs())
    np.testing.assert_array_equal(model.means_, expected.means_)
    np.testing.assert_array_equal(model.covariances_, expected.covariances_)
    array = X.map_partitions(pd.DataFrame.to_numpy, meta=np.empty((0, 3)))  # knows no sizes
    model.fit(array, client=client)
    assert not hasattr(model, "feature_names_in_")


@pytest.fixture
def parquet(tmp_path: Path) -> Any:
    """A dask frame of four small Parquet files with a key and a column that nobody needs."""
    keyed = FRAME.assign(key=[f"row {number}" for number in range(1000)], unused=0.0)
    for number in range(4):
        keyed[250 * number : 250 * (number + 1)].to_parquet(tmp_path / f"{number}.parquet")
    return dd.read_parquet(tmp_path)


def test_predictions_of_a_frame_on_workers_are_those_of_threads(
    client: Client, parquet: Any
) -> None:
    model = GaussianMixture(2, random_state=0).fit(FRAME)
    expected = model.predict_frame(parquet.compute(), keys=["key"])
    for frame in (parquet, client.persist(parquet)):
        result = model.predict_frame(frame, keys=["key"])
        pd.testing.assert_frame_equal(result.compute(scheduler=client), expected)
    assert expected["key"].to_list() == [f"row {number}" for number in range(1000)]
    rare = result[result["component"] == 1]["key"].compute(scheduler=client)
    assert rare.to_list() == expected["key"][expected["component"] == 1].to_list()


def test_predicted_partitions_are_those_of_the_frame(parquet: Any) -> None:
    models = [GaussianMixture(k, random_state=0).fit(FRAME) for k in (2, 3)]
    results = [model.predict_frame(parquet, keys=["key"]) for model in models]
    for model, result in zip(models, dask.compute(*results), strict=True):
        np.testing.assert_array_equal(result["component"], model.predict(FRAME))
    assert results[0].optimize().npartitions == 4  # dask would join small files to one
    bad = parquet.assign(b=parquet["b"].where(parquet["key"] != "row 600"))
    with pytest.raises(NonFiniteError, match="the first at row 100 of partition 2;"):
        models[0].predict_frame(bad).compute()
