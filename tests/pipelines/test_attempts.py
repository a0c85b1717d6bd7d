"""A run that begins again by itself: after a change of its input, and without bad files."""

from functools import partial

import pyarrow.parquet as pq
import pytest

from gmm_dask.chunked.threads import Threads
from gmm_dask.config import ThreadsCluster
from gmm_dask.errors import BadFileError, ConfigError, InputChangedError, InputError
from gmm_dask.events import IterationFinished
from gmm_dask.pipelines import attempts, deployed, sequences
from gmm_dask.pipelines.attempts import attempt
from gmm_dask.pipelines.summary import fit_summary
from gmm_dask.steps import inputs, resuming
from gmm_dask.storage.models.checkpoint import interrupted_fits
from gmm_dask.storage.models.registry import Registry
from tests.pipelines.runs import read_run, write_part, write_run

SKIP = "input.bad_files=skip"


@pytest.fixture
def waited(monkeypatch):
    seconds = []
    monkeypatch.setattr(attempts.time, "sleep", seconds.append)
    return seconds


class Failing:
    """A run that fails with these errors, one after the other, and then ends."""

    def __init__(self, *errors):
        self.errors = [*errors]
        self.without = []

    def __call__(self, bad):
        self.without.append([file.path for file in bad])
        if self.errors:
            raise self.errors.pop(0)
        return "done"


@pytest.mark.parametrize(("written", "retries"), [(None, 3), ("", 3), ("0", 0), ("5", 5)])
def test_a_changed_input_is_tried_again_as_often_as_the_environment_says(
    tmp_path, waited, monkeypatch, written, retries
):
    monkeypatch.delenv("GMM_DASK_RETRIES", raising=False)
    if written is not None:
        monkeypatch.setenv("GMM_DASK_RETRIES", written)
    run = read_run(write_run(tmp_path))
    changes = [InputChangedError(f"x: has grown ({number})") for number in range(retries)]
    assert attempt(run, Failing(*changes)) == "done"
    assert waited == [10.0, 60.0, 300.0, 300.0, 300.0][:retries]
    with pytest.raises(InputChangedError, match=r"^once too often$"):
        attempt(run, Failing(*changes, InputChangedError("once too often")))


@pytest.mark.parametrize("error", [InputError("x"), BadFileError("x", "is half"), OSError("x")])
def test_other_errors_end_the_run(tmp_path, waited, error):
    failing = Failing(error)
    with pytest.raises(type(error)):
        attempt(read_run(write_run(tmp_path)), failing)
    assert (failing.without, waited) == ([[]], [])


def test_bad_files_of_a_scan_are_skipped_one_by_one_up_to_the_limit(tmp_path, waited):
    run = read_run(write_run(tmp_path), SKIP, "input.max_bad_files=2")
    a, b, c, d = (BadFileError(name, "is half") for name in "abcd")
    failing = Failing(a, InputChangedError("x: is gone"), b)
    assert attempt(run, failing) == "done"
    assert failing.without == [[], ["a"], ["a"], ["a", "b"]]
    assert waited == [10.0]
    # The plan refuses the third, as it knows how many files there are; this is the last resort.
    with pytest.raises(BadFileError, match=r"^d: is half$"):
        attempt(run, Failing(a, b, c, d))


def test_a_number_of_retries_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("GMM_DASK_RETRIES", "twice")
    with pytest.raises(ConfigError, match="GMM_DASK_RETRIES = twice: give a whole number"):
        attempt(read_run(write_run(tmp_path)), Failing())


def test_a_fit_whose_input_changed_is_that_of_the_new_input_whatever_was_saved(
    tmp_path, waited, monkeypatch
):
    monkeypatch.setattr(resuming, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(inputs, "Threads", partial(Threads, memory=0))  # each scan reads again
    run = read_run(write_run(tmp_path), "fit.search_rows=500", "fit.tol=1e-9")
    changed = []

    def notify(event):
        if isinstance(event, IterationFinished) and event.iteration == 2 and not changed:
            changed.extend(interrupted_fits(Registry(tmp_path / "models", "boxes")))
            write_part(tmp_path, day=2, seed=7, rows=1200)

    again = sequences.fit(run, ThreadsCluster(), sequences.directly, notify, "changed")
    assert waited == [10.0]
    assert len(changed) == 1
    whole = sequences.fit(run, ThreadsCluster(), sequences.directly, lambda event: None, "whole")
    assert again.evaluation.model.sha256 == whole.evaluation.model.sha256
    assert again.evaluation.model.manifest.rows == whole.evaluation.model.manifest.rows == 3168


def test_a_run_that_skipped_a_file_ends_as_partial_and_is_told(
    tmp_path, prefect_server, monkeypatch
):
    told = tmp_path / "told"
    monkeypatch.setenv("GMM_DASK_ON_TROUBLE", f"tee {told}")
    path = write_part(tmp_path, day=4, seed=4)
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table, path, use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[pq.read_metadata(path).row_group(0).column(1).data_page_offset + 500] ^= 1
    path.write_bytes(content)
    run = read_run(write_run(tmp_path), SKIP)
    state = deployed.retrain(run, return_state=True)
    words = "1 file was skipped: day=4/part.parquet row group 0 cannot be decoded ("
    assert (state.name, state.is_completed()) == ("Partial", True)
    assert state.message.startswith(words)
    assert told.read_text().startswith(f"Partial: {words}")
    outcome = state.result()
    assert outcome.predictions.total_rows == 3000
    # The next night meets it again, and has nothing to fit.
    state = deployed.retrain(run, return_state=True)
    assert state.name == "Partial"
    assert state.message.startswith(f"nothing is new; {words}")
    assert Registry(tmp_path / "models", "boxes").versions() == (1,)
    facts = dict(fit_summary(sequences.FitOutcome(outcome.published, outcome.evaluation)).facts)
    assert facts["skipped"].startswith(words)
    assert b"files skipped" in (outcome.published.path / "report.html").read_bytes()
