"""Incremental nights: what is read, kept and forgotten, and what a model then says of itself."""

import datetime as dt
import logging
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from gmm_dask import compare_models, steps
from gmm_dask.errors import NonFiniteError
from gmm_dask.events import Stage, StageStarted, silent
from gmm_dask.loading import load_model
from gmm_dask.pipelines import sequences
from gmm_dask.pipelines.summary import retrain_summary
from gmm_dask.steps import filtering, nights
from gmm_dask.steps.reporting import write_report
from gmm_dask.steps.unit_keeping import cut_runs
from gmm_dask.storage.files.choice import version_at
from gmm_dask.storage.models import unit_store
from gmm_dask.storage.models.listing import list_versions
from gmm_dask.storage.models.model import read_file
from gmm_dask.storage.models.registry import Registry
from gmm_dask.storage.models.unit_store import STATISTICS, decode_store
from tests.steps.tables import THREADS, make_run, model_files, points, write_day, write_days

FIRST = dt.date(2026, 3, 1)


def incremental(root, **keys):
    """A run file of incremental nights without refresh; ``keys`` as for `make_run`."""
    given = {
        "fit__search_rows": 1000,
        "output__predictions": None,
        "retrain__start": "incremental",
        "retrain__refresh": 0.0,
    }
    return make_run(root, **given | keys)


def retrain(run, run_id, notify=silent, force=False):
    return sequences.retrain(run, THREADS, sequences.directly, notify, run_id, force)


def store_of(run):
    """The store beside the current model."""
    model = steps.read_current(run)
    content = read_file(version_at(model.path), STATISTICS)
    store = decode_store(content, model.parameters, model.transforms)
    assert store.statistics.rows.tolist() == [unit.survey.rows for unit in store.units]
    return store


def used_rows(root):
    """Values of all complete rows, by file."""
    tables = {}
    for path in sorted((root / "input").rglob("*.parquet")):
        table = pq.ParquetFile(path).read(["height", "width"])
        values = np.column_stack([table[name].to_numpy() for name in ("height", "width")])
        tables[str(path.relative_to(root / "input"))] = values[~np.isnan(values).any(axis=1)]
    return tables


