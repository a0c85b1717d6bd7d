"""A retrain: whether anything is new, where to start, whether to publish, and component ids."""

import json
import logging
import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask import compare_models, steps
from gmm_dask.errors import ConflictError, ModelError
from gmm_dask.events import silent
from gmm_dask.mixture.em import Status
from gmm_dask.steps.evaluating import INPUT_CONTENT
from gmm_dask.storage.input.content import decode_contents
from gmm_dask.storage.models.lookup import load_model_at
from gmm_dask.storage.models.model import model_files
from gmm_dask.storage.models.registry import Registry
from tests.steps.tables import (
    THREADS,
    files_below,
    make_run,
    out_of_core,
    read_predictions,
    run_fit,
    run_predict,
    run_retrain,
    write_day,
    write_days,
)

CENTRES = {"a": (0.0, 0.0), "b": (12.0, 0.0), "c": (0.0, 12.0), "d": (12.0, 12.0), "e": (24, 24)}


def write_clusters(root, seed=0, **rows):
    """Write one file with the given number of rows around each named centre."""
    random = np.random.default_rng(seed)
    values = np.concatenate(
        [random.normal(size=(count, 2)) + CENTRES[name] for name, count in rows.items()]
    )
    path = root / "input" / "day=1" / "part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"height": values[:, 0], "width": values[:, 1]}), path)


def ids_by_centre(model):
    """Component ids by the centre that each is nearest to."""
    ids = {}
    for component_id, mean in zip(model.component_ids, model.parameters.means, strict=True):
        distances = {name: np.hypot(*(mean - centre)) for name, centre in CENTRES.items()}
        ids[min(distances, key=distances.get)] = component_id
    return ids


@pytest.fixture
def run(tmp_path):
    write_days(tmp_path)
    return make_run(tmp_path)


def fit_and_evaluate(run, current=None, start=(), search_too=False):
    plan = steps.inspect_input(run)
    with steps.open_scanner(run, plan, THREADS, silent) as scanner:
        fitted = steps.fit(run, plan, scanner, silent, start, search_too)
        return steps.evaluate(run, plan, scanner, fitted, current)


# Whether anything is new


def test_there_is_no_current_model_at_first_and_a_damaged_one_is_an_error(run, tmp_path):
    assert steps.read_current(run) is None
    run_fit(run)
    assert steps.read_current(run).version == 1
    (tmp_path / "models/boxes/v000001/manifest.json").write_text("{}")
    with pytest.raises(ModelError, match=r"manifest\.json: is damaged"):
        steps.read_current(run)


def test_up_to_date_is_the_same_snapshot_with_the_same_configuration(run, tmp_path):
    plan = steps.inspect_input(run)
    assert not steps.is_up_to_date(run, plan, None)
    run_fit(run)
    current = steps.read_current(run)
    assert steps.is_up_to_date(run, plan, current)
    touched = tmp_path / "input/day=1/part.parquet"
    touched.touch()
    assert steps.is_up_to_date(run, steps.inspect_input(run), current)
    other_gate = make_run(tmp_path, retrain__min_rows=7, retrain__start="current")
    assert steps.is_up_to_date(other_gate, plan, current)
    assert not steps.is_up_to_date(make_run(tmp_path, fit__tol=1e-7), plan, current)
    write_day(tmp_path, 4)
    assert not steps.is_up_to_date(run, steps.inspect_input(run), current)


def test_the_second_retrain_has_nothing_to_do(run, tmp_path):
    assert run_retrain(run, "r1")[2].version == 1
    before = files_below(tmp_path)
    assert run_retrain(run, "r2") is None
    assert files_below(tmp_path) == before
    write_day(tmp_path, 4)
    assert run_retrain(run, "r3")[2].version == 2
    Registry(run.output.models, run.output.name).use(1)
    assert run_retrain(run, "r4")[2].version == 3  # version 1 is of other data


