"""`gmm_dask.select`: what it takes, what it gives, and the winners that mclust knows."""

from __future__ import annotations

import inspect
import logging
import warnings
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

import gmm_dask
from benchmarks.sets import SMALL
from gmm_dask import GaussianMixture, Selection, read_parquet, select
from gmm_dask.errors import ConfigError, NonFiniteError
from tests.estimator.test_likelihood import LOWEST_BIC

COLUMNS = [
    "n_components",
    "covariance_type",
    "log_likelihood",
    "bic",
    "icl",
    "aic",
    "status",
    "reason",
]
KEYWORDS: dict[str, Any] = {"n_components": [1, 2, 3], "random_state": 0}


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    random = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [5.0, 0.0]])
    return centres[random.integers(2, size=1_500)] + random.normal(size=(1_500, 2))


@pytest.fixture(scope="module")
def selection(X: np.ndarray) -> Selection:
    return select(X, **KEYWORDS)


def test_the_best_is_a_fitted_mixture(X: np.ndarray, selection: Selection) -> None:
    best = selection.best_
    assert isinstance(best, GaussianMixture)
    assert (best.n_components, best.covariance_type) == (2, "spherical")
    assert best.get_params()["random_state"] == 0
    assert best.converged_
    assert best.scans_ == selection.scans_ == 1  # the sample holds all rows
    assert set(best.predict(X)) == {0, 1}
    assert best.n_features_in_ == 2


def test_the_table_holds_the_criteria_of_every_model(X: np.ndarray, selection: Selection) -> None:
    table = selection.table
    assert isinstance(table, pa.Table)
    assert table.column_names == COLUMNS
    assert table.num_rows == 12
    for row in table.to_pylist():
        model = selection.model(row["n_components"], row["covariance_type"])
        assert row["log_likelihood"] == pytest.approx(model.score(X), rel=1e-12)
        assert row["log_likelihood"] == model.log_likelihood_
        for criterion in ("bic", "icl", "aic"):
            assert row[criterion] == pytest.approx(getattr(model, criterion)(X), rel=1e-12)
        assert (row["status"], row["reason"]) == ("converged", "")
    lowest = min(table["bic"].to_pylist())
    assert selection.best_.bic(X) == pytest.approx(lowest)


def test_a_model_that_is_not_there_is_refused(selection: Selection) -> None:
    with pytest.raises(ConfigError, match="9 full components were not compared; `table` lists"):
        selection.model(9, "full")
    broken = select(np.zeros((50, 2)) + np.eye(50, 2), [1, 60], "full", random_state=0)
    with pytest.raises(ConfigError, match="60 full components could not be fitted: Expected"):
        broken.model(60, "full")


def test_it_prints_what_was_compared_and_marks_the_best(selection: Selection) -> None:
    text = repr(selection)
    lines = text.splitlines()
    assert lines[0] == "Selection by bic from 12 cells in 1 scan: 2 spherical components"
    assert lines[2].split() == ["k", "full", "tied", "diag", "spherical"]
    assert [line.split()[0] for line in lines[3:6]] == ["1", "2", "3"]
    for mark in ("*1", "*2", "*3"):
        assert sum(line.count(mark) for line in lines[3:6]) == 1
    assert lines[4].endswith("*1")
    assert lines[-1] == "bic, lower is better, *1 *2 *3 the best"
    html = selection._repr_html_()
    assert html.count("<tr>") == 4
    assert "*1" in html


@pytest.mark.parametrize("kind", ["dask", "pandas", "parquet", "list"])
def test_it_takes_what_a_fit_takes(
    kind: str, X: np.ndarray, selection: Selection, tmp_path: Path
) -> None:
    frame = pd.DataFrame(X, columns=["a", "b"])
    rows: Any = {"list": X.tolist(), "pandas": frame, "dask": da.from_array(X, chunks=(400, 2))}
    if kind == "parquet":
        pq.write_table(pa.Table.from_pandas(frame), tmp_path / "rows.parquet", row_group_size=400)
        rows["parquet"] = read_parquet(tmp_path, columns=["a", "b"])
    other = select(rows[kind], **KEYWORDS)
    np.testing.assert_allclose(other.best_.means_, selection.best_.means_, rtol=1e-9)
    assert other.table.select(COLUMNS[:2]).equals(selection.table.select(COLUMNS[:2]))
    if kind == "pandas":
        assert list(other.model(3, "full").feature_names_in_) == ["a", "b"]


