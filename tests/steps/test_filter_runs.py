"""Runs with a filter: the rows used are the rows said, tonight, resumed and predicted."""

import datetime as dt
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from gmm_dask import steps
from gmm_dask.chunked import groups
from gmm_dask.config import LocalProcesses
from gmm_dask.errors import TooFewRowsError
from gmm_dask.estimator import GaussianMixture
from gmm_dask.mixture.em import Status
from gmm_dask.pipelines import sequences
from gmm_dask.steps import filtering
from gmm_dask.storage.input.reader import read_parquet
from gmm_dask.storage.predictions import dataset
from tests.steps.tables import (
    THREADS,
    make_run,
    out_of_core,
    points,
    read_predictions,
    run_fit,
    run_predict,
    run_retrain,
)
from tests.steps.test_fit_state import SMALL, at_iteration, at_stage, bits, fit, interrupt, scans

MONDAY = dt.datetime(2026, 2, 9, 3, tzinfo=dt.UTC)
TUESDAY, SUNDAY = MONDAY + dt.timedelta(1), MONDAY - dt.timedelta(1)
WINDOW = "dt >= current_date - 2"
#: A mixture that is given, so that no fit depends on a sample.
START = {
    "fit__weights_init": [0.5, 0.3, 0.2],
    "fit__means_init": [[0.0, 0.0], [6.0, 5.0], [-6.0, 5.0]],
    "fit__precisions_init": [[[1.0, 0.0], [0.0, 1.0]]] * 3,
}


def table_of(day, rows=400):
    heights, widths = points(rows, day.toordinal()).T
    random = np.random.default_rng(day.toordinal())
    return pa.table({
        "number": np.arange(rows) + 1000 * day.toordinal(),
        "height": pa.array(heights, mask=np.arange(rows) % 50 == 7),
        "width": widths,
        "country": random.choice(["FR", "DE", "US"], size=rows),
        "share": random.uniform(0.5, 2.0, rows),
    })  # fmt: skip


def write_night(root, day, table=None, rows=400):
    path = root / "input" / f"dt={day}" / "part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(day, rows) if table is None else table, path, row_group_size=100)
    return path


@pytest.fixture
def nights(tmp_path):
    """The input of a week up to Monday."""
    for back in range(7):
        write_night(tmp_path, MONDAY.date() - dt.timedelta(back))
    return tmp_path


@pytest.fixture
def at(monkeypatch):
    """Set the clock of the runs that follow."""

    def set_clock(moment):
        monkeypatch.setattr(filtering, "_now", lambda: moment)

    set_clock(MONDAY)
    return set_clock


def prefiltered(nights, tmp_path, keep, country=None):
    """The same input, filtered beforehand and written again."""
    for path in sorted(nights.glob("input/dt=*/part.parquet")):
        table = pq.ParquetFile(path).read()
        if country is not None:
            table = table.filter(pc.is_in(table["country"], pa.array(country)))
        if keep(path.parent.name.removeprefix("dt=")):
            write_night(tmp_path, path.parent.name.removeprefix("dt="), table)
    return tmp_path


def test_whole_partitions_give_the_bits_of_a_dataset_of_these(nights, tmp_path_factory, at):
    other = prefiltered(nights, tmp_path_factory.mktemp("kept"), lambda day: day >= "2026-02-07")
    filtered = run_fit(make_run(nights, input__filter=WINDOW))
    expected = run_fit(make_run(other))
    assert filtered.fitted.result.parameters.digest == expected.fitted.result.parameters.digest
    assert filtered.manifest.history == expected.manifest.history
    assert filtered.manifest.rows == expected.manifest.rows
    assert filtered.plan.digest != expected.plan.digest


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_masked_rows_give_the_fit_of_a_dataset_filtered_beforehand(
    nights, tmp_path_factory, at, monkeypatch, memory
):
    # Small groups, and more rows than the sample has: the fit scans files, and sums many groups.
    monkeypatch.setattr(groups, "LEAST_NARROW_ROWS", 3000)
    for back in range(4):
        write_night(nights, MONDAY.date() - dt.timedelta(back), rows=12_000)
    countries = ["FR", "DE"]
    other = prefiltered(
        nights, tmp_path_factory.mktemp("kept"), lambda day: day >= "2026-02-07", countries
    )
    keys = {**START, "input__sample_weight": "share"}
    condition = f"{WINDOW} and country in ('FR', 'DE')"
    filtered, events = fit(make_run(nights, input__filter=condition, **keys), memory)
    expected, _ = fit(make_run(other, **keys))
    assert len(scans(events)) > 3
    survey = filtered.result.survey
    assert (survey.rows, survey.dropped) == (
        expected.result.survey.rows,
        expected.result.survey.dropped,
    )
    assert survey.outside == 36_000 - survey.rows - survey.dropped > 0
    assert survey.weight == pytest.approx(expected.result.survey.weight, rel=1e-12)
    for name in ("weights", "means", "matrices"):
        np.testing.assert_allclose(
            getattr(filtered.result.parameters, name),
            getattr(expected.result.parameters, name),
            rtol=1e-12,
            atol=1e-12,
        )
    counts = filtered.result.best.counts
    assert counts.sum() == pytest.approx(survey.weight, rel=1e-12)  # P3: Σ N_k = Σ w


