"""The steps of a retrain alone: whether anything is new, where to start, whether to publish."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gmm_dask.addresses import Place
from gmm_dask.chunked.selection import criteria
from gmm_dask.config import RetrainSection, RunConfig
from gmm_dask.errors import GmmDaskError
from gmm_dask.mixture.em import Status
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.steps.drift import Check, Drift
from gmm_dask.steps.evaluating import Evaluation
from gmm_dask.steps.identities import same_features
from gmm_dask.steps.manifest import fit_key
from gmm_dask.steps.new_rows import input_content
from gmm_dask.steps.nights import left_to_full_fit
from gmm_dask.steps.predicting import choose_clusters
from gmm_dask.steps.pruning import prune_after_storing
from gmm_dask.steps.publishing import clear_checkpoint
from gmm_dask.steps.reporting import describe_by_report
from gmm_dask.steps.resuming import registry_of
from gmm_dask.steps.selecting import is_selection_due, last_selection
from gmm_dask.storage.input.content import unchanged_files
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.manifest import RefitRecord
from gmm_dask.storage.models.model import StoredModel

logger = logging.getLogger("gmm_dask")

DRIFTED = "the new rows have drifted"


@dataclass(frozen=True)
class RetrainStart:
    """Where a retrain starts.

    Attributes
    ----------
    parameters
        Those of the current model, or nothing.
    search_too
        Whether a fresh start competes with the current model in the same scans.
    transforms
        Those in whose units the parameters are: center and scale of ``standardise`` stay, unless
        a fit starts from scratch.
    """

    parameters: tuple[MixtureParameters, ...]
    search_too: bool
    transforms: Transforms | None = None


@dataclass(frozen=True)
class Decision:
    """The checks of the gate, which decide whether a candidate becomes the current model."""

    checks: tuple[Check, ...]

    @property
    def accepted(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """The checks that failed, in words; empty if the candidate is accepted."""
        return "; ".join(check.explanation for check in self.checks if not check.passed)

    @property
    def brief_reason(self) -> str:
        """The reason where it was said already what has drifted."""
        return "; ".join(
            DRIFTED if check.explanation.startswith(DRIFTED) else check.explanation
            for check in self.checks
            if not check.passed
        )


def read_current(run: RunConfig) -> StoredModel | None:
    """Read the current model that a run file names; None before the first is published.

    Raises
    ------
    ModelError
        The model is damaged.
    """
    registry = registry_of(run)
    return None if registry.current_version() is None else registry.load()


def is_up_to_date(run: RunConfig, plan: InputPlan, current: StoredModel | None) -> bool:
    """Whether the current model was fitted to these very values with this configuration.

    Where nights are incremental, keys that wait for the next full fit do not count. Input files
    that may have been written since are read again. A model that does not say what its input files
    held is not up to date.

    Raises
    ------
    InputError
        Such a file cannot be read.
    """
    if current is None:
        return False
    due = is_selection_due(run, plan, current)
    left = ""
    if current.manifest.fit_key != fit_key(run, plan):
        left = "" if due else left_to_full_fit(run, plan, current)
        if not left:
            return False
    if due and last_selection(run, current) is None:
        return False
    known = input_content(current)
    changed = {file.path for file in plan.files} - unchanged_files(plan, known).keys()
    if changed and known:
        logger.info(
            "version %s was fitted to other values of %d input file(s), the first of them %s",
            current.version,
            len(changed),
            min(changed),
        )
    if left and not changed:
        logger.warning("%s", left)
    return not changed


def choose_start(run: RunConfig, plan: InputPlan, current: StoredModel | None) -> RetrainStart:
    """Choose a start by ``retrain.start``; from scratch if the current model has another shape."""
    if current is None or run.retrain.start == "scratch":
        return RetrainStart((), False)
    parameters = current.parameters
    same_shape = (
        same_features(plan, current)
        and parameters.n_components == run.model.n_components
        and parameters.covariance_type == run.model.covariance_type
    )
    if not same_shape:
        logger.info(
            "version %s has other columns, transforms, components or covariances; starting from "
            "scratch",
            current.version,
        )
        return RetrainStart((), False)
    search_too = run.retrain.start in ("both", "incremental")
    return RetrainStart((parameters,), search_too, current.transforms)


def warn_of_clusters(run: RunConfig, current: StoredModel | None) -> None:
    """Warn before a fit if the current model cannot predict the clusters that are asked for.

    The candidate may; but if it is refused, the current model is to predict.
    """
    if current is None or run.output.predictions is None:
        return
    try:
        choose_clusters(run, current)
    except GmmDaskError as error:
        logger.warning("if the candidate is refused, nothing can be predicted: %s", error)


def decide(run: RunConfig, evaluation: Evaluation, drift: Drift | None = None) -> Decision:
    """Hold a candidate to the gate: the checks that ``[retrain]`` asks for.

    Parameters
    ----------
    drift
        How the new rows differ from those of the current model; None if that was not measured.
    """
    section = run.retrain
    result = evaluation.fitted.result
    rows = result.survey.rows
    checks = [
        Check(
            "rows",
            rows,
            section.min_rows,
            rows >= section.min_rows,
            f"{rows:,} rows were used, {section.min_rows:,} are needed",
        )
    ]
    refit = evaluation.model.manifest.refit
    if refit is not None:
        checks += _compare_bounds(refit, section)
    elif section.require_converged:
        converged = result.best.status is Status.CONVERGED
        checks.append(
            Check(
                "converged",
                float(converged),
                1.0,
                converged,
                f"the fit ended as {result.best.status.value} after {result.best.n_iter} "
                "iterations",
            )
        )
    if not section.allow_collapsed:
        defects = result.health.defects
        checks.append(
            Check(
                "collapsed or starved components",
                float(defects),
                0.0,
                defects == 0,
                f"{defects} component(s) collapsed or starved",
            )
        )
    if evaluation.current_densities is not None and evaluation.selection is not None:
        checks.append(_compare_criteria(evaluation, evaluation.selection.criterion, section))
    elif evaluation.current_densities is not None:
        new = evaluation.densities.mean_log_likelihood
        old = evaluation.current_densities.mean_log_likelihood
        checks.append(
            Check(
                "log-likelihood drop",
                old - new,
                section.max_log_likelihood_drop,
                old - new <= section.max_log_likelihood_drop,
                f"log-likelihood {new:.5f} nats per row, {old:.5f} under the current model",
            )
        )
    if section.on_drift == "refuse" and drift is not None:
        checks.append(_check_drift(drift))
    return Decision(tuple(checks))


def _compare_bounds(refit: RefitRecord, section: RetrainSection) -> list[Check]:
    """Compare what is known after an incremental fit: a bound, and the likelihood of what was read.

    A night takes few steps, and the next one goes on; so it need not have converged.
    """
    limit = section.max_log_likelihood_drop
    drop = refit.bound_before - refit.bound
    checks = [
        Check(
            "bound drop",
            drop,
            limit,
            drop <= limit,
            f"the log-likelihood of all rows is at least {refit.bound:.5f} nats per row; under the "
            f"current model at least {refit.bound_before:.5f}",
        )
    ]
    new, old = refit.log_likelihood_read, refit.log_likelihood_read_before
    if new is not None and old is not None:
        checks.append(
            Check(
                "log-likelihood drop on the rows read",
                old - new,
                limit,
                old - new <= limit,
                f"log-likelihood {new:.5f} nats per row on the rows read, {old:.5f} under the "
                "current model",
            )
        )
    return checks


def _check_drift(drift: Drift) -> Check:
    failed = sum(not check.passed for check in drift.checks)
    words = f"{DRIFTED}: {drift.words}" if failed else "the new rows are alike"
    return Check("drift of new rows", float(failed), 0.0, not failed, words)


def _compare_criteria(evaluation: Evaluation, criterion: str, section: RetrainSection) -> Check:
    """Compare a chosen mixture with the current one, which may have other components.

    Their log-likelihoods alone would favour more components. Where the cell is the same, the check
    is that of a fit.
    """
    densities, of_current = evaluation.densities, evaluation.current_densities
    assert evaluation.current is not None
    assert of_current is not None
    new = criteria(evaluation.model.parameters, densities)[criterion]
    old = criteria(evaluation.current.parameters, of_current)[criterion]
    rise = (new - old) / (2.0 * densities.weight)
    return Check(
        f"{criterion} rise",
        rise,
        section.max_log_likelihood_drop,
        rise <= section.max_log_likelihood_drop,
        f"{criterion} {new:,.1f}, {old:,.1f} under the current model: {rise:.5f} nats per row",
    )


def reject(run: RunConfig, evaluation: Evaluation, decision: Decision, run_id: str) -> Place:
    """Keep a refused candidate under ``rejected/``, for inspection, and return its path."""
    path = registry_of(run).reject(
        evaluation.model,
        run_id=run_id,
        reason=decision.reason,
        extra=evaluation.files,
        describe=describe_by_report(run.output.name, evaluation.aggregates, evaluation.nights),
    )
    clear_checkpoint(run, evaluation)
    logger.warning("refused: %s; the candidate is kept in %s", decision.brief_reason, path)
    prune_after_storing(run)
    return path
