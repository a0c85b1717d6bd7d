"""Labels of rows in a fit, of components, and of what is predicted."""

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gmm_dask import GaussianMixture
from gmm_dask.errors import ConfigError, InputError, SchemaError
from gmm_dask.mixture.label_names import encode_labels

CENTRES = np.array([[0.0, 0.0], [2.5, 0.0], [0.0, 6.0]])


def rows_and_labels(n=1_200, labelled=24, seed=0):
    """Three classes; the first two overlap, and of a few rows the class is known."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 3, n)
    X = random.normal(size=(n, 2)) + CENTRES[truth]
    y = np.full(n, -1)
    known = random.choice(n, labelled, replace=False)
    y[known] = truth[known]
    return X, y, truth


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_a_few_labels_name_every_component(covariance_type):
    X, y, truth = rows_and_labels()
    gm = GaussianMixture(
        3, covariance_type=covariance_type, components_per_label=1, random_state=0
    ).fit(X, y)
    assert (gm.predict_labels(X) == truth).mean() > 0.8
    assert sorted(gm.component_labels_.labels) == ["0", "1", "2"]
    assert sum(map(sum, gm.component_labels_.counts)) == pytest.approx(24)


def test_every_source_of_rows_and_labels_fits_the_same():
    X, y, _ = rows_and_labels(3_000, 40)
    options = {"components_per_label": 1, "random_state": 0, "search_rows": 500}
    text = np.array(["a", "b", "c", None], dtype=object)[y]
    first = GaussianMixture(3, **options).fit(X, text)
    frame = pd.DataFrame(X, columns=["u", "v"]).assign(y=pd.Series(text, dtype="category"))
    lazy = dd.from_pandas(frame, npartitions=3)
    given = [
        (X, text.tolist()),
        (X, text.reshape(-1, 1)),
        (frame[["u", "v"]], frame[["y"]]),
        (frame[["u", "v"]], frame["y"]),
        (da.from_array(X, chunks=(1_000, 2)), da.from_array(text, chunks=700)),
        (lazy[["u", "v"]], lazy["y"].astype(object)),
    ]
    for rows, labels in given:
        gm = GaussianMixture(3, **options).fit(rows, labels)
        np.testing.assert_allclose(gm.means_, first.means_, rtol=1e-12, atol=1e-12)
        assert gm.component_labels_.labels == first.component_labels_.labels
        predicted = gm.predict_labels(rows)
        np.testing.assert_array_equal(np.asarray(predicted), first.predict_labels(X))
    assert first.scans_ > 2  # more rows than the search holds: EM scanned them


def test_without_a_label_the_fit_is_todays_bit_for_bit(caplog):
    X, y, _ = rows_and_labels()
    plain = GaussianMixture(3, random_state=0).fit(X, y)  # y is not used
    missing = GaussianMixture(3, random_state=0, components_per_label=1).fit(X, np.full(len(X), -1))
    np.testing.assert_array_equal(plain.means_, missing.means_)
    assert "no used row has a label" in caplog.text
    assert missing.component_labels_.labels == ("unknown",) * 3
    assert missing.predict_labels(X[:2]).tolist() == [-1, -1]


def test_several_components_of_a_label_and_free_ones():
    X, y, truth = rows_and_labels(2_000, 200)
    two = y.copy()
    two[y == 2] = 0  # class 0 has two lumps
    two_truth = np.where(truth == 2, 0, truth)
    gm = GaussianMixture(4, components_per_label=2, random_state=0).fit(X, two)
    assert (gm.predict_labels(X) == two_truth).mean() > 0.75
    strange = np.vstack([X, np.random.default_rng(1).normal(20.0, 1.0, (500, 2))])
    gm = GaussianMixture(4, components_per_label=1, random_state=0).fit(
        strange, np.concatenate([y, np.full(500, -1)])
    )
    labels = gm.predict_labels(strange[-500:])
    assert (labels == -1).mean() > 0.98  # a free component took what no label is like
    free = gm.component_labels_.labels.index("unknown")
    assert gm.component_labels_.confidences[free] is None


def test_labels_count_with_weights_and_among_holes():
    X, y, truth = rows_and_labels()
    X[::7, 0] = np.nan
    options = {"components_per_label": 1, "random_state": 0, "nulls": "marginalize"}
    twice = GaussianMixture(3, **options).fit(X, y, sample_weight=np.full(len(X), 2.0))
    once = GaussianMixture(3, **options).fit(X, y)
    np.testing.assert_allclose(once.means_, twice.means_, rtol=1e-9)
    assert once.component_labels_.labels == twice.component_labels_.labels
    np.testing.assert_allclose(once.component_labels_.counts, twice.component_labels_.counts)
    assert (once.predict_labels(X) == truth).mean() > 0.75


def test_a_warm_start_keeps_its_components_and_their_labels():
    X, y, _ = rows_and_labels()
    gm = GaussianMixture(3, components_per_label=1, random_state=0, warm_start=True).fit(X, y)
    before = gm.component_labels_.labels
    means = gm.means_
    gm.fit(X, y)
    assert gm.component_labels_.labels == before
    np.testing.assert_allclose(gm.means_, means, atol=0.05)


def test_a_mixture_without_labels_is_labelled_afterwards():
    X, y, truth = rows_and_labels(labelled=60)
    gm = GaussianMixture(3, random_state=0).fit(X)
    with pytest.raises(NotFittedError, match="call 'label_components' with some labelled rows"):
        gm.predict_labels(X)
    means = gm.means_
    known = y >= 0
    gm.label_components(X[known], y[known])
    assert gm.means_ is means
    assert (gm.predict_labels(X) == truth).mean() > 0.75
    gm.fit(X)
    assert not hasattr(gm, "component_labels_")
    with pytest.raises(ConfigError, match="y is missing"):
        gm.label_components(X, None)


def test_y_is_used_only_where_it_is_asked_for():
    X, _, truth = rows_and_labels(300)
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(2, random_state=0))
    pipeline.fit(X, truth)  # three labels for two components
    GridSearchCV(GaussianMixture(random_state=0), {"n_components": [1, 2]}, cv=2).fit(X, truth)
    pipeline.set_params(gaussianmixture__components_per_label=1, gaussianmixture__n_components=3)
    assert sorted(pipeline.fit(X, truth)[-1].component_labels_.labels) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("options", "y", "error", "message"),
    [
        ({"n_components": 2}, [0, 1, 2], ConfigError, "3 labels need one component each"),
        ({}, None, ConfigError, "components_per_label = 1 asks for labels, but y is missing"),
        ({}, [0.5, 1, 2], SchemaError, "a measurement and no class"),
        ({}, ["a", "unknown", None], InputError, "what a component without a label is called"),
        ({"on_collapse": "replace"}, [0, 1, 2], ConfigError, "leave it at 'report'"),
        ({"init_params": "random"}, [0, 1, 2], ConfigError, "the starts are made from the lab"),
        ({"weights_init": [0.5, 0.25, 0.25]}, [0, 1, 2], ConfigError, "in full"),
    ],
)
def test_what_cannot_be_is_refused(options, y, error, message):
    X = rows_and_labels(300)[0]
    y = None if y is None else y * 100
    options = {"n_components": 3, "components_per_label": 1} | options
    with pytest.raises(error, match=message):
        GaussianMixture(**options).fit(X, y)


def test_labels_of_any_kind_are_text_within():
    def names(y):
        return sorted(encode_labels(y).names.values())

    assert names([1, -1, None]) == names(np.array([1.0, np.nan])) == ["1"]
    assert names(pd.array([True, None, False], dtype="boolean")) == ["false", "true"]
    assert names(pd.Series(["x", None, ""], dtype="category")) == ["x"]
    assert names(np.ma.masked_array([3, 4, 5], mask=[False, True, False])) == ["3", "5"]
    for y, message in (
        (np.zeros((3, 2)), "one label a row"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "y has dtype datetime64"),
        ([b"x"], "labels are text, integers or booleans"),
        (list(range(2_000)), "more than 1,000 different labels"),
    ):
        with pytest.raises(InputError, match=message):
            encode_labels(y)


def test_integers_of_64_bits_without_a_sign_are_labels():
    X, y, _ = rows_and_labels(600, 40)
    labels = [None if number < 0 else 2**63 + number for number in y.tolist()]
    gm = GaussianMixture(3, components_per_label=1, random_state=0).fit(X, labels)
    assert set(gm.predict_labels(X).tolist()) == {2**63, 2**63 + 1, 2**63 + 2}
