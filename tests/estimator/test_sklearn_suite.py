"""scikit-learn's own tests of its mixtures, run against ours.

The functions are taken from the installed scikit-learn when this file is collected, so a new
version brings its new tests. Left out are functions that make no `GaussianMixture`: they test
scikit-learn's private functions. `DIFFERENCES` holds what differs on purpose, with the reason; each
entry is held to what it says.
"""

import importlib.util
import inspect
import re
import traceback
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import sklearn.mixture

from gmm_dask import GaussianMixture

# Many of these tests end a fit before it converges; in scikit-learn's suite a warning is no error.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@dataclass(frozen=True)
class Fails:
    """A test that must fail: ``shows`` is a pattern of the line that fails, or of its error."""

    reason: str
    shows: str


@dataclass(frozen=True)
class OtherWords:
    """A test that passes once it expects our messages: pairs of patterns, theirs and ours."""

    reason: str
    words: dict[str, str]


@dataclass(frozen=True)
class PlainStart:
    """A test that passes with ``search_rows=None``: then a fit starts as scikit-learn's does."""

    reason: str


KEYWORD = "our message names the keyword that the caller wrote"
PRIVATE_METHOD = "it calls private methods of scikit-learn's class"

#: Of every test that takes a dtype.
FLOAT32 = Fails(
    "parameters and densities are float64 for rows of any type: sums over many rows need it, and "
    "the model does not depend on how its rows are stored",
    r"\.dtype == global_dtype",
)

DIFFERENCES = {
    "test_check_weights": OtherWords(
        KEYWORD,
        {
            "'weights' should have": (
                r"'weights_init' should have the shape of \(2,\), but got \(2, 1\)$"
            ),
            "'weights' should be in": r"'weights_init' should be in the range \[0, 1\]$",
            "'weights' should be normalized": (
                r"'weights_init' should be normalized, but got sum\(weights\) = 0\.\d+$"
            ),
        },
    ),
    "test_check_means": OtherWords(
        KEYWORD,
        {
            "'means' should have": (
                r"'means_init' should have the shape of \(2, 2\), but got \(3, 2\)$"
            )
        },
    ),
    "test_check_precisions": OtherWords(
        f"{KEYWORD}, and the component",
        {
            "precision' should have": r"'precisions_init' should have the shape of \(2",
            "precision' should be symmetric, positive-definite": (
                r"^precisions_init of component \d is not positive definite$"
            ),
            "precision' should be positive$": (
                r"^precisions_init of component \d is not finite and positive$"
            ),
        },
    ),
    "test_gaussian_mixture_fit_convergence_warning": OtherWords(
        "our message says how many iterations were made",
        {
            "did not converge": (
                r"^EM did not converge in 1 iterations over all rows\. Try a larger max_iter or tol"
            )
        },
    ),
    "test_regularisation": OtherWords(
        "our message names the component and what is wrong with it",
        {
            "ill-defined empirical covariance": (
                r"the covariance of component \d (is not|has a) .*; try fewer components, "
                r"a larger reg_covar, or another scale$"
            )
        },
    ),
    "test_warm_start": PlainStart(
        "it asserts that k-means and five iterations leave the fit unconverged"
    ),
    "test_multiple_init": PlainStart(
        "it asserts that five starts end no lower than one of another seed"
    ),
    "test_score": PlainStart(
        "it asserts that one iteration does not reach the optimum; a search before it does"
    ),
    "test_gaussian_mixture_precisions_init_diag": PlainStart(
        "it compares the iterations of two fits that begin at the same start"
    ),
    "test_gaussian_mixture_n_parameters": Fails(PRIVATE_METHOD, "_n_parameters"),
    "test_gaussian_mixture_aic_bic": Fails(PRIVATE_METHOD, "_n_parameters"),
    "test_gaussian_mixture_precisions_init": Fails(PRIVATE_METHOD, "_set_parameters"),
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": Fails(
        "it counts the calls of scikit-learn's M-step; ours is another", r"mock\.call_count"
    ),
    "test_gaussian_mixture_raises_where_array_api_not_implemented": Fails(
        "scikit-learn refuses k-means under array_api_dispatch; our fit takes numpy arrays as ever",
        "DID NOT RAISE",
    ),
}
#: Of those, the tests that the oldest scikit-learn allowed does not have.
LATER = {"test_gaussian_mixture_raises_where_array_api_not_implemented"}


