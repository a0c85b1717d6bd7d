"""A run file with its outputs, and its input, on an object store: the same bits as on a disk."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from gmm_dask import load_model
from gmm_dask.addresses import place_of
from gmm_dask.config import LocalProcesses, ThreadsCluster
from gmm_dask.errors import InputError, StorageError
from gmm_dask.events import silent
from gmm_dask.pipelines import sequences
from gmm_dask.pipelines.kinds import PREDICT, RETRAIN
from gmm_dask.steps.reporting import write_report
from gmm_dask.storage.files.choice import check_output, version_at
from gmm_dask.storage.files.stores import entries_under, find, put
from gmm_dask.storage.input.location import find_files
from gmm_dask.storage.models.model import PARAMETERS, verify_files
from gmm_dask.storage.models.paths import load_model_at
from gmm_dask.storage.models.registry import Registry
from tests.object_stores import KEY, SECRET, WRITER, WRITER_SECRET, credentials, environment
from tests.pipelines.runs import read_run, write_part, write_run

pytestmark = pytest.mark.slow

THREADS = ThreadsCluster(threads=2)
WORKERS = LocalProcesses(kind="local", workers=2, memory_limit="1GiB")


def do(sequence, run, cluster, run_id):
    return sequence(run, cluster, sequences.directly, silent, run_id=run_id)


def upload(folder, address):
    for path in folder.rglob("*.parquet"):
        put(place_of(address) / path.relative_to(folder).as_posix(), path.read_bytes())


def read_rows(address):
    """Read predictions as the documentation says: by ``current.json``."""
    store, path = fs.FileSystem.from_uri(address)
    with store.open_input_stream(f"{path}/current.json") as file:
        folder = json.load(file)["folder"]
    return pq.read_table(f"{path}/{folder}", filesystem=store)


def parameters(run):
    registry = Registry(run.output.models, run.output.name)
    for number in registry.versions():
        verify_files(version_at(registry.path(number)))
    return [version_at(registry.path(number)).read(PARAMETERS) for number in registry.versions()]


def rows_of(run):
    """The rows of predictions, with the types of those on a disk."""
    names = ["row", "input_file", "number", "component", "log_density", "outlier"]
    if run.output.predictions.startswith("s3://"):
        return read_rows(run.output.predictions).select(names)
    return pq.read_table(run.output.predictions).select(names)


def make_runs(root, address, *overrides):
    """Write a run file; return its run on a disk, and the one on a store."""
    run_file = write_run(root)
    upload(root / "input", f"{address}/input")
    outputs = (f"output.models={address}/models", f"output.predictions={address}/predictions")
    return read_run(run_file), read_run(run_file, *outputs, *overrides)


def test_fit_predict_retrain_and_report(weeds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local, stored = make_runs(tmp_path, weeds)
    for run in (local, stored):
        do(sequences.fit, run, THREADS, "fit-1")
        assert do(sequences.predict, run, THREADS, "predict-1").total_rows == 3000
    write_part(tmp_path, 4, seed=4)
    for run in (local, stored):
        retrained = do(sequences.retrain, run, THREADS, "retrain-1")
        assert retrained.published.version == 2
        again = do(sequences.predict, run, THREADS, "predict-2")
        assert (again.predicted.parts, again.predicted.reused) == ((), 4)
    assert parameters(stored) == parameters(local)
    assert rows_of(stored).num_rows == 4000
    assert rows_of(stored).equals(rows_of(local))
    # What people and other tools get.
    assert load_model(f"{weeds}/models/boxes").n_components == 3
    assert load_model_at(Path(f"{weeds}/models/boxes"), 1).version == 1
    page = write_report(f"{weeds}/models/boxes", [1, 2], stored.output.predictions)
    assert "boxes-v1-v2" in page.name
    facts = dict(PREDICT.steps().sum_up(again).facts)
    assert facts["report"].startswith(f"{weeds}/predictions/_versions/predict-2")
    facts = RETRAIN.steps().sum_up(retrained).facts
    assert len([fact for fact in facts if fact[0] == "picture"]) >= 3
    # Old versions stay for a day, and nothing that was only staged.
    entries = entries_under(place_of(stored.output.predictions))
    assert {key.partition(".")[0] for key in entries} == {
        "_versions/predict-1",
        "_versions/predict-2",
        "_versions/retrain-1",
        "current",
    }
    for key in entries_under(place_of(weeds)):
        content, _ = find(place_of(weeds) / key)
        assert not any(secret.encode() in content for secret in (SECRET, KEY))


def test_workers_read_and_write_with_what_their_environment_holds(seaweed, weeds, tmp_path):
    """The input is on the store too; rights to write and list below the bucket are enough."""
    local, stored = make_runs(tmp_path, weeds, f"input.path={weeds}/input")
    do(sequences.fit, local, THREADS, "fit-1")
    do(sequences.predict, local, THREADS, "predict-1")
    with environment(**credentials(seaweed, WRITER, WRITER_SECRET)):
        do(sequences.fit, stored, WORKERS, "fit-1")
        assert do(sequences.predict, stored, WORKERS, "predict-1").total_rows == 3000
        assert parameters(stored) == parameters(local)
        assert rows_of(stored).equals(rows_of(local))


def test_keys_that_the_store_does_not_know_or_that_do_not_fit(seaweed, weeds):
    wrong = {
        "the store does not know the key id; check AWS_ACCESS_KEY_ID": ("nobody", SECRET),
        "the secret key does not belong to the key id": (KEY, "not-the-secret"),
        "access is denied; check AWS_ACCESS_KEY_ID": (WRITER, WRITER_SECRET),
    }
    for remedy, (key, secret) in wrong.items():
        # The writer may not write to another bucket.
        address = weeds if key != WRITER else "s3://bucket-of-others/x"
        with environment(**credentials(seaweed, key, secret)):
            with pytest.raises(StorageError, match=remedy):
                check_output(place_of(address))
            with pytest.raises(InputError, match="access is denied; check AWS_ACCESS_KEY_ID"):
                find_files(f"{address}/input")