def rewrite_reversed(path):
    """Other values, and the same size and footer; returns the times from before."""
    status, footer = path.stat(), pq.read_metadata(path)
    table = pq.read_table(path, partitioning=None)
    values = table["x"].to_numpy().copy()
    values[1:-1] = values[1:-1][::-1]
    pq.write_table(pa.table({"x": values}), path, **PLAIN)
    assert path.stat().st_size == status.st_size
    assert pq.read_metadata(path).equals(footer)
    return status.st_atime_ns, status.st_mtime_ns


PLAIN = {"compression": "none", "use_dictionary": False}


@pytest.fixture
def two_hills(tmp_path):
    """A run that has fitted and predicted 10,000 rows, the upper half of them shifted."""
    values = np.random.default_rng(0).normal(size=10_000)
    values[5000:] += 9
    path = tmp_path / "input" / "part.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"x": values}), path, **PLAIN)
    keys = {"input__columns": ["x"], "model__n_components": 2, "predict__key_columns": []}
    run = make_run(tmp_path, **keys)
    run_fit(run)
    run_predict(run)
    return run


@pytest.mark.parametrize("clock", ["as it is", "set back"])
def test_other_values_of_the_same_size_and_footer_are_new(two_hills, tmp_path, clock):
    path = tmp_path / "input" / "part.parquet"
    before = read_predictions(two_hills)["component"].to_pylist()
    times = rewrite_reversed(path)
    if clock == "set back":
        os.utime(path, ns=times)
    predicted, _ = run_predict(two_hills, "predict-2")
    assert (predicted.rows, predicted.reused) == (10_000, 0)
    after = read_predictions(two_hills)["component"].to_pylist()
    assert after == [before[0], *before[1:-1][::-1], before[-1]]
    assert run_retrain(two_hills, "r1")[2].version == 2
    assert run_retrain(two_hills, "r2") is None


def test_a_file_that_was_only_touched_is_not_new(two_hills, tmp_path):
    os.utime(tmp_path / "input" / "part.parquet")
    before = files_below(tmp_path / "models")
    assert run_retrain(two_hills, "r1") is None
    assert files_below(tmp_path / "models") == before
    assert run_predict(two_hills, "predict-2")[0].reused == 1


