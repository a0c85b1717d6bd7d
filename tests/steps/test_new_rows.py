"""Drift of new rows: nights of a retrain that says which feature moved in which component."""

import logging
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask.errors import DriftError
from gmm_dask.events import silent
from gmm_dask.pipelines import sequences
from gmm_dask.steps.reporting import write_report
from gmm_dask.storage.models.drift_history import DRIFT, read_drift
from gmm_dask.storage.models.registry import Registry
from gmm_dask.versions import read_nights
from tests.steps.tables import MEANS, THREADS, make_run, run_fit, run_predict, write_day, write_days


def write_drifted_day(root, day, by=0.8, rows=500):
    """Write a day on which the heights of the rows near (6, 5) are higher."""
    path = write_day(root, day, rows=rows)
    table = pq.read_table(path, partitioning=None)
    heights = np.array(table["height"].to_pandas(), float)
    heights[(np.array(table["width"]) > 2.5) & (heights > 0.0)] += by
    drifted = pa.array(heights, mask=np.isnan(heights))
    pq.write_table(table.set_column(1, "height", drifted), path)


def retrain(root, night, **keys):
    run = make_run(root, **keys)
    return sequences.retrain(run, THREADS, sequences.directly, silent, f"night-{night}")


def component_at(root, mean, version):
    """The id of the component that lies nearest to a mean."""
    model = Registry(root / "models", "boxes").load(version)
    distances = np.linalg.norm(model.parameters.means - mean, axis=1)
    return model.component_ids[int(distances.argmin())]


def nights_at(root):
    return read_nights(root / "models" / "boxes")


def failed(drift):
    return [check.name for check in drift.checks if not check.passed]


def test_a_drifted_feature_is_named_on_night_4_though_the_retrain_learns_it(tmp_path, caplog):
    write_days(tmp_path, rows=1000)
    first = retrain(tmp_path, 1)
    assert first.measured is None  # nothing to compare with
    write_day(tmp_path, 4, rows=50)
    assert not retrain(tmp_path, 2).drift.drifted  # fifty rows do not drift by chance
    write_day(tmp_path, 5)
    assert failed(retrain(tmp_path, 3).drift) == []
    with caplog.at_level(logging.WARNING, "gmm_dask"):
        write_drifted_day(tmp_path, 6)
        fourth = retrain(tmp_path, 4)
    moved = component_at(tmp_path, MEANS[1], 3)
    words = f"the mean of height in component {moved} lies 0."
    assert words in caplog.text
    assert fourth.published.version == 4
    assert failed(fourth.drift) == ["mean shift"]
    assert fourth.drift.words.startswith(words)
    # The model that has learned these rows finds nothing.
    assert not fourth.predictions.drift.drifted
    record = fourth.drift.record
    assert (record.version, record.files, record.rows, record.by) == (3, 1, 490, "retrain")
    (finding,) = record.findings
    assert finding[:3] == ("mean", moved, "height")
    assert finding.value == pytest.approx(0.8, abs=4 * finding.error)
    others = [e.value for e in record.means if e[:2] != (moved, "height")]
    assert np.abs(others).max() < 0.25
    # It is carried forward, and the report says it.
    page = write_report(str(fourth.published.path), output=tmp_path / "4.html").read_text()
    assert words in page
    assert "night by night" in page
    write_drifted_day(tmp_path, 7, 2.0)
    retrain(tmp_path, 5)
    nights = nights_at(tmp_path)
    assert [record.run_id for record in nights] == [f"night-{n}" for n in (2, 3, 4, 5)]
    assert [bool(record.findings) for record in nights] == [False, False, True, True]
    assert read_nights(tmp_path / "models/boxes/v000004") == nights[:3]
    # Nothing new: nothing is compared.
    assert retrain(tmp_path, 6).drift is None
    assert nights_at(tmp_path) == nights


