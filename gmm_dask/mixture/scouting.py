"""Starts of mixtures of many features from clusters that cost less to find.

With hundreds of features, log-densities differ by hundreds of nats, and EM hardly changes to which
component a row belongs. So what matters is the clusters of the start. A whole search on a few
principal components finds them, correlations included, for less than an iteration on all features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gmm_dask.arrays import LabelsArray
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.clustering import alike
from gmm_dask.mixture.competition import Competition, Run
from gmm_dask.mixture.criteria import deviations
from gmm_dask.mixture.initialization import labelled_start
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.race import Race
from gmm_dask.mixture.sample import Sample
from gmm_dask.mixture.spec import EMOptions
from gmm_dask.mixture.starts import StartKind, Starts
from gmm_dask.mixture.threads import single_threaded

#: Principal components on which a search finds clusters, and rows by which these are found.
COMPONENTS, _AXES_ROWS = 32, 8_192


def project(rows: Sample) -> Sample:
    """Project complete rows on the principal components of their standardised features."""
    scale = 1.0 / deviations(rows.variances)  # (d,)
    few = rows.X[:: -(-len(rows.X) // _AXES_ROWS)].astype(np.float64)
    few -= few.mean(axis=0)
    few *= scale
    with single_threaded():
        _, vectors = np.linalg.eigh(few.T @ few)  # ascending
        axes = (vectors[:, -COMPONENTS:] * scale[:, None]).astype(rows.X.dtype)  # (d, p)
        projected = axes.T @ rows.X.T  # (p, m)
    middle = projected.mean(axis=1, dtype=np.float64)
    return Sample((projected - middle[:, None]).T, rows.sample_weight)


def follow_scouts(
    competition: Competition,
    starts: Starts,
    clusterings: Sequence[LabelsArray],
    firsts: Sequence[Run],
    rows: Sample,
    options: EMOptions,
    keep: int,
    whole: bool,
) -> list[Run]:
    """Run EM from clusters of a search on few features and of k-means; return runs, best first.

    Of clusterings that are alike one remains. Where that is all there is, and the rows are all
    rows, the polish is left to bring it to rest: its iterations cost no more.

    Parameters
    ----------
    clusterings
        Labels of the rows by the mixtures of a search on few features, best first.
    firsts
        Runs from neighbours in a selection, which compete.
    rows
        On which the runs come to rest.
    options
        Of the runs.
    keep
        Mixtures wanted.
    whole
        Whether these rows are all rows.
    """
    k = starts.spec.n_components
    labels = [*clusterings, starts.label_by_method(rows)]
    kinds = [StartKind.SCOUTED] * len(clusterings) + [StartKind.METHOD]
    chosen = _distinct(labels, k)
    competition.skip(len(labels) - len(chosen))

    def make(number: int, kind: StartKind) -> MixtureParameters:
        weight = rows.sample_weight
        return labelled_start(rows.X, labels[chosen[number]], weight, starts.spec)

    runs = competition.begin(make, [kinds[number] for number in chosen], rows.X.size * k)
    if len(runs) + len(firsts) == 1 and whole:
        return competition.run(rows, runs, EMOptions(options.tol, 1))
    race = Race(competition.variances, starts.spec.reg_covar, keep)
    return competition.race(rows, [*runs, *firsts], options, race)


def _distinct(labels: Sequence[LabelsArray], k: int) -> list[int]:
    """Return the indices of the labellings that differ from all earlier ones."""
    chosen = list[int]()
    for index, labelling in enumerate(labels):
        if not any(alike(labels[earlier], labelling, k) for earlier in chosen):
            chosen.append(index)
    return chosen


def run_by_labels(
    competition: Competition,
    starts: Starts,
    rows: Sample,
    best: Sequence[Run],
    options: EMOptions,
) -> list[Run]:
    """Run the start that scikit-learn would make, unless it has the clusters of the best run.

    It is given up once it cannot reach that. ``rows`` and ``options`` are as for `follow_scouts`.
    """
    labels = starts.label_by_method(rows)
    leader, k = best[0].candidate, starts.spec.n_components
    if alike(assign(leader.parameters, rows.X).labels, labels, k):
        competition.skip(1)
        return []

    def make(number: int, kind: StartKind) -> MixtureParameters:
        return labelled_start(rows.X, labels, rows.sample_weight, starts.spec)

    runs = competition.begin(make, [StartKind.METHOD])
    race = Race(competition.variances, starts.spec.reg_covar, least=leader.log_likelihood)
    return competition.race(rows, runs, options, race)
