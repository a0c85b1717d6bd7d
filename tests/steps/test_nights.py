"""Thirty nights of a retrain, in the order of docs/operations.md: how each one ends."""

import datetime as dt
import os
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask.errors import InputChangedError, InputError, SchemaError
from gmm_dask.events import Stage, StageStarted
from gmm_dask.pipelines import attempts, sequences
from gmm_dask.steps import filtering
from gmm_dask.storage.models.registry import Registry
from gmm_dask.storage.predictions import dataset
from tests.steps.tables import THREADS, files_below, make_run, points, read_predictions

FIRST = dt.date(2026, 3, 1)
ROWS = 120
#: Published nights that are incremental: all but the first, and the first with a filter.
REFITS = 17


class Nights:
    """A directory that a writer fills, and the retrain that runs over it every night."""

    def __init__(self, root, monkeypatch):
        self.root = root
        self.start, self.refits = "both", 0
        self.night = 0
        self.settled_for, self.filter = "10min", {}
        self.growing, self.growths = 0, 0
        self.versions = 0
        monkeypatch.setattr(filtering, "_now", self.now)

    def now(self):
        day = FIRST + dt.timedelta(self.night)
        return dt.datetime(day.year, day.month, day.day, 3, tzinfo=dt.UTC)

    def path(self, day, name="part"):
        return self.root / "input" / f"dt={FIRST + dt.timedelta(day)}" / f"{name}.parquet"

    def write(self, day, name="part", seed=None, rows=ROWS, **columns):
        """Write a file of a day; ``columns`` replace its own, and None leaves one out."""
        heights, widths = points(rows, day if seed is None else seed).T
        whole = {"number": np.arange(rows) + 1000 * day, "height": heights, "width": widths}
        table = {name: values for name, values in (whole | columns).items() if values is not None}
        path = self.path(day, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), path, use_dictionary=False, write_page_checksum=True)
        return self.settle(path)

    def settle(self, path, seconds=7200):
        """Let a file be as old as this."""
        os.utime(path, (time.time() - seconds,) * 2)
        return path

    def corrupt(self, day):
        """Alter a page of a file, whose footer stays."""
        path = self.write(day)
        start = pq.read_metadata(path).row_group(0).column(1).data_page_offset
        content = bytearray(path.read_bytes())
        content[start + 300] ^= 1
        path.write_bytes(content)
        return self.settle(path)

    def grow(self, day, times):
        """Let a writer append to a file while the next runs read it."""
        self.growing, self.growths = day, times

    def notify(self, event):
        if isinstance(event, StageStarted) and event.stage == Stage.SURVEY and self.growths:
            self.growths -= 1
            rows = pq.read_metadata(self.path(self.growing)).num_rows
            self.write(self.growing, rows=rows + 20)

    def run(self):
        return make_run(
            self.root,
            input__nulls="drop",
            input__convert={"height": "float", "width": "float"},
            input__bad_files="skip",
            input__settled_for=self.settled_for,
            model__n_components=2,
            retrain__max_log_likelihood_drop=100.0,
            retrain__start=self.start,
            **self.filter,
        )

    def ends(self, published, skipped=(), unsettled=0):
        """Run a night to its end and check what it left."""
        self.night += 1
        run = self.run()
        outcome = sequences.retrain(
            run, THREADS, sequences.directly, self.notify, f"night-{self.night}"
        )
        self.versions += published
        registry = Registry(run.output.models, "boxes")
        assert registry.current_version() == self.versions, self.night
        assert (outcome.published is not None) == published, self.night
        assert [file.path for file in outcome.skipped] == [self.relative(p) for p in skipped]
        assert outcome.unsettled == unsettled
        # The rows used are the rows said, and each of them has its prediction.
        record = dataset.read_predictions(run.output.predictions)
        assert record.run_id == f"night-{self.night}"
        assert [*record.summary["skipped"]] == [self.relative(path) for path in skipped]
        if published:
            manifest = registry.load().manifest
            self.refits += manifest.refit is not None
            assert [*manifest.files_skipped] == [self.relative(path) for path in skipped]
            # The predictions of files outside the window stay.
            assert manifest.files == len(record.files) - outcome.predictions.predicted.kept
            assert manifest.rows == outcome.evaluation.densities.rows
        rows = sum(
            pq.read_metadata(self.root / "input" / path).num_rows for path in record.files
        )  # fmt: skip
        assert read_predictions(run).num_rows == outcome.predictions.total_rows == rows
        return outcome

    def fails(self, error, words):
        """Run a night that ends with an error, and check that it changed nothing."""
        self.night += 1
        before = files_below(self.root / "models"), files_below(self.root / "predictions.versions")
        with pytest.raises(error, match=words):
            sequences.retrain(
                self.run(), THREADS, sequences.directly, self.notify, f"night-{self.night}"
            )
        assert before == (
            files_below(self.root / "models"), files_below(self.root / "predictions.versions")
        )  # fmt: skip

    def relative(self, path):
        return str(path.relative_to(self.root / "input"))


