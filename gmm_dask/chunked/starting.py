"""First parameters of a fit, from the survey's sample: by a search, or plainly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gmm_dask.chunked.fit_records import FitOptions
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.errors import NumericalError, TooFewRowsError
from gmm_dask.events import Notify, Stage, StageAdvanced, StageFinished, StageStarted
from gmm_dask.mixture.effort import SearchEffort
from gmm_dask.mixture.initialization import initial_parameters, seeded, wide_start
from gmm_dask.mixture.labels import Ownership
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.sample import Sample, sample_slope
from gmm_dask.mixture.search import (
    SearchSummary,
    count_runs,
    search,
    worth_searching,
)
from gmm_dask.mixture.starts import SharedSample, Starts


def make_starts(
    notify: Notify,
    survey: Survey,
    options: FitOptions,
    threads: int,
    *,
    effort: SearchEffort | None = None,
    rivals: Sequence[MixtureParameters] = (),
    shared: SharedSample | None = None,
    ownership: Ownership | None = None,
) -> tuple[tuple[MixtureParameters, ...], SearchSummary | None]:
    """Make first parameters from the sample: by a search, or plainly where that cannot pay.

    Parameters
    ----------
    threads
        Threads that share the search; the result does not depend on their number.
    effort
        The extent of the search; by default that of a single fit.
    rivals
        Further starts that compete in the search; not in that on a small sample.
    shared
        The sample with what other searches have computed of it.
    ownership
        In a fit with labels, the components of each label.
    """
    sample = drop_weightless(survey.sample_for(ownership), options.spec.n_components)
    try:
        if not searches(sample, options):
            return _make_plain_starts(sample, options), None
        slope = sample_slope(sample, survey.transforms)
        whole = survey.in_memory
        return _search(notify, sample, slope, options, whole, threads, effort, rivals, shared)
    except NumericalError:
        if options.em.on_collapse != "replace":
            raise
        # Every start broke down; wide covariances are as sound as that of all rows.
        random_state = seeded(options.random_state)
        filled = sample.filled(options.spec)
        return (wide_start(sample.X, options.spec, random_state, filled),), None


def searches(sample: Sample, options: FitOptions) -> bool:
    """Whether to search; without a single iteration, the start itself is what the caller wants."""
    m, d = sample.X.shape
    wanted = options.search_rows is not None and options.em.max_iter > 0
    if sample.labelling is not None:  # where labelled rows lie, few of them suffice
        return wanted
    return wanted and worth_searching(m, d, options.spec)


def drop_weightless(sample: Sample, k: int) -> Sample:
    """Drop rows of weight 0, on which no start may be placed."""
    if sample.sample_weight is None or (sample.sample_weight > 0).all():
        return sample
    weighted = np.flatnonzero(sample.sample_weight > 0)
    if len(weighted) < k:
        raise TooFewRowsError(
            f"only {len(weighted)} of {len(sample.sample_weight):,} sampled rows have a weight "
            f"above 0, for n_components = {k}; fit fewer components, or leave rows of weight 0 out"
        )
    return sample.take(weighted)


def _make_plain_starts(sample: Sample, options: FitOptions) -> tuple[MixtureParameters, ...]:
    """Make starts as scikit-learn does, without a search; or those of a fit with labels."""
    if sample.labelling is not None:
        starts = Starts(SharedSample(sample, options.random_state), len(sample.X), options.spec)
        return tuple(
            starts.make(number, kind) for number, kind in enumerate(starts.kinds(options.n_init))
        )
    filled = sample.filled(options.spec)
    random_state = seeded(options.random_state)
    return tuple(
        initial_parameters(sample.X, sample.sample_weight, options.spec, random_state, filled)
        for _ in range(options.n_init)
    )


def _search(
    notify: Notify,
    sample: Sample,
    slope: float,
    options: FitOptions,
    whole: bool,
    threads: int,
    effort: SearchEffort | None,
    rivals: Sequence[MixtureParameters],
    shared: SharedSample | None,
) -> tuple[tuple[MixtureParameters, ...], SearchSummary]:
    m, d = sample.X.shape
    runs = count_runs(m, d, options.spec, options.n_init, whole, sample.incomplete)
    notify(StageStarted(Stage.SEARCH, runs, "runs", f"on {m:,} rows"))
    starts, summary = search(
        sample,
        options.spec,
        options.em,
        random_state=options.random_state,
        keep=options.n_init,
        threads=threads,
        whole=whole,
        effort=effort,
        rivals=rivals,
        shared=shared,
        advanced=lambda done: notify(StageAdvanced(Stage.SEARCH, done)),
    )
    best = summary.log_likelihoods[0] + slope
    notify(
        StageFinished(
            Stage.SEARCH,
            summary.seconds,
            f"{summary.starts} starts on {summary.rows:,} rows, best log-likelihood {best:.5f}",
        )
    )
    return starts, summary