def test_the_model_says_what_its_input_held_without_being_another_for_it(two_hills, tmp_path):
    first = tmp_path / "models/boxes/v000001"
    held = decode_contents((first / INPUT_CONTENT).read_bytes())
    assert [len(content.digest) for content in held.values()] == [32]
    os.utime(tmp_path / "input" / "part.parquet")
    second = run_fit(two_hills, "fit-2").published.path
    for name in ("manifest.json", "parameters.safetensors", "input_plan.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    again = decode_contents((second / INPUT_CONTENT).read_bytes())
    assert again["part.parquet"].digest == held["part.parquet"].digest
    assert INPUT_CONTENT in json.loads((second / "run.json").read_bytes())["files"]


@pytest.mark.parametrize("damage", ["missing", "overwritten"])
def test_a_model_that_does_not_say_what_its_input_held_is_fitted_again(
    two_hills, tmp_path, caplog, damage
):
    version = tmp_path / "models/boxes/v000001"
    if damage == "missing":  # as an older gmm-dask stored it
        current = steps.read_current(two_hills)
        content = model_files(current, {"input_plan.json": b"{}"})
        (version / INPUT_CONTENT).unlink()
        (version / "run.json").write_bytes(content["run.json"])
    else:
        (version / INPUT_CONTENT).write_bytes(b"{}")
    assert run_retrain(two_hills, "r1")[2].version == 2
    (warning,) = [text for text in caplog.messages if "does not say" in text]
    assert warning.startswith("version 1 does not say what its input files held (")
    assert warning.endswith("); they count as changed")
    assert run_retrain(two_hills, "r2") is None


# Where to start


@pytest.mark.parametrize(
    ("start", "warm", "search_too"),
    [("scratch", False, False), ("current", True, False), ("both", True, True)],
)
def test_where_a_retrain_starts(run, tmp_path, start, warm, search_too):
    run = make_run(tmp_path, retrain__start=start)
    plan = steps.inspect_input(run)
    assert steps.choose_start(run, plan, None) == steps.RetrainStart((), False)
    run_fit(run)
    current = steps.read_current(run)
    chosen = steps.choose_start(run, plan, current)
    assert chosen.parameters == ((current.parameters,) if warm else ())
    assert chosen.search_too == search_too


@pytest.mark.parametrize(
    "change",
    [
        {"input__columns": ["width", "height"]},
        {"input__columns": ["height", "share"]},
        {"model__n_components": 2},
        {"model__covariance_type": "diag"},
    ],
)
def test_a_current_model_of_another_shape_is_no_start(run, tmp_path, caplog, change):
    run_fit(run)
    other = make_run(tmp_path, retrain__start="current", **change)
    with caplog.at_level(logging.INFO, "gmm_dask"):
        chosen = steps.choose_start(other, steps.inspect_input(other), steps.read_current(run))
    assert chosen == steps.RetrainStart((), False)
    assert caplog.messages == [
        "version 1 has other columns, transforms, components or covariances; starting from scratch"
    ]


def test_a_start_from_the_current_model_is_a_polish_of_it(run, tmp_path):
    first = run_fit(run)
    write_day(tmp_path, 4)
    evaluation, _, _ = run_retrain(make_run(tmp_path, retrain__start="current"), "r1")
    result = evaluation.fitted.result
    assert result.search is None
    assert len(result.candidates) == 1
    assert result.initial.digest == first.evaluation.model.parameters.digest
    assert result.best.n_iter < first.fitted.result.best.n_iter + 3


def test_both_starts_share_every_scan_and_the_better_one_wins(run, tmp_path):
    run_fit(run)
    write_day(tmp_path, 4)
    run = make_run(tmp_path, fit__search_rows=300)
    plan = steps.inspect_input(run)
    current = steps.read_current(run)
    with out_of_core(plan) as scanner:
        given = (current.parameters,)
        fitted = steps.fit(run, plan, scanner, silent, given, True, current=current)
        steps.evaluate(run, plan, scanner, fitted, current)
    fresh, warm = fitted.result.candidates
    assert warm.history[0].means.tolist() == current.parameters.means.tolist()
    # The last of them evaluated the result, whichever it is, and the current model; but not what
    # the M-step after it made of a given start.
    last, best = max(len(fresh.history), len(warm.history)), fitted.result.best
    assert scanner.scans == 1 + last + (len(best.history) == last and not best.measured)
    assert fitted.result.best.log_likelihood == max(fresh.log_likelihood, warm.log_likelihood)


def test_where_a_fit_starts_decides_its_checkpoint(run, tmp_path):
    run_fit(run)
    current = steps.read_current(run).parameters
    plan = steps.inspect_input(run)
    keys = {
        steps.resuming.checkpoint_key(run, plan, start, search_too)
        for start, search_too in [((), False), ((current,), False), ((current,), True)]
    }
    assert len(keys) == 3


# Whether to publish


def with_result(evaluation, **changes):
    """An evaluation whose fit has another result."""
    result = replace(evaluation.fitted.result, **changes)
    return replace(evaluation, fitted=replace(evaluation.fitted, result=result))


@pytest.fixture
def candidate(run, tmp_path):
    run_fit(run)
    write_day(tmp_path, 4)
    current = steps.read_current(run)
    return fit_and_evaluate(run, current, (current.parameters,))


def test_a_good_candidate_is_accepted(run, candidate):
    decision = steps.decide(run, candidate)
    assert decision.accepted
    assert decision.reason == ""
    assert [check.name for check in decision.checks] == [
        "rows",
        "converged",
        "collapsed or starved components",
        "log-likelihood drop",
    ]


def test_too_few_rows_are_refused(candidate, tmp_path):
    rows = candidate.fitted.result.survey.rows
    assert steps.decide(make_run(tmp_path, retrain__min_rows=rows), candidate).accepted
    decision = steps.decide(make_run(tmp_path, retrain__min_rows=rows + 1), candidate)
    assert not decision.accepted
    assert decision.reason == "1,960 rows were used, 1,961 are needed"


def test_a_fit_that_did_not_converge_is_refused(run, candidate, tmp_path):
    best = replace(candidate.fitted.result.best, status=Status.MAX_ITER)
    decision = steps.decide(run, with_result(candidate, best=best))
    assert decision.reason == f"the fit ended as max_iter after {best.n_iter} iterations"
    lenient = make_run(tmp_path, retrain__require_converged=False)
    assert steps.decide(lenient, with_result(candidate, best=best)).accepted


@pytest.mark.parametrize("defect", ["collapsed", "starved"])
def test_a_defect_is_refused(run, candidate, tmp_path, defect):
    health = candidate.fitted.result.health
    health = replace(health, **{defect: np.array([False, True, False])})
    decision = steps.decide(run, with_result(candidate, health=health))
    assert decision.reason == "1 component(s) collapsed or starved"
    lenient = make_run(tmp_path, retrain__allow_collapsed=True)
    assert steps.decide(lenient, with_result(candidate, health=health)).accepted


def test_a_lower_likelihood_than_the_current_model_s_is_refused(candidate, tmp_path):
    current = candidate.current_densities
    higher = candidate.densities.log_likelihood + 0.1 * current.weight
    better = replace(current, log_likelihood=higher)
    worse = replace(candidate, current_densities=better)
    decision = steps.decide(make_run(tmp_path), worse)
    assert decision.reason.startswith("log-likelihood -")
    assert decision.reason.endswith(" under the current model")
    lenient = make_run(tmp_path, retrain__max_log_likelihood_drop=0.11)
    assert steps.decide(lenient, worse).accepted


def test_every_reason_is_given(candidate, tmp_path):
    best = replace(candidate.fitted.result.best, status=Status.MAX_ITER)
    decision = steps.decide(
        make_run(tmp_path, retrain__min_rows=9999), with_result(candidate, best=best)
    )
    assert decision.reason.count(";") == 1


def test_a_refused_candidate_is_kept_and_the_current_model_stays_bit_for_bit(run, tmp_path):
    run_fit(run)
    before = files_below(tmp_path / "models")
    write_day(tmp_path, 4)
    strict = make_run(tmp_path, retrain__min_rows=10_000)
    evaluation, decision, path = run_retrain(strict, "r1")
    assert not decision.accepted
    assert path == tmp_path / "models/boxes/rejected/r1"
    kept = load_model_at(path)
    assert kept.run.rejected == decision.reason
    assert kept.parameters.digest == evaluation.model.parameters.digest
    assert (path / "input_plan.json").read_bytes()
    after = files_below(tmp_path / "models")
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("boxes/rejected/r1/") for name in after.keys() - before.keys())
    assert steps.read_current(run).version == 1
    again, _, published = run_retrain(run, "r2")
    assert published.version == 2
    # How the version before did on the rows of this one is known from then on.
    comparison = compare_models(tmp_path / "models/boxes", 1)
    assert comparison.by_ids
    assert comparison.before_on_rows_after == again.current_densities.mean_log_likelihood