def score(path, values, weights=None):
    """Mean log-likelihood of rows under a published model."""
    frame = pd.DataFrame(values, columns=["height", "width"])
    return float(np.average(load_model(path).score_samples(frame), weights=weights))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Eight days and a model of them, which `begin` copies."""
    root = tmp_path_factory.mktemp("base")
    write_days(root, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gmm_dask.report.pictures.fit_pictures", lambda *arguments: {})
        patch.setattr("gmm_dask.steps.evaluating.count_for_report", lambda *arguments: None)
        assert retrain(incremental(root), "base").published.version == 1
    return root


@pytest.fixture
def root(base, tmp_path):
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    return tmp_path


# What a night reads


def test_a_night_reads_what_is_new_and_says_what_it_knows(root):
    """Neither a likelihood nor a BIC of all rows is known; the bound is close below."""
    write_day(root, 9)
    scans = []
    run = incremental(root)
    outcome = retrain(
        run, "night", lambda event: isinstance(event, StageStarted) and scans.append(event)
    )
    assert outcome.published.version == 2
    assert {event.total for event in scans} == {500}  # of 4,500
    first, *others = [event.stage for event in scans]
    assert (first, {*others}) == (Stage.SURVEY, {Stage.POLISH})

    model = steps.read_current(run)
    manifest, refit = model.manifest, model.manifest.refit
    assert (manifest.log_likelihood, manifest.aic, manifest.bic, manifest.icl) == (None,) * 4
    assert (manifest.history, manifest.n_iter, manifest.scans) == ((), 0, 0)
    assert (refit.rows_read, refit.rows_all, refit.scans) == (500, 4500, len(scans))
    assert (refit.units_read, refit.units_kept, refit.nights) == (1, 8, 1)
    rows = used_rows(root)
    exact = score(model.path, np.concatenate([*rows.values()]))
    assert exact - 1e-3 < refit.bound <= exact + 1e-12
    assert refit.bound >= refit.bound_before - 1e-12
    new = score(model.path, rows["day=9/part.parquet"])
    assert refit.log_likelihood_read == pytest.approx(new, rel=1e-12)
    old = score(root / "models/boxes/v000001", rows["day=9/part.parquet"])
    assert refit.log_likelihood_read_before == pytest.approx(old, rel=1e-12)

    facts = dict(retrain_summary(outcome).facts)
    assert facts["incremental"].startswith("read 1 of 9 units (11.1% of the rows)")
    assert facts["log-likelihood"].startswith("at least -")
    (listed,) = [each for each in list_versions(Registry(root / "models", "boxes")) if each.current]
    assert (listed.log_likelihood, listed.bound) == (None, refit.bound)
    told = compare_models(root / "models/boxes", 1, 2).to_json()
    assert (told["after"]["log_likelihood"], told["after"]["bound"]) == (None, refit.bound)
    loaded = load_model(model.path)
    assert np.isnan(loaded.log_likelihood_)
    assert loaded.lower_bound_ == loaded.to_sklearn().lower_bound_ == refit.bound
    # The sample holds all rows here, so what is counted on it is exact.
    assert refit.sample_rows == manifest.rows
    assert refit.sample_log_likelihood == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("nulls", ["drop", "marginalize"])
def test_drift_costs_a_night_no_scan_and_is_what_a_scan_says(root, nulls):
    """Of files that are new to the model: not of those that are read again."""
    run = incremental(root, retrain__refresh=0.3, input__nulls=nulls)
    if nulls == "marginalize":
        assert retrain(run, "full").published is not None
    write_day(root, 9, shift=0.5)
    write_day(root, 2, shift=0.4)
    before = steps.read_current(run)
    outcome = retrain(run, "night")
    refit = outcome.evaluation.model.manifest.refit
    assert (refit.units_read, refit.units_again) == (4, 2)
    plan = steps.inspect_input(run)
    scanned = steps.compare_new_rows(run, plan, before, THREADS, silent, "night")
    measured = outcome.measured
    assert (measured.record.files, measured.record.version) == (2, before.version)
    assert measured.drifted
    for check, expected in zip(measured.checks, scanned.checks, strict=True):
        assert replace(check, value=0.0) == replace(expected, value=0.0)
        assert check.value == pytest.approx(expected.value, rel=1e-11)
    ours, theirs = (replace(d.record, created="", checks={}) for d in (measured, scanned))
    assert ours == theirs


def test_the_store_holds_each_file_and_nothing_of_what_is_gone(root):
    """Added, replaced, appended to, late and deleted: after each night, as if only seen so."""
    run = incremental(root)
    write_day(root, 9, shift=2.0)
    assert retrain(run, "far").evaluation.refit is not None
    write_day(root, 10)
    shutil.rmtree(root / "input/day=9")
    write_day(root, 3, rows=600)
    write_day(root, 5, shift=0.25)
    outcome = retrain(run, "next")
    assert outcome.published is not None
    assert outcome.evaluation.refit is not None

    store, rows = store_of(run), used_rows(root)
    by_file = {path: unit for unit in store.units for path in unit.files}
    assert [*by_file] == sorted(rows, key=lambda path: [*by_file].index(path))
    assert by_file.keys() == rows.keys()
    survey = store.survey
    values = np.concatenate([rows[path] for path in by_file])
    assert survey.rows == len(values)
    np.testing.assert_allclose(survey.moments.mean, values.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(survey.variances, values.var(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(survey.moments.maximum, values.max(axis=0))
    for path, unit in by_file.items():
        sample = {tuple(row) for row in unit.survey.draw.values}
        assert sample == {tuple(row) for row in rows[path]}
    total = store.statistics.total()
    assert total.rows == len(values)
    np.testing.assert_allclose(total.counts.sum(), len(values), rtol=1e-12)


def test_a_night_of_deletions_reads_nothing(root):
    shutil.rmtree(root / "input/day=8")
    scans = []
    outcome = retrain(
        incremental(root),
        "night",
        lambda event: isinstance(event, StageStarted) and scans.append(1),
    )
    refit = outcome.evaluation.model.manifest.refit
    assert scans == []
    assert (refit.rows_read, refit.units_gone, refit.units_kept) == (0, 1, 7)
    assert refit.log_likelihood_read is None
    assert outcome.published.version == 2
    assert len(store_of(incremental(root)).units) == 7


def test_the_same_nights_have_the_same_bits(root, tmp_path_factory):
    """Also where one night was interrupted before it was published, and began again."""
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(root, other, dirs_exist_ok=True)
    for night, place in enumerate((root, other)):
        run = incremental(place)
        write_day(place, 9)
        if night:
            current = steps.read_current(run)
            plan = steps.plan_night(run, steps.inspect_input(run), current)
            with steps.open_scanner(run, plan.reading, THREADS, silent) as scanner:
                steps.refit(run, plan, current, scanner)
        retrain(run, "nine")
        write_day(place, 2, shift=0.1)
        shutil.rmtree(place / "input/day=4")
        retrain(run, "ten")
    ours, theirs = (model_files(place / "models/boxes/v000003") for place in (root, other))
    assert ours[STATISTICS] == theirs[STATISTICS]
    assert ours["parameters.safetensors"] == theirs["parameters.safetensors"]


# Where a night is not possible


def line_of(caplog, run, force=False):
    """Plan a night that is not possible; return the line that says why."""
    with caplog.at_level(logging.INFO, "gmm_dask"):
        caplog.clear()
        assert (
            steps.plan_night(run, steps.inspect_input(run), steps.read_current(run), force) is None
        )
    line = caplog.messages[-1]
    assert line.startswith("all rows are read: ")
    return line.removeprefix("all rows are read: ")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"input__nulls": "marginalize"}, "version 1 was fitted with another input.nulls"),
        ({"input__filter": "height > -9"}, "version 1 was fitted with another input.filter"),
        (
            {"input__sample_weight": "share"},
            "version 1 was fitted with another input.sample_weight",
        ),
        ({"input__columns": ["height"]}, "version 1 has other columns or transforms"),
        ({"input__transform": {"width": "asinh"}}, "version 1 has other columns or transforms"),
        ({"model__n_components": 2}, "version 1 has 3 full components, and 2 full ones are asked"),
        ({"model__covariance_type": "diag"}, "version 1 has 3 full components, and 3 diag ones"),
    ],
)
def test_a_store_of_other_settings_is_not_gone_on_from(root, caplog, keys, words):
    assert line_of(caplog, incremental(root, **keys)).startswith(words)


def test_a_missing_or_damaged_store_is_not_used_and_the_next_fit_leaves_a_new_one(root, caplog):
    run, version = incremental(root), root / "models/boxes/v000001"
    assert line_of(caplog, run, force=True) == "the run is forced"
    content = (version / STATISTICS).read_bytes()
    (version / STATISTICS).write_bytes(content[:-1])
    assert "is damaged" in line_of(caplog, run)
    write_day(root, 9)
    assert retrain(run, "full").published.version == 2
    model = steps.read_current(run)
    assert model.manifest.refit is None
    assert len(store_of(run).units) == 9
    # A model of another start has none.
    retrain(incremental(root, retrain__start="current"), "current", force=True)
    assert line_of(caplog, run) == "version 3 was fitted with another retrain.start"


def test_what_is_no_store_is_refused_with_a_reason(root):
    run = incremental(root)
    model, content = (
        steps.read_current(run),
        read_file(version_at(root / "models/boxes/v000001"), STATISTICS),
    )
    weights = np.array([0.2, 0.3, 0.5])
    other = replace(model.parameters, weights=weights)
    with pytest.raises(ValueError, match="belongs to other parameters"):
        decode_store(content, other, None)
    with pytest.raises(ValueError, match="has format 9, this gmm-dask reads 1"):
        decode_store(content.replace(b'\\"format\\":1', b'\\"format\\":9'), model.parameters, None)
    for damaged in (b"", content[:100], b"\xff" * 64, content.replace(b"counts", b"count5")):
        with pytest.raises(ValueError, match=r"cannot be understood|Expecting|decode"):
            decode_store(damaged, model.parameters, None)


def test_all_rows_are_read_after_as_many_nights_as_asked_or_where_most_rows_are_new(root, caplog):
    run = incremental(root, retrain__full_every=1)
    write_day(root, 9)
    assert retrain(run, "night").evaluation.refit is not None
    assert line_of(caplog, run) == "retrain.full_every = 1, and as many nights were incremental"
    write_day(root, 10)
    full = retrain(run, "full")
    assert full.evaluation.refit is None
    # A search and the current model have competed, and the new store begins to count.
    assert len(full.evaluation.fitted.result.candidates) == 2
    assert store_of(run).night == 0
    for day in range(11, 22):
        write_day(root, day)
    assert line_of(caplog, run) == "5,500 of 10,500 rows are new, changed or to be read again"


def test_what_a_full_fit_refuses_a_night_refuses_too(root):
    """The message names the file of the night, although it reads few of them."""
    run = incremental(root, input__nulls="error", output__name="strict")
    for day in range(1, 9):
        write_day(root, day, nulls=False)
    retrain(run, "first")
    write_day(root, 9)
    with pytest.raises(NonFiniteError, match=r"'height' holds 10 .*day=9/part\.parquet row 7"):
        retrain(run, "second")
    assert Registry(root / "models", "strict").versions() == (1,)


# What is read again


def test_over_the_nights_all_units_are_read_again(root):
    """A share of 0.3 of eight units is 2.4 a night: 2, 2, 3 … and each before any a second time."""
    run = incremental(root, retrain__refresh=0.3)
    again = []
    for night in range(1, 5):
        write_day(root, 1, shift=0.01 * night)
        outcome = retrain(run, f"night-{night}")
        again.append(outcome.evaluation.model.manifest.refit.units_again)
    # Of the seven that stay: floor(2.1 t) − floor(2.1 (t − 1)).
    assert again == [2, 2, 2, 2]
    assert sorted(unit.read for unit in store_of(run).units) == [1, 2, 2, 3, 3, 4, 4, 4]


def test_units_are_merged_to_stay_below_the_limit_and_are_then_read_again_whole(root, monkeypatch):
    monkeypatch.setattr(unit_store, "SAMPLE_ROWS", 100)
    monkeypatch.setattr(nights, "MOST_READ", 0.9)
    bound = unit_store.unit_bytes(steps.read_current(incremental(root)).parameters)
    monkeypatch.setattr(unit_store, "MOST_BYTES", 8 * 5 * 100 + 8 * bound)
    run = incremental(root)
    write_day(root, 9)
    retrain(run, "nine")  # eight units are kept, and a ninth does not fit
    store = store_of(run)
    assert [len(unit.files) for unit in store.units] == [2, 2, 2, 2, 1]
    assert store.survey.rows == store.statistics.total().rows == 9 * 490
    assert len(store.survey.draw.numbers) <= 100
    write_day(root, 2, shift=0.1)
    refit = retrain(run, "two").evaluation.model.manifest.refit
    assert (refit.units_read, refit.units_changed, refit.rows_read) == (2, 1, 1000)
    store = store_of(run)
    assert [len(unit.files) for unit in store.units] == [1, 1, 2, 2, 2, 1]
    # What goes leaves room in the sample, yet new rows come in at the rate of the others.
    for day in (3, 4, 5, 6):
        shutil.rmtree(root / f"input/day={day}")
    write_day(root, 10)
    retrain(run, "ten")
    smaller = store_of(run)
    assert smaller.threshold == store.threshold
    assert len(smaller.survey.draw.numbers) < 80


def test_runs_of_files_hold_about_equal_rows():
    assert cut_runs([5, 0, 5], 2) == (0, 0, 1)
    assert cut_runs([0, 5, 5, 0], 9) == (0, 0, 1, 1)
    assert cut_runs([1, 1, 1, 1, 8], 2) == (0, 0, 0, 0, 1)
    assert cut_runs([9, 1, 1, 1], 2) == (0, 1, 1, 1)
    assert cut_runs([0, 0], 3) == (0, 0)
    assert cut_runs([], 3) == ()


# What decides which rows count, and for how much


@pytest.fixture
def at(monkeypatch):
    """Set the day of the runs that follow."""

    def set_day(day):
        present = dt.datetime.combine(FIRST + dt.timedelta(day), dt.time(3), dt.UTC)
        monkeypatch.setattr(filtering, "_now", lambda: present)

    set_day(0)
    return set_day


def write_dated(root, day, rows=300, **columns):
    """Write the rows of a day, which hold their moment too; a day before the first is below 0."""
    heights, widths = points(rows, 50 + day).T
    date = FIRST + dt.timedelta(day)
    noon = dt.datetime.combine(date, dt.time(12), dt.UTC)
    table = {"height": heights, "width": widths, "moment": [noon] * rows} | columns
    path = root / "input" / f"dt={date}" / "part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)
    return path


@pytest.mark.parametrize("column", ["dt", "moment"])
def test_with_a_halflife_old_units_are_scaled_and_not_read(tmp_path, at, caplog, column):
    """The sums are those of a store that has read everything on that day, to rounding."""
    keys = {"input__weight_halflife": {"column": column, "days": 4.0}}
    for day in range(-7, 1):
        write_dated(tmp_path, day)
    run = incremental(tmp_path, **keys)
    retrain(run, "first")
    at(2)
    write_dated(tmp_path, 2)
    outcome = retrain(run, "third")
    refit = outcome.evaluation.model.manifest.refit
    # The rows of the first day did not age yet when they were read, so they are read again.
    assert (refit.units_read, refit.units_kept, refit.units_changed) == (2, 7, 1)
    manifest = outcome.evaluation.model.manifest
    fresh = incremental(tmp_path, **keys, output__name="fresh")
    expected = retrain(fresh, "fresh").evaluation.model.manifest
    assert manifest.weight == pytest.approx(expected.weight, rel=1e-14)
    assert manifest.effective_rows == pytest.approx(expected.effective_rows, rel=1e-14)
    store = store_of(run)
    assert store.statistics.total().weight == pytest.approx(expected.weight, rel=1e-14)
    assert store.survey.draw.weights.sum() == pytest.approx(expected.weight, rel=1e-13)
    assert store.today == FIRST + dt.timedelta(2)
    at(1)
    assert line_of(caplog, run) == "version 2 is of a later day, 2026-03-03"


def test_a_window_forgets_what_leaves_it(tmp_path, at):
    """A file of a partition that leaves is never opened."""
    for day in range(-7, 1):
        write_dated(tmp_path, day)
    run = incremental(tmp_path, input__filter="dt > current_date - 5")
    retrain(run, "first")
    at(1)
    write_dated(tmp_path, 1)
    refit = retrain(run, "second").evaluation.model.manifest.refit
    assert (refit.units_read, refit.units_changed, refit.units_gone) == (1, 0, 1)
    store = store_of(run)
    days = {path.split("/")[0] for unit in store.units for path in unit.files}
    assert days == {f"dt={FIRST + dt.timedelta(day)}" for day in range(-3, 2)}
    assert store.survey.rows == 300 * 5


def test_a_file_that_the_window_cuts_through_is_read_again(tmp_path, at):
    """A third of each file is of the day after, and a third of the next."""
    moments = {}
    for day in range(-7, 2):
        noon = dt.datetime.combine(FIRST + dt.timedelta(day), dt.time(12), dt.UTC)
        moments[day] = [noon + dt.timedelta(row // 100) for row in range(300)]
    for day in range(-7, 1):
        write_dated(tmp_path, day, moment=moments[day])
    run = incremental(tmp_path, input__filter="moment > current_date - 5")
    assert retrain(run, "first").evaluation.model.manifest.rows == 300 * 6 + 300
    at(1)
    write_dated(tmp_path, 1, moment=moments[1])
    manifest = retrain(run, "second").evaluation.model.manifest
    # The new one, the one that is cut now, and the one that is cut elsewhere.
    assert (manifest.refit.units_read, manifest.refit.units_changed) == (3, 2)
    assert manifest.refit.units_gone == 1
    assert (manifest.rows, manifest.rows_outside) == (300 * 6 + 300, 300)


def test_holes_weights_and_transforms_are_kept_as_they_are(tmp_path):
    """A night over rows with holes, weighed, of standardised features, of each covariance type."""
    for kind in ("full", "tied", "diag", "spherical"):
        root = tmp_path / kind
        write_days(root, 6)
        run = incremental(
            root,
            input__nulls="marginalize",
            input__sample_weight="share",
            input__transform={"height": "standardise", "width": "asinh"},
            model__covariance_type=kind,
        )
        assert retrain(run, "first").published is not None
        write_day(root, 7)
        outcome = retrain(run, "second")
        model = steps.read_current(run)
        refit = model.manifest.refit
        assert (model.version, refit.units_kept) == (2, 6), outcome.refusal
        assert model.manifest.rows_incomplete == 70
        assert model.manifest.rows == 3500
        tables = [
            pq.ParquetFile(path).read(["height", "width", "share"]).to_pandas()
            for path in sorted((root / "input").rglob("*.parquet"))
        ]
        values = np.concatenate([table[["height", "width"]].to_numpy() for table in tables])
        weights = np.concatenate([table["share"].to_numpy() for table in tables])
        exact = score(model.path, values, weights)
        assert exact - 2e-3 < refit.bound <= exact + 1e-12
        assert refit.sample_log_likelihood == pytest.approx(exact, rel=1e-12)


# The gate


def test_the_gate_names_a_bound_a_bound(root):
    write_day(root, 9)
    outcome = retrain(incremental(root), "night")
    checks = {check.name: check for check in outcome.decision.checks}
    assert checks.keys() == {
        "rows",
        "bound drop",
        "log-likelihood drop on the rows read",
        "collapsed or starved components",
    }
    assert "is at least -" in checks["bound drop"].explanation
    assert "on the rows read" in checks["log-likelihood drop on the rows read"].explanation


def test_a_refused_night_leaves_the_store_as_it_was(root):
    write_day(root, 9)
    outcome = retrain(incremental(root, retrain__min_rows=10_000), "night")
    assert outcome.refusal is not None
    assert Registry(root / "models", "boxes").versions() == (1,)
    night = retrain(incremental(root), "again").evaluation.model.manifest.refit
    assert (night.units_read, night.nights) == (1, 1)


def test_a_night_that_loses_a_component_reads_everything(tmp_path, caplog):
    """The full fit has a search, and may find a mixture that holds."""
    for day in range(1, 8):
        path = write_day(tmp_path, day)
        table = pq.ParquetFile(path).read()
        where = pc.greater(table["height"], -3.0) if day < 7 else pc.less(table["height"], -3.0)
        pq.write_table(table.filter(where), path)
    run = incremental(tmp_path)
    retrain(run, "first")
    shutil.rmtree(tmp_path / "input/day=7")
    with caplog.at_level(logging.WARNING, "gmm_dask"):
        outcome = retrain(run, "second")
    assert "all rows are read after all: component" in caplog.text
    assert outcome.evaluation.refit is None


def test_a_cluster_of_new_rows_is_a_component_with_an_id_of_its_own(tmp_path):
    """What it gave up had an id, which is not used again."""
    write_days(tmp_path, 6, rows=1000)
    run = incremental(tmp_path, model__n_components=4, retrain__allow_collapsed=True)
    retrain(run, "first")
    before = steps.read_current(run)
    for night in range(7, 10):
        values = np.random.default_rng(night).normal((20.0, -20.0), 1.0, (1000, 2))
        path = tmp_path / f"input/day={night}/part.parquet"
        path.parent.mkdir()
        pq.write_table(pa.table({"height": values[:, 0], "width": values[:, 1]}), path)
        outcome = retrain(run, f"night-{night}")
        assert outcome.evaluation.refit is not None, night
    model = steps.read_current(run)
    distances = np.linalg.norm(model.parameters.means - (20.0, -20.0), axis=1)
    placed = int(distances.argmin())
    assert distances[placed] < 1.0
    assert model.component_ids[placed] not in before.component_ids
    assert len({*model.component_ids} & {*before.component_ids}) == 3


# What others see


@pytest.mark.usefixtures("drawn")
def test_a_night_has_a_report_and_is_predicted_by(root, caplog):
    """No page, table or check takes the bound for a likelihood."""
    write_day(root, 9)
    run = incremental(root, output__predictions=str(root / "predictions"))
    outcome = retrain(run, "night")
    assert caplog.text == ""
    page = (outcome.published.path / "report.html").read_text()
    assert "Refitted to 1 of 9 units (11.1% of the rows)" in page
    assert page.count("at least −") >= 2
    assert "not known" in page
    assert "None" not in page
    assert not any(name.endswith(".png") for name in outcome.evaluation.files)
    assert outcome.predictions.total_rows == 4500
    drift = outcome.predictions.predicted.drift
    assert "in training, as its sample says" in drift.checks[0].explanation
    both = write_report(root / "models/boxes", [1, 2], output=root / "both.html").read_text()
    assert "at least −" in both
    assert "None" not in both


def test_a_key_that_only_a_search_goes_by_waits_and_publishes_nothing_by_itself(root, caplog):
    run = incremental(root, fit__random_state=7, retrain__full_every=2)
    line = (
        "fit.random_state differs from the search of version {}, and only a search goes by it: it "
        "waits for the next full fit, at the latest in {} night(s), or for --force"
    )
    waiting, after_a_night = line.format(1, 2), line.format(2, 1)
    with caplog.at_level(logging.WARNING, "gmm_dask"):
        outcome = retrain(run, "nothing-new")
        assert (outcome.published, outcome.evaluation) == (None, None)
        write_day(root, 9)
        assert retrain(run, "a-night").published.version == 2
        assert retrain(run, "waiting").published is None
        write_day(root, 10)
        night = retrain(run, "next")
    assert caplog.messages == [waiting, waiting, after_a_night, after_a_night]
    # No search went by the key yet, so the manifest has that of the search which there was.
    assert night.published.version == 3
    assert night.evaluation.model.manifest.configuration["fit"]["random_state"] == 0
    # The next fit reads everything, and goes by the key: there is something to do.
    full = retrain(run, "full").evaluation.model.manifest
    assert (full.refit, full.configuration["fit"]["random_state"]) == (None, 7)


def test_a_key_that_a_night_goes_by_is_used_without_a_new_file(root):
    run = incremental(root, fit__random_state=7, model__reg_covar=1e-3)
    assert retrain(run, "changed").published.version == 2


def test_keys_that_only_a_search_goes_by_are_all_named(root, caplog):
    run = incremental(root, fit__random_state=7, fit__n_init=2)
    with caplog.at_level(logging.WARNING, "gmm_dask"):
        assert retrain(run, "changed").published is None
    (line,) = caplog.messages
    assert line.startswith(
        "fit.random_state and fit.n_init differ from the search of version 1, and only a search "
        "goes by them: they wait for the next full fit, at the latest in 30 night(s)"
    )


def test_nights_work_on_an_object_store(root, bucket):
    write_day(root, 9)
    run = incremental(root, output__models=bucket)
    assert retrain(run, "first").published.version == 1
    write_day(root, 10)
    outcome = retrain(run, "second")
    assert outcome.evaluation.model.manifest.refit.units_kept == 9
    assert steps.read_current(run).version == 2


def test_a_selection_leaves_a_store_too(root):
    """And the nights that follow keep what it has chosen."""
    run = incremental(
        root,
        model__n_components=None,
        select__n_components=[2, 3],
        select__covariance_types=["full"],
        output__name="chosen",
    )
    assert retrain(run, "first").evaluation.selection is not None
    write_day(root, 9)
    refit = retrain(run, "second").evaluation.model.manifest.refit
    assert (refit.units_read, refit.units_kept) == (1, 8)
