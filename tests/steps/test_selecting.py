"""The steps of a selection: what is published, interruption, retrains, and the gate."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest

from gmm_dask import steps
from gmm_dask.config import RunConfig
from gmm_dask.errors import ConfigError, TooFewRowsError
from gmm_dask.events import IterationFinished, StageStarted, silent
from gmm_dask.mixture.selection import cell_of
from gmm_dask.mixture.spec import COVARIANCE_NAMES, Cell
from gmm_dask.pipelines import sequences
from gmm_dask.steps import selecting
from gmm_dask.storage.files.contents import Version
from gmm_dask.storage.models.checkpoint import CHECKPOINTS
from gmm_dask.storage.models.model import verify_files
from gmm_dask.storage.models.registry import Registry
from gmm_dask.storage.models.selection_table import SELECTION
from tests.steps.tables import (
    THREADS,
    files_below,
    make_run,
    model_files,
    out_of_core,
    write_day,
    write_days,
)
from tests.steps.test_fit_state import StopError, at_iteration, at_stage, bits
from tests.steps.test_retraining import ids_by_centre, write_clusters

SELECT = {"select__n_components": [1, 4], "select__covariance_types": ["full", "spherical"]}
#: For input without row numbers.
NO_KEYS = {"predict__key_columns": []}
SMALL = SELECT | {"fit__search_rows": 2_000, "fit__tol": 1e-5, "fit__max_iter": 40}


def make_selecting_run(root, **keys) -> RunConfig:
    """A run file that says what to choose from, and no number of components."""
    run = make_run(root, **(SELECT | keys))
    return run.model_copy(update={"model": run.model.model_copy(update={"n_components": None})})


@pytest.fixture
def run(tmp_path):
    write_days(tmp_path)
    return make_selecting_run(tmp_path)


def do(kind, run, run_id="r1", **options):
    sequence = getattr(sequences, kind)
    return sequence(run, THREADS, sequences.directly, silent, run_id, **options)


def registry_of(run) -> Registry:
    return Registry(run.output.models, run.output.name)


def current_cell(run) -> Cell:
    return cell_of(registry_of(run).load().parameters)


# What is published


def test_the_best_is_published_with_the_table_that_it_was_chosen_from(run):
    path = do("select", run).published.path
    verify_files(Version(path))
    model = registry_of(run).load()
    assert cell_of(model.parameters) == Cell(3, "spherical")
    table = model.manifest.selection
    assert table.criterion == "bic"
    assert table.chosen == Cell(3, "spherical")
    assert [row.cell for row in table.cells] == [
        (k, kind) for k in (1, 2, 3, 4) for kind in ("full", "spherical")
    ]
    (chosen,) = (row for row in table.cells if row.cell == table.chosen)
    assert chosen.log_likelihood == model.manifest.log_likelihood
    for criterion in ("bic", "icl", "aic"):
        assert getattr(chosen, criterion) == getattr(model.manifest, criterion)
    rows = pq.read_table(path / SELECTION).to_pylist()
    assert rows == [vars(row) for row in table.cells]
    assert SELECTION in json.loads((path / "run.json").read_text())["files"]
    configuration = model.manifest.configuration
    assert configuration["select"]["n_components"] == [1, 4]
    assert configuration["model"]["n_components"] == 3
    assert configuration["model"]["covariance_type"] == "spherical"


def test_a_damaged_table_is_seen(run):
    path = do("select", run).published.path
    content = bytearray((path / SELECTION).read_bytes())
    content[20] ^= 1
    (path / SELECTION).write_bytes(content)
    with pytest.raises(OSError, match=rf"{SELECTION}: is damaged"):
        verify_files(Version(path))


def test_the_same_selection_leaves_the_same_bytes(run):
    first, second = (do("select", run, run_id).published.path for run_id in ("a", "b"))
    assert model_files(first) == model_files(second)


def test_a_plain_fit_says_nothing_of_a_selection(tmp_path):
    write_days(tmp_path)
    run = make_run(tmp_path)
    path = do("fit", run).published.path
    manifest = registry_of(run).load().manifest
    assert manifest.selection is None
    assert set(manifest.configuration) == {"input", "model", "fit"}
    assert not (path / SELECTION).exists()


# What is refused


def test_what_cannot_be_selected_is_refused_before_anything_is_read(tmp_path):
    write_days(tmp_path)
    with pytest.raises(ConfigError, match=r"section \[select\] is missing; say what to choose"):
        steps.inspect_input(make_run(tmp_path), True, True)
    given = make_selecting_run(tmp_path, fit__means_init=[[0.0, 0.0]])
    with pytest.raises(ConfigError, match=r"fit\.means_init belongs to one number of components"):
        steps.inspect_input(given, True, True)
    many = make_selecting_run(tmp_path, select__n_components=[5000])
    with pytest.raises(TooFewRowsError, match=r"too few for select\.n_components = 5000"):
        steps.inspect_input(many, True, True)


def test_a_fit_without_a_number_of_components_is_refused(run):
    with pytest.raises(ConfigError, match=r"model\.n_components is missing; give it, or let `gmm-"):
        do("fit", run)


@pytest.mark.parametrize(
    ("numbers", "ks"),
    [([2, 4], (2, 3, 4)), ([3], (3,)), ([3, 3], (3,)), ([1, 2, 8], (1, 2, 8)), ([5, 2, 5], (2, 5))],
)
def test_two_numbers_are_a_range_and_others_a_list(tmp_path, numbers, ks):
    run = make_run(tmp_path, select__n_components=numbers)
    assert tuple(dict.fromkeys(cell.n_components for cell in run.select.cells)) == ks
    assert {cell.covariance_type for cell in run.select.cells} == set(COVARIANCE_NAMES)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"select__n_components": [4, 1]}, r"select\.n_components = \[4, 1\]: the first of two"),
        ({"select__n_components": []}, r"select\.n_components = \[\]: list should have at least 1"),
        ({"select__n_components": [0, 2]}, r"select\.n_components\.0 = 0: input should be greater"),
        ({"select__criterion": "hic"}, r"select\.criterion = 'hic': input should be 'bic', 'icl'"),
        ({"select__covariance_types": ["round"]}, r"covariance_types\.0 = 'round'"),
        (
            {"retrain__select": "often"},
            r"retrain\.select = 'often': give 'never', 'always'",
        ),
        ({"retrain__select": 0}, r"retrain\.select = 0: give 'never', 'always' or a num"),
        ({"retrain__select": True}, r"retrain\.select = True: give"),
    ],
)
def test_a_section_that_cannot_be_is_refused_by_its_key(tmp_path, keys, message):
    with pytest.raises(ConfigError, match=message):
        make_run(tmp_path, **({"select__n_components": [1, 2]} | keys))


# Interruption


def select(run, until=lambda event: False, memory=0):
    events = []

    def notify(event):
        events.append(event)
        if until(event):
            raise StopError

    plan = steps.inspect_input(run, True, True)
    with out_of_core(plan, notify, memory=memory) as scanner:
        return steps.select(run, plan, scanner, notify), events


def at_turn(number):
    turns = []

    def matches(event):
        turns.append(getattr(event, "stage", None) == "search")
        return sum(turns) == number

    return matches


def test_a_selection_interrupted_anywhere_ends_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(steps.resuming, "SAVE_SECONDS", 0.0)
    write_days(tmp_path, rows=2_000)
    run = make_selecting_run(tmp_path, **SMALL)
    whole, events = select(run)
    iterations = [event for event in events if isinstance(event, IterationFinished)]
    assert len(iterations) >= 3
    checkpoint = tmp_path / "models" / "boxes" / CHECKPOINTS / whole.checkpoint_key / "state"
    points = [at_stage("search"), at_turn(4), at_turn(8), at_stage("polish")]
    points += [at_iteration(event.iteration) for event in iterations]
    for until in points:
        checkpoint.unlink()
        with pytest.raises(StopError):
            select(run, until)
        resumed, after = select(run)
        assert bits(resumed) == bits(whole)
        assert "survey" not in [event.stage for event in after if isinstance(event, StageStarted)]


def test_no_checkpoint_remains_and_another_selection_does_not_use_it(tmp_path, monkeypatch):
    monkeypatch.setattr(steps.resuming, "SAVE_SECONDS", 0.0)
    write_days(tmp_path, rows=2_000)
    run = make_selecting_run(tmp_path, **SMALL)
    with pytest.raises(StopError):
        select(run, at_stage("polish"))
    other = make_selecting_run(tmp_path, **SMALL, select__criterion="icl")
    _, events = select(other)
    assert events[0].stage == "survey"
    do("select", run)
    do("select", other, "r2")
    assert files_below(tmp_path / "models" / "boxes" / CHECKPOINTS) == {}


# Retrain


def test_a_retrain_keeps_the_chosen_cell_and_only_fits_what_is_new(run, tmp_path):
    assert do("retrain", run, "r1").published.version == 1  # the first is chosen
    assert registry_of(run).load().manifest.selection is not None
    assert do("retrain", run, "r2").decision is None
    write_day(tmp_path, 4)
    outcome = do("retrain", run, "r3")
    assert outcome.published.version == 2
    assert current_cell(run) == Cell(3, "spherical")
    assert outcome.evaluation.selection is None
    manifest = registry_of(run).load().manifest
    assert manifest.selection is None
    assert manifest.configuration["model"]["n_components"] == 3
    assert do("retrain", run, "r4").decision is None


def test_always_chooses_again_and_components_keep_their_ids(tmp_path):
    write_clusters(tmp_path, a=600, b=500, c=400)
    run = make_selecting_run(tmp_path, retrain__select="always", **NO_KEYS)
    do("retrain", run, "r1")
    before = registry_of(run).load()
    ids = ids_by_centre(before)
    assert before.parameters.n_components == 3
    write_clusters(tmp_path, a=600, b=500, c=400, d=300)
    outcome = do("retrain", run, "r2")
    assert outcome.decision.accepted
    after = registry_of(run).load()
    assert after.parameters.n_components == 4
    assert after.manifest.selection.chosen.n_components == 4
    assert ids_by_centre(after) == ids | {"d": 3}
    # Fewer components again: their ids stay, and that of the lost one is not used again.
    write_clusters(tmp_path, a=600, c=400)
    do("retrain", run, "r3", force=True)
    last = registry_of(run).load()
    assert ids_by_centre(last) == {name: ids[name] for name in ("a", "c")}
    assert last.manifest.next_component_id == 4


def with_age(model, days):
    """The model as if it had been published so many days ago."""
    created = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="seconds")
    return replace(model, run=replace(model.run, created=created))


def test_it_chooses_again_when_the_last_choice_is_old_enough(run, tmp_path, monkeypatch):
    weekly = make_selecting_run(tmp_path, retrain__select=7)
    plan = steps.inspect_input(weekly, True, True)

    def due(rule, model, columns=plan):
        return steps.is_selection_due(
            make_selecting_run(tmp_path, retrain__select=rule), columns, model
        )

    assert due("never", None)
    do("select", run)
    current = steps.read_current(run)
    assert not due("never", current)
    assert due("always", current)
    assert not due(7, with_age(current, 6.9))
    assert due(7, with_age(current, 7.1))
    assert due("never", replace(current, columns=("a", "b")))
    assert not steps.is_selection_due(make_run_without_section(tmp_path), plan, None)
    # A version that was fitted since does not make the choice younger.
    write_day(tmp_path, 4)
    do("retrain", weekly, "r2")
    kept = steps.read_current(run)
    assert kept.manifest.selection is None
    aged = {1: with_age(current, 8)}
    monkeypatch.setattr(selecting, "registry_of", lambda run: Aged(registry_of(run), aged))
    assert due(7, kept)
    assert not due(9, kept)


class Aged:
    """A registry some of whose versions are older than they are."""

    def __init__(self, registry, aged):
        self.registry, self.aged = registry, aged

    def versions(self):
        return self.registry.versions()

    def load(self, number):
        return self.aged.get(number) or self.registry.load(number)


def make_run_without_section(root) -> RunConfig:
    return make_run(root).model_copy(update={"select": None})


def test_a_choice_that_was_rolled_back_does_not_count(run, tmp_path):
    do("fit", make_run(tmp_path), "r1")
    do("select", run, "r2")
    registry = registry_of(run)
    assert selecting.last_selection(run, registry.load(2)) is not None
    registry.use(1)
    assert selecting.last_selection(run, registry.load()) is None


def test_a_model_that_was_never_chosen_is_out_of_date_where_choices_are_wanted(run, tmp_path):
    stated = run.model_copy(update={"model": run.model.model_copy(update={"n_components": 2})})
    do("fit", stated)
    plan = steps.inspect_input(run, True, True)
    current = steps.read_current(run)
    assert steps.is_up_to_date(run, plan, current)  # "never" keeps its two components
    weekly = make_selecting_run(tmp_path, retrain__select=7)
    assert not steps.is_up_to_date(weekly, plan, current)
    assert do("retrain", weekly, "r2").published.version == 2
    assert current_cell(run) == Cell(3, "spherical")
    assert do("retrain", weekly, "r3").decision is None


@pytest.mark.parametrize("start", ["scratch", "both"])
def test_the_current_model_competes_in_its_cell_unless_scratch_is_asked_for(
    run, tmp_path, monkeypatch, start
):
    do("select", run)
    current = steps.read_current(run)
    given = []
    select_rows = selecting.select_rows

    def spied(scanner, options, *, start, **others):
        given.append(start)
        return select_rows(scanner, options, start=start, **others)

    monkeypatch.setattr(selecting, "select_rows", spied)
    write_day(tmp_path, 4)
    do("retrain", make_selecting_run(tmp_path, retrain__select="always", retrain__start=start))
    ((*parameters,),) = given
    digests = [mixture.digest for mixture in parameters]
    assert digests == ([] if start == "scratch" else [current.parameters.digest])


# The gate


def test_the_gate_compares_the_criterion_where_the_cell_may_differ(tmp_path):
    """Fewer components have a lower likelihood, and are no worse for it if BIC prefers them."""
    write_clusters(tmp_path, a=900, b=800, c=700)
    six = make_run(tmp_path, model__n_components=6, **NO_KEYS)
    do("fit", six)
    run = make_selecting_run(
        tmp_path, retrain__select="always", retrain__max_log_likelihood_drop=0.0, **NO_KEYS
    )
    outcome = do("retrain", run, "r2")
    (check,) = (check for check in outcome.decision.checks if check.name == "bic rise")
    assert check.passed
    assert check.value < 0
    densities, before = outcome.evaluation.densities, outcome.evaluation.current_densities
    assert densities.mean_log_likelihood < before.mean_log_likelihood
    assert check.explanation.startswith("bic ")
    assert outcome.published.version == 2
    assert current_cell(run).n_components == 3


def test_a_worse_choice_is_refused_and_kept_with_its_table(tmp_path):
    write_clusters(tmp_path, a=900, b=800, c=700)
    do("fit", make_run(tmp_path, **NO_KEYS))
    one = {"select__n_components": [1], "retrain__select": "always"}
    run = make_selecting_run(tmp_path, **(one | NO_KEYS))
    outcome = do("retrain", run, "r2")
    assert "bic " in outcome.refusal.reason
    assert "nats per row" in outcome.refusal.reason
    assert (outcome.refusal.path / SELECTION).exists()
    assert registry_of(run).current_version() == 1
