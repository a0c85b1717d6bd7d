"""Labels: an E-step by the components of a row's label, against one that is written out."""

import numpy as np
import pytest

from gmm_dask.errors import ConfigError, InputError
from gmm_dask.mixture.labels import (
    MOST_LABELS,
    ComponentLabels,
    Ownership,
    RowLabels,
    add_counts,
    code_of,
    count_labels,
    count_limited,
    sum_labelled,
    take_rows,
)
from gmm_dask.mixture.maximization import maximize
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import find_patterns
from gmm_dask.mixture.spec import COVARIANCE_NAMES, MixtureSpec

K, D, N = 5, 3, 240
REG = 1e-3
OWNERSHIP = Ownership(("blue", "red"), (1, 0, -1, 1, -1))


def labelled_rows(holes):
    random = np.random.default_rng(4)
    X = random.normal(size=(N, D)) + random.integers(0, 3, (N, 1)) * 2.5
    labels = random.choice(["", "", "red", "blue"], N)
    if holes:
        X[random.random((N, D)) < 0.2] = np.nan
        X = X[~np.isnan(X).all(axis=1)]
    labels = labels[: len(X)]
    codes = np.array([code_of(name) if name else 0 for name in labels])
    return X, labels, codes, random.uniform(0.2, 3.0, len(X))


def first_parameters(covariance_type):
    random = np.random.default_rng(1)
    means = random.normal(size=(K, D)) * 2
    root = random.normal(size=(K, D, D)) / 2
    full = np.eye(D) + root @ root.transpose(0, 2, 1)
    covariances = {
        "full": full,
        "tied": full[0],
        "diag": np.diagonal(full, axis1=1, axis2=2),
        "spherical": full[:, 0, 0],
    }[covariance_type]
    weights = random.uniform(1, 2, K)
    return MixtureParameters.from_covariances(
        covariance_type, weights / weights.sum(), means, covariances
    )