def test_a_candidate_is_refused_for_drift_and_the_current_model_stays(tmp_path, caplog):
    write_days(tmp_path, rows=1000)
    retrain(tmp_path, 1)
    write_drifted_day(tmp_path, 4)
    refused = retrain(tmp_path, 2, retrain__on_drift="refuse")
    assert refused.published is None
    assert refused.refusal.reason == f"the new rows have drifted: {refused.drift.words}"
    assert refused.refusal.path.name == "night-2"
    registry = Registry(tmp_path / "models", "boxes")
    assert registry.current_version() == 1
    assert (refused.refusal.path / DRIFT).exists()
    # The current model predicts rows that drift from it.
    assert failed(refused.predictions.drift) == ["mean shift"]
    write_day(tmp_path, 5, rows=80)
    both = retrain(tmp_path, 3, retrain__on_drift="refuse", predict__on_drift="fail")
    assert isinstance(both.failure, DriftError)
    assert "the mean of height in component" in str(both.failure)
    # Every night is in the history, and the next version that is accepted carries it.
    assert [record.run_id for record in nights_at(tmp_path)] == ["night-2", "night-3"]
    accepted = retrain(tmp_path, 4, predict__on_drift="fail")
    assert accepted.published.version == 2
    assert [record.rows for record in nights_at(tmp_path)] == [490, 568, 568]
    _, nights = read_drift(registry.load(2))
    assert [record.run_id for record in nights] == ["night-2", "night-3", "night-4"]


def test_a_prediction_looks_closer_at_rows_that_nobody_has_seen(tmp_path):
    write_days(tmp_path, rows=1000)
    run = make_run(tmp_path)
    run_fit(run)
    assert run_predict(run)[0].drift.record is None  # the rows of the fit
    write_day(tmp_path, 4, rows=50)
    seen = run_predict(run, "predict-2")[0].drift
    assert (seen.drifted, seen.record.rows, seen.record.files) == (False, 49, 1)
    write_drifted_day(tmp_path, 5)
    drift = run_predict(run, "predict-3")[0].drift
    assert failed(drift) == ["mean shift"]
    nights = read_nights(tmp_path / "models/boxes", run.output.predictions)
    assert [(record.by, bool(record.findings)) for record in nights] == [
        ("predict", False), ("predict", True)
    ]  # fmt: skip
    write_drifted_day(tmp_path, 6)
    moved = component_at(tmp_path, MEANS[1], 1)
    strict = make_run(tmp_path, predict__on_drift="fail")
    with pytest.raises(DriftError, match=f"the mean of height in component {moved} lies"):
        run_predict(strict, "predict-4")
    wide = make_run(tmp_path, predict__on_drift="fail", predict__max_mean_shift=2.0)
    assert not run_predict(wide, "predict-5")[0].drift.drifted


def test_fifty_rows_with_an_outlier_do_not_drift_by_chance(tmp_path):
    write_days(tmp_path, rows=1000)
    run = make_run(tmp_path, predict__on_drift="fail")
    run_fit(run)
    run_predict(run)
    table = pq.read_table(write_day(tmp_path, 4, rows=50, nulls=False), partitioning=None)
    heights = table["height"].to_pylist()
    heights[0] = 12.0
    path = tmp_path / "input" / "day=4" / "part.parquet"
    pq.write_table(table.set_column(1, "height", [heights]), path)
    checks = {check.name: check for check in run_predict(run, "next")[0].drift.checks}
    low = checks["low-density share"]
    assert (low.value, low.passed) == (0.02, True)  # beyond the limit of 0.01


def test_rows_that_all_lie_far_out_are_less_like_those_of_the_fit(tmp_path):
    write_days(tmp_path, rows=1000)
    retrain(tmp_path, 1)
    write_day(tmp_path, 4, shift=100.0)
    assert {"log-likelihood drop", "low-density share", "mean shift"} <= {
        *failed(retrain(tmp_path, 2).measured)
    }


def test_a_late_file_whose_rows_have_decayed_to_nothing_is_not_compared(tmp_path):
    """Their weights are not 0, but the squares of these are."""
    write_days(tmp_path, rows=1000)
    decay = {"input__weight_halflife": {"column": "day", "days": 1}}
    today = datetime.now(UTC).date()
    for age, path in enumerate(sorted((tmp_path / "input").glob("day=*")), start=1):
        path.rename(path.with_name(f"day={today - timedelta(days=age)}"))
    retrain(tmp_path, 1, **decay)
    path = write_day(tmp_path, 9, shift=100.0).parent
    path.rename(path.with_name(f"day={today - timedelta(days=700)}"))
    outcome = retrain(tmp_path, 2, **decay)
    assert outcome.measured is None
    assert outcome.published.version == 2


def test_a_damaged_history_begins_again_with_a_warning(tmp_path, caplog):
    write_days(tmp_path)
    retrain(tmp_path, 1)
    path = tmp_path / "models/boxes/v000001" / DRIFT
    path.write_bytes(path.read_bytes()[:-1])
    write_day(tmp_path, 4)
    with caplog.at_level(logging.WARNING, "gmm_dask"):
        assert retrain(tmp_path, 2).published.version == 2
    assert "the history of drift begins again" in caplog.text
    assert len(nights_at(tmp_path)) == 1