@pytest.fixture
def nights(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "WAITS", (0.0,))
    monkeypatch.setenv("GMM_DASK_RETRIES", "2")
    return Nights(tmp_path, monkeypatch)


@pytest.mark.parametrize(("start", "refits"), [("both", 0), ("incremental", REFITS)])
def test_thirty_nights(nights, start, refits):
    nights.start = start
    for day in range(3):
        nights.write(day)
    nights.ends(published=True)  # 1: the first
    nights.settled_for = "9min"
    nights.ends(published=False)  # 2: nothing is new, and what is left out is no part of a fit
    nights.write(3)
    nights.ends(published=True)  # 3: a new day
    nights.write(1, "late")
    nights.ends(published=True)  # 4: a file of an old day
    nights.write(4, height=pa.array([None, *points(ROWS - 1, 4)[:, 0]]))
    nights.ends(published=True)  # 5: a null
    nights.write(5, height=points(ROWS, 5)[:, 0].astype(np.int64), width=pa.array([1] * ROWS))
    nights.ends(published=True)  # 6: integers where doubles were
    nights.write(6, height=pa.nulls(ROWS), number=pa.nulls(ROWS))
    nights.ends(published=True)  # 7: nothing but nulls, without a type
    nights.write(7, rows=0)
    nights.ends(published=True)  # 8: a file without rows
    empty = nights.path(7, "empty")
    empty.touch()
    nights.settle(empty)
    nights.ends(published=False, skipped=[empty])  # 9: a file without a byte, and nothing else
    nights.write(8)
    nights.ends(published=True, skipped=[empty])  # 10: it is still there, beside a new day
    half = nights.write(9)
    whole = half.read_bytes()
    half.write_bytes(whole[:900])
    nights.ends(published=False, skipped=[empty], unsettled=1)  # 11: a writer has not finished
    nights.settle(half)
    nights.fails(
        InputError, r"2 of 12 files .*dt=2026-03-10/part\.parquet.* = 1 allows no more"
    )  # 12
    half.write_bytes(whole)
    nights.settle(half)
    nights.ends(published=True, skipped=[empty])  # 13: the writer has finished
    empty.unlink()
    nights.ends(published=False)  # 14: the bad file is gone, the rows are the same
    corrupt = nights.corrupt(10)
    nights.write(11)
    nights.ends(published=True, skipped=[corrupt])  # 15: a page that only the scan reads
    nights.ends(published=False, skipped=[corrupt])  # 16: it is as it was
    nights.write(10)
    nights.ends(published=True)  # 17: it was written again
    without = nights.write(12, width=None)
    nights.ends(published=False, skipped=[without])  # 18: a column is missing
    text = nights.write(12, width=["wide"] * ROWS)
    nights.ends(published=False, skipped=[text])  # 19: a column is text now
    text.unlink()
    nights.path(0).unlink()
    assert nights.ends(published=True).predictions.predicted.rows > 0  # 20: a day was deleted
    nights.write(1, seed=77)
    nights.ends(published=True)  # 21: a day was written again, with other values
    nights.settle(nights.path(1), 9000)
    nights.ends(published=False)  # 22: a day was touched
    ahead = nights.write(2)
    nights.settle(ahead, -3600)
    lost = nights.ends(published=True, unsettled=1).predictions.lost_rows  # 23: a clock is ahead
    assert lost == ROWS
    nights.settle(ahead)
    nights.write(13)
    nights.grow(13, times=1)
    nights.ends(published=True)  # 24: a file grew while it was read, once
    nights.write(14)
    nights.grow(14, times=3)
    nights.fails(
        InputChangedError, "part.parquet: has grown from .* start again when"
    )  # 25: thrice
    nights.ends(published=True)  # 26: it is at rest
    nights.write(15, width=pa.array([2**53 + 1] * ROWS))
    nights.fails(SchemaError, r"dt=2026-03-16/part\.parquet: column 'width' row 0 is 9007")  # 27
    nights.write(15)
    nights.filter = {"input__filter": "dt >= current_date - 20"}
    assert len(nights.ends(published=True).predictions.predicted.parts) > 0  # 28: a window
    assert nights.night == 28
    nights.path(1).write_bytes(b"half of a file")
    nights.write(28)
    nights.ends(published=True)  # 29: the window moves on; what is outside is never opened
    nights.ends(published=True)  # 30: it moves on over the oldest day
    assert nights.refits == refits