def test_a_model_published_meanwhile_is_a_conflict(run, tmp_path):
    run_fit(run)
    write_day(tmp_path, 4)
    current = steps.read_current(run)
    evaluation = fit_and_evaluate(run, current)
    run_fit(run, "meanwhile")
    before = files_below(tmp_path / "models")
    with pytest.raises(ConflictError, match="based on version 1, but version 2 is current now"):
        steps.publish(run, evaluation, "r1", based_on=current.version)
    after = files_below(tmp_path / "models")
    assert {name: after[name] for name in before} == before
    assert steps.read_current(run).version == 2


# Component ids


def test_ids_are_permanent_while_components_come_and_go(tmp_path):
    def retrain(run_id, k, start="scratch", **rows):
        write_clusters(tmp_path, **rows)
        run = make_run(
            tmp_path,
            model__n_components=k,
            retrain__start=start,
            retrain__max_log_likelihood_drop=1e9,
        )
        evaluation, decision, _ = run_retrain(run, run_id)
        assert decision.accepted, decision.reason
        assert steps.read_current(run).component_ids == evaluation.model.component_ids
        return ids_by_centre(evaluation.model)

    assert retrain("r1", 3, a=500, b=300, c=200) == {"a": 0, "b": 1, "c": 2}
    # A fresh fit puts the heaviest first; the ids stay with the centres.
    assert retrain("r2", 3, a=200, b=300, c=500) == {"a": 0, "b": 1, "c": 2}
    assert retrain("r3", 4, a=200, b=300, c=500, d=600) == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert retrain("r4", 2, c=500, d=600) == {"c": 2, "d": 3}
    # No id is used twice: these a and b are not the components of the first models.
    new = retrain("r5", 4, a=100, b=200, c=500, d=600)
    assert (new["c"], new["d"]) == (2, 3)
    assert {new["a"], new["b"]} == {4, 5}
    # One of the two has gone, and e has come.
    replaced = retrain("r6", 4, a=150, e=200, c=500, d=600)
    assert (replaced["c"], replaced["d"]) == (2, 3)
    assert retrain("r7", 4, "both", a=160, e=210, c=500, d=600) == replaced