def test_weights_count_as_rows(X: np.ndarray) -> None:
    weights = np.random.default_rng(1).integers(0, 3, len(X))
    keywords = {**KEYWORDS, "tol": 1e-9, "max_iter": 1_000}
    weighted = select(X, **keywords, sample_weight=weights)
    repeated = select(np.repeat(X, weights, axis=0), **keywords)
    assert weighted.best_.covariance_type == repeated.best_.covariance_type
    np.testing.assert_allclose(
        weighted.table["bic"].to_numpy()[:8], repeated.table["bic"].to_numpy()[:8], rtol=1e-6
    )


def test_numbers_and_types_may_be_single_and_repeated(X: np.ndarray) -> None:
    table = select(X, 2, "diag", random_state=0).table
    assert table.num_rows == 1
    table = select(X, np.array([3, 1, 3]), ["diag", "diag"], random_state=0).table
    assert table["n_components"].to_pylist() == [1, 3]


def test_a_generator_draws_one_seed_for_all_cells(X: np.ndarray) -> None:
    first = select(X, [1, 2], "full", random_state=np.random.RandomState(3))
    seed = check_random_state(np.random.RandomState(3)).randint(2**31)
    second = select(X, [1, 2], "full", random_state=seed)
    np.testing.assert_array_equal(first.best_.means_, second.best_.means_)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"criterion": "aicc"}, "criterion is 'aicc'; there are bic, icl, aic"),
    ({"n_components": []}, "n_components is empty; give at least one to choose from"),
    ({"n_components": range(0)}, "n_components is empty"),
    ({"covariance_types": ()}, "covariance_types is empty"),
    ({"covariance_types": "round"}, "covariance_types holds 'round'; there are full, tied"),
    ({"n_components": [0, 1]}, "n_components holds 0; a mixture has at least 1"),
    ({"n_components": [1.5]}, r"n_components holds 1.5; give whole numbers"),
    ({"n_components": True}, "n_components holds True; give whole numbers"),
    ({"n_components": "3"}, r"n_components = '3': give whole numbers, range\(1, 13\)$"),
    (
        {"n_components": "full"},
        r"n_components = 'full': .*; a covariance type is covariance_types='full'$",
    ),
    ({"means_init": [[0.0, 0.0]]}, "means_init belongs to one number of components; leave it out"),
    ({"warm_start": True}, "warm_start belongs to one number of components"),
]


@pytest.mark.parametrize(("keywords", "message"), REFUSED)
def test_what_cannot_be_compared_is_refused(
    keywords: dict[str, Any], message: str, X: np.ndarray
) -> None:
    with pytest.raises(ConfigError, match=message):
        select(X, **keywords)


def test_what_a_fit_refuses_is_refused(X: np.ndarray) -> None:
    with pytest.raises(ValueError, match="'tol' parameter"):
        select(X, tol=-1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'tolerance'"):
        select(X, tolerance=1)
    with pytest.raises(NonFiniteError):
        select(np.where(X > 5, np.nan, X))


def test_only_the_best_warns_that_it_has_not_converged(
    X: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.warns(ConvergenceWarning, match="in 1 iterations") as caught:
        selection = select(X, [2, 3], "full", max_iter=1, random_state=0)
    assert len(caught) == 1
    assert selection.table["status"].to_pylist() == ["max_iter"] * 2
    constant = np.column_stack([X[:, 0], np.full(len(X), 3.0)])
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        select(constant, [1, 2], "full", random_state=0, allow_collapsed=True)
    assert "column 'x1' = 3" in caplog.text


def test_the_public_names_are_lazy_and_complete() -> None:
    assert gmm_dask.select is select
    assert gmm_dask.Selection is Selection
    defaults = inspect.signature(select).parameters
    assert list(defaults["n_components"].default) == [*range(1, 13)]


#: BIC to four decimals, as −2·log-likelihood + p·log n: that of Old Faithful is of the best of 60
#: starts of scikit-learn (mclust prints −2314.296), that of iris of R.
FOUR_DECIMALS = {"Old Faithful": 2314.2957, "iris": 574.0178}


@pytest.mark.parametrize("name", LOWEST_BIC)
def test_the_winner_is_the_best_that_mclust_knows(name: str) -> None:
    keywords = {"reg_covar": 0.0, "tol": 1e-9, "max_iter": 5_000, "random_state": 0}
    selection = select(SMALL[name](), range(1, 7), **keywords)
    covariance_type, k, bic = LOWEST_BIC[name]
    assert (selection.best_.covariance_type, selection.best_.n_components) == (covariance_type, k)
    lowest = min(value for value in selection.table["bic"].to_pylist() if value is not None)
    assert lowest == pytest.approx(bic, abs=1e-3)
    if name in FOUR_DECIMALS:
        assert lowest == pytest.approx(FOUR_DECIMALS[name], abs=5.1e-5)
