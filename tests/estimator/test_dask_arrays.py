"""GaussianMixture on dask arrays: any chunks, lazy results, Parquet."""

from __future__ import annotations

from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import make_blobs

from gmm_dask import GaussianMixture, read_parquet

RAGGED = (700, 0, 1, 2_299, 3_000)
# The sample is smaller than the data, so the polish scans the chunks; in float64, for such a tol.
KEYWORDS = {"n_components": 3, "random_state": 0, "search_rows": 1_000, "tol": 9e-7}


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    blobs, _ = make_blobs(6_000, centers=3, n_features=3, cluster_std=2.5, random_state=1)
    return blobs


@pytest.fixture(scope="module")
def fitted(X: np.ndarray) -> GaussianMixture:
    return GaussianMixture(**KEYWORDS).fit(X)


@pytest.mark.parametrize("chunks", [RAGGED, (6_000,), (1_000,) * 6])
def test_chunks_change_only_rounding(
    X: np.ndarray, fitted: GaussianMixture, chunks: tuple[int, ...]
) -> None:
    model = GaussianMixture(**KEYWORDS).fit(da.from_array(X, chunks=(chunks, 3)))
    assert model.n_iter_ == fitted.n_iter_
    np.testing.assert_allclose(model.means_, fitted.means_, rtol=1e-12)
    np.testing.assert_allclose(model.covariances_, fitted.covariances_, rtol=1e-11)
    # one survey, one per iteration, one evaluation
    assert model.scans_ == model.n_iter_ + 2


def test_chunks_change_a_scan_in_float32_by_its_rounding(X: np.ndarray) -> None:
    keywords = {**KEYWORDS, "tol": 1e-3}
    expected = GaussianMixture(**keywords).fit(X)
    model = GaussianMixture(**keywords).fit(da.from_array(X, chunks=(RAGGED, 3)))
    assert model.n_iter_ == expected.n_iter_
    np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-6)
    np.testing.assert_allclose(model.covariances_, expected.covariances_, rtol=1e-6, atol=1e-6)
    assert model.lower_bound_ == pytest.approx(expected.lower_bound_, rel=1e-9)


def test_column_chunks_and_unknown_row_chunks(X: np.ndarray, fitted: GaussianMixture) -> None:
    columns = da.from_array(X, chunks=(2_000, 1))
    model = GaussianMixture(**KEYWORDS).fit(columns)
    np.testing.assert_allclose(model.means_, fitted.means_, rtol=1e-12)
    unknown = da.from_array(np.vstack([X, X + 1e6]), chunks=(1_500, 3))
    unknown = unknown[unknown[:, 0] < 1e5]
    assert np.isnan(unknown.shape[0])
    counted = GaussianMixture(**KEYWORDS).fit(unknown)
    np.testing.assert_allclose(counted.means_, fitted.means_, rtol=1e-12)
    assert counted.scans_ == counted.n_iter_ + 3  # the last one counted the rows
    assert counted.bic(unknown) == pytest.approx(counted.bic(X))


@pytest.mark.parametrize("lazy", [True, False])
def test_weights_may_be_lazy_too(X: np.ndarray, lazy: bool) -> None:
    weights = np.random.default_rng(0).uniform(0, 2, len(X))
    keywords = {**KEYWORDS, "search_rows": 2_000}
    expected = GaussianMixture(**keywords).fit(X, sample_weight=weights)
    array = da.from_array(X, chunks=(RAGGED, 3))
    given = da.from_array(weights, chunks=900) if lazy else weights
    model = GaussianMixture(**keywords).fit(array, sample_weight=given)
    np.testing.assert_allclose(model.means_, expected.means_, rtol=1e-11)
    plain = GaussianMixture(**keywords).fit(X)
    assert np.abs(plain.means_ - model.means_).max() > 1e-6