def test_after_a_rollback_no_id_is_used_again(tmp_path):
    def retrain(run_id, k, **rows):
        write_clusters(tmp_path, **rows)
        run = make_run(
            tmp_path,
            model__n_components=k,
            retrain__start="scratch",
            retrain__max_log_likelihood_drop=1e9,
        )
        return run, ids_by_centre(run_retrain(run, run_id)[0].model)

    run, _ = retrain("r1", 2, a=500, b=300)
    assert retrain("r2", 3, a=500, b=300, c=200)[1] == {"a": 0, "b": 1, "c": 2}
    Registry(run.output.models, run.output.name).use(1)
    assert retrain("r3", 3, a=500, b=300, d=400)[1] == {"a": 0, "b": 1, "d": 3}
    # A damaged version is no obstacle: it may be the reason for the rollback.
    (tmp_path / "models/boxes/v000003/manifest.json").write_text("{}")
    Registry(run.output.models, run.output.name).use(2)
    assert retrain("r4", 3, a=500, b=300, c=250)[1] == {"a": 0, "b": 1, "c": 2}


def test_matches_say_how_far_components_moved(run, tmp_path):
    run_fit(run)
    write_day(tmp_path, 4)
    evaluation, _, _ = run_retrain(run, "r1")
    assert [match.new for match in evaluation.matches] == [0, 1, 2]
    old = evaluation.current.component_ids
    for match in evaluation.matches:
        assert evaluation.model.component_ids[match.new] == old[match.old]
        assert match.moved < 0.5
        assert match.distance < 0.1


def test_other_columns_are_another_mixture_whose_ids_are_new(run, tmp_path):
    run_fit(run)
    for columns, expected in [
        (["width", "height"], (3, 4, 5)),
        (["width"], (6, 7, 8)),
        (["width", "height", "share"], (9, 10, 11)),
    ]:
        other = make_run(tmp_path, input__columns=columns, retrain__require_converged=False)
        evaluation, decision, published = run_retrain(other, f"r{len(columns)}-{expected[0]}")
        assert decision.accepted
        assert "log-likelihood drop" not in [check.name for check in decision.checks]
        assert evaluation.model.component_ids == expected
        assert evaluation.matches == ()
        assert evaluation.current_densities is None
        assert steps.read_current(other).version == published.version


def test_the_current_model_is_judged_in_the_same_scan(run, tmp_path):
    run_fit(run)
    write_day(tmp_path, 4)
    run = make_run(tmp_path, fit__search_rows=300)
    plan = steps.inspect_input(run)
    current = steps.read_current(run)
    with out_of_core(plan) as scanner:
        fitted = steps.fit(run, plan, scanner, silent)
        before = scanner.scans
        evaluation = steps.evaluate(run, plan, scanner, fitted, current)
        assert scanner.scans == before + 1
    new, current = evaluation.densities, evaluation.current_densities
    assert current.rows == new.rows == 1960
    assert new.mean_log_likelihood > current.mean_log_likelihood