@pytest.mark.parametrize("nulls", ["drop", "error"])
def test_the_estimator_fits_the_rows_inside(nights, tmp_path_factory, nulls):
    other = prefiltered(
        nights, tmp_path_factory.mktemp("kept"), lambda day: day >= "2026-02-07", ["DE"]
    )
    columns = ["height", "width"] if nulls == "drop" else ["share", "width"]
    condition = "country = 'DE' and dt >= date '2026-02-07'"
    filtered = read_parquet(nights / "input", columns, nulls, filter=condition)
    expected = read_parquet(other / "input", columns, nulls)
    assert filtered.shape == expected.shape
    models = [GaussianMixture(3, random_state=0).fit(array) for array in (filtered, expected)]
    np.testing.assert_allclose(models[0].means_, models[1].means_, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(models[0].predict(filtered), models[1].predict(expected))


@pytest.mark.slow
def test_workers_of_a_cluster_give_the_bits_of_threads(nights, at, monkeypatch):
    condition = f"{WINDOW} and (country <> 'US' or share > 1.5)"
    run = make_run(nights, input__filter=condition, fit__search_rows=200, fit__max_iter=5)
    on_threads = run_fit(run)
    before = "country = 'US' or share < 1"  # rows of these are kept beside the others
    run_predict(make_run(nights, predict__filter=before), "before")
    predicted, _ = run_predict(run)
    rows = read_predictions(run)
    cluster = LocalProcesses(kind="local", workers=2, memory_limit="1GiB")
    on_workers = run_fit(run, "fit-2", cluster=cluster)
    assert on_workers.fitted.result.parameters.digest == (
        on_threads.fitted.result.parameters.digest
    )
    elsewhere = {"output__predictions": str(nights / "other")}
    run_predict(make_run(nights, predict__filter=before, **elsewhere), "before")
    again = make_run(nights, input__filter=condition, **elsewhere)
    other, _ = run_predict(again, cluster=cluster)
    assert other.rows == predicted.rows
    columns = [name for name in rows.column_names if name != "model_version"]
    assert read_predictions(again).select(columns).equals(rows.select(columns))
    assert rows.num_rows > predicted.rows + predicted.dropped


def test_the_manifest_says_what_was_used(nights, at):
    condition = f"{WINDOW} and country = 'FR'"
    done = run_fit(make_run(nights, input__filter=condition))
    manifest = done.manifest
    assert manifest.filter == "\"dt\" >= date '2026-02-07' and \"country\" = 'FR'"
    assert manifest.configuration["input"]["filter"] == condition
    used = pa.concat_tables([table_of(MONDAY.date() - dt.timedelta(back)) for back in range(3)])
    inside = used.filter(pc.equal(used["country"], "FR"))
    complete = inside.num_rows - inside["height"].null_count
    assert (manifest.rows, manifest.rows_dropped) == (complete, inside["height"].null_count)
    assert manifest.rows_outside == 1200 - inside.num_rows
    assert manifest.files == 3
    stored = json.loads((done.published.path / "input_plan.json").read_text())
    assert stored["filter"]["text"] == manifest.filter
    assert steps.read_model(make_run(nights)).manifest == manifest


def test_a_retrain_knows_that_its_window_has_moved(nights, at):
    run = make_run(nights, input__filter=WINDOW, output__predictions=None)
    assert run_retrain(run, "monday") is not None
    at(MONDAY + dt.timedelta(hours=20))
    assert run_retrain(run, "later on monday") is None
    at(TUESDAY)
    evaluation, decision, _ = run_retrain(run, "tuesday")
    assert decision.accepted
    assert evaluation.model.manifest.filter == "\"dt\" >= date '2026-02-08'"
    assert evaluation.model.manifest.files == 2


@pytest.fixture
def _saves_always(monkeypatch):
    monkeypatch.setattr(steps.resuming, "SAVE_SECONDS", 0.0)


PRESENT = "dt >= current_date - 2 and dt < current_timestamp"


@pytest.mark.usefixtures("_saves_always")
@pytest.mark.parametrize("stop", [at_stage("search"), at_iteration(2)], ids=["search", "polish"])
def test_a_fit_resumed_the_next_day_ends_with_the_rows_it_began_with(nights, at, stop, caplog):
    for back in range(3):
        write_night(nights, MONDAY.date() - dt.timedelta(back), rows=2000)
    run = make_run(nights, input__filter=PRESENT, **SMALL)
    whole, _ = fit(
        make_run(nights, input__filter=PRESENT, output__models=str(nights / "w"), **SMALL)
    )
    interrupt(run, stop)
    at(TUESDAY)
    assert steps.inspect_input(run, for_fit=False).filter.as_of == TUESDAY
    resumed, events = fit(run)
    assert "survey" not in scans(events)
    assert bits(resumed) == bits(whole)
    plan = steps.inspect_input(run)
    assert plan.filter.as_of == MONDAY  # until the model is published
    with out_of_core(plan) as scanner:
        evaluation = steps.evaluate(run, plan, scanner, resumed)
        steps.publish(run, evaluation, "run-1")
    assert evaluation.model.manifest.filter.startswith("\"dt\" >= date '2026-02-07'")
    assert steps.inspect_input(run).filter.as_of == TUESDAY


@pytest.mark.usefixtures("_saves_always")
@pytest.mark.parametrize("change", ["new data", "another filter", "another tolerance"])
def test_a_fit_that_cannot_be_resumed_takes_todays_window(nights, at, change):
    keys = {"input__filter": WINDOW, "fit__search_rows": 300}
    interrupt(make_run(nights, **keys), at_iteration(1))
    at(TUESDAY)
    if change == "new data":
        write_night(nights, TUESDAY.date())
    elif change == "another filter":
        keys["input__filter"] = "dt >= current_date - 3"
    else:
        keys["fit__tol"] = 1e-3
    plan = steps.inspect_input(make_run(nights, **keys))
    assert plan.filter.as_of == TUESDAY


def test_rows_outside_have_no_prediction_and_the_others_keep_their_numbers(nights, at):
    run = make_run(nights, input__filter=f"{WINDOW} and country = 'FR' and number is not null")
    run_fit(run)
    predicted, rows = run_predict(run)
    table = read_predictions(run)
    expected = []
    for back in (2, 1, 0):
        day = MONDAY.date() - dt.timedelta(back)
        source = table_of(day)
        for row in np.flatnonzero(pc.equal(source["country"], "FR")):
            height = source["height"][row].as_py()
            number = source["number"][row].as_py()
            expected.append((f"dt={day}/part.parquet", row, number, height is None))
    assert rows == table.num_rows == len(expected)
    assert predicted.dropped == sum(missing for *_, missing in expected) > 0
    assert predicted.rows == rows - predicted.dropped
    columns = [table[name].to_pylist() for name in ("input_file", "row", "number", "component")]
    columns[-1] = [component is None for component in columns[-1]]
    assert list(zip(*columns, strict=True)) == expected


def test_predictions_are_those_of_the_whole_input_where_rows_are_inside(nights, at):
    everything = make_run(nights, output__predictions=str(nights / "all"))
    run_fit(everything)
    run_predict(everything)
    # Row groups left out in the middle: a chunk may not reach over the gap.
    condition = "number <= 739656050 or (number >= 739656250 and share < 1.5)"
    some = make_run(nights, input__filter=condition, output__name="boxes")
    assert any(file.left == (0, 2, 3) for file in steps.inspect_input(some, False).files)
    run_predict(some, "some")
    table, whole = read_predictions(some), read_predictions(everything)
    keys = zip(table["input_file"].to_pylist(), table["row"].to_pylist(), strict=True)
    places = {
        key: place
        for place, key in enumerate(
            zip(whole["input_file"].to_pylist(), whole["row"].to_pylist(), strict=True)
        )
    }
    expected = whole.take([places[key] for key in keys])
    assert table.num_rows > 500
    for name in table.column_names:
        assert table[name].to_pylist() == expected[name].to_pylist(), name


def test_a_window_that_moves_on_keeps_the_predictions_of_the_files_inside(nights, at):
    run = make_run(nights, input__filter=WINDOW)
    run_fit(run)
    assert run_predict(run, "monday")[0].reused == 0
    at(TUESDAY)
    write_night(nights, TUESDAY.date())
    predicted, _ = run_predict(run, "tuesday")
    assert predicted.reused == 2
    assert dataset.read_predictions(run.output.predictions).filter == "\"dt\" >= date '2026-02-08'"
    files = read_predictions(run)["input_file"].unique().to_pylist()
    assert files == [f"dt=2026-02-{day:02}/part.parquet" for day in (7, 8, 9, 10)]
    assert predicted.kept == 1
    # Files that were predicted whole hold the answers of a narrower filter, too.
    masked = make_run(nights, input__filter=f"{WINDOW} and share > 1")
    assert run_predict(masked, "masked")[0].reused == 3
    # The same question to the rows of a file keeps its part, another does not.
    elsewhere = {"output__predictions": str(nights / "masked")}
    masked = make_run(nights, input__filter=f"{WINDOW} and share > 1", **elsewhere)
    assert run_predict(masked, "masked")[0].reused == 0
    at(TUESDAY + dt.timedelta(1))
    assert run_predict(masked, "wednesday")[0].reused == 2
    other = make_run(nights, input__filter=f"{WINDOW} and share > 1.1", **elsewhere)
    assert run_predict(other, "other")[0].reused == 0
    assert run_predict(make_run(nights, **elsewhere), "all")[0].reused == 0


def test_a_file_without_a_row_inside_has_an_empty_part(nights, at):
    lonely = table_of(MONDAY.date())["number"][5].as_py()
    run = make_run(nights, input__filter=f"{WINDOW} and number <> 0 and (number = {lonely} or "
                                         "country = 'ES')")  # fmt: skip
    run_fit(make_run(nights))
    predicted, rows = run_predict(run)
    assert (rows, predicted.rows) == (1, 1)
    assert read_predictions(run)["row"].to_pylist() == [5]
    assert run_predict(run, "again")[0].reused == 3


@pytest.mark.parametrize("condition", ["share < 0", "country = 'Fr'", "dt > '2027-01-01'"])
def test_a_filter_that_leaves_nothing_is_refused(nights, at, condition):
    run = make_run(nights, input__filter=condition)
    run_fit(make_run(nights), "all")
    for step in (run_fit, run_predict):
        with pytest.raises(TooFewRowsError, match="inside the filter"):
            step(run, step.__name__)
    assert not (nights / "predictions").exists()


def test_a_retrain_has_one_present_from_the_fit_to_the_predictions(nights, at, monkeypatch):
    run = make_run(nights, input__filter=WINDOW)
    times = iter([MONDAY, TUESDAY, TUESDAY, TUESDAY])  # midnight passes while it fits
    monkeypatch.setattr(filtering, "_now", lambda: next(times))
    outcome = sequences.retrain(
        run, THREADS, sequences.directly, lambda event: None, run_id="night"
    )
    assert outcome.evaluation.model.manifest.status == Status.CONVERGED.value
    assert outcome.predictions.total_rows == 1200
    assert steps.read_model(run).manifest.files == 3


def test_a_file_outside_may_be_damaged_missing_or_of_another_type(nights, at):
    run = make_run(nights, input__filter=WINDOW)
    (nights / "input/dt=2026-02-03/part.parquet").write_bytes(b"half a file")
    write_night(nights, "2026-02-04", pa.table({"height": ["text"]}))
    plan = steps.inspect_input(run)
    shutil.rmtree(nights / "input/dt=2026-02-05")
    with out_of_core(plan) as scanner:
        assert steps.fit(run, plan, scanner, lambda event: None).result.survey.source_rows == 1200
