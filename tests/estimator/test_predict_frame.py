"""`predict_frame`: predictions as the caller's kind of data frame, beside its keys."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError

from gmm_dask import GaussianMixture, load_model
from gmm_dask.errors import ConfigError, NonFiniteError, SchemaError
from tests.steps.tables import make_run, read_predictions, run_fit, run_predict, write_days

Columns = dict[str, Any]
N = 600
BLOBS, _ = make_blobs(N, centers=5, n_features=2, cluster_std=1.5, random_state=0)
COLUMNS: Columns = {
    "b": BLOBS[:, 1],
    "id": [f"row {number}" for number in range(N)],
    "a": BLOBS[:, 0],
    "time": pd.date_range("2024-01-01", periods=N).to_numpy(),
    "component": ["of a machine"] * N,
}
FEATURES = pd.DataFrame(BLOBS, columns=["a", "b"])
KINDS: dict[str, Callable[[Columns], Any]] = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "pyarrow": pa.table,
}


@pytest.fixture(scope="module")
def fitted() -> GaussianMixture:
    return GaussianMixture(5, random_state=0).fit(FEATURES).merge_components(FEATURES)


@pytest.fixture
def mixture(fitted: GaussianMixture) -> GaussianMixture:
    return pickle.loads(pickle.dumps(fitted))


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Callable[[Columns], Any]:
    return KINDS[request.param]


def columns_of(table: Any) -> dict[str, list[Any]]:
    frame = nw.from_native(table)
    return {name: frame[name].to_list() for name in frame.columns}


def test_the_result_is_the_callers_kind_of_frame(
    mixture: GaussianMixture, make: Callable[[Columns], Any]
) -> None:
    table = make(COLUMNS)
    result = mixture.predict_frame(table, keys=["time", "id", "a"])
    assert type(result) is type(table)
    frame = nw.from_native(result)
    assert frame.columns == ["time", "id", "a", "component", "log_density"]
    assert frame.schema["component"] == nw.Int32()
    assert frame.schema["log_density"] == nw.Float64()
    given = nw.from_native(table)
    for name in ("time", "id", "a"):
        assert frame[name].dtype == given[name].dtype
        assert frame[name].to_list() == given[name].to_list()
    np.testing.assert_array_equal(frame["component"].to_numpy(), mixture.predict(FEATURES))
    np.testing.assert_array_equal(frame["log_density"].to_numpy(), mixture.score_samples(FEATURES))
    assert nw.from_native(table).columns == list(COLUMNS)  # the caller's is what it was
    without_keys = nw.from_native(mixture.predict_frame(table))
    assert without_keys.columns == ["component", "log_density"]
    assert without_keys.shape == (N, 2)
    assert nw.from_native(mixture.predict_frame(table, "id")).columns[0] == "id"


def test_clusters_have_the_smallest_id_of_their_components(
    mixture: GaussianMixture, make: Callable[[Columns], Any]
) -> None:
    mixture.component_ids_ = np.array([7, 3, 11, 0, 5])  # as those of a published model
    ids = mixture.component_ids_
    for asked, n in ((True, None), (np.True_, None), (1, 1), (3, 3), (5, 5)):
        table = mixture.predict_frame(make(COLUMNS), ["id"], cluster=asked)
        assert nw.from_native(table).schema["cluster"] == nw.Int32()
        result = columns_of(table)
        assert list(result) == ["id", "component", "cluster", "log_density"]
        cut = mixture.merge_tree_.cut(n)
        names = np.array([ids[cut == number].min() for number in range(cut.max() + 1)])
        assert result["cluster"] == names[mixture.predict_clusters(FEATURES, n)].tolist()
        assert result["component"] == ids[mixture.predict(FEATURES)].tolist()
    assert result["cluster"] == result["component"]


def test_a_pandas_index_is_kept(mixture: GaussianMixture) -> None:
    table = pd.DataFrame(COLUMNS)
    for index in (
        pd.Index(np.arange(N)[::-1] % 7, name="week"),  # labels that occur more than once
        pd.MultiIndex.from_product([range(N // 2), ["x", "y"]]),
    ):
        result = mixture.predict_frame(table.set_axis(index, axis=0), ["id"])
        pd.testing.assert_index_equal(result.index, index)
        assert result["id"].to_list() == COLUMNS["id"]
        np.testing.assert_array_equal(result["component"], mixture.predict(FEATURES))


def test_a_frame_without_rows_gives_one_without_rows(
    mixture: GaussianMixture, make: Callable[[Columns], Any]
) -> None:
    table = make(COLUMNS)
    result = nw.from_native(mixture.predict_frame(table[:0], ["id"], cluster=True))
    whole = nw.from_native(mixture.predict_frame(table, ["id"], cluster=True))
    assert result.shape == (0, 4)
    assert result.schema == whole.schema


def test_a_record_batch_gives_a_table(mixture: GaussianMixture) -> None:
    table = pa.table(COLUMNS)
    result = mixture.predict_frame(table.to_batches()[0], ["id"])
    assert result.equals(mixture.predict_frame(table, ["id"]))


def lazy(table: pd.DataFrame, stops: tuple[int, ...] = (100, 100, 599, N)) -> Any:
    """The table as a dask frame of ragged partitions."""
    starts = (0, *stops[:-1])
    partitions = [table[start:stop] for start, stop in zip(starts, stops, strict=True)]
    return dd.from_map(part, partitions, meta=table[:0])


def part(table: pd.DataFrame) -> pd.DataFrame:
    return table


@pytest.mark.parametrize("cluster", [False, True, 2])
def test_a_dask_frame_gives_a_lazy_dask_frame(
    mixture: GaussianMixture, cluster: bool | int
) -> None:
    table = pd.DataFrame(COLUMNS)
    for dask_frame in (lazy(table), dd.from_pandas(table, npartitions=3)):
        result = mixture.predict_frame(dask_frame, ["id", "a"], cluster=cluster)
        assert isinstance(result, dd.DataFrame)
        assert result.divisions == dask_frame.divisions
        assert result.npartitions == dask_frame.npartitions
        expected = mixture.predict_frame(dask_frame.compute(), ["id", "a"], cluster=cluster)
        assert result.dtypes.to_dict() == expected.dtypes.to_dict()
        pd.testing.assert_frame_equal(result.compute(), expected)


def test_each_partition_is_read_once_and_only_in_the_columns_needed(
    mixture: GaussianMixture,
) -> None:
    table = pd.DataFrame(COLUMNS)
    readings: Counter[int] = Counter()
    columns_read: list[list[str]] = []

    def read(number: int, columns: list[str] | None = None) -> pd.DataFrame:
        readings[number] += 1
        assert columns is not None
        columns_read.append(sorted(columns))
        return table[100 * number : 100 * (number + 1)][columns]

    result = mixture.predict_frame(dd.from_map(read, range(6), meta=table[:0]), ["id"])
    assert not readings
    result.compute(scheduler="sync")
    assert readings == dict.fromkeys(range(6), 1)
    assert columns_read == [["a", "b", "id"]] * 6


def test_a_published_model_gives_the_columns_that_are_published(tmp_path: Path) -> None:
    write_days(tmp_path, nulls=False)
    run = make_run(tmp_path, model__n_components=6, predict__cluster=True)
    run_fit(run)
    run_predict(run)
    model = load_model(tmp_path / "models" / "boxes")
    table = pq.read_table(run.input.path)
    published = read_predictions(run)
    result = model.predict_frame(table, cluster=True)
    assert result.schema.types == published.select(result.column_names).schema.types
    assert result.equals(published.select(result.column_names).cast(result.schema))


@pytest.mark.parametrize("dask_frame", [False, True])
def test_columns_that_are_missing_are_named(mixture: GaussianMixture, dask_frame: bool) -> None:
    def give(*names: str) -> Any:
        table = pd.DataFrame(COLUMNS)[list(names)]
        return lazy(table) if dask_frame else table

    with pytest.raises(SchemaError, match=r"^features: column 'b' is missing; .* has id, a$"):
        mixture.predict_frame(give("id", "a"))
    with pytest.raises(SchemaError, match=r"^features: columns 'a', 'b' are missing; .* has id$"):
        mixture.predict_frame(give("id"))
    with pytest.raises(SchemaError, match=r"^keys: column 'hip' is missing; the table has a, b$"):
        mixture.predict_frame(give("a", "b"), keys=["hip"])
    table = give("a", "b", "id").set_index("id")
    with pytest.raises(SchemaError, match=r"the table has a, b; use reset_index\(\) to make its"):
        mixture.predict_frame(table, keys=["id"])
    twice = pd.DataFrame(np.zeros((9, 3)), columns=["a", "b", "a"])
    with pytest.raises(SchemaError, match=r"^column 'a' occurs 2 times; rename"):
        mixture.predict_frame(dd.from_pandas(twice, npartitions=2) if dask_frame else twice)


def test_keys_that_cannot_be_used_are_refused(mixture: GaussianMixture) -> None:
    table = pd.DataFrame(COLUMNS).assign(cluster="open")
    for keys, cluster, message in (
        (["component"], False, "^keys: 'component' is the name of a column of the result; rename"),
        (["cluster"], True, "^keys: 'cluster' is the name of a column of the result; rename"),
        (["id", "a", "id"], False, "^keys names 'id' twice; name each column once"),
        ([0], False, "^keys: 0 is no name of a column; give strings"),
    ):
        with pytest.raises(ConfigError, match=message):
            mixture.predict_frame(table, keys, cluster=cluster)
    assert "cluster" in mixture.predict_frame(table, ["cluster"])


def test_values_that_cannot_be_predicted_are_named(
    mixture: GaussianMixture, make: Callable[[Columns], Any]
) -> None:
    values = BLOBS[:, 1].copy()
    values[321] = np.inf
    with pytest.raises(NonFiniteError, match=r"column 'b' holds 1 infinite .* at row 321"):
        mixture.predict_frame(make({**COLUMNS, "b": values}))
    text = make({**COLUMNS, "b": ["1"] * N})
    with pytest.raises(SchemaError, match=r"^column 'b' is of type .*, not a number"):
        mixture.predict_frame(text)
    in_partitions = lazy(pd.DataFrame({**COLUMNS, "b": values}))
    result = mixture.predict_frame(in_partitions)
    with pytest.raises(NonFiniteError, match=r"'b' holds 1 .* at row 221 of partition 2"):
        result.compute(scheduler="sync")
    with pytest.raises(SchemaError, match=r"^column 'b' is of type string, not a number"):
        mixture.predict_frame(lazy(pd.DataFrame({**COLUMNS, "b": "1"})))


def test_what_is_no_table_is_refused(mixture: GaussianMixture) -> None:
    for rows in (BLOBS, BLOBS.tolist(), lazy(FEATURES).to_dask_array(), FEATURES["a"]):
        with pytest.raises(SchemaError, match=r"takes a data frame of .*; for arrays take predict"):
            mixture.predict_frame(rows)
    with pytest.raises(SchemaError, match="lazy frame of polars"):
        mixture.predict_frame(pl.LazyFrame(COLUMNS))


def test_what_the_mixture_does_not_know_is_refused(mixture: GaussianMixture) -> None:
    with pytest.raises(NotFittedError):
        GaussianMixture(2).predict_frame(FEATURES)
    nameless = GaussianMixture(2, random_state=0).fit(BLOBS)
    with pytest.raises(ConfigError, match="fitted to rows without names of columns"):
        nameless.predict_frame(FEATURES)
    with pytest.raises(NotFittedError, match="Call 'merge_components' after 'fit'"):
        nameless.fit(FEATURES).predict_frame(FEATURES, cluster=True)
    for n in (0, 9):
        with pytest.raises(ConfigError, match=f"{n} clusters cannot be made of 5 components"):
            mixture.predict_frame(FEATURES, cluster=n)
    assert "cluster" not in mixture.predict_frame(FEATURES, cluster=np.False_)


WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pandas", "polars"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import pyarrow as pa
from gmm_dask import GaussianMixture
table = pa.table({"id": ["p", "q", "r", "s"], "x": [0.0, 1.0, 8.0, 9.0]})
gm = GaussianMixture(2, random_state=0).fit(table.select(["x"]))
print(gm.transform(table.select(["x"])).shape, gm.predict_frame(table, ["id"]).column_names)
"""


def test_pandas_and_polars_are_not_needed() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "(4, 2) ['id', 'component', 'log_density']\n"
