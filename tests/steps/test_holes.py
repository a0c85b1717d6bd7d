"""Runs of rows with holes: fitted, published, predicted and imputed by what they have."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask import load_model, steps
from gmm_dask.errors import ConfigError
from gmm_dask.storage.models.paths import load_model_at
from tests.steps.tables import make_run, points, read_predictions, run_fit, run_predict

PLAIN = {"input__nulls": "marginalize", "fit__search_rows": "none"}


def write_day(root: Path, day: int, share: float = 0.3, rows: int = 500) -> np.ndarray:
    """Write a day of which a share of the values is missing, and each hundredth row has none."""
    random = np.random.default_rng(day)
    values = points(rows, day)
    holes = random.uniform(size=values.shape) < share
    holes[np.arange(rows), random.integers(2, size=rows)] = False
    holes[::100] = True
    columns = {
        name: pa.array(column, mask=mask)
        for name, column, mask in zip(("height", "width"), values.T, holes.T, strict=True)
    }
    path = root / "input" / f"day={day}" / "part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"number": np.arange(rows) + 1000 * day, **columns}), path)
    return np.where(holes, np.nan, values)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("holes")
    for day in (1, 2, 3):
        write_day(root, day)
    return root


@pytest.fixture(scope="module")
def fitted(root):
    run = make_run(root, predict__impute=True, predict__probabilities=True, **PLAIN)
    return run, run_fit(run)


def values_of(table):
    return np.column_stack([table[name].to_numpy() for name in ("height", "width")])


def frame_of(rows):
    return pd.DataFrame(rows, columns=["height", "width"])


def test_the_model_says_which_rows_were_used(root, fitted):
    _, fit = fitted
    manifest = fit.manifest
    rows = values_of(pq.read_table(root / "input"))
    has_value, complete = ~np.isnan(rows).all(axis=1), ~np.isnan(rows).any(axis=1)
    assert (manifest.rows, manifest.rows_dropped) == (has_value.sum(), 15)
    assert manifest.rows_incomplete == (has_value & ~complete).sum()
    assert sum(manifest.counts) == pytest.approx(has_value.sum())
    model = load_model(fit.published.path)
    assert model.nulls == "marginalize"
    densities = model.score_samples(frame_of(rows))
    assert manifest.log_likelihood == pytest.approx(np.nanmean(densities), rel=1e-12)
    assert manifest.complete_log_likelihood == pytest.approx(densities[complete].mean(), rel=1e-12)
    assert np.isfinite(load_model_at(fit.published.path).manifest.low_density_threshold)


def test_predictions_and_imputed_values_are_published(root, fitted):
    run, fit = fitted
    predicted, total = run_predict(run)
    assert (total, predicted.rows, predicted.dropped) == (1_500, 1_485, 15)
    table = read_predictions(run)
    rows = values_of(pq.read_table(root / "input"))
    nothing, complete = np.isnan(rows).all(axis=1), ~np.isnan(rows).any(axis=1)
    model = load_model(fit.published.path)
    for name in {*table.column_names} - {"row", "input_file", "number", "model_version"}:
        assert table[name].filter(pa.array(nothing)).null_count == 15, name
    some = table.filter(pa.array(~nothing))
    assert some["observed"].to_pylist() == (~np.isnan(rows)).sum(axis=1)[~nothing].tolist()
    assert some["observed"].type == pa.int32()
    frame = frame_of(rows[~nothing])
    np.testing.assert_array_equal(some["log_density"], model.score_samples(frame))
    ids = model.component_ids_[model.predict(frame)]
    np.testing.assert_array_equal(some["component"], ids)
    shares = np.column_stack([some[f"probability_{number}"] for number in model.component_ids_])
    np.testing.assert_array_equal(shares, model.predict_proba(frame))
    # An outlier is told among complete rows alone.
    outliers = table["outlier"]
    assert outliers.null_count == (~complete).sum()
    below = model.score_samples(frame_of(rows[complete])) < model.low_density_threshold_
    np.testing.assert_array_equal(outliers.filter(pa.array(complete)), below)
    filled = np.asarray(model.impute(frame_of(rows)))
    for place, name in enumerate(("height", "width")):
        imputed = table[f"{name}_imputed"].to_numpy()
        missing = np.isnan(rows[:, place]) & ~nothing
        np.testing.assert_array_equal(imputed[missing], filled[missing, place])
        assert np.isnan(imputed[~missing]).all()


def test_a_change_of_what_is_missing_is_no_drift_of_densities(tmp_path):
    for day in (1, 2):
        write_day(tmp_path, day, 0.1, 2_000)
    run = make_run(tmp_path, **PLAIN)
    run_fit(run)
    write_day(tmp_path, 9, 0.9, 2_000)
    replaced, _ = run_predict(run.model_copy(update={"input": only(run, tmp_path, 9)}))
    drop, low, _, mean, spread = replaced.drift.checks
    assert mean.passed
    assert spread.passed
    assert abs(drop.value) < 0.2
    assert low.value < 0.01
    write_day(tmp_path, 8, 1.0, 300)  # no complete row
    run = run.model_copy(update={"input": only(run, tmp_path, 8)})
    nothing, _ = run_predict(run, "predict-2")
    assert [check.passed for check in nothing.drift.checks[:2]] == [True, True]
    assert nothing.drift.checks[0].explanation == "no complete rows to compare by density"
    assert nothing.drift.quantile_shifts == {}


def only(run, root, day):
    return run.input.model_copy(update={"path": str(root / f"input/day={day}/part.parquet")})


def test_a_key_may_not_have_the_name_of_a_column_of_holes(root, fitted):
    run, _ = fitted
    plan, model = steps.inspect_input(run), steps.read_model(run)
    for name in ("observed", "width_imputed"):
        section = run.predict.model_copy(update={"key_columns": [name]})
        other = run.model_copy(update={"predict": section})
        with (
            pytest.raises(ConfigError, match=f"'{name}' is the name of a column"),
            steps.open_predictions(other, plan, model, None, None, "predict-3"),
        ):
            pass


def test_imputing_needs_rows_with_holes(root):
    message = "predict.impute is true, but with input.nulls = 'drop' no row"
    with pytest.raises(ConfigError, match=message):
        make_run(root, predict__impute=True)
