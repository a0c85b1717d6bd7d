"""Metrics of the last runs, in a text file that Prometheus' node exporter collects.

The file holds the last run of each kind of each model that names it, so that a nightly retrain and
an hourly prediction may share one. What a run says nothing of, because it failed, stays as it was:
alerts go by the time of the last success.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from gmm_dask.addresses import local_path
from gmm_dask.errors import StorageError
from gmm_dask.pipelines.endings import STATES
from gmm_dask.pipelines.run_record import INTERRUPTED, TIMED_OUT, RunRecord
from gmm_dask.storage.files.atomic import create_directory, replace_file, storage_errors
from gmm_dask.storage.files.locks import acquire

#: Seconds to wait for another run that writes the same file.
PATIENCE = 10.0

HELP = {
    "last_run_timestamp_seconds": "When the last run ended.",
    "last_run_duration_seconds": "How long the last run took.",
    "last_run_succeeded": "Whether the last run did what was asked.",
    "last_run_state": "1 for the state in which the last run ended, 0 for the others.",
    "last_success_timestamp_seconds": "When the last run ended that did what was asked.",
    "input_files_skipped": "Input files that the last run left out as they cannot be used.",
    "input_files_unsettled": "Input files that the last run left out as they were not at rest.",
    "model_version": "Version of the model in use.",
    "model_components": "Components of the model in use.",
    "model_rows": "Rows to which the model in use was fitted.",
    "model_log_likelihood": "Mean log-likelihood of these rows, nats per row.",
    "model_bic": "Bayesian information criterion of the model in use.",
    "model_iterations": "Iterations of the fit of the model in use.",
    "model_scans": "Scans of all rows that the fit of the model in use took.",
    "model_bound": "What the mean log-likelihood is at least, after an incremental fit.",
    "model_rows_read": "Rows that the incremental fit of the model in use has read.",
    "predicted_rows": "Rows that the last run predicted.",
    "prediction_rows": "Rows of the current predictions.",
    "drifted": "Whether the new rows exceeded a limit of drift, where it was measured last.",
    "drift": "How far the new rows differ, by check, where that was measured last.",
    "drift_limit": "How far they may differ, by check.",
}


def write_metrics(address: str, record: RunRecord) -> None:
    """Put a run into the metrics file, which is replaced whole or not at all.

    Parameters
    ----------
    address
        The path of ``output.metrics``.

    Raises
    ------
    StorageError
        It cannot be written, or another run holds it.
    """
    path = local_path(address)
    create_directory(path.parent)
    with acquire(path.with_name(f".{path.name}.lock"), f"the metrics file {path}", PATIENCE):
        families = {metric.name: metric for metric in _read(path)}
        for metric in metrics_of(record):
            before = families.get(metric.name)
            if before is not None:
                metric.samples[:0] = [
                    sample
                    for sample in before.samples
                    if any(
                        sample.labels.get(label) != value for label, value in _of(record).items()
                    )
                ]
            families[metric.name] = metric
        replace_file(path, _write([family for family in families.values() if family.samples]))


def metrics_of(record: RunRecord) -> Iterator[Metric]:
    """Yield the metrics that a run says something of."""
    values: dict[str, float | None] = {
        "last_run_timestamp_seconds": record.began + record.seconds,
        "last_run_duration_seconds": record.seconds,
        "last_run_succeeded": float(record.succeeded),
    }
    if record.succeeded:
        values["last_success_timestamp_seconds"] = record.began + record.seconds
    if record.error is None:
        values["input_files_skipped"] = len(record.files_skipped)
        values["input_files_unsettled"] = record.files_unsettled
    model, predictions = record.model, record.predictions
    if model is not None:
        values |= {
            "model_version": model.version,
            "model_components": model.n_components,
            "model_rows": model.rows,
            "model_log_likelihood": model.log_likelihood,
            "model_bic": model.bic,
            "model_iterations": model.n_iter,
            "model_scans": model.scans,
            "model_bound": model.bound,
            "model_rows_read": model.rows_read,
        }
    if predictions is not None:
        values["predicted_rows"] = predictions.rows
        values["prediction_rows"] = predictions.total_rows
    if record.drift is not None:
        values["drifted"] = float(record.drifted)
    for name, value in values.items():
        # What is not known of this model is no longer said: it would be of an earlier one.
        yield _gauge(record, name, {} if value is None else {None: value})
    states = (*STATES, TIMED_OUT, INTERRUPTED)
    of_state = {state: float(state == record.state) for state in states}
    yield _gauge(record, "last_run_state", of_state, "state")
    if record.drift is not None:
        found = {check.name: check.value for check in record.drift}
        allowed = {check.name: check.limit for check in record.drift}
        yield _gauge(record, "drift", found, "check")
        yield _gauge(record, "drift_limit", allowed, "check")


def _of(record: RunRecord) -> dict[str, str]:
    return {"model": record.name or "", "kind": record.kind}


def _gauge(
    record: RunRecord, name: str, values: dict[str, float] | dict[None, float], label: str = ""
) -> Metric:
    """Make a metric of one value, or of one for each value of a label."""
    labels = _of(record)
    names = [*labels, label] if label else [*labels]
    metric = GaugeMetricFamily(f"gmm_dask_{name}", HELP[name], labels=names)
    for key, value in values.items():
        metric.add_metric([*labels.values(), *([key] if key is not None else [])], value)
    return metric


def _read(path: Path) -> list[Metric]:
    """Read the metrics of the file; none if there is no file.

    Raises
    ------
    StorageError
        The file holds something else, which is not overwritten.
    """
    try:
        with storage_errors(path, "cannot be read"):
            text = path.read_text(encoding="utf-8") if path.exists() else ""
        return list(text_string_to_metric_families(text))
    except ValueError as error:
        raise StorageError(
            f"{path}: holds no metrics in Prometheus' text format ({error}); remove it, or name "
            "another file in output.metrics"
        ) from error


class _Families(Collector):
    """Metrics as the registry of prometheus_client collects them."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _write(families: list[Metric]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(families))
    return generate_latest(registry)
