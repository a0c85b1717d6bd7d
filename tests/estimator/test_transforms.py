"""Transforms of an estimator: the fit of rows transformed beforehand, in natural units."""

import dask.array as da
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.base import clone

from gmm_dask import GaussianMixture, read_parquet, select
from gmm_dask.errors import ConfigError, InputError, NonFiniteError

NAMES = {"price": "log", "weight": "standardise", "share": "logit"}
COLUMNS = list(NAMES)
NUMBERED = dict(enumerate(NAMES.values()))


def rows(n=3000, seed=0):
    random = np.random.default_rng(seed)
    second = random.random(n) < 0.4
    return np.column_stack([
        np.exp(random.normal(3.0 + 2.0 * second, 0.5)),
        random.normal(100.0 + 80.0 * second, 10.0),
        1.0 / (1.0 + np.exp(-random.normal(2.0 * second, 1.0))),
    ])  # fmt: skip


def beforehand(X, center, scale):
    """The rows, transformed by hand; and the logarithm of the slope at each."""
    price, weight, share = X.T
    Y = np.column_stack([
        np.log(price), (weight - center) / scale, np.log(share) - np.log1p(-share)
    ])  # fmt: skip
    return Y, -np.log(price) - np.log(scale) - np.log(share * (1 - share))


@pytest.fixture(scope="module")
def fitted():
    X = pd.DataFrame(rows(), columns=COLUMNS)
    return X, GaussianMixture(2, random_state=0, transforms=NAMES).fit(X)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
@pytest.mark.parametrize("search_rows", ["auto", 500])
def test_a_fit_has_the_bits_of_rows_transformed_beforehand(kind, search_rows):
    X = rows()
    keys = {"covariance_type": kind, "random_state": 0, "search_rows": search_rows}
    gm = GaussianMixture(2, transforms=NUMBERED, **keys).fit(X)
    settled = gm.transforms_.by_feature[1]
    assert settled.center == pytest.approx(X[:, 1].mean(), rel=1e-14)
    assert settled.scale == pytest.approx(X[:, 1].std(), rel=1e-14)
    Y, slopes = beforehand(X, settled.center, settled.scale)
    plain = GaussianMixture(2, **keys).fit(Y)
    for name in ("weights_", "means_", "covariances_"):
        np.testing.assert_array_equal(getattr(gm, name), getattr(plain, name))
    np.testing.assert_array_equal(gm.predict(X), plain.predict(Y))
    np.testing.assert_array_equal(gm.predict_proba(X), plain.predict_proba(Y))
    np.testing.assert_allclose(gm.score_samples(X), plain.score_samples(Y) + slopes, rtol=1e-11)
    for name in ("log_likelihood_", "lower_bound_"):
        assert getattr(gm, name) == pytest.approx(getattr(plain, name) + slopes.mean(), rel=1e-12)
    assert gm.score(X) == pytest.approx(gm.log_likelihood_, rel=1e-12)
    for name in ("aic", "bic", "icl"):
        expected = getattr(plain, name)(Y) - 2.0 * slopes.sum()
        assert getattr(gm, name)(X) == pytest.approx(expected, rel=1e-12)
    low = gm.score_samples(X) < gm.low_density_threshold_
    assert low.sum() == pytest.approx(3, abs=1)


def test_every_kind_of_rows_is_taken_in_natural_units(fitted, tmp_path):
    X, gm = fitted
    expected = gm.score_samples(X)
    array = da.from_array(X.to_numpy(), chunks=(700, 3))
    by_index = GaussianMixture(
        2, random_state=0, transforms={0: "log", 1: "standardise", 2: "logit"}
    )
    np.testing.assert_allclose(by_index.fit(array).means_, gm.means_, rtol=1e-10)
    assert by_index.bic(array) == pytest.approx(gm.bic(X), rel=1e-10)
    np.testing.assert_allclose(by_index.score_samples(array).compute(), expected, rtol=1e-9)
    pq.write_table(pa.Table.from_pandas(X), tmp_path / "x.parquet")
    lazy = read_parquet(tmp_path, COLUMNS)
    of_files = clone(gm).fit(lazy)
    np.testing.assert_allclose(of_files.means_, gm.means_, rtol=1e-10)
    np.testing.assert_allclose(of_files.score_samples(lazy).compute(), expected, rtol=1e-9)
    frame = gm.predict_frame(X.assign(id=range(len(X))), keys="id")
    np.testing.assert_array_equal(frame["log_density"], expected)
    np.testing.assert_array_equal(frame["component"], gm.predict(X))
    tree = gm.merge_components(X).merge_tree_
    assert tree.cut(1).tolist() == [0, 0]


