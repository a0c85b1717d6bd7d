"""The evaluation against scipy: likelihood, occupancy, quantiles and shares below them."""

from __future__ import annotations

import pickle
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from gmm_dask.chunked.evaluation import (
    BINS,
    DEPTH,
    DensitySummary,
    density_ceiling,
    evaluate,
    evaluate_rows,
)
from gmm_dask.chunked.rows import MemoryChunks, Rows
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.survey import survey_source
from gmm_dask.chunked.threads import Threads
from gmm_dask.errors import InputError
from gmm_dask.mixture.parameters import MixtureParameters
from tests.row_sources import DrawnRows, drawn

SHARES = (0.0, 0.001, 0.01, 0.25, 0.5, 0.9, 1.0)


def mixture(shift: float = 0.0) -> MixtureParameters:
    covariances = np.array([np.eye(3), [[2.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 3.0]]])
    means = np.array([[0.0, 0.0, 0.0], [4.0, 4.0, 4.0 + shift]])
    return MixtureParameters.from_covariances("full", np.array([0.6, 0.4]), means, covariances)


def log_joint(parameters: MixtureParameters, X: np.ndarray) -> np.ndarray:
    return np.stack(
        [
            np.log(weight) + np.atleast_1d(multivariate_normal(mean, covariance).logpdf(X))
            for weight, mean, covariance in zip(
                parameters.weights, parameters.means, parameters.matrices, strict=True
            )
        ],
        axis=1,
    )


def rows_of(source: DrawnRows) -> tuple[np.ndarray, np.ndarray | None]:
    chunks = list(source.read(0, len(source.rows)))
    values = np.concatenate([rows.values for rows in chunks])
    if not source.weighted:
        return values, None
    return values, np.concatenate([rows.sample_weight for rows in chunks])


@pytest.mark.parametrize("far", [False, True])
def test_a_summary_is_sent_without_the_empty_ends_of_its_histogram(far: bool) -> None:
    X = np.random.default_rng(0).normal(size=(5_000, 3))
    X[0] += 100.0 * far  # below all bins
    (summary,) = evaluate_rows(Rows(X, None, 0, 0), (mixture(),)).summaries
    sent = pickle.dumps(summary)
    assert far or len(sent) < BINS * 8 / 4
    returned = pickle.loads(sent)
    for field in fields(summary):
        np.testing.assert_array_equal(getattr(returned, field.name), getattr(summary, field.name))


@pytest.mark.parametrize("weighted", [False, True])
def test_summaries_agree_with_scipy(weighted: bool, small_groups: int) -> None:
    source = drawn(12, 900, weighted=weighted)
    X, weights = rows_of(source)
    w = np.ones(len(X)) if weights is None else weights
    scanner = Scanner(source, Threads(2))
    mixtures = (mixture(), mixture(1.0))
    summaries = evaluate(scanner, mixtures)
    assert scanner.scans == 1
    for parameters, summary in zip(mixtures, summaries, strict=True):
        joint = log_joint(parameters, X)
        densities = logsumexp(joint, axis=1)
        assert summary.rows == len(X)
        assert summary.weight == pytest.approx(w.sum(), rel=1e-13)
        assert summary.mean_log_likelihood == pytest.approx(np.average(densities, weights=w))
        certainties = joint.max(axis=1) - densities  # log r, nats
        assert summary.uncertainty == pytest.approx(-(w * certainties).sum(), rel=1e-9)
        assert summary.lowest == pytest.approx(densities.min())
        assert summary.highest == pytest.approx(densities.max())
        assert summary.ceiling > densities.max()
        labels = joint.argmax(axis=1)
        np.testing.assert_allclose(summary.occupancy, np.bincount(labels, weights=w), rtol=1e-12)
        assert summary.shares.sum() == pytest.approx(1.0)
        order = np.argsort(densities)
        cumulated = np.cumsum(w[order]) / w.sum()
        for share in SHARES:
            exact = densities[order][np.searchsorted(cumulated, share).clip(max=len(X) - 1)]
            # Exact to a bin's width, unless the rows lie farther apart than that.
            near = np.abs(densities[order] - exact) < 0.2
            assert summary.quantile(share) == pytest.approx(exact, abs=DEPTH / BINS + 1e-9) or (
                near.sum() < 5
            )


def test_a_share_lies_below_its_quantile(small_groups: int) -> None:
    (summary,) = evaluate(Scanner(drawn(12, 900), Threads(1)), [mixture()])
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert summary.share_below(summary.quantile(share)) == pytest.approx(share, abs=2e-4)
    assert summary.share_below(summary.lowest - 1000.0) == 0.0
    assert summary.share_below(summary.highest + 1.0) == 1.0


def test_rows_far_below_the_histogram_are_counted() -> None:
    X = np.zeros((100, 3))
    X[0] = 1e3
    (summary,) = evaluate(Scanner(MemoryChunks(X, None, 7, tuple("abc")), Threads(1)), [mixture()])
    assert summary.lowest < summary.ceiling - DEPTH
    assert summary.quantile(0.0) == summary.lowest
    assert summary.share_below(summary.ceiling - DEPTH - 1.0) == pytest.approx(0.01)
    assert summary.quantile(0.5) == pytest.approx(summary.highest, abs=DEPTH / BINS)


def test_summaries_are_the_same_bits_on_any_executor(small_groups: int, executor: Any) -> None:
    source = drawn(20, 800, weighted=True)
    first, *others = [
        evaluate(Scanner(source, runner), [mixture()])[0]
        for runner in (Threads(1), Threads(2), executor)
    ]
    for name in (field.name for field in fields(DensitySummary)):
        for summary in others:
            np.testing.assert_array_equal(getattr(summary, name), getattr(first, name))


def test_rows_that_the_sample_holds_are_not_scanned_again() -> None:
    X, weights = rows_of(drawn(12, 6000, weighted=True))  # enough for several threads
    scanner = Scanner(MemoryChunks(X, weights, 6000, tuple("abc")), Threads(2))
    partial, whole = (survey_source(scanner, rows, 0, "error") for rows in (1000, len(X)))
    before = scanner.scans
    (sampled,) = evaluate(scanner, [mixture()], whole)
    assert scanner.scans == before
    (scanned,) = evaluate(scanner, [mixture()], partial)
    assert scanner.scans == before + 1
    np.testing.assert_array_equal(sampled.bins > 0, scanned.bins > 0)
    np.testing.assert_allclose(sampled.bins, scanned.bins, rtol=1e-12)
    np.testing.assert_allclose(sampled.occupancy, scanned.occupancy, rtol=1e-12)
    assert sampled.log_likelihood == pytest.approx(scanned.log_likelihood, rel=1e-12)
    assert (sampled.rows, sampled.lowest, sampled.highest) == (
        scanned.rows,
        scanned.lowest,
        scanned.highest,
    )


def test_summaries_of_different_mixtures_do_not_add() -> None:
    source = drawn(1, 50)
    wide = MixtureParameters.from_covariances(
        "spherical", np.ones(1), np.zeros((1, 3)), np.array([4.0])
    )
    first, second = evaluate(Scanner(source, Threads(1)), [mixture(), wide])
    with pytest.raises(InputError, match="density summaries of different mixtures cannot be added"):
        first + second


def test_the_ceiling_is_reached_where_all_components_have_their_mean() -> None:
    concentric = MixtureParameters.from_covariances(
        "diag", np.array([0.5, 0.5]), np.zeros((2, 3)), np.ones((2, 3))
    )
    densities = logsumexp(log_joint(concentric, np.zeros((1, 3))))
    assert density_ceiling(concentric) == pytest.approx(densities)
