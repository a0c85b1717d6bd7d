"""Run events of OpenLineage: valid as its own client sees them, beside versions and posted."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import attr
import pytest
from openlineage.client import event_v2
from openlineage.client.facet_v2 import (
    dataset_version_dataset,
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    output_statistics_output_dataset,
    processing_engine_run,
    schema_dataset,
)
from typer.testing import CliRunner

from gmm_dask.pipelines.command import app
from gmm_dask.steps import openlineage
from gmm_dask.storage.predictions.dataset import read_predictions
from tests.pipelines.runs import read_run, write_run
from tests.storage.stored import some_model

FACETS = {
    "processing_engine": processing_engine_run.ProcessingEngineRunFacet,
    "errorMessage": error_message_run.ErrorMessageRunFacet,
    "jobType": job_type_job.JobTypeJobFacet,
    "schema": schema_dataset.SchemaDatasetFacet,
    "version": dataset_version_dataset.DatasetVersionDatasetFacet,
    "inputStatistics": input_statistics_input_dataset.InputStatisticsInputDatasetFacet,
    "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
}


def read_facets(tables):
    """Facets as the client's own classes, which know their keys and the schema of each."""
    facets = {}
    for name, table in tables.items():
        content = {key: value for key, value in table.items() if not key.startswith("_")}
        facets[name] = FACETS[name](**content)
        base = facets[name]._get_schema()
        written = table["_schemaURL"]
        # A patch of the schema may have appeared since.
        assert written.rpartition("/")[2] == base.rpartition("/")[2]
        assert written.split("/")[5].split("-")[0] == base.split("/")[5].split("-")[0]
    return facets


def read_dataset(table, kind):
    own = "inputFacets" if kind is event_v2.InputDataset else "outputFacets"
    assert set(table) <= {"namespace", "name", "facets", own}
    return kind(
        table["namespace"],
        table["name"],
        facets=read_facets(table.get("facets", {})),
        **{own: read_facets(table.get(own, {}))},
    )


def read_event(table):
    """An event as the client's own classes, which refuse what the specification does."""
    keys = {field.name for field in attr.fields(event_v2.RunEvent)}
    assert set(table) <= keys | {"schemaURL"}
    return event_v2.RunEvent(
        eventType=event_v2.RunState[table["eventType"]],
        eventTime=table["eventTime"],
        run=event_v2.Run(table["run"]["runId"], read_facets(table["run"]["facets"])),
        job=event_v2.Job(
            table["job"]["namespace"], table["job"]["name"], read_facets(table["job"]["facets"])
        ),
        producer=table["producer"],
        inputs=[read_dataset(each, event_v2.InputDataset) for each in table["inputs"]],
        outputs=[read_dataset(each, event_v2.OutputDataset) for each in table["outputs"]],
    )


@contextmanager
def receiver(status=201):
    """A server that takes events: yields its address, and what it was sent."""
    taken = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append((self.path, self.headers["Authorization"], json.loads(body)))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", taken
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def run_file(tmp_path):
    return write_run(tmp_path)


def run(kind, run_file, *overrides, code=0):
    options = [option for override in overrides for option in ("--set", override)]
    result = CliRunner().invoke(app, [kind, str(run_file), "--direct", *options])
    assert result.exit_code == code, result.output
    return result


def names(datasets):
    return [(dataset.namespace, dataset.name) for dataset in datasets]


def test_what_a_retrain_read_and_wrote_lies_beside_it_and_is_sent(run_file, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "boxes")
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "secret")
    with receiver() as (url, taken):
        monkeypatch.setenv("OPENLINEAGE_URL", url)
        run("retrain", run_file)
        run("predict", run_file, "input.path=nowhere", code=2)
    read, written, predicted = (
        [("file", f"{tmp_path}/{name}")] for name in ("input", "models/boxes", "predictions")
    )
    path = tmp_path / "models" / "boxes" / "v000001" / "lineage.json"
    beside = read_event(json.loads(path.read_text()))
    assert names(beside.inputs) == read
    assert beside.inputs[0].inputFacets["inputStatistics"].rowCount == 3000
    assert [field["name"] for field in beside.inputs[0].facets["schema"].fields] == [
        "height",
        "width",
    ]
    assert names(beside.outputs) == written
    assert beside.outputs[0].facets["version"].datasetVersion == "1"
    stored = read_predictions(str(tmp_path / "predictions"))
    of_predictions = read_event(stored.summary["lineage"])
    assert names(of_predictions.inputs) == read + written
    assert names(of_predictions.outputs) == predicted

    assert {path for path, _, _ in taken} == {"/api/v1/lineage"}
    assert {key for _, key, _ in taken} == {"Bearer secret"}
    begun, ended, *others = (read_event(event) for _, _, event in taken)
    events = (begun, beside, of_predictions, ended)
    assert len({event.run.runId for event in events}) == 1
    assert {(event.job.namespace, event.job.name) for event in events} == {
        ("boxes", "boxes.retrain")
    }
    assert [event.eventType.name for event in events] == ["START", "RUNNING", "RUNNING", "COMPLETE"]
    assert names(ended.outputs) == written + predicted
    assert ended.outputs[1].outputFacets["outputStatistics"].rowCount == 3000
    assert [event.eventType.name for event in others] == ["START", "FAIL"]
    assert "nowhere" in others[1].run.facets["errorMessage"].message


@pytest.mark.parametrize("url", ["refusing", "http://127.0.0.1:9/", "ftp://user:secret@host/x"])
def test_an_event_that_nobody_takes_is_a_warning(run_file, tmp_path, monkeypatch, url):
    with receiver(status=500) as (address, _):
        monkeypatch.setenv("OPENLINEAGE_URL", address if url == "refusing" else url)
        result = run("fit", run_file)
    assert "the COMPLETE event of this run was not taken" in result.stderr
    assert "secret" not in result.stderr
    assert (tmp_path / "models" / "boxes" / "v000001" / "lineage.json").exists()


def test_nothing_is_sent_where_it_is_switched_off(run_file, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    with receiver() as (url, taken):
        monkeypatch.setenv("OPENLINEAGE_URL", url)
        run("fit", run_file)
    assert taken == []


def test_datasets_on_stores_are_named_by_bucket_and_key(run_file):
    options = ("input.path=s3://rows/days?region=x", "output.models=s3://models/all")
    asked = read_run(run_file, *options)
    event = openlineage.run_event(
        "START",
        asked,
        "fit",
        "no uuid",
        [openlineage.input_dataset(asked, some_model())],
        [openlineage.model_dataset(asked, 3)],
    )
    read = read_event(event)
    assert names(read.inputs) == [("s3://rows", "days")]
    assert names(read.outputs) == [("s3://models", "all/boxes")]
