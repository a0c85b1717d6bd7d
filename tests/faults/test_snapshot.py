"""Every iteration uses the same values, or the fit fails naming the file (P4).

Each case does something to the files between the first and the second iteration.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask import steps
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import RunConfig, check_config
from gmm_dask.errors import InputChangedError, InputError
from gmm_dask.events import IterationFinished, StageStarted
from gmm_dask.storage.input.reader import parquet_chunks
from gmm_dask.storage.models.checkpoint import CHECKPOINTS, STATE
from gmm_dask.storage.models.registry import Registry

pytestmark = pytest.mark.faults

ROWS = 80_000  # of each file, in one row group: two chunks, neither crossing into another file
MARK = 3.140625  # stands once in each file: where a page is overwritten
FILE = "day=2/part.parquet"


def write(path, seed, rows=ROWS, **options):
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, 2)) + 3.0 * random.integers(3, size=(rows, 1))
    values[rows // 3, 0] = MARK
    table = pa.table({"a": values[:, 0], "b": values[:, 1]})
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {"compression": "none", "use_dictionary": False}
    pq.write_table(table, path, **(plain | options))


def overwrite_value(path):
    """Alter one value in its page: same size, same footer, as a sick disk or an rsync would."""
    content = bytearray(path.read_bytes())
    mark = np.float64(MARK).tobytes()
    # The statistics in the footer are of other values.
    assert content.count(mark) == 1
    place = content.index(mark)
    with path.open("r+b") as file:
        file.seek(place)
        file.write(np.float64(-MARK).tobytes())


def add_a_file(path):
    write(path.parents[1] / "day=4" / "part.parquet", 4)


def touch(path):
    os.utime(path, (0, 0))


def rewrite_the_same(path):
    copy = path.with_suffix(".copy")
    shutil.copyfile(path, copy)
    copy.replace(path)


def change_and_restore(path):
    content = path.read_bytes()
    overwrite_value(path)
    path.write_bytes(content)


def delete(path):
    path.unlink()


def move_away(path):
    path.parent.rename(path.parents[1] / "day=9")


def replace_with_as_many_rows(path):
    write(path, 99)


def replace_with_fewer_rows(path):
    write(path, 2, rows=ROWS - 10_000)


def replace_with_more_rows(path):
    write(path, 2, rows=ROWS + 10_000)


def replace_by_a_link(path):
    path.unlink()
    path.symlink_to(path.parents[1] / "day=1" / "part.parquet")


def append(path):
    with path.open("ab") as file:
        file.write(path.read_bytes()[-1000:])


def half_write(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def empty(path):
    path.write_bytes(b"")


def fill_with_zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


HARMLESS = (add_a_file, touch, rewrite_the_same, change_and_restore)
AT_REST = "since the input was planned; start again when nothing writes to it"
HARMFUL = {
    delete: f"is gone {AT_REST}",
    move_away: f"is gone {AT_REST}",
    replace_with_as_many_rows: AT_REST,
    replace_with_fewer_rows: f"{FILE}: was shortened from",
    replace_with_more_rows: f"{FILE}: has grown from",
    replace_by_a_link: AT_REST,
    append: f"{FILE}: has grown from",
    half_write: f"{FILE}: was shortened from",
    empty: "to 0 bytes",
    fill_with_zeros: f"{FILE}: was overwritten {AT_REST}",
    overwrite_value: "the values are not those of the first scan; the input was changed during "
    "the fit, start again",
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(steps.resuming, "SAVE_SECONDS", 0.0)
    for day in (1, 2, 3):
        write(tmp_path / "input" / f"day={day}" / "part.parquet", day)
    tables = {
        "input": {"path": str(tmp_path / "input"), "columns": ["a", "b"]},
        "model": {"n_components": 3},
        "fit": {"search_rows": 400, "tol": 1e-7, "max_iter": 6},
        "output": {"models": str(tmp_path / "models"), "name": "m"},
    }
    return check_config(RunConfig, tables, "run.toml")


def fit(run, after_first=lambda: None, threads=2):
    """A fit that reads the files in each iteration; its result, and the events of the way."""
    events = []

    def notify(event):
        events.append(event)
        if isinstance(event, IterationFinished) and event.iteration == 1:
            after_first()

    plan = steps.inspect_input(run)
    with Scanner(parquet_chunks(plan), Threads(threads, memory=0), notify) as scanner:
        try:
            return steps.fit(run, plan, scanner, notify), events
        except InputError as error:
            return error, events


def iterations(events):
    return [event.iteration for event in events if isinstance(event, IterationFinished)]


def same_bits(one, other):
    first, second = one.result, other.result
    return (
        first.parameters.digest == second.parameters.digest
        and first.best.lower_bounds == second.best.lower_bounds
        and first.scans == second.scans
    )


def state_of(run, fitted):
    return Path(run.output.models, "m", CHECKPOINTS, fitted.checkpoint_key, STATE)


def forget(run, fitted):
    shutil.rmtree(state_of(run, fitted).parent)


@pytest.mark.parametrize("change", HARMLESS, ids=lambda change: change.__name__)
def test_what_leaves_the_values_as_they_are_goes_on(run, tmp_path, change):
    whole, events = fit(run)
    assert max(iterations(events)) >= 3
    assert not whole.result.in_memory
    forget(run, whole)
    found, events = fit(run, lambda: change(tmp_path / "input" / FILE))
    assert same_bits(found, whole)
    assert found.checkpoint_key == whole.checkpoint_key


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("change", HARMFUL, ids=lambda change: change.__name__)
def test_what_changes_the_values_ends_the_fit_before_the_next_step(run, tmp_path, change, threads):
    whole, _ = fit(run)
    forget(run, whole)
    shutil.copytree(tmp_path / "input", tmp_path / "backup")
    error, events = fit(run, lambda: change(tmp_path / "input" / FILE), threads)
    assert isinstance(error, InputChangedError)
    assert str(error).startswith(FILE)
    assert HARMFUL[change] in str(error)
    assert "\n" not in str(error)
    assert iterations(events) == [1]
    assert Registry(run.output.models, "m").versions() == ()

    # With the files as they were, the fit goes on where it was.
    shutil.rmtree(tmp_path / "input")
    (tmp_path / "backup").rename(tmp_path / "input")
    found, events = fit(run)
    assert same_bits(found, whole)
    assert "survey" not in [event.stage for event in events if isinstance(event, StageStarted)]
    assert iterations(events)[0] == 2


def test_a_page_that_fails_its_checksum_is_damage_that_is_named(run, tmp_path):
    path = tmp_path / "input" / FILE
    write(path, 2, write_page_checksum=True)
    error, events = fit(run, lambda: overwrite_value(path))
    assert isinstance(error, InputError)
    assert str(error).startswith(f"{FILE}: row group 0 cannot be decoded (")
    assert "\n" not in str(error)
    assert iterations(events) == [1]


def test_an_overwritten_value_is_noticed_by_the_run_that_goes_on(run, tmp_path, caplog):
    class StopError(Exception):
        pass

    def stop():
        raise StopError

    with pytest.raises(StopError):
        fit(run, stop)
    overwrite_value(tmp_path / "input" / FILE)
    with caplog.at_level("WARNING", "gmm_dask"):
        found, events = fit(run)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{state_of(run, found)}: {FILE} does not hold the values that this interrupted fit has "
        "seen; its checkpoint is removed, the fit starts from the beginning"
    ]
    assert "survey" in [event.stage for event in events if isinstance(event, StageStarted)]
    assert iterations(events)[0] == 1
    forget(run, found)
    assert same_bits(fit(run)[0], found)


def test_a_sick_disk_under_a_checkpoint_costs_one_run(run, tmp_path, monkeypatch):
    """Other values, and a file system that says nothing of it: found while they are read."""

    class StopError(Exception):
        pass

    def stop():
        raise StopError

    monkeypatch.setattr("gmm_dask.storage.input.input_file.hint_of", lambda *file: "as ever")
    with pytest.raises(StopError):
        fit(run, stop)
    overwrite_value(tmp_path / "input" / FILE)
    error, events = fit(run)
    assert isinstance(error, InputChangedError)
    assert str(error) == (
        f"{FILE} rows 0–40,000: the values are not those of the first scan; the input was "
        "changed during the fit, start again"
    )
    assert iterations(events) == []
    found, events = fit(run)
    assert iterations(events)[0] == 1
    forget(run, found)
    assert same_bits(fit(run)[0], found)


def test_a_checkpoint_of_rows_held_in_memory_is_held_to_the_files(run, tmp_path):
    """Such a fit reads nothing when it goes on, and would never see that they have changed."""

    class StopError(Exception):
        pass

    def stop():
        raise StopError

    tables = run.model_dump()
    tables["fit"] |= {"search_rows": 1_000_000}
    small = check_config(RunConfig, tables, "run.toml")
    with pytest.raises(StopError):
        fit(small, stop)
    write(tmp_path / "input" / FILE, 2)  # the same values again
    whole, events = fit(small)
    assert whole.result.in_memory
    assert iterations(events)[0] == 2
    forget(small, whole)
    with pytest.raises(StopError):
        fit(small, stop)
    overwrite_value(tmp_path / "input" / FILE)
    found, events = fit(small)
    assert iterations(events)[0] == 1
    assert not same_bits(found, whole)


def test_an_overwritten_weight_is_noticed_too(run, tmp_path):
    tables = run.model_dump()
    tables["input"] |= {"columns": ["b"], "sample_weight": "a"}
    for day in (1, 2, 3):
        path = tmp_path / "input" / f"day={day}" / "part.parquet"
        table = pq.read_table(path, partitioning=None)
        weights = np.abs(table["a"].to_numpy())
        plain = {"compression": "none", "use_dictionary": False}
        pq.write_table(table.set_column(0, "a", pa.array(weights)), path, **plain)
    weighted = check_config(RunConfig, tables, "run.toml")

    def change():
        path = tmp_path / "input" / FILE
        content = path.read_bytes().replace(np.float64(MARK).tobytes(), np.float64(7).tobytes())
        path.write_bytes(content)

    error, events = fit(weighted, change)
    assert isinstance(error, InputChangedError)
    assert "the values are not those of the first scan" in str(error)
    assert iterations(events) == [1]


def test_rows_that_are_kept_in_memory_do_not_change_any_more(run, tmp_path):
    whole, _ = fit(run)
    forget(run, whole)
    plan = steps.inspect_input(run)

    def notify(event):
        if isinstance(event, IterationFinished) and event.iteration == 1:
            overwrite_value(tmp_path / "input" / FILE)

    with Scanner(parquet_chunks(plan), Threads(2, memory=2**30), notify) as scanner:
        assert same_bits(steps.fit(run, plan, scanner, notify), whole)


def test_a_change_during_the_evaluation_publishes_nothing(run, tmp_path):
    plan = steps.inspect_input(run)

    def notify(event):
        if isinstance(event, StageStarted) and event.stage == "evaluate":
            overwrite_value(tmp_path / "input" / FILE)

    with Scanner(parquet_chunks(plan), Threads(2, memory=0), notify) as scanner:
        fitted = steps.fit(run, plan, scanner, notify)
        with pytest.raises(InputChangedError, match="the values are not those of the first scan"):
            steps.evaluate(run, plan, scanner, fitted)
    assert Registry(run.output.models, "m").versions() == ()