@pytest.mark.parametrize("search_rows", ["auto", 500])
def test_rows_with_holes_count_by_what_they_have(search_rows):
    X = rows()
    random = np.random.default_rng(1)
    holed = np.where(random.random(X.shape) < 0.2, np.nan, X)
    keys = {"random_state": 0, "nulls": "marginalize", "search_rows": search_rows}
    gm = GaussianMixture(2, transforms=NUMBERED, **keys).fit(holed)
    settled = gm.transforms_.by_feature[1]
    assert settled.center == pytest.approx(np.nanmean(holed[:, 1]), rel=1e-13)
    assert settled.scale == pytest.approx(np.nanstd(holed[:, 1]), rel=1e-13)
    Y, _ = beforehand(holed, settled.center, settled.scale)
    plain = GaussianMixture(2, **keys).fit(Y)
    np.testing.assert_array_equal(gm.means_, plain.means_)
    price, _, share = holed.T
    slopes = np.nansum([
        -np.log(price), np.where(np.isnan(holed[:, 1]), 0.0, -np.log(settled.scale)),
        -np.log(share * (1 - share)),
    ], axis=0)  # fmt: skip
    empty = np.isnan(holed).all(axis=1)
    expected = np.where(empty, np.nan, plain.score_samples(Y) + slopes)
    np.testing.assert_allclose(gm.score_samples(holed), expected, rtol=1e-10)
    assert gm.log_likelihood_ == pytest.approx(np.nanmean(expected), rel=1e-12)
    difference = gm.lower_bound_ - plain.lower_bound_
    assert difference == pytest.approx(slopes[~empty].mean(), rel=1e-9)
    filled = gm.impute(holed)
    np.testing.assert_array_equal(filled[~np.isnan(holed)], X[~np.isnan(holed)])
    by_hand = gm.transforms_.inverse(plain.impute(Y))
    np.testing.assert_allclose(filled, by_hand, rtol=1e-9)
    lazy = gm.impute(da.from_array(holed, chunks=(700, 3))).compute()
    np.testing.assert_allclose(lazy, filled, rtol=1e-11)


def test_drawn_rows_are_in_natural_units(fitted):
    X, gm = fitted
    drawn, _ = gm.sample(20_000)
    np.testing.assert_allclose(np.median(drawn, axis=0), np.median(X, axis=0), rtol=0.1)
    roots = GaussianMixture(1, transforms={0: "sqrt"}, random_state=0).fit(X.to_numpy()[:, :1])
    assert (roots.sample(1000)[0] >= 0.0).all()


def test_models_of_different_transforms_can_be_compared(fitted):
    X, _ = fitted
    price = X[["price"]].to_numpy()
    right, wrong = (GaussianMixture(2, random_state=0, transforms=transforms).fit(price)
                    for transforms in ({0: "log"}, None))  # fmt: skip
    assert right.bic(price) < wrong.bic(price) - 100.0
    # The density is one of prices: it sums to 1 over them.
    grid = np.geomspace(1e-2, 1e5, 20_000)[:, None]
    total = np.trapezoid(np.exp(right.score_samples(grid)), grid[:, 0])
    assert total == pytest.approx(1.0, abs=1e-6)


def test_a_selection_is_of_transformed_rows():
    X = rows(600)
    numbered = {0: "log", 2: "logit"}
    result = select(X, [1, 2], ["full", "diag"], random_state=0, transforms=numbered)
    best = result.best_
    assert best.bic(X) == pytest.approx(min(result.table["bic"].to_pylist()), rel=1e-12)
    assert best.transforms_.names == ("log", None, "logit")


def test_a_warm_start_goes_on_in_the_units_of_the_last_fit(fitted):
    X, _ = fitted
    gm = GaussianMixture(2, random_state=0, transforms=NAMES, warm_start=True)
    first, means = gm.fit(X).transforms_, gm.means_
    assert gm.fit(X).n_iter_ == 1  # it goes on where it had stopped
    np.testing.assert_allclose(gm.means_, means, atol=1e-2)
    assert gm.fit(X.assign(weight=X["weight"] * 1.5)).transforms_ == first
    gm.set_params(transforms={"price": "log"})
    with pytest.raises(ConfigError, match="the last fit had other transforms"):
        gm.fit(X)
    gm.set_params(warm_start=False, transforms=None).fit(X)
    assert not hasattr(gm, "transforms_")