def load(name):
    """Load a file of scikit-learn's tests with our `GaussianMixture` in place of theirs."""
    path = Path(sklearn.mixture.__file__).parent / "tests" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"scikit_learn_{name}", path)
    module = importlib.util.module_from_spec(spec)
    with patch.object(sklearn.mixture, "GaussianMixture", GaussianMixture):
        spec.loader.exec_module(module)
    return module


def concerns_us(value):
    """Whether a case is of our class, and of arrays that we take: numpy's, and dask's."""
    others = {"array_api_strict", "cupy", "dpnp", "torch"}
    return not (
        isinstance(value, sklearn.mixture.BayesianGaussianMixture)
        or (isinstance(value, tuple) and others.intersection(map(str, value)))
    )


class Translator:
    """`pytest` as a test sees it that expects our messages where `words` has them."""

    def __init__(self, words):
        self.words = words
        self.seen = set()

    def raises(self, expected, match):
        return pytest.raises(expected, match=self.translate(match))

    def warns(self, expected, match):
        return pytest.warns(expected, match=self.translate(match))

    def translate(self, match):
        plain = re.sub(r"\\(.)", r"\1", match)  # most messages went through `re.escape`
        for theirs, ours in self.words.items():
            if re.search(theirs, plain):
                self.seen.add(theirs)
                return ours
        return match


def fail_as_said(difference, function, arguments):
    """Run a test that must fail, and see that it does so as the table says."""
    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
        function(**arguments)
    source = function.__code__.co_filename
    lines = [frame.line for frame in traceback.extract_tb(caught.tb) if frame.filename == source]
    assert re.search(difference.shows, f"{lines[-1]}\n{caught.value}")
    pytest.xfail(difference.reason)


def difference_of(name, arguments):
    difference = DIFFERENCES.get(name)
    if isinstance(difference, Fails) or arguments.get("global_dtype") is not np.float32:
        return difference
    return FLOAT32


def adapted(name, function, module):
    """A test of scikit-learn's that runs as `DIFFERENCES` says."""

    @wraps(function)
    def test(**arguments):
        difference = difference_of(name, arguments)
        if isinstance(difference, Fails):
            fail_as_said(difference, function, arguments)
        elif isinstance(difference, OtherWords):
            translator = Translator(difference.words)
            with patch.object(module, "pytest", translator):
                function(**arguments)
            assert translator.seen == set(difference.words)
        elif isinstance(difference, PlainStart):
            plain = partial(GaussianMixture, search_rows=None)
            with patch.object(module, "GaussianMixture", plain):
                function(**arguments)
        else:
            function(**arguments)

    test.pytestmark = []
    for mark in reversed(getattr(function, "pytestmark", [])):
        arguments = mark.args
        if mark.name == "parametrize":
            names, values = arguments
            arguments = names, [value for value in values if concerns_us(value)]
        getattr(pytest.mark, mark.name)(*arguments, **mark.kwargs)(test)
    return test


TESTS = {
    name: adapted(name, function, module)
    for module in map(load, ["test_gaussian_mixture", "test_mixture"])
    for name, function in vars(module).items()
    if name.startswith("test_") and re.search(r"\bGaussianMixture\b", inspect.getsource(function))
}
globals().update(TESTS)  # where pytest looks for tests


@pytest.fixture(params=[np.float32, np.float64])
def global_dtype(request):
    return request.param


@pytest.fixture
def global_random_seed():
    return 42  # scikit-learn's, unless told otherwise


def test_the_differences_are_of_tests_that_exist():
    assert len(TESTS) > 30
    assert set(DIFFERENCES) - set(TESTS) <= LATER
