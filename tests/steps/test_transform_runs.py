"""Runs with transforms: fit, predict and retrain in natural units, the transforms in the model."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask import GaussianMixture, load_model, steps
from gmm_dask.chunked.reading import fingerprint_of
from gmm_dask.config import LocalProcesses
from gmm_dask.errors import ConfigError, InputError, ModelError
from gmm_dask.events import silent
from gmm_dask.pipelines.summary import input_summary, model_summary
from gmm_dask.storage.input.reader import read_parquet, source_of
from gmm_dask.storage.models.paths import load_model_at
from tests.steps.tables import (
    make_run,
    out_of_core,
    read_predictions,
    run_fit,
    run_predict,
    run_retrain,
)
from tests.steps.test_fit_state import SMALL, at_iteration, bits, fit, interrupt, scans

KINDS = {"price": "log1p", "weight": "standardise"}


def rows(n=900, seed=0, shift=0.0):
    random = np.random.default_rng(seed)
    second = random.random(n) < 0.4
    price = np.expm1(random.normal(2.0 + 2.0 * second + shift, 0.5))
    return price, random.normal(100.0 + 80.0 * second, 10.0)


def write(root, name="a", columns=("price", "weight"), nulls=True, **options):
    price, weight = rows(**options)
    missing = nulls & (np.arange(len(price)) % 50 == 7)
    table = pa.table({
        columns[0]: pa.array(price, mask=missing), columns[1]: weight,
        "number": np.arange(len(price)),
    })  # fmt: skip
    path = root / "input" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=200)
    return path


def run_of(root, transform=KINDS, **keys):
    keys = {"model__n_components": 2, "input__columns": ["price", "weight"], **keys}
    return make_run(root, input__transform=transform, **keys)


@pytest.mark.parametrize("memory", [0, 1 << 30], ids=["read again", "cached"])
@pytest.mark.parametrize("kind", ["full", "spherical"])
def test_a_fit_has_the_bits_of_a_dataset_transformed_beforehand(tmp_path, kind, memory):
    write(tmp_path / "natural", n=4000)
    keys = {"model__covariance_type": kind, **SMALL, "fit__search_rows": 500}
    transformed, events = fit(run_of(tmp_path / "natural", **keys), memory)
    assert len(scans(events)) > 2
    settled = transformed.result.survey.transforms.by_feature[1]
    price, weight = rows(4000)
    complete = np.arange(4000) % 50 != 7
    assert settled.center == pytest.approx(weight[complete].mean(), rel=1e-13)
    assert settled.scale == pytest.approx(weight[complete].std(), rel=1e-13)
    path = tmp_path / "by hand/input/a.parquet"
    path.parent.mkdir(parents=True)
    table = pa.table({
        "price": pa.array(np.log1p(price), mask=~complete),
        "weight": (weight - settled.center) / settled.scale,
        "number": np.arange(4000),
    })  # fmt: skip
    pq.write_table(table, path, row_group_size=200)
    by_hand, _ = fit(run_of(tmp_path / "by hand", {}, **keys), memory)
    assert transformed.result.parameters.digest == by_hand.result.parameters.digest
    slope = -(np.log1p(price)[complete].mean()) - np.log(settled.scale)
    assert transformed.result.survey.log_slope == pytest.approx(slope, rel=1e-12)
    for name in ("lower_bounds",):
        np.testing.assert_allclose(
            np.array(getattr(transformed.result.best, name)),
            np.array(getattr(by_hand.result.best, name)) + slope,
            rtol=1e-12,
        )
    assert transformed.result.search.log_likelihoods[0] == pytest.approx(
        by_hand.result.search.log_likelihoods[0] + slope, abs=0.1
    )


def test_the_model_holds_its_transforms_and_predicts_in_natural_units(tmp_path):
    write(tmp_path)
    run = run_of(tmp_path)
    done = run_fit(run)
    predicted, _ = run_predict(run)
    manifest = steps.read_model(run).manifest
    assert manifest == done.manifest
    assert [item["name"] for item in manifest.transforms] == ["log1p", "standardise"]
    table = read_predictions(run)
    assert predicted.drift.checks[0].value == pytest.approx(0.0, abs=1e-9)
    assert predicted.drift.checks[1].value <= 0.002
    # The published model as an estimator: the same rows, the same densities.
    model = load_model(done.published.path)
    assert model.transforms == KINDS
    price, weight = rows()
    complete = np.flatnonzero(np.arange(900) % 50 != 7)
    natural = pa.table({"price": price[complete], "weight": weight[complete]})
    densities = table["log_density"].drop_null().to_numpy()
    np.testing.assert_allclose(model.predict_frame(natural)["log_density"], densities, rtol=1e-12)
    X = np.column_stack([price, weight])[complete]
    by_hand = GaussianMixture(2)
    by_hand._take_parameters(done.evaluation.model.parameters)
    by_hand.n_features_in_ = 2
    _, standardise = model.transforms_.by_feature
    Y = np.column_stack([np.log1p(X[:, 0]), (X[:, 1] - standardise.center) / standardise.scale])
    slopes = -np.log1p(X[:, 0]) - np.log(standardise.scale)
    np.testing.assert_allclose(densities, by_hand.score_samples(Y) + slopes, rtol=1e-11)
    assert manifest.log_likelihood == pytest.approx(densities.mean(), rel=1e-12)
    assert manifest.history[-1] == pytest.approx(manifest.log_likelihood, abs=1e-2)
    outliers = table["outlier"].drop_null().to_numpy(zero_copy_only=False)
    assert outliers.sum() == pytest.approx(0.001 * len(densities), abs=1)


@pytest.mark.usefixtures("drawn")
def test_tables_and_report_speak_natural_units(tmp_path):
    write(tmp_path)
    done = run_fit(run_of(tmp_path))
    summary = model_summary(load_model_at(done.published.path))
    assert ("transforms", "price = log1p, weight = standardise") in summary.facts
    header = summary.header
    assert header[2:4] == ["price", "weight"]
    medians = sorted(float(row[2].split()[0]) for row in summary.rows)
    assert medians == pytest.approx([np.expm1(2.0), np.expm1(4.0)], rel=0.1)
    assert "to" in summary.rows[0][2]
    heavy = [float(row[3].split(" ± ")[0]) for row in summary.rows]
    assert sorted(heavy) == pytest.approx([100.0, 180.0], abs=3.0)
    assert any("median of the component" in note for note in summary.notes)
    page = (done.published.path / "report.html").read_text()
    for words in ("price (log1p scale)", "price = log1p, weight = standardise"):
        assert words in page
    assert all(f">{price}</text>" in page for price in ("10", "100"))  # ticks
    assert (done.published.path / "components.png").exists()


@pytest.mark.parametrize("start", ["current", "scratch"])
def test_a_retrain_compares_in_natural_units(tmp_path, start):
    write(tmp_path)
    run = run_of(tmp_path, retrain__start=start, output__predictions=None)
    first = run_fit(run)
    assert run_retrain(run, "nothing new") is None
    write(tmp_path, "b", seed=1, shift=0.2)
    evaluation, decision, _ = run_retrain(run, "second")
    assert decision.accepted
    kept = evaluation.model.transforms == first.evaluation.model.transforms
    assert kept == (start == "current")
    prices, weights = (
        np.concatenate(both) for both in zip(rows(), rows(seed=1, shift=0.2), strict=True)
    )
    complete = np.arange(1800) % 900 % 50 != 7
    X = pa.table({"price": prices[complete], "weight": weights[complete]})
    for version, densities in ((1, evaluation.current_densities), (2, evaluation.densities)):
        model = load_model(tmp_path / "models/boxes", version)
        assert densities.mean_log_likelihood == pytest.approx(model.score(X), rel=1e-11)
    assert len(evaluation.matches) == 2
    assert evaluation.model.component_ids == first.evaluation.model.component_ids
    assert max(match.distance for match in evaluation.matches) < 0.2


@pytest.mark.parametrize(
    ("before", "after"),
    [({}, {"price": "log1p"}), ({"price": "log1p"}, {}), ({}, {"weight": "standardise"})],
)
@pytest.mark.parametrize("search_rows", ["auto", 300])
def test_a_retrain_with_other_transforms_says_so_and_compares(
    tmp_path, caplog, before, after, search_rows
):
    write(tmp_path)
    keys = {"fit__search_rows": search_rows, "output__predictions": None}
    old, new = run_of(tmp_path, before, **keys), run_of(tmp_path, after, **keys)
    first = run_fit(old)
    with caplog.at_level(logging.INFO, "gmm_dask"):
        evaluation, _, _ = run_retrain(new, "second")
    assert "other columns, transforms," in caplog.text
    expected = first.manifest.log_likelihood  # the same rows and model: the same likelihood
    assert evaluation.current_densities.mean_log_likelihood == pytest.approx(expected, rel=1e-11)
    affine = "price" not in {**before, **after}
    assert ("no component can be matched" in caplog.text) == (not affine)
    assert (evaluation.model.component_ids == (0, 1)) == affine


def test_a_current_model_that_cannot_take_the_rows_is_not_compared(tmp_path, caplog):
    write(tmp_path)
    keys = {"output__predictions": None}
    run_fit(run_of(tmp_path, {"price": "log"}, **keys))
    path = tmp_path / "input/b.parquet"
    pq.write_table(pa.table({"price": [-3.0], "weight": [100.0], "number": [0]}), path)
    evaluation, decision, _ = run_retrain(run_of(tmp_path, {"price": "asinh"}, **keys), "second")
    assert evaluation.current_densities is None
    assert "version 1 cannot be compared: b.parquet row 0" in caplog.text
    assert decision.accepted


def test_a_prediction_takes_the_transforms_of_the_model(tmp_path, caplog):
    write(tmp_path)
    run_fit(run_of(tmp_path))
    run_predict(run_of(tmp_path))
    expected = read_predictions(run_of(tmp_path))
    other = run_of(tmp_path, {}, output__predictions=str(tmp_path / "other"))
    run_predict(other)
    assert read_predictions(other).equals(expected)
    assert "(price = log1p, weight = standardise), not those of the run file" in caplog.text


@pytest.mark.parametrize("step", [run_fit, run_predict])
def test_a_value_outside_of_the_domain_is_refused_by_file_and_row(tmp_path, step):
    write(tmp_path)
    run = run_of(tmp_path, {"price": "log"})
    run_fit(run)
    bad = {"price": [1.0, 2.0, 0.0], "weight": [100.0] * 3, "number": [1, 2, 3]}
    pq.write_table(pa.table(bad), tmp_path / "input/b.parquet")
    words = r"b.parquet row 2: column 'price' is 0; log needs values above 0: take log1p where 0"
    with pytest.raises(InputError, match=words):
        step(run, "again")
    step(run_of(tmp_path, {"price": "log"}, input__filter='"price" > 0'), "filtered")


def test_the_advised_filter_keeps_the_rows_with_holes(tmp_path):
    write(tmp_path)
    rows = {"price": [-1.0, None, 2.0], "weight": [100.0] * 3, "number": [1, 2, 3]}
    pq.write_table(pa.table(rows), tmp_path / "input/b.parquet")
    run = run_of(tmp_path, {"price": "log"}, input__nulls="marginalize")
    with pytest.raises(InputError) as caught:
        run_fit(run)
    advised = str(caught.value).partition("filter = '")[2].rstrip("'")
    assert advised == '("price" > 0 or "price" is null)'
    fitted, _ = fit(run_of(tmp_path, {"price": "log"}, input__nulls="marginalize",
                           input__filter=advised))  # fmt: skip
    used = fitted.result.survey.rows
    complete, _ = fit(run_of(tmp_path, {"price": "log"}, input__filter='"price" > 0'))
    assert used == complete.result.survey.rows + 19


def test_an_interrupted_fit_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(steps.resuming, "SAVE_SECONDS", 0.0)
    write(tmp_path, n=4000)
    run = run_of(tmp_path, **SMALL)
    whole, _ = fit(run_of(tmp_path, output__models=str(tmp_path / "w"), **SMALL))
    interrupt(run, at_iteration(2))
    resumed, events = fit(run)
    assert "survey" not in scans(events)
    assert bits(resumed) == bits(whole)
    assert resumed.result.survey.transforms.names == tuple(KINDS.values())


def test_rows_with_holes_are_predicted_and_filled_in_natural_units(tmp_path):
    write(tmp_path)
    keys = {"input__nulls": "marginalize", "predict__impute": True}
    run = run_of(tmp_path, **keys)
    done = run_fit(run)
    run_predict(run)
    table = read_predictions(run)
    model = load_model(done.published.path)
    price, weight = rows()
    X = pa.table({"price": pa.array(price, mask=np.arange(900) % 50 == 7), "weight": weight})
    np.testing.assert_allclose(
        table["log_density"].to_numpy(),
        model.predict_frame(X)["log_density"].to_numpy(),
        rtol=1e-12,
    )
    filled = model.impute(X)
    hole = np.arange(900) % 50 == 7
    np.testing.assert_array_equal(
        table["price_imputed"].drop_null().to_numpy(), filled["price"].to_numpy()[hole]
    )
    np.testing.assert_array_equal(filled["price"].to_numpy()[~hole], price[~hole])


def test_the_snapshot_holds_the_transforms(tmp_path):
    write(tmp_path)
    inspected = input_summary("input", steps.inspect_input(run_of(tmp_path))).facts
    assert ("transforms", "price = log1p, weight = standardise") in inspected
    plans = [steps.inspect_input(run_of(tmp_path, kinds)) for kinds in ({}, KINDS)]
    assert plans[0].digest != plans[1].digest
    assert "transform" not in plans[0].to_json()
    assert type(plans[1]).from_json(plans[1].to_json()) == plans[1]


def test_fingerprints_are_of_natural_values(tmp_path):
    # A logarithm may differ in its last bit on another worker: that is no change of the input.
    write(tmp_path)
    fingerprints = []
    for kinds in ({}, KINDS):
        run = run_of(tmp_path, kinds)
        plan = steps.inspect_input(run)
        with out_of_core(plan) as scanner:
            steps.fit(run, plan, scanner, silent)
            fingerprints.append(scanner.fingerprints)
    array = read_parquet(tmp_path / "input", ["price"], "drop", transform={"price": "log1p"})
    source = source_of(array)
    (rows_read,) = source.read(0, 1)
    (natural,) = source.source.read(0, 1)
    assert rows_read.fingerprint == fingerprint_of(natural.values)
    assert fingerprints[0] == fingerprints[1]


def test_mistakes_in_the_run_file_are_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(ConfigError, match=r"input\.transform\.price = 'ln'"):
        run_of(tmp_path, {"price": "ln"})
    with pytest.raises(ConfigError, match=r"input\.transform = 'log': is a table of keys"):
        run_of(tmp_path, "log")
    run = run_of(tmp_path, {"prize": "log"})
    with pytest.raises(ConfigError, match=r"names 'prize', which is not among input\.columns; did"):
        steps.inspect_input(run)
    weighted = run_of(tmp_path, {"number": "log"}, input__sample_weight="number")
    with pytest.raises(ConfigError, match=r"names 'number', which is not among input\.columns"):
        steps.inspect_input(weighted)


def test_a_transform_that_is_not_known_is_refused(tmp_path):
    write(tmp_path)
    model = run_fit(run_of(tmp_path)).evaluation.model
    future = [{"name": "cbrt", "center": None, "scale": None}, None]
    from dataclasses import replace

    with pytest.raises(ModelError, match="'cbrt' is not known"):
        replace(model, manifest=replace(model.manifest, transforms=tuple(future)))


@pytest.mark.slow
def test_workers_of_a_cluster_give_the_bits_of_threads(tmp_path):
    write(tmp_path, n=4000)
    run = run_of(tmp_path, fit__search_rows=300, fit__max_iter=5)
    on_threads = run_fit(run)
    cluster = LocalProcesses(kind="local", workers=2, memory_limit="1GiB")
    on_workers = run_fit(run, "fit-2", cluster=cluster)
    assert on_workers.fitted.result.parameters.digest == (
        on_threads.fitted.result.parameters.digest
    )
    assert on_workers.manifest.transforms == on_threads.manifest.transforms
