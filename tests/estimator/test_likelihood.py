"""With default settings no fit ends below scikit-learn's default by more than tol.

On small sets the best of ten starts of scikit-learn's is the measure, and the best known mixtures.

Each test prints a table: run with ``-s`` to read it. Fits in which either side has a collapsed or
starved component are listed apart, because their likelihood can grow without bound.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Reference
from threadpoolctl import threadpool_limits

from benchmarks.sets import LADDER, REAL, SMALL
from gmm_dask import GaussianMixture
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.criteria import health
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import sum_statistics

pytestmark = pytest.mark.slow  # four minutes in all

TYPES = tuple(COVARIANCE_TYPES)
TOL = 1e-3


@dataclass(frozen=True)
class Comparison:
    name: str
    k: int
    covariance_type: str
    reference: float
    ours: float
    reference_defects: int
    our_defects: int

    @property
    def defects(self):
        return self.reference_defects + self.our_defects

    @property
    def gain(self):
        return self.ours - self.reference

    @property
    def loses(self):
        return not self.defects and self.gain < -TOL


def evaluate(model, X):
    """Mean log-likelihood of all rows under a fitted model, and its number of defects."""
    parameters = MixtureParameters.from_covariances(
        model.covariance_type, model.weights_, model.means_, model.covariances_
    )
    statistics = sum_statistics(parameters, X)
    defects = health(parameters, statistics.counts, X.var(axis=0), model.reg_covar).defects
    return statistics.mean_log_likelihood, defects


def compare(name, X, k, covariance_type, n_init=1):
    """Fit both with their defaults, except for ``n_init`` starts of scikit-learn's."""
    settings = {"n_components": k, "covariance_type": covariance_type, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # One thread: on a busy machine its small parallel loops wait for each other.
        with threadpool_limits(1):
            reference_model = Reference(**settings, n_init=n_init).fit(X)
        model = GaussianMixture(**settings).fit(X)
    reference, reference_defects = evaluate(reference_model, X)
    ours, our_defects = evaluate(model, X)
    return Comparison(name, k, covariance_type, reference, ours, reference_defects, our_defects)


def report(comparisons):
    """Print the table; return the comparisons without defects."""
    sound = [fit for fit in comparisons if not fit.defects]
    defective = [fit for fit in comparisons if fit.defects]
    for title, listed in (("", sound), ("with collapsed or starved components", defective)):
        if listed:
            print(f"\n{'set ' + title:46} {'k':>3} {'type':10} {'scikit-learn':>12} {'ours':>12}")
        for fit in listed:
            print(
                f"{fit.name:46} {fit.k:3} {fit.covariance_type:10} "
                f"{fit.reference:12.5f} {fit.ours:12.5f} {fit.gain:+10.5f}"
            )
    return sound


def check(comparisons):
    sound = report(comparisons)
    assert sound, "every fit has a collapsed or starved component: the set shows nothing"
    assert not [fit for fit in sound if fit.loses]


@pytest.mark.parametrize("name", ["iris", "wine", "digits", "Old Faithful"])
def test_small_real_sets(name):
    X = REAL[name]()
    check([compare(name, X, k, kind) for kind in TYPES for k in range(2, 11)])


def test_hipparcos():
    X = REAL["Hipparcos"]()
    check([compare("Hipparcos", X, k, "full") for k in range(2, 11)])


@pytest.mark.parametrize("name", LADDER)
def test_ladder(name):
    rung = LADDER[name]
    X = rung.draw(5_000)
    fits = [compare(name, X, k, "full") for k in range(2, 11)]
    fits += [compare(name, X, rung.k, kind) for kind in TYPES if kind != "full"]
    check(fits)


@pytest.mark.parametrize("name", ["overlapping 2x3", "unequal 3x6", "concentric 5x4"])
def test_more_rows_than_the_search_samples(name):
    rung = LADDER[name]
    X = np.asfortranarray(rung.draw(120_000))
    check([compare(name, X, rung.k, kind) for kind in TYPES])


@pytest.mark.parametrize("seed", [2, 4])
def test_many_clusters_under_a_tied_covariance(seed):
    """A move leaves the shared covariance wrong for all components, until iterations mend it."""
    random = np.random.default_rng(seed)
    centres = random.uniform(0.0, 30.0, size=(31, 2))
    X = np.concatenate(
        [c + random.normal(size=(100, 2)) * random.uniform(0.5, 1.2) for c in centres]
    )
    check([compare("31 clusters", X, 10, "tied", n_init=10)])


def test_small_sets_against_the_best_of_ten_starts():
    fits = []
    for name, rows in SMALL.items():
        X = rows()
        fits += [compare(name, X, k, kind, n_init=10) for kind in TYPES for k in range(2, 6)]
    sound = report(fits)
    losing = [fit for fit in sound if fit.loses]
    assert len(losing) <= 0.05 * len(sound), losing
    assert not [fit for fit in sound if fit.gain < -0.02]
    # A defect of ours may not take a fit out of the comparison.
    assert not [fit for fit in fits if fit.our_defects > fit.reference_defects]


# The mixture of the lowest BIC, −2·log-likelihood + p·log n, among the four types and k ≤ 6. From
# its parameters, EM in R's mclust 6.0.0 comes to rest at the same BIC. The starts of mclust lead to
# the same mixtures, but for banknote (tied, 3: 1613.473) and thyroid (diag, 3: 4777.907).
LOWEST_BIC = {
    "acidity": ("tied", 2, 392.072),
    "banknote": ("tied", 4, 1607.292),
    "diabetes": ("full", 3, 4734.512),
    "iris": ("full", 2, 574.018),
    "Old Faithful": ("tied", 3, 2314.296),
    "thyroid": ("diag", 4, 4765.659),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", LOWEST_BIC)
def test_the_lowest_bic_is_of_the_best_known_mixture(name, seed):
    X = SMALL[name]()
    lowest, kind, k = min(
        (GaussianMixture(k, covariance_type=kind, random_state=seed).fit(X).bic(X), kind, k)
        for kind in TYPES
        for k in range(1, 7)
    )
    best_kind, best_k, best = LOWEST_BIC[name]
    assert (kind, k) == (best_kind, best_k)
    assert lowest == pytest.approx(best, abs=0.05)
