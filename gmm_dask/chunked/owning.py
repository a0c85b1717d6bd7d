"""Which components a label owns in a fit, by what the survey has found."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from gmm_dask.chunked.fit_records import FitOptions
from gmm_dask.chunked.survey_record import Survey
from gmm_dask.errors import ConfigError
from gmm_dask.mixture.initialization import given_start
from gmm_dask.mixture.labels import LabelCounts, Ownership, count_labels
from gmm_dask.mixture.parameters import MixtureParameters

logger = logging.getLogger("gmm_dask")


def assign_labels(
    survey: Survey, options: FitOptions, start: Sequence[MixtureParameters] = ()
) -> Ownership | None:
    """Give each label of the survey its components; None in a fit without labels.

    A fit in which no row has a label is such a fit.

    The components of a given start keep their order, so each label takes those in which most of
    its rows are, as the survey's rows of the labels say. Otherwise the first components are those
    of the first label.

    Raises
    ------
    ConfigError
        There are fewer components than the labels need; or the options ask for what a fit with
        labels does not do.
    """
    each = options.components_per_label
    if each is None:
        return None
    _refuse_others(options)
    labels = survey.labels
    if labels is None or not labels.names:
        logger.warning("no used row has a label: the fit is that of rows without labels")
        return None
    ownership = Ownership.plan(labels.names, options.spec.n_components, each)
    given = [*start, *_given(options)]
    if not given:
        return ownership
    counts = count_labels(given[0], labels.draw.values, None, labels.label(labels.draw))
    return match_labels(counts, ownership, each)


def match_labels(counts: LabelCounts, ownership: Ownership, each: int) -> Ownership:
    """Give each label the components that hold most of its rows, (Kuhn, 1955)."""
    from scipy.optimize import linear_sum_assignment

    shares = [counts[name] / max(counts[name].sum(), 1e-300) for name in ownership.names]
    wanted = np.repeat(np.array(shares), each, axis=0)  # (labels · each, k)
    places, components = linear_sum_assignment(wanted, maximize=True)
    owners = np.full(ownership.n_components, -1)
    owners[components] = places // each
    return Ownership(ownership.names, tuple(owners.tolist()))


def _given(options: FitOptions) -> list[MixtureParameters]:
    return [given_start(options.spec)] if options.spec.start.complete else []


def _refuse_others(options: FitOptions) -> None:
    """Refuse options that a fit with labels does not take into account."""
    start = options.spec.start
    if not (start.complete or start.free):
        raise ConfigError(
            "with labels, first parameters are given in full (weights_init, means_init and "
            "precisions_init) or not at all: the starts are made from the labelled rows"
        )
    if start.init_params != "kmeans":
        raise ConfigError(
            f"init_params = {start.init_params!r}: with labels, the starts are made from the "
            "labelled rows; leave it out"
        )
    if options.em.on_collapse == "replace":
        raise ConfigError(
            "on_collapse = 'replace' would take a component away from its label; with labels, "
            "leave it at 'report'"
        )
