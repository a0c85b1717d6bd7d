"""The evaluation against scipy: likelihood, occupancy, quantiles, and what lies below them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from gmm_dask.chunked.evaluation import BINS, DEPTH, DensitySummary, density_ceiling, evaluate
from gmm_dask.chunked.rows import MemoryChunks
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
    read = list(source.read(0, len(source.rows)))
    values = np.concatenate([rows.values for rows in read])
    if not source.weighted:
        return values, None
    return values, np.concatenate([rows.sample_weight for rows in read])


@pytest.mark.parametrize("weighted", [False, True])
def test_records_say_what_scipy_says(weighted: bool, small_groups: int) -> None:
    source = drawn(12, 900, weighted=weighted)
    X, weights = rows_of(source)
    w = np.ones(len(X)) if weights is None else weights
    scanner = Scanner(source, Threads(2))
    mixtures = (mixture(), mixture(1.0))
    records = evaluate(scanner, mixtures)
    assert scanner.scans == 1
    for parameters, record in zip(mixtures, records, strict=True):
        joint = log_joint(parameters, X)
        densities = logsumexp(joint, axis=1)
        assert record.rows == len(X)
        assert record.weight == pytest.approx(w.sum(), rel=1e-13)
        assert record.mean_log_likelihood == pytest.approx(np.average(densities, weights=w))
        assert record.lowest == pytest.approx(densities.min())
        assert record.highest == pytest.approx(densities.max())
        assert record.ceiling > densities.max()
        labels = joint.argmax(axis=1)
        np.testing.assert_allclose(record.occupancy, np.bincount(labels, weights=w), rtol=1e-12)
        assert record.shares.sum() == pytest.approx(1.0)
        order = np.argsort(densities)
        cumulated = np.cumsum(w[order]) / w.sum()
        for share in SHARES:
            exact = densities[order][np.searchsorted(cumulated, share).clip(max=len(X) - 1)]
            # A bin's width, and the next row where rows lie farther apart than a bin.
            near = np.abs(densities[order] - exact) < 0.2
            assert record.quantile(share) == pytest.approx(exact, abs=DEPTH / BINS + 1e-9) or (
                near.sum() < 5
            )


def test_a_share_lies_below_its_quantile(small_groups: int) -> None:
    (record,) = evaluate(Scanner(drawn(12, 900), Threads(1)), [mixture()])
    for share in (0.01, 0.1, 0.5, 0.9, 0.99):
        assert record.share_below(record.quantile(share)) == pytest.approx(share, abs=2e-4)
    assert record.share_below(record.lowest - 1000.0) == 0.0
    assert record.share_below(record.highest + 1.0) == 1.0


def test_rows_far_below_the_histogram_are_counted() -> None:
    X = np.zeros((100, 3))
    X[0] = 1e3
    (record,) = evaluate(Scanner(MemoryChunks(X, None, 7, tuple("abc")), Threads(1)), [mixture()])
    assert record.lowest < record.ceiling - DEPTH
    assert record.quantile(0.0) == record.lowest
    assert record.share_below(record.ceiling - DEPTH - 1.0) == pytest.approx(0.01)
    assert record.quantile(0.5) == pytest.approx(record.highest, abs=DEPTH / BINS)


def test_records_are_the_same_bits_on_any_executor(small_groups: int, executor: Any) -> None:
    source = drawn(20, 800, weighted=True)
    runs = [
        evaluate(Scanner(source, one), [mixture()])[0] for one in (Threads(1), Threads(2), executor)
    ]
    for name in (field.name for field in fields(DensitySummary)):
        for other in runs[1:]:
            np.testing.assert_array_equal(getattr(runs[0], name), getattr(other, name))


def test_rows_that_the_survey_holds_are_not_read_again() -> None:
    X, weights = rows_of(drawn(12, 6000, weighted=True))  # more than one thread takes at once
    scanner = Scanner(MemoryChunks(X, weights, 6000, tuple("abc")), Threads(2))
    part, whole = (survey_source(scanner, rows, 0, "error") for rows in (1000, len(X)))
    before = scanner.scans
    (held,) = evaluate(scanner, [mixture()], whole)
    assert scanner.scans == before
    (read,) = evaluate(scanner, [mixture()], part)
    assert scanner.scans == before + 1
    np.testing.assert_array_equal(held.bins > 0, read.bins > 0)
    np.testing.assert_allclose(held.bins, read.bins, rtol=1e-12)
    np.testing.assert_allclose(held.occupancy, read.occupancy, rtol=1e-12)
    assert held.log_likelihood == pytest.approx(read.log_likelihood, rel=1e-12)
    assert (held.rows, held.lowest, held.highest) == (read.rows, read.lowest, read.highest)


def test_records_of_different_mixtures_do_not_add() -> None:
    source = drawn(1, 50)
    wide = MixtureParameters.from_covariances(
        "spherical", np.ones(1), np.zeros((1, 3)), np.array([4.0])
    )
    first, second = evaluate(Scanner(source, Threads(1)), [mixture(), wide])
    with pytest.raises(InputError, match="density summaries of different mixtures cannot be added"):
        first + second


def test_the_ceiling_is_reached_where_all_components_have_their_mean() -> None:
    one = MixtureParameters.from_covariances(
        "diag", np.array([0.5, 0.5]), np.zeros((2, 3)), np.ones((2, 3))
    )
    assert density_ceiling(one) == pytest.approx(logsumexp(log_joint(one, np.zeros((1, 3)))))
