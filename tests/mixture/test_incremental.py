"""Incremental refits against the textbook, night by night, and what they do with a new cluster."""

import numpy as np
import pytest

from gmm_dask.mixture.em import Status
from gmm_dask.mixture.incremental import MOST_SCANS, refit
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import find_patterns
from gmm_dask.mixture.spec import COVARIANCE_NAMES, MixtureSpec
from gmm_dask.mixture.statistics import sum_statistics
from gmm_dask.mixture.units import UnitStatistics
from tests.mixture import textbook_incremental as textbook

NEVER = -1e300  # a gain that is never too small: all scans are made


def statistics_of(parameters, parts):
    """An E-step of each part, rows and weights; one unit a part."""
    sums = [sum_statistics(parameters, X, w, find_patterns(X)) for X, w in parts]
    return UnitStatistics.of(parameters, sums)


def expectation_on(parts):
    return lambda batch: [statistics_of(parameters, parts) for parameters in batch]


def mixture_of(kind, means, variance=1.0):
    k, d = np.shape(means)
    covariances = np.broadcast_to(
        variance * (np.eye(d) if kind in ("full", "tied") else 1.0),
        {"full": (k, d, d), "tied": (d, d), "diag": (k, d), "spherical": (k,)}[kind],
    )
    return MixtureParameters.from_covariances(kind, np.full(k, 1 / k), means, covariances.copy())


def draw_part(random, n, hard):
    """Rows of two clusters, one of them correlated; where it is hard, with weights and holes."""
    X = random.normal(size=(n, 2))
    X[: n // 3] = X[: n // 3] @ [[1.0, 0.8], [0.0, 0.6]] + [2.5, 1.0]
    if not hard:
        return X, np.ones(n)
    X[::4, 0] = np.nan
    X[1::5, 1] = np.nan
    return X[~np.isnan(X).all(axis=1)], random.uniform(0.2, 2.0, (~np.isnan(X).all(axis=1)).sum())


@pytest.mark.parametrize("hard", [False, True], ids=["plain", "weights, holes, half-life"])
@pytest.mark.parametrize("kind", COVARIANCE_NAMES)
def test_ten_nights_equal_incremental_em_of_a_textbook(kind, hard):
    random = np.random.default_rng(3)
    spec = MixtureSpec(2, kind, 1e-6)
    parameters = mixture_of(kind, [[0.0, 0.3], [2.0, 1.0]])
    decay = 0.9 if hard else 1.0
    names, kept, rows = [], UnitStatistics.of(parameters, []), {}
    for night in range(10):
        # Night 0 reads three units; later ones replace one, forget one, and read one or two more.
        read = [f"{night}{letter}" for letter in ("abc" if night == 0 else "ab"[: 1 + night % 2])]
        if night > 2:
            read.append(names[0])
        gone = {*read, *([names[1]] if night > 2 and night % 2 else [])}
        kept = kept.take([i for i, name in enumerate(names) if name not in gone])
        names = [name for name in names if name not in gone]
        kept = kept.scaled(np.full(len(kept), decay))
        parts = [draw_part(random, 14, hard) for _ in read]
        result = refit(kept, parameters, expectation_on(parts), spec, NEVER)

        mixture = (parameters.weights, parameters.means, parameters.matrices)
        old = [rows[name].forgotten(decay) for name in names]
        new = [textbook.read_unit(X, w, mixture) for X, w in parts]
        bounds = [textbook.bound_of([*old, *new], mixture)]
        for _ in range(MOST_SCANS - 1):
            mixture = textbook.maximize_units([*old, *new], kind, 1e-6)
            new = [textbook.read_unit(X, w, mixture) for X, w in parts]
            bounds.append(textbook.bound_of([*old, *new], mixture))

        parameters, kept = result.parameters, result.units
        assert result.status is Status.MAX_ITER
        assert result.scans == MOST_SCANS
        np.testing.assert_allclose(parameters.weights, mixture[0], rtol=1e-9)
        np.testing.assert_allclose(parameters.means, mixture[1], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(parameters.matrices, mixture[2], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose([result.before, *result.bounds], bounds, rtol=1e-9)
        exact = sum(float(unit.sample_weight @ unit.log_densities) for unit in new)
        assert np.isclose(result.read.total().bound(parameters), exact, rtol=1e-9)
        names = [*names, *read]
        rows = dict(zip(names, [*old, *new], strict=True))