def textbook_step(X, labels, w, weights, means, matrices, covariance_type):
    """One iteration of EM row by row, in float64 and with inverses: (π, μ, Σ, log-likelihood)."""
    r = np.zeros((len(X), K))
    first, second = np.zeros((len(X), K, D)), np.zeros((len(X), K, D, D))
    log_likelihood = 0.0
    for i, x in enumerate(X):
        o = ~np.isnan(x)
        allowed = [
            c
            for c, owner in enumerate(OWNERSHIP.owners)
            if not labels[i] or (owner >= 0 and OWNERSHIP.names[owner] == labels[i])
        ]
        joint = np.zeros(K)
        for c in range(K):
            S = matrices[c]
            inverse = np.linalg.inv(S[np.ix_(o, o)])
            y = x[o] - means[c][o]
            norm = (2 * np.pi) ** o.sum() * np.linalg.det(S[np.ix_(o, o)])
            if c in allowed:
                joint[c] = weights[c] * np.exp(-0.5 * y @ inverse @ y) / np.sqrt(norm)
            gain = S[:, o] @ inverse
            first[i, c] = means[c] + gain @ y
            second[i, c] = S - gain @ S[o, :]
        log_likelihood += w[i] * np.log(joint.sum())
        r[i] = w[i] * joint / joint.sum()
    counts = r.sum(axis=0)
    new_means = np.einsum("nk,nkd->kd", r, first) / counts[:, None]
    y = first - new_means
    scatter = np.einsum("nk,nkd,nke->kde", r, y, y) + np.einsum("nk,nkde->kde", r, second)
    each = scatter / counts[:, None, None]
    if covariance_type == "tied":
        each = np.broadcast_to(scatter.sum(axis=0) / counts.sum(), each.shape)
    if covariance_type == "diag":
        each = np.array([np.diag(np.diag(S)) for S in each])
    if covariance_type == "spherical":
        each = np.array([np.eye(D) * np.trace(S) / D for S in each])
    return counts / counts.sum(), new_means, each + REG * np.eye(D), log_likelihood


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("covariance_type", COVARIANCE_NAMES)
def test_em_with_labels_is_the_textbooks(covariance_type, holes, weighted):
    X, labels, codes, w = labelled_rows(holes)
    spec = MixtureSpec(K, covariance_type, REG)
    parameters = first_parameters(covariance_type)
    expected = parameters.weights, parameters.means, parameters.matrices
    for _ in range(6):
        given = w if weighted else None
        sums = sum_labelled(parameters, X, given, find_patterns(X), codes, OWNERSHIP)
        *expected, log_likelihood = textbook_step(
            X, labels, w if weighted else np.ones(len(X)), *expected, covariance_type
        )
        parameters, guarded, *_ = maximize(parameters, sums, spec)
        assert not guarded
        assert sums.log_likelihood == pytest.approx(log_likelihood, rel=1e-9)
        np.testing.assert_allclose(parameters.weights, expected[0], rtol=1e-9)
        np.testing.assert_allclose(parameters.means, expected[1], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(parameters.matrices, expected[2], rtol=1e-9, atol=1e-9)


def test_without_a_label_the_statistics_are_todays_bit_for_bit():
    from gmm_dask.mixture.statistics import sum_statistics

    X, _, codes, w = labelled_rows(holes=False)
    parameters = first_parameters("full")
    plain = sum_statistics(parameters, X, w)
    sums = sum_labelled(parameters, X, w, (), np.zeros_like(codes), OWNERSHIP)
    np.testing.assert_array_equal(plain.residual_products, sums.residual_products)
    assert plain.log_likelihood == sums.log_likelihood


def test_a_label_that_owns_nothing_is_refused():
    X, _, codes, _ = labelled_rows(holes=False)
    codes[7] = code_of("green")
    with pytest.raises(InputError, match="no component was found for"):
        sum_labelled(first_parameters("diag"), X, None, (), codes, OWNERSHIP)


def test_ownership_gives_each_label_its_components_and_leaves_the_others_free():
    ownership = Ownership.plan(("a", "b"), 5, each=2)
    assert ownership.owners == (0, 0, 1, 1, -1)
    assert ownership.free.tolist() == [4]
    assert ownership.reordered(np.array([4, 2, 0, 3, 1])).owners == (-1, 1, 0, 1, 0)
    words = r"3 labels need one component each \('a', 'b', 'c'\), and n_components = 2; give"
    with pytest.raises(ConfigError, match=words):
        Ownership.plan(("a", "b", "c"), 2, each=1)
    words = r"7 labels need 2 components each \('a', 'b', 'c', 'd', 'e' and 2 more\)"
    with pytest.raises(ConfigError, match=words):
        Ownership.plan(tuple("abcdefg"), 7, each=2)


def test_component_labels_say_what_most_of_the_labelled_weight_is():
    X, labels, codes, w = labelled_rows(holes=True)
    parameters = first_parameters("full")
    names = {code_of(name): name for name in ("red", "blue")}
    whole = count_labels(parameters, X, w, RowLabels(codes, names))
    halves = [
        count_labels(parameters, X[rows], w[rows], RowLabels(codes[rows], names))
        for rows in (slice(100), slice(100, None))
    ]
    merged = add_counts(*halves)
    for name in ("red", "blue"):
        np.testing.assert_allclose(merged[name], whole[name], rtol=1e-12)
        assert whole[name].sum() == pytest.approx(w[labels == name].sum())
    component_labels = ComponentLabels(
        ("blue", "red"), ((9.0, 1.0), (1.0, 1.5), (0.0, 0.0)), 3.0, (0, 1, -1)
    )
    assert component_labels.labels == ("blue", "unknown", "unknown")
    assert component_labels.confidences == (0.9, None, None)
    assert ComponentLabels.from_json(component_labels.to_json()) == component_labels


def test_labels_are_few_and_none_is_called_unknown():
    with pytest.raises(InputError, match="more than 1,000 different labels"):
        count_limited(dict.fromkeys(map(str, range(MOST_LABELS + 1))))
    with pytest.raises(InputError, match="what a component without a label is called"):
        count_limited({"unknown": 1})


@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray])
def test_rows_are_taken_feature_major_from_any_layout(layout):
    X = layout(np.arange(60.0).reshape(20, 3))
    for rows in (X, X[3:17], X[::2]):
        chosen = np.array([0, 2, 5])
        taken = take_rows(rows, chosen)
        np.testing.assert_array_equal(taken, rows[chosen])
        assert taken.flags.f_contiguous