def test_results_are_lazy_and_equal_to_numpys(X: np.ndarray, fitted: GaussianMixture) -> None:
    computed = []

    def record(block: np.ndarray) -> np.ndarray:
        computed.append(len(block))
        return block

    array = da.from_array(X, chunks=(RAGGED, 2)).map_blocks(
        record, dtype=float, meta=np.empty((0, 0))
    )
    computed.clear()
    labels, shares = fitted.predict(array), fitted.predict_proba(array)
    densities = fitted.score_samples(array)
    assert not computed
    assert labels.chunks == (RAGGED,)
    assert labels.dtype == np.int64
    assert shares.shape == (6_000, 3)
    labels, shares, densities = dask.compute(labels, shares, densities)
    np.testing.assert_array_equal(labels, fitted.predict(X))
    np.testing.assert_allclose(shares, fitted.predict_proba(X), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(densities, fitted.score_samples(X), rtol=1e-12)
    assert fitted.score(array) == pytest.approx(fitted.score(X))
    assert fitted.bic(array) == pytest.approx(fitted.bic(X))
    assert fitted.aic(array) == pytest.approx(fitted.aic(X))
    assert fitted.icl(array) == pytest.approx(fitted.icl(X))


def test_refusals(X: np.ndarray, fitted: GaussianMixture) -> None:
    array = da.from_array(X, chunks=(1_000, 3))
    with pytest.raises(ValueError, match="2D array"):
        fitted.fit(array[:, 0])
    with pytest.raises(ValueError, match="expecting 3 features"):
        fitted.predict(array[:, :2])
    with pytest.raises(ValueError, match=r"block 0 row 12\b"):
        GaussianMixture(2).fit(da.where(array == array[12, 1], np.nan, array))
    with pytest.raises(ValueError, match=r"sample_weight has shape \(5,\)"):
        GaussianMixture(2).fit(array, sample_weight=np.ones(5))
    with pytest.raises(ValueError, match="NaN"):
        fitted.predict(da.where(array == array[12, 1], np.nan, array)).compute()


def test_a_graph_that_gives_other_values_each_time_is_caught(X: np.ndarray) -> None:
    rng = np.random.default_rng()

    def shaken(block: np.ndarray) -> np.ndarray:
        return block + rng.normal(size=block.shape)

    array = da.from_array(X, chunks=(1_000, 3)).map_blocks(shaken, dtype=float)
    from gmm_dask.chunked.array import array_chunks
    from gmm_dask.chunked.fit import fit
    from gmm_dask.chunked.fit_records import FitOptions
    from gmm_dask.chunked.scan import Scanner
    from gmm_dask.chunked.threads import Threads
    from gmm_dask.mixture.spec import MixtureSpec

    scanner = Scanner(array_chunks(array), Threads(memory=0))
    with scanner, pytest.raises(ValueError, match="values are not those of the first scan"):
        fit(scanner, FitOptions(MixtureSpec(3), search_rows=1_000))


def test_parquet_comes_with_known_chunks_and_its_own_reader(
    tmp_path: Path, X: np.ndarray, fitted: GaussianMixture
) -> None:
    for part in range(3):
        rows = X[part * 2_000 : (part + 1) * 2_000]
        table = pa.table({"a": rows[:, 0], "b": rows[:, 1], "c": rows[:, 2]})
        pq.write_table(table, tmp_path / f"part-{part}.parquet", row_group_size=500)
    array = read_parquet(tmp_path, columns=["a", "b", "c"])
    assert array.shape == (6_000, 3)
    np.testing.assert_array_equal(array.compute(), X)
    model = GaussianMixture(**KEYWORDS).fit(array)
    np.testing.assert_allclose(model.means_, fitted.means_, rtol=1e-12)
    np.testing.assert_array_equal(model.predict(array).compute(), fitted.predict(X))
    assert list(model.feature_names_in_) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="must be in the same order as they were in fit"):
        model.score(read_parquet(tmp_path, columns=["b", "a", "c"]))
    with pytest.raises(ValueError, match=r"unseen at fit time:\n- b|yet now missing:\n- b"):
        model.predict(read_parquet(tmp_path, columns=["a", "c"]))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(array[:10])  # which columns it has is not known any more
    shifted = GaussianMixture(**KEYWORDS).fit(array + 0)  # no longer read from the files
    assert not hasattr(shifted, "feature_names_in_")
    np.testing.assert_allclose(shifted.means_, fitted.means_, rtol=1e-12)
