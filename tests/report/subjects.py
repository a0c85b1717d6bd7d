"""Subjects of reports: mixtures of any size with the aggregates of rows drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.em import em_steps, start_em
from gmm_dask.mixture.expectation import ExpectationOn
from gmm_dask.mixture.merging import merge_on_sample
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.report.aggregates import Json, aggregate
from gmm_dask.report.page.subject import Batch, Subject
from gmm_dask.storage.models.clusters import Clusters
from gmm_dask.storage.models.manifest import Feature, Publication
from gmm_dask.storage.models.model import StoredModel
from tests.storage.stored import some_manifest


def mixture_of(k: int, d: int, seed: int = 0) -> MixtureParameters:
    """Draw a mixture with full covariances."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(k, d, d)) / np.sqrt(d)
    return MixtureParameters.from_covariances(
        "full",
        rng.dirichlet(np.full(k, 5.0)),
        rng.uniform(-6.0, 6.0, (k, d)),
        factors @ factors.transpose(0, 2, 1) + 0.2 * np.eye(d),
    )


def rows_of(mixture: MixtureParameters, n: int, seed: int = 1) -> FloatArray:
    """Draw rows from a mixture, (n, d)."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(mixture.n_components, size=n, p=mixture.weights)
    noise = rng.normal(size=(n, mixture.n_features))
    factors = np.linalg.cholesky(mixture.matrices)
    rows: FloatArray = mixture.means[labels] + np.einsum("nij,nj->ni", factors[labels], noise)
    return rows


def fitted(
    rows: FloatArray, start: MixtureParameters, iterations: int
) -> dict[int, MixtureParameters]:
    """Run EM and return the parameters by the number of M-steps done."""
    options = EMOptions(0.0, iterations)
    state = start_em([start], options)
    replay = {0: start}
    for state in em_steps(ExpectationOn(rows, None), state, MixtureSpec(), options):  # noqa: B020
        replay[state.iteration] = state.candidates[0].parameters
    return replay


def subject_of(
    k: int = 3,
    d: int = 2,
    n: int = 3_000,
    iterations: int = 5,
    columns: Sequence[str] | None = None,
    known: bool = True,
    before: Sequence[Json] = (),
    drift: tuple[Batch, ...] = (),
    version: int = 7,
    ids: Sequence[int] | None = None,
    searched: int = 0,
    **manifest: Any,
) -> Subject:
    """Make a subject from rows of a mixture, after some iterations from another mixture.

    ``searched`` iterations before these are of the search.
    """
    rows = rows_of(mixture_of(k, d), n)
    replay = fitted(rows, mixture_of(k, d, seed=5), iterations)
    final = replay[iterations]
    numbers = tuple(ids if ids is not None else range(k))
    names = tuple(columns or [f"column {feature}" for feature in range(d)])
    changed: Mapping[str, Any] = {
        "status": "converged",
        "n_iter": iterations,
        "history": tuple(np.linspace(-9.0, -4.5, iterations).tolist()),
        "log_likelihood": -4.4,
        "rows": n,
        "collapsed": (),
        "starved": (),
        "warnings": (),
        "clusters": Clusters.of(merge_on_sample(final, Sample(rows, None)), numbers),
        "features": {
            name: Feature(
                minimum=float(values.min()),
                maximum=float(values.max()),
                mean=float(values.mean()),
                standard_deviation=float(values.std()),
            )
            for name, values in zip(names, rows.T, strict=True)
        },
    }
    model = StoredModel(
        final,
        names,
        numbers,
        replace(some_manifest(), **{**changed, **manifest}),
        Publication(run_id="run-0", created="2026-01-02T03:04:05+00:00", host="h", version=version),
    )
    way = [(mixture_of(k, d, seed=6), -5.0 + 0.1 * step) for step in range(searched)]
    aggregates = aggregate(rows, final, replay, before, {"fit": 1.5}, way) if known else None
    return Subject("stars", model, aggregates, drift)
