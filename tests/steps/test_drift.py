"""Drift: predicted rows against training rows, and what a run does about a difference."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask import steps
from gmm_dask.errors import DriftError
from gmm_dask.mixture.assignment import assign
from tests.steps.tables import (
    files_below,
    make_run,
    points,
    run_fit,
    run_predict,
    write_day,
    write_days,
)

NAMES = ["log-likelihood drop", "low-density share", "occupancy change"]


@pytest.fixture
def run(tmp_path):
    write_days(tmp_path)
    run = make_run(tmp_path)
    run_fit(run)
    return run


def replace_input(root, day, **options):
    """Make one new day the whole input."""
    for path in (root / "input").glob("day=*/part.parquet"):
        path.unlink()
    return write_day(root, day, **options)


def checks_of(drift):
    return {check.name: check for check in drift.checks}


def test_the_training_rows_have_not_drifted(run):
    drift = run_predict(run)[0].drift
    assert list(checks_of(drift)) == NAMES
    assert not drift.drifted
    assert checks_of(drift)["log-likelihood drop"].value == pytest.approx(0.0, abs=1e-12)
    assert checks_of(drift)["occupancy change"].value == 0.0
    assert checks_of(drift)["low-density share"].value == pytest.approx(0.001, abs=1e-9)
    assert set(drift.quantile_shifts.values()) == {0.0}


def test_the_weights_of_a_weighted_fit_count_in_its_predictions(tmp_path):
    for day in (1, 2, 3):
        path = write_day(tmp_path, day, nulls=False)
        table = pq.read_table(path, partitioning=None)
        right = np.array(table["height"]) > 3.0
        share = pa.array(np.where(right, 100.0, 0.0 if day == 1 else 1.0))
        pq.write_table(table.set_column(3, "share", share), path)
    run = make_run(tmp_path, input__sample_weight="share", predict__max_occupancy_change=0.01)
    run_fit(run)
    drift = run_predict(run)[0].drift
    assert not drift.drifted
    assert checks_of(drift)["occupancy change"].value == pytest.approx(0, abs=1e-12)
    (tmp_path / "predictions").unlink()  # otherwise nothing is read
    unweighted_run = make_run(tmp_path, predict__max_occupancy_change=0.01)
    unweighted = run_predict(unweighted_run, "unweighted")[0].drift
    assert checks_of(unweighted)["occupancy change"].value > 0.3


@pytest.mark.parametrize("weight", [0.0, 1e-200])  # by age too: 2^-664
def test_rows_that_weigh_nothing_show_no_drift(tmp_path, weight):
    path = write_day(tmp_path, 1)
    run = make_run(tmp_path, input__sample_weight="share")
    run_fit(run)
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.set_column(3, "share", pa.array(np.full(500, weight))), path)
    predicted, rows = run_predict(run)
    assert (predicted.drift, predicted.rows, rows) == (None, 490, 500)


def test_each_value_is_what_its_name_says(run, tmp_path):
    replace_input(tmp_path, 9, rows=2000, shift=1.5, nulls=False)
    model = steps.read_model(run)
    drift = run_predict(run)[0].drift
    assigned = assign(model.parameters, points(2000, 9, 1.5))
    checks = checks_of(drift)
    mean = assigned.log_densities.mean()
    assert checks["log-likelihood drop"].value == pytest.approx(
        model.manifest.log_likelihood - mean, rel=1e-12
    )
    low = (assigned.log_densities < model.manifest.low_density_threshold).mean()
    assert checks["low-density share"].value == pytest.approx(low, abs=2e-3)
    shares = np.bincount(assigned.labels, minlength=3) / 2000
    change = 0.5 * np.abs(shares - model.manifest.occupancy).sum()
    assert checks["occupancy change"].value == pytest.approx(change, rel=1e-12)
    for share, shift in drift.quantile_shifts.items():
        quantile = np.quantile(assigned.log_densities, share, method="inverted_cdf")
        assert shift == pytest.approx(quantile - model.manifest.quantiles[share], abs=0.02)


LIMITS = {
    "log-likelihood drop": ("max_log_likelihood_drop", {"shift": 2.0}),
    "low-density share": ("max_low_density_share", {"shift": 2.0}),
    "occupancy change": ("max_occupancy_change", {"shift": 3.0}),
    "mean shift": ("max_mean_shift", {"shift": 1.0}),
    "spread change": ("max_spread_change", {"shift": 2.0}),
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("within", [True, False])
def test_each_limit_decides_alone(run, tmp_path, name, within):
    key, options = LIMITS[name]
    replace_input(tmp_path, 9, **options)
    value = checks_of(run_predict(run, "look")[0].drift)[name].value
    wide = {
        "predict__max_log_likelihood_drop": 1e9,
        "predict__max_low_density_share": 1.0,
        "predict__max_occupancy_change": 1.0,
        "predict__max_mean_shift": 1e9,
        "predict__max_spread_change": 1e9,
        f"predict__{key}": value if within else np.nextafter(value, 0),
        "predict__on_drift": "fail",
    }
    (tmp_path / "predictions").unlink()
    narrow = make_run(tmp_path, **wide)
    if within:
        assert not run_predict(narrow)[0].drift.drifted
    else:
        with pytest.raises(DriftError):
            run_predict(narrow)


def test_drift_is_warned_about_and_published(run, tmp_path, caplog):
    replace_input(tmp_path, 9, shift=4.0, nulls=False)
    with caplog.at_level(logging.WARNING, "gmm_dask"):
        predicted, rows = run_predict(run)
    assert predicted.drift.drifted
    assert rows == 500
    (message,) = caplog.messages
    assert message.startswith("drift: mean log-likelihood -")
    assert "of the rows lie below the low-density threshold" in message
    assert message.endswith("consider a retrain")


def test_drift_that_fails_publishes_nothing(run, tmp_path):
    run_predict(run)
    path = write_day(tmp_path, 4, shift=4.0)
    before = files_below(tmp_path)
    strict = make_run(tmp_path, predict__on_drift="fail")
    with pytest.raises(DriftError) as caught:
        run_predict(strict, "predict-2")
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path}/input is not like what model boxes was fitted to: mean log-likelihood -"
    )
    assert message.endswith(
        "; nothing was published: look at the data, retrain, or widen the limits of [predict]"
    )
    assert "\n" not in message
    assert files_below(tmp_path) == before
    path.unlink()
    write_day(tmp_path, 5)
    assert run_predict(strict, "predict-3")[0].reused == 3


def test_only_the_rows_of_new_files_are_judged(run, tmp_path):
    run_predict(run)
    write_day(tmp_path, 4, shift=1.0, rows=400, nulls=False)
    predicted, _ = run_predict(run, "predict-2")
    assert predicted.rows == 400
    model = steps.read_model(run)
    densities = assign(model.parameters, points(400, 4, 1.0)).log_densities
    assert checks_of(predicted.drift)["log-likelihood drop"].value == pytest.approx(
        model.manifest.log_likelihood - densities.mean(), rel=1e-12
    )
