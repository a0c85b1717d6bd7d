"""A scan for statistics and evaluation at once has the bits of two, in one pass where it can."""

from dataclasses import replace

import numpy as np
import pytest

from gmm_dask.chunked import evaluation
from gmm_dask.chunked.conclusion import in_order
from gmm_dask.chunked.evaluation import evaluate_rows
from gmm_dask.chunked.expectation import ScannedExpectation, sum_and_evaluate, sum_labelled_batch
from gmm_dask.chunked.rows import MemoryChunks, Rows, find_holes
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.mixture.labels import Ownership, RowLabels, code_of
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import sum_statistics
from gmm_dask.mixture.transforms import Transform, Transforms
from gmm_dask.nulls import NullPolicy
from tests.steps.test_fit_state import bits

OWNERSHIP = Ownership(("a", "b"), (0, 1, -1))


def mixture(shift=0.0):
    """Three components that overlap, the lightest first."""
    means = np.array([[0.0, 0.5], [2.0 + shift, 1.0], [1.0, 3.0]])
    covariances = np.array([[[1.0, 0.3], [0.3, 0.5]], np.eye(2), [[0.5, -0.2], [-0.2, 2.0]]])
    return MixtureParameters.from_covariances("full", np.array([0.2, 0.3, 0.5]), means, covariances)


def drawn(n=3_000):
    return np.asfortranarray(np.random.default_rng(3).normal(size=(n, 2)) * 1.5 + 1.0)


def rows_like(what):
    """Rows of a chunk, with something about them."""
    X = drawn()
    rows = Rows(X, None, 0, 0)
    if what == "weighted":
        return replace(rows, sample_weight=np.random.default_rng(4).exponential(size=len(X)))
    if what == "single precision":
        return replace(rows, values=X.astype(np.float32))
    if what == "transformed singles":
        transforms = Transforms((Transform("asinh"), None))
        return replace(rows, values=X.astype(np.float32), transforms=transforms)
    if what == "holes":
        X[::50, 0] = np.nan
        return find_holes(replace(rows, values=X))
    if what == "labelled":
        codes = np.zeros(len(X), np.int64)
        codes[::7], codes[::9] = code_of("a"), code_of("b")
        names = {code_of(name): name for name in OWNERSHIP.names}
        return replace(rows, labels=RowLabels(codes, names))
    return rows


@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("in_doubles", [False, True])
@pytest.mark.parametrize(
    "what", ["plain", "weighted", "single precision", "transformed singles", "holes", "labelled"]
)
def test_statistics_and_evaluation_have_the_bits_that_they_have_alone(what, in_doubles, owned):
    rows, ownership = rows_like(what), OWNERSHIP if owned else None
    if owned and rows.labels is None:
        rows = replace(rows, labels=RowLabels(np.zeros(len(rows.values), np.int64)))
    batch, mixtures = (mixture(), mixture(1.0)), (mixture(2.0), mixture())
    both = sum_and_evaluate(rows, (batch, ownership, mixtures), in_doubles)
    assert bits(both.sums) == bits(sum_labelled_batch(rows, (batch, ownership), in_doubles))
    assert bits(both.evaluation) == bits(evaluate_rows(rows, mixtures))


def test_what_is_summed_is_not_assigned_again(monkeypatch):
    def refuse(*given, **options):
        raise AssertionError("a second pass")

    monkeypatch.setattr(evaluation, "assign", refuse)
    for what in ("plain", "weighted"):
        sum_and_evaluate(rows_like(what), ((mixture(),), None, (mixture(),)))
    with pytest.raises(AssertionError, match="a second pass"):
        sum_and_evaluate(rows_like("plain"), ((mixture(),), None, (mixture(1.0),)))


def test_a_scan_sums_fresh_candidates_in_the_order_of_results(monkeypatch, small_groups):
    parameters, X = mixture(), drawn()
    alone = sum_statistics(parameters, X)
    ordered = in_order(parameters, True)
    scanner = Scanner(MemoryChunks(X, None, 1_000, ("x", "y")), Threads(1))
    expectation = ScannedExpectation(scanner, NullPolicy.ERROR, None, {})

    def scan(fresh, beside):
        expectation.fresh, expectation.beside = [fresh], beside
        (sums,) = expectation([parameters])
        assert sums.parameters_digest == parameters.digest
        for name in ("counts", "residual_sums", "residual_products", "log_likelihood"):
            np.testing.assert_allclose(getattr(sums, name), getattr(alone, name), rtol=1e-11)
        return bits(sums)

    monkeypatch.setattr(evaluation, "assign", None)  # no second pass, where an order fits
    assert scan(True, [ordered]) == scan(True, ())
    assert scan(False, [parameters]) == scan(False, ())
    assert set(expectation.evaluated) == {ordered.digest, parameters.digest}
