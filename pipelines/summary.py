"""The result of a run for a person: the facts of a model, its components in the data's units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gmm_dask.chunked.evaluation import DensitySummary
from gmm_dask.mixture.criteria import bic
from gmm_dask.mixture.labels import ComponentLabels
from gmm_dask.mixture.matching import Match
from gmm_dask.pipelines.left_out import left_out_notes, skipped_facts, unsettled_words
from gmm_dask.pipelines.rendering import Summary
from gmm_dask.pipelines.sequences import FitOutcome, PredictOutcome, RetrainOutcome
from gmm_dask.report.page.subject import REPORT
from gmm_dask.steps.drift import Drift
from gmm_dask.steps.predicting import choose_clusters
from gmm_dask.steps.publishing import Published
from gmm_dask.storage.files.choice import exists, version_at
from gmm_dask.storage.files.contents import report_path
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.clusters import Clusters
from gmm_dask.storage.models.manifest import Manifest, RefitRecord
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.models.paths import load_model_at

#: Columns of the data shown per component; a manifest has them all.
SHOWN_COLUMNS = 6
#: The most components whose clusters are listed in a line.
LISTED_COMPONENTS = 20
#: The most labels that are listed in a line, and the most components of each.
MOST_NAMED = 8


STATUS = {
    "converged": "converged",
    "max_iter": "not converged: fit.max_iter is exhausted",
    "ill_conditioned": "broken off: a covariance lost its rank",
}


def model_summary(model: StoredModel, matches: Sequence[Match] = ()) -> Summary:
    """Sum up a stored model: how it was fitted, and its components.

    Parameters
    ----------
    model
        As read from the registry.
    matches
        Its components matched with those of the model before, for the table.
    """
    manifest, path = model.manifest, model.path
    rows, dropped = manifest.rows, manifest.rows_dropped
    outside = f"{manifest.rows_outside:,} outside the filter, " if manifest.filter else ""
    holes = f", {manifest.rows_incomplete:,} with holes" if manifest.rows_incomplete else ""
    read = rows + dropped + manifest.rows_outside
    facts = [
        ("input", f"{manifest.configuration['input']['path']} ({manifest.files:,} files)"),
        *([("filter", manifest.filter)] if manifest.filter else []),
        *skipped_facts(manifest.files_skipped or {}),
        ("rows", f"{read:,} read, {outside}{dropped:,} dropped for nulls, {rows:,} used{holes}"),
        *([("transforms", model.transforms.words(model.columns))] if model.transforms else []),
        *weight_facts(manifest),
        *_fit_facts(manifest),
    ]
    if manifest.clusters is not None:
        facts.append(("clusters", clusters_words(manifest.clusters, model.component_ids)))
    if manifest.labels is not None:
        facts.append(("labels", label_words(manifest.labels, model.component_ids)))
    if path is not None:
        facts.append(("model", str(path)))
        version = version_at(path)
        names = version.names()
        facts.extend(("report", str(version.address(name))) for name in names if name == REPORT)
        pictures = (name for name in names if name.endswith(".png"))
        facts.extend(("picture", str(version.address(name))) for name in pictures)
    header, table = component_table(model, matches)
    k, d = model.parameters.means.shape
    notes = list(manifest.warnings)
    if model.transforms is not None:
        notes.append(
            "columns with a transform: median of the component, and the ends of one standard "
            "deviation, in the data's units; log-likelihood and BIC are in these units too"
        )
    if d > SHOWN_COLUMNS:
        notes.append(f"{d - SHOWN_COLUMNS} further columns are not shown")
    kind = model.parameters.covariance_type
    comparison: list[list[str]] = []
    if manifest.selection is not None:
        compared, rows_of_cells = manifest.selection.grid()
        comparison = [compared, *rows_of_cells]
        facts.append(("chosen by", manifest.selection.legend))
    title = f"{_name(model)}: {k} {kind} components of {d} columns"
    return Summary(title, facts, header, table, notes, comparison)


def _fit_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Say what was read how often, and how likely the rows are."""
    refit = manifest.refit
    if refit is None:
        return [
            ("scans", f"{manifest.scans} of all rows"),
            ("iterations", f"{manifest.n_iter}, {STATUS[manifest.status]}"),
            ("log-likelihood", f"{manifest.log_likelihood:.6g} nats per row"),
            ("BIC", f"{manifest.bic:,.1f}"),
        ]
    facts = [
        ("incremental", f"read {refit.describe()}, {refit.scans} scans of these"),
        ("units", _unit_words(refit)),
        ("log-likelihood", f"at least {refit.bound:.6g} nats per row (a bound), of all rows"),
    ]
    if refit.log_likelihood_read is not None:
        words = f"log-likelihood {refit.log_likelihood_read:.6g} nats per row"
        before = f"{refit.log_likelihood_read_before:.6g} under the model before"
        facts.append(("rows read", f"{words}, {before}"))
    words = f"of {refit.sample_rows:,} rows: occupancy, quantiles, outliers and clusters are of it"
    return [*facts, ("sample", words)]


