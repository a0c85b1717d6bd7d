"""Whole fits against scikit-learn's, defaults on both sides: ``python benchmarks/fit.py``.

Each set has a million rows or more, C-ordered float64 in memory, as numpy users have them. Each
fit is a process of its own on all cores, with ``random_state=0`` and nothing else set. Both
libraries fit a set equally often, in turns; each round begins with the other one, and medians are
printed. Before the clock starts a process has read the rows and fitted some of them, so that
imports and compiled kernels are loaded. Its peak is what Linux says (VmHWM) less what it had
before the fit, which includes what the first fit left. Both log-likelihoods are of all rows, taken
by the same kernel.

The ratio of the times is explained by two factors and a rest:

- a pass: scikit-learn's seconds per iteration (its k-means excluded) over ours;
- passes: its iterations and last E-step over our scans of all rows;
- the rest: what is not a pass, k-means there and the search here.

``--ten`` fits each set by scikit-learn with ``n_init=10`` too, once: minutes for each set. That is
what a user does there who wants a likelihood like that of our search. Beside it is a fit of ours
with ``tol=1e-4`` too: by default, either ends once a step of EM changes hardly 0.001 nats.

``--embeddings`` fits drawn embeddings instead, both libraries in turns in one process, by seconds
of the processor; scikit-learn's on one thread, since idle threads of BLAS count too. ``--wide``
fits 4,000 rows of 1,000 features, by the clock.

The synthetic sets are named by how far their means lie apart (`sets.MixtureKind`). The real ones
need two packages: see `sets.py`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from statistics import median

import numpy as np
from measuring import peak_bytes, print_machine, print_table, spread
from sets import EmbeddingKind, MixtureKind, big_sky, two_catalogues
from threadpoolctl import threadpool_limits

from gmm_dask import GaussianMixture
from gmm_dask.mixture.criteria import health
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import sum_statistics

ROWS = 1_000_000
WARM_ROWS = 100_000  # of the fit before the clock starts: so many are scanned, as all are
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]

#: Rows and components, by name.
SETS: dict[str, tuple[Callable[[], np.ndarray], int]] = {
    **{
        f"{word} {d}x{k}": (lambda d=d, k=k, apart=apart: MixtureKind(d, k, apart).draw(ROWS), k)
        for d, k in ((2, 3), (8, 8), (16, 16))
        for word, apart in (("overlapping", 1.0), ("heavily overlapping", 0.5))
    },
    "Big Sky 4x8": (big_sky, 8),
    "two catalogues 3x6": (two_catalogues, 6),
}


@dataclass(frozen=True)
class Fit:
    """One fit in a process of its own.

    Attributes
    ----------
    seconds
        Of the whole fit, by the clock.
    passes, pass_seconds
        Passes over all rows, and what one of them takes.
    peak
        Bytes that the fit took beyond what the process had.
    """

    seconds: float
    passes: int
    pass_seconds: float
    converged: bool
    peak: float
    parameters: Arrays


def fit_ours(name: str, tol: float = 1e-3) -> Fit:
    draw, k = SETS[name]
    X = draw()
    GaussianMixture(k, random_state=0).fit(X[:WARM_ROWS])
    before = peak_bytes()
    with redirect_stdout(StringIO()) as said:
        model, seconds = timed(GaussianMixture(k, random_state=0, tol=tol, verbose=2), X)
    passes = re.findall(r"Iteration .* ([\d.]+) s", said.getvalue())
    return Fit(
        seconds, model.scans_, median(map(float, passes)), model.converged_, peak_bytes() - before,
        (model.weights_, model.means_, model.covariances_),
    )  # fmt: skip


def fit_scikit_learn(name: str, n_init: int = 1) -> Fit:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as ScikitLearn

    warnings.simplefilter("ignore", ConvergenceWarning)
    draw, k = SETS[name]
    X = draw()
    ScikitLearn(k, random_state=0).fit(X[:WARM_ROWS])
    before = peak_bytes()
    model, seconds = timed(ScikitLearn(k, n_init=n_init, random_state=0), X)
    peak = peak_bytes() - before
    _, started = timed(KMeans(k, n_init=1, random_state=0), X)  # as it starts
    passes = model.n_iter_ + 1  # of the best start; the last E-step labels the rows
    return Fit(
        seconds, passes, (seconds - started) / passes, model.converged_, peak,
        (model.weights_, model.means_, model.covariances_),
    )  # fmt: skip


def timed(model, X):
    began = time.perf_counter()
    model.fit(X)
    return model, time.perf_counter() - began


def alone(function: Callable[[str], Fit], name: str) -> Fit:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, name).result()


def in_rounds(name: str, rounds: int) -> tuple[list[Fit], list[Fit]]:
    """The fits of a set by both libraries; each fitted it equally often."""
    functions = (fit_scikit_learn, fit_ours)
    fits: tuple[list[Fit], list[Fit]] = ([], [])
    for turn in range(rounds):
        for side in (turn % 2, 1 - turn % 2):
            fits[side].append(alone(functions[side], name))
    return fits


def middle(fits: list[Fit]) -> Fit:
    """One fit with the medians of what was measured; the seed makes the rest the same in all."""
    seconds, pass_seconds, peaks = zip(
        *((fit.seconds, fit.pass_seconds, fit.peak) for fit in fits), strict=True
    )
    return replace(
        fits[0], seconds=median(seconds), pass_seconds=median(pass_seconds), peak=median(peaks)
    )


def judged(X: np.ndarray, fit: Fit) -> str:
    """Mean log-likelihood of all rows, and whether a component has collapsed."""
    parameters = MixtureParameters.from_covariances("full", *fit.parameters)
    statistics = sum_statistics(parameters, X)
    found = health(parameters, statistics.counts, X.var(axis=0), 1e-6)
    note = "" if fit.converged else ", not converged"
    if found.defects:
        note += f", {found.defects} collapsed or starved"
    return f"{statistics.mean_log_likelihood:.5f}{note}"


def compared_with_ten(name: str, X: np.ndarray, ours: Fit, rounds: int) -> tuple[str, ...]:
    """A line on scikit-learn's best of ten starts, and medians of our fits by default and closer.

    A smaller ``tol`` brings ours nearer to the maximum, where the two can be compared.
    """
    ten = alone(partial(fit_scikit_learn, n_init=10), name)
    closer = middle([alone(partial(fit_ours, tol=1e-4), name) for _ in range(rounds)])
    line = [name, f"{ten.seconds:.1f}", judged(X, ten)]
    for fit in (ours, closer):
        line += [f"{fit.seconds:.2f}", f"**{ten.seconds / fit.seconds:.0f}**", judged(X, fit)]
    return tuple(line)


def compare_small() -> None:
    """A hundred rows of three clusters, where nothing but overhead is to be seen."""
    from sklearn.mixture import GaussianMixture as ScikitLearn

    random = np.random.default_rng(0)
    lines = []
    for d in (2, 8):
        X = random.normal(size=(100, d)) + 3.0 * random.integers(0, 3, size=(100, 1))
        for kind in ("full", "tied", "diag", "spherical"):
            models = (
                ScikitLearn(3, covariance_type=kind, random_state=0),
                ScikitLearn(3, covariance_type=kind, random_state=0, n_init=10),
                GaussianMixture(3, covariance_type=kind, random_state=0),
            )
            rounds = [[timed(model, X)[1] for model in models] for _ in range(51)]
            default, ten, ours = (1e3 * median(column) for column in zip(*rounds, strict=True))
            times = (f"{time:.2f}" for time in (default, ten, ours))
            lines.append((kind, d, *times, f"{ours / default:.2f}", f"{ours / ten:.2f}"))
    head = ("type", "d", "default, ms", "n_init=10, ms", "gmm-dask, ms", "of default", "of ten")
    print_table("A fit of 100 rows by scikit-learn and by us, k = 3, median of 51", head, lines)


#: Type, rows, features, and how far clusters lie apart.
EMBEDDINGS = (
    ("diag", 50_000, 384, 1.0),
    ("diag", 50_000, 384, 0.3),
    ("diag", 50_000, 768, 0.5),
    ("full", 8_000, 384, 1.0),
    ("full", 8_000, 384, 0.4),
)


def compare_embeddings() -> None:
    """Print what whole fits of embeddings take, in seconds of the processor; k = 8."""
    from sklearn.mixture import GaussianMixture as ScikitLearn

    lines = []
    for kind, n, d, separation in EMBEDDINGS:
        lightest = 0.5 if kind == "full" else 0.1  # no cluster has fewer rows than features
        X, _ = EmbeddingKind(d, 8, separation, lightest, common=0.0).draw(n)
        keywords = {"covariance_type": kind, "random_state": 0}
        GaussianMixture(8, **keywords).fit(X[: n // 2])  # compiled kernels are loaded
        measured = []
        for cls in (GaussianMixture, ScikitLearn):
            with threadpool_limits(1 if cls is ScikitLearn else None):
                began = time.process_time()
                model = cls(8, **keywords).fit(X)
                measured.append((time.process_time() - began, model.score(X)))
        (ours, higher), (theirs, lower) = measured
        lines.append(
            (kind, f"{n:,}", d, separation, f"{ours:.2f}", f"{theirs:.2f}", f"{higher - lower:.4f}")
        )
        print(lines[-1], flush=True)
    head = ("type", "rows", "d", "apart", "gmm-dask, s", "scikit-learn, s", "nats higher")
    print_table("Fits of drawn embeddings, k = 8, seconds of the processor", head, lines)


def compare_wide(repetitions: int) -> None:
    """Print what a fit of 4,000 rows of 1,000 features takes by the clock, on all cores."""
    from sklearn.mixture import GaussianMixture as ScikitLearn

    random = np.random.default_rng(0)
    d, clusters = 1_000, []
    for shift in (0.0, 0.3):
        factor = random.normal(size=(d, d)) / np.sqrt(d) + np.eye(d)
        clusters.append(random.normal(size=(2_000, d)) @ factor + shift)
    X = random.permutation(np.concatenate(clusters))
    models = GaussianMixture(2, random_state=0), ScikitLearn(2, random_state=0)
    models[0].fit(X)  # compiled kernels are loaded
    rounds = [[timed(model, X)[1] for model in models] for _ in range(repetitions)]
    ours, theirs = (list(column) for column in zip(*rounds, strict=True))
    ratio = f"{median(theirs) / median(ours):.2f}"
    scores = (f"{model.score(X):.4f}" for model in models)
    head = ("gmm-dask, s", "scikit-learn, s", "ratio", "log-likelihood, ours", "scikit-learn's")
    line = (spread(ours, 2), spread(theirs, 2), ratio, *scores)
    print_table("4,000 rows of 1,000 features, two full components, in turns", head, [line])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--repetitions", type=int, default=3, help="fits by each, in turns")
    parser.add_argument("--ten", action="store_true", help="scikit-learn with n_init=10 too, once")
    parser.add_argument("--small", action="store_true", help="a hundred rows instead")
    parser.add_argument("--embeddings", action="store_true", help="hundreds of features instead")
    parser.add_argument("--wide", action="store_true", help="few rows of 1,000 features instead")
    options = parser.parse_args()
    print_machine()
    if options.wide:
        compare_wide(options.repetitions)
        return
    if options.embeddings:
        compare_embeddings()
        return
    if options.small:
        compare_small()
        return
    times, likelihoods, tens = [], [], []
    for name in options.sets:
        fits = in_rounds(name, options.repetitions)
        theirs, ours = map(middle, fits)
        whole = theirs.seconds / ours.seconds
        a_pass = theirs.pass_seconds / ours.pass_seconds
        passes = theirs.passes / ours.passes
        line = (
            name, *(spread([fit.seconds for fit in side], 2) for side in fits), f"**{whole:.0f}**",
            f"{a_pass:.0f}", f"{theirs.passes} / {ours.passes} = {passes:.1f}",
            f"{whole / (a_pass * passes):.2f}",
            f"{theirs.peak / 2**20:.0f}", f"{ours.peak / 2**20:.0f}",
        )  # fmt: skip
        times.append(line)
        X = SETS[name][0]()
        likelihoods.append((name, f"{len(X):,}", judged(X, theirs), judged(X, ours)))
        print(times[-1], likelihoods[-1], flush=True)
        if options.ten:
            tens.append(compared_with_ten(name, X, ours, options.repetitions))
            print(tens[-1], flush=True)
    print()
    print_table(
        f"Whole fits on {len(os.sched_getaffinity(0))} cores, medians of {options.repetitions}",
        ("set, d×k", "scikit-learn, s", "gmm-dask, s", "ratio", "a pass", "passes", "the rest",
         "its peak, MiB", "ours"),
        times,
    )  # fmt: skip
    print_table(
        "Mean log-likelihood of all rows", ("set", "rows", "scikit-learn", "gmm-dask"), likelihoods
    )
    if tens:
        closer = ("tol=1e-4, s", "ratio", "likelihood")
        head = ("set, d×k", "n_init=10, s", "likelihood", "ours, s", "ratio", "likelihood", *closer)
        print_table("Beside scikit-learn's best of ten starts, one fit of it", head, tens)


if __name__ == "__main__":
    main()
