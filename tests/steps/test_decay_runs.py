"""Runs whose rows weigh by their age: the fit of weights given by hand, tonight and resumed."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask import steps
from gmm_dask.pipelines.summary import model_summary
from gmm_dask.steps import filtering
from gmm_dask.storage.input.decay import Decay
from tests.steps.tables import make_run, points, run_fit, run_predict, run_retrain
from tests.steps.test_fit_state import SMALL, at_iteration, bits, fit, interrupt

MONDAY = dt.datetime(2026, 2, 9, 3, tzinfo=dt.UTC)
TUESDAY = MONDAY + dt.timedelta(1)
HALFLIFE = {"column": "dt", "days": 3.0}
DECAY = Decay("dt", 3.0, MONDAY.date())


def write_nights(root, nights=5, rows=500, shift=0.5):
    """Write nights that drift; ``by_hand`` is the share of a row times its weight by age."""
    for back in range(nights):
        day = MONDAY.date() - dt.timedelta(back)
        heights, widths = points(rows, day.toordinal(), shift * back).T
        share = np.random.default_rng(back).uniform(0.5, 2.0, rows)
        path = root / "input" / f"dt={day}" / "part.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = {"height": heights, "width": widths, "share": share, "number": np.arange(rows)}
        columns["by_hand"] = share * DECAY.key_factor(str(day))
        columns["moment"] = pa.array([day] * rows)
        pq.write_table(pa.table(columns), path)


@pytest.fixture
def at(monkeypatch):
    """Set the clock of the runs that follow."""

    def set_clock(moment):
        monkeypatch.setattr(filtering, "_now", lambda: moment)

    set_clock(MONDAY)
    return set_clock


@pytest.mark.parametrize("column", ["dt", "moment"])
def test_a_fit_has_the_bits_of_weights_that_were_written_beforehand(tmp_path, at, column):
    write_nights(tmp_path)
    keys = {
        "input__sample_weight": "share",
        "input__weight_halflife": {**HALFLIFE, "column": column},
    }
    weighed = run_fit(make_run(tmp_path, **keys))
    by_hand = run_fit(make_run(tmp_path, input__sample_weight="by_hand"), "fit-2")
    assert bits(weighed.fitted.result) == bits(by_hand.fitted.result)
    manifest = weighed.manifest
    assert manifest.weight == by_hand.manifest.weight
    weights = np.concatenate([
        pq.ParquetFile(path).read(["by_hand"])["by_hand"].to_numpy()
        for path in sorted(tmp_path.glob("input/*/part.parquet"))
    ])  # fmt: skip
    effective = weights.sum() ** 2 / (weights**2).sum()
    assert manifest.effective_rows == pytest.approx(effective, rel=1e-12)
    assert manifest.effective_rows < 2400
    (words,) = [text for name, text in model_summary(weighed.evaluation.model).facts
                if name == "total weight"]  # fmt: skip
    assert words.endswith(f"half for each 3 days of {column}")


def test_a_night_without_news_is_no_news_until_the_next_day(tmp_path, at):
    write_nights(tmp_path)
    run = make_run(tmp_path, input__weight_halflife=HALFLIFE)
    assert run_retrain(run, "monday") is not None
    at(MONDAY + dt.timedelta(hours=20))
    assert run_retrain(run, "later on monday") is None
    at(TUESDAY)
    evaluation, decision, _ = run_retrain(run, "tuesday")
    assert decision.accepted
    # The current model is measured with the weights of today.
    assert evaluation.current_densities.weight == evaluation.densities.weight
    monday = sum(500 * 2.0 ** (-back / 3.0) for back in range(5))
    assert evaluation.densities.weight == pytest.approx(monday * 2.0 ** (-1 / 3.0), rel=1e-12)


def test_predictions_do_not_weigh_by_age(tmp_path, at):
    write_nights(tmp_path)
    run = make_run(tmp_path, input__weight_halflife=HALFLIFE)
    run_fit(run)
    plan = steps.inspect_input(run, for_fit=False)
    assert not plan.weighted
    assert run_predict(run, "monday")[0].rows == 2500
    at(TUESDAY)
    assert run_predict(run, "tuesday")[0].reused == 5


def test_a_fit_resumed_the_next_day_ends_with_the_weights_it_began_with(tmp_path, at, monkeypatch):
    monkeypatch.setattr(steps.resuming, "SAVE_SECONDS", 0.0)
    write_nights(tmp_path, rows=2000)
    keys = {"input__weight_halflife": HALFLIFE, **SMALL}
    run = make_run(tmp_path, **keys)
    whole, _ = fit(make_run(tmp_path, output__models=str(tmp_path / "w"), **keys))
    interrupt(run, at_iteration(2))
    at(TUESDAY)
    resumed, _ = fit(run)
    assert bits(resumed) == bits(whole)
    assert steps.inspect_input(run).as_of == MONDAY