def _unit_words(refit: RefitRecord) -> str:
    """Say what became of the units of the night before."""
    words = [f"{refit.units_kept:,} kept"]
    counts = {
        "changed": refit.units_changed,
        "gone": refit.units_gone,
        "read again in turn": refit.units_again,
    }
    words += [f"{count:,} {what}" for what, count in counts.items() if count]
    return f"{', '.join(words)}; night {refit.nights} since the last full fit"


def weight_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Say what the rows weigh, where they have weights."""
    if manifest.effective_rows is None:
        return []
    halflife = manifest.configuration["input"].get("weight_halflife")
    words = f"{manifest.weight:,.6g} in all, as {manifest.effective_rows:,.6g} rows of equal weight"
    if halflife:
        words += f"; half for each {halflife['days']:g} days of {halflife['column']}"
    return [("total weight", words)]


def input_summary(path: str, plan: InputPlan, purpose: str = "") -> Summary:
    """Sum up an input: what its filter leaves, by what can be known without reading a row.

    ``purpose`` says in the title what it is read for, if more than one input is shown.
    """
    facts = [("input", path)]
    if plan.filter is None:
        facts.append(("files", f"{len(plan.files):,}"))
    else:
        facts.append(("filter", plan.filter.text))
        facts.append(("files", f"{len(plan.files):,} of {plan.listed:,} are read"))
    facts += skipped_facts({file.path: file.reason for file in plan.skipped})
    if plan.unsettled:
        facts.append(("left for later", unsettled_words(len(plan.unsettled))))
    groups = sum(len(file.groups) for file in plan.files)
    of_all = sum(rows > 0 for file in plan.files for rows in file.row_groups)
    if plan.decay is not None:
        decay = f"half for each {plan.decay.days:g} days of {plan.decay.column} before "
        facts.append(("weights", f"{decay}{plan.decay.today}"))
    bound = "at most " if plan.masked else ""
    facts += [
        ("row groups", f"{groups:,} of {of_all:,} in these files"),
        ("rows", f"{bound}{plan.rows:,}, before nulls"),
        ("columns", ", ".join(plan.names)),
    ]
    if plan.transforms is not None:
        facts.append(("transforms", plan.transforms.words(plan.names)))
    return Summary(f"input {path}{purpose}", facts)


def label_words(labels: ComponentLabels, component_ids: Sequence[int]) -> str:
    """Say which components have which label, and how sure each is."""
    words = []
    for name in dict.fromkeys(labels.labels):
        members = [
            f"{identity}" + ("" if confidence is None else f" ({confidence:.0%})")
            for identity, label, confidence in zip(
                component_ids, labels.labels, labels.confidences, strict=True
            )
            if label == name
        ]
        some = [*members[:MOST_NAMED], *(["…"] if len(members) > MOST_NAMED else [])]
        words.append(f"{name}: {', '.join(some)}")
    return "; ".join(words[:MOST_NAMED]) + ("; …" if len(words) > MOST_NAMED else "")


def clusters_words(clusters: Clusters, component_ids: Sequence[int]) -> str:
    """Say how many clusters are suggested, and of which components each is made."""
    k, n = len(component_ids), clusters.n_clusters
    words = f"{n} from {k} component{'s' if k > 1 else ''}"
    if n == k or k > LISTED_COMPONENTS:
        return words
    members: dict[int, list[int]] = {}
    for component, cluster in sorted(zip(component_ids, clusters.cluster_ids, strict=True)):
        members.setdefault(cluster, []).append(component)
    return f"{words}: " + ", ".join("+".join(map(str, ids)) for ids in members.values())


def _name(model: StoredModel) -> str:
    """Name a model by its path: NAME/v000003 or NAME/rejected/RUN."""
    if model.path is None:
        return "model"
    if model.version is None:
        return f"{model.path.parent.parent.name}, refused candidate"
    return f"{model.path.parent.name}, version {model.version}"


def fit_summary(outcome: FitOutcome) -> Summary:
    """Sum up a fit: the model as it is read back from the registry."""
    summary = model_summary(load_model_at(outcome.published.path))
    return replace(
        summary,
        facts=[*summary.facts, *_pruned_facts(outcome.published)],
        notes=[*summary.notes, *left_out_notes(outcome)],
    )


def _pruned_facts(published: Published | None) -> list[tuple[str, str]]:
    """Say which old versions went, if any did."""
    if published is None or not published.pruned.paths:
        return []
    return [("removed", str(published.pruned))]


def predict_summary(outcome: PredictOutcome) -> Summary:
    """Sum up predictions: how many rows, by which model, and how far the data have drifted."""
    predicted, model, output = outcome.predicted, outcome.model, outcome.run.output
    rows = f"{predicted.rows:,} predicted, {predicted.dropped:,} with nulls left null"
    if not predicted.parts:
        rows = "none: all of these files are predicted already"
    files = len({part.input_file for part in predicted.parts})  # a file may have many parts
    which, outside = "as in the input", ""
    if predicted.filter is not None:
        which = "those inside the filter, and those kept outside"
        outside = f", {predicted.kept:,} kept outside the filter"
    facts = [
        ("model", f"{output.models}/{output.name}, version {model.version}"),
        *([("predict filter", predicted.filter)] if predicted.filter else []),
        ("new rows", rows),
        ("input files", f"{files:,} read, {predicted.reused:,} unchanged{outside}"),
        ("predictions", f"{output.predictions}: {outcome.total_rows:,} rows, {which}"),
    ]
    if outcome.run.predict.cluster:
        ids = choose_clusters(outcome.run, model) or ()
        facts.append(("clusters", f"{len(set(ids))}, in the column cluster"))
    if exists(report_path(outcome.path)):
        facts.append(("report", str(report_path(outcome.path))))
    title = f"predictions for {outcome.run.input.path}"
    notes = left_out_notes(outcome)
    if predicted.lost:
        notes.append(
            f"predictions of rows outside the filter are lost for {len(predicted.lost):,} input "
            f"file(s), the first of them {predicted.lost[0]}: changed, or its parts are damaged"
        )
    if predicted.drift is None:
        return Summary(title, facts, notes=notes)
    table = [
        # Rounded and without a negative zero: the rest of a difference of equals says nothing.
        [
            check.name,
            f"{round(check.value, 9) + 0.0:.4g}",
            f"{check.limit:.4g}",
            "yes" if check.passed else "NO",
        ]
        for check in predicted.drift.checks
    ]
    notes += [check.explanation for check in predicted.drift.checks if not check.passed]
    return Summary(title, facts, ["drift", "found", "allowed", "within"], table, notes)


def retrain_summary(outcome: RetrainOutcome) -> Summary:
    """Sum up a retrain: the decision and its reason, the model before, and what is in use now."""
    current, evaluation = outcome.current, outcome.evaluation
    in_use = "no model is" if current is None else f"version {current.version} is"
    notes = []
    if outcome.published is not None:
        path, decision = outcome.published.path, "accepted, and in use now"
    elif outcome.refusal is not None:
        path, decision = outcome.refusal.path, f"refused; {in_use} in use"
        assert outcome.decision is not None
        notes.append(f"refused: {outcome.decision.brief_reason}")
    else:
        assert current is not None
        assert current.path is not None
        path, decision = current.path, f"nothing is new, so nothing was fitted; {in_use} in use"
    summary = model_summary(load_model_at(path), evaluation.matches if evaluation else ())
    facts = [("decision", decision), *summary.facts, *_pruned_facts(outcome.published)]
    if current is not None and evaluation is not None:
        record = evaluation.current_densities
        if evaluation.refit is None:
            facts.insert(1, (f"version {current.version}", _on_the_same_rows(current, record)))
    if outcome.measured is not None:
        facts.insert(1, ("drift", _new_rows_words(outcome.measured)))
    if outcome.failure is not None:
        notes.append(f"the predictions failed: {outcome.failure}")
    notes += [*summary.notes, *left_out_notes(outcome)]
    if outcome.predictions is not None:
        predictions = predict_summary(outcome.predictions)
        facts += predictions.facts[1:]
        said = [*notes, *(outcome.measured.clauses if outcome.measured else ())]
        notes += [note for note in predictions.notes if note not in said]
    return Summary(summary.title, facts, summary.header, summary.rows, notes, summary.comparison)


def _new_rows_words(drift: Drift) -> str:
    """Say how the rows that a retrain had not seen compare with the model in use before."""
    record = drift.record
    assert record is not None
    plural = "" if record.files == 1 else "s"
    counted = f"{record.rows:,} new rows in {record.files:,} file{plural}"
    return f"{counted}, compared with version {record.version}: {drift.words or 'none'}"


def _on_the_same_rows(model: StoredModel, record: DensitySummary | None) -> str:
    """Say how the model in use does on the rows of the candidate; None: the gate cannot tell."""
    if record is None:
        return (
            "not compared: it has other columns, or transforms for which some of these rows have "
            "no value"
        )
    before = bic(model.parameters, record.log_likelihood, record.weight)
    words = f"log-likelihood {record.mean_log_likelihood:.6g} nats per row, BIC {before:,.1f}"
    return f"{words}, on the same rows"


def component_table(
    model: StoredModel, matches: Sequence[Match] = ()
) -> tuple[list[str], list[list[str]]]:
    """Tabulate each component: its weight, its mean ± standard deviation per column, its state.

    All columns are in natural units (`StoredModel.spread`).

    With ``matches`` also the change of its weight, and how far its mean has moved, in standard
    deviations of the model before.
    """
    parameters, columns = model.parameters, model.columns[:SHOWN_COLUMNS]
    changes = {match.new: match for match in matches}
    rows = []
    for component, identity in enumerate(model.component_ids):
        cells = [str(identity), f"{parameters.weights[component]:.1%}"]
        if matches:
            change = changes.get(component)
            cells.append("new" if change is None else f"{change.weight_change:+.1%}")
            cells.append("" if change is None else f"{change.moved:.2f} σ")
        cells += [model.spread(component, feature) for feature in range(len(columns))]
        rows.append([*cells, state(model, component)])
    changed = ["change", "moved"] if matches else []
    return ["component", "weight", *changed, *columns, "state"], rows


def state(model: StoredModel, component: int) -> str:
    """Say whether a component describes rows, or has collapsed or starved."""
    manifest = model.manifest
    lost = {"collapsed": manifest.collapsed, "starved": manifest.starved}
    return ", ".join(word for word, components in lost.items() if component in components) or "ok"
