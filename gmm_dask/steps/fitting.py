"""The step that fits: survey, search and polish, with a checkpoint."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from gmm_dask.chunked.fit import fit as fit_rows
from gmm_dask.chunked.fit_records import FitOptions, FitResult, FitState
from gmm_dask.chunked.scan import Scanner
from gmm_dask.config import RunConfig
from gmm_dask.events import Notify
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import EMOptions, MixtureSpec
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.steps.identities import comparable
from gmm_dask.steps.inputs import mixture_spec
from gmm_dask.steps.resuming import Save, checkpoint_key, with_checkpoint
from gmm_dask.steps.unit_keeping import keeps_units
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.model import StoredModel

logger = logging.getLogger("gmm_dask")


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted mixture that is not yet published.

    Attributes
    ----------
    result
        The mixture, and how it came about.
    checkpoint_key
        Key of the checkpoint that is kept until the mixture is published or rejected.
    seconds
        Wall time of this step; where it resumed, without what came before.
    """

    result: FitResult
    checkpoint_key: str
    seconds: float = 0.0


def fit(
    run: RunConfig,
    plan: InputPlan,
    scanner: Scanner,
    notify: Notify,
    start: tuple[MixtureParameters, ...] = (),
    search_too: bool = False,
    transforms: Transforms | None = None,
    current: StoredModel | None = None,
) -> Fitted:
    """Fit a mixture by survey, search and polish: one scan, and one more for each iteration.

    A checkpoint is kept beside the models until the model is published. If this fit is
    interrupted, the same fit continues from there and ends with the same bits.

    Parameters
    ----------
    start
        Parameters to start from; if there are none, a search finds a start.
    search_too
        Whether a search finds another start beside the given ones.
    transforms
        Those in whose units ``start`` is; None: the plan's, settled by the survey.
    current
        The current model, if the evaluation is to measure it too.

    Raises
    ------
    StorageError
        Another process runs the same fit, or the checkpoint cannot be written.
    InputError, NumericalError, ClusterError
        As `gmm_dask.chunked.fit.fit`.
    """
    logger.info(
        "fitting %s %s components to %s%s rows of %d columns in %d file(s)",
        run.model.n_components,
        run.model.covariance_type,
        "at most " if plan.masked else "",
        f"{plan.rows:,}",
        len(plan.names),
        len(plan.files),
    )
    began = time.perf_counter()
    model = run.model
    # With [select], these are no part of the fit key.
    cell = () if run.select is None else (model.n_components, model.covariance_type)
    others = () if transforms is None else (transforms,)
    key = checkpoint_key(run, plan, start, search_too, *cell, *others)
    scanner.transforms = plan.transforms if transforms is None else transforms

    def fit_on(resume: FitState | None, save: Save) -> FitResult:
        return fit_rows(
            scanner,
            fit_options(run),
            start=start,
            search_too=search_too,
            evaluate_too=not keeps_units(run),  # a scan of its own takes both
            rivals=lambda: comparable(plan, current, scanner.transforms),
            resume=resume,
            save=save,
        )

    result = with_checkpoint(run, plan, scanner, key, fit_on)
    for sentence in result.warnings:
        logger.warning(sentence)
    return Fitted(result, key, time.perf_counter() - began)


def fit_options(run: RunConfig, spec: MixtureSpec | None = None) -> FitOptions:
    """Return the options of a fit that a run file asks for, by default of its own mixture."""
    rows = run.fit.search_rows
    return FitOptions(
        spec=spec or mixture_spec(run),
        em=EMOptions(run.fit.tol, run.fit.max_iter, run.fit.on_collapse),
        n_init=run.fit.n_init,
        random_state=run.fit.random_state,
        search_rows=None if rows == "none" else rows,
        nulls=run.input.nulls,
        components_per_label=None if run.labels is None else run.labels.components,
    )