@pytest.mark.parametrize("lazy", [False, True])
def test_a_value_outside_of_the_domain_is_refused_by_column_and_row(fitted, lazy):
    X, gm = fitted
    bad = X.to_numpy().copy()
    bad[[17, 40], 0] = [-2.5, 0.0]
    words = (
        r"row 17: column 'price' is -2.5, and 1 more near it; log needs values above 0: take log1p"
    )
    given = da.from_array(bad, chunks=(1000, 3)) if lazy else pd.DataFrame(bad, columns=COLUMNS)
    unnamed = words.replace("'price'", "'x0'")
    model = GaussianMixture(2, transforms={0: "log"} if lazy else NAMES)
    with pytest.raises(InputError, match=unnamed if lazy else words):
        model.fit(given)
    if lazy:
        model.fit(X.to_numpy())
        with pytest.raises(InputError, match=unnamed):
            model.predict(given).compute()
    else:
        for method in (gm.predict, gm.score_samples, gm.predict_frame, gm.bic):
            with pytest.raises(InputError, match=words):
                method(given)


def test_nulls_and_infinities_are_what_they_were(fitted):
    X, gm = fitted
    for value, problem in ((np.nan, "NaN"), (np.inf, "infinity")):
        bad = X.copy()
        bad.loc[5, "price"] = value
        with pytest.raises(NonFiniteError, match=problem):
            clone(gm).fit(bad)
        with pytest.raises(NonFiniteError, match=problem):
            gm.predict(bad)


@pytest.mark.parametrize(
    ("transforms", "problem"),
    [
        ({"prize": "log"}, "there is no column 'prize'; the rows of this fit have price, weight"),
        ({0: "log"}, "there is no column 0"),
        ({"price": "ln"}, "'price' is 'ln'; there are log, log1p, asinh"),
    ],
)
def test_unknown_columns_and_transforms_are_refused(fitted, transforms, problem):
    X, _ = fitted
    with pytest.raises(ConfigError, match=problem):
        GaussianMixture(2, transforms=transforms).fit(X)


def test_columns_without_names_are_asked_for_by_index(fitted):
    X, _ = fitted
    with pytest.raises(ConfigError, match="none by name: 0 to 2"):
        GaussianMixture(2, transforms=NAMES).fit(X.to_numpy())


def test_scikit_learn_has_no_transforms(fitted):
    _, gm = fitted
    with pytest.raises(ConfigError, match="has transforms of its features"):
        gm.to_sklearn()


def test_read_parquet_gives_transformed_rows_under_their_own_names(fitted, tmp_path):
    X, _ = fitted
    kinds = {"price": "log", "share": "logit"}
    pq.write_table(pa.Table.from_pandas(X), tmp_path / "x.parquet", row_group_size=1000)
    array = read_parquet(tmp_path, ["price", "share"], transform=kinds)
    Y = np.column_stack([np.log(X["price"]), np.log(X["share"]) - np.log1p(-X["share"])])
    np.testing.assert_array_equal(array.compute(), Y)
    gm = GaussianMixture(2, random_state=0).fit(array)
    assert list(gm.feature_names_in_) == ["log(price)", "logit(share)"]
    plain = GaussianMixture(2, random_state=0).fit(Y)
    np.testing.assert_array_equal(gm.means_, plain.means_)
    np.testing.assert_array_equal(gm.predict(array), plain.predict(Y))
    with pytest.raises(ValueError, match="feature names should match"):
        gm.predict(X[["price", "share"]])
    with pytest.raises(ConfigError, match="give it to the estimator"):
        read_parquet(tmp_path, ["price"], transform={"price": "standardise"})


@pytest.mark.parametrize("nulls", ["error", "drop"])
def test_read_parquet_refuses_values_outside_of_the_domain(tmp_path, nulls):
    pq.write_table(pa.table({"x": [1.0, 2.0, -3.0, 4.0]}), tmp_path / "x.parquet")
    array = read_parquet(tmp_path, ["x"], nulls, transform={"x": "sqrt"})
    where = "x.parquet row 2: " if nulls == "error" else "x.parquet rows 0–4: "
    words = where + "column 'x' is -3; sqrt needs values above 0 .*: take log1p or asinh"
    for compute in (array.compute, lambda: GaussianMixture(1).fit(array)):
        with pytest.raises(InputError, match=words):
            compute()
