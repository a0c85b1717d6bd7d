"""A fit from Parquet to a published version: rows are conserved, bytes repeat, scans count."""

import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gmm_dask import steps
from gmm_dask.config import ThreadsCluster
from gmm_dask.errors import ConflictError, ModelError, NumericalError
from gmm_dask.events import IterationFinished, Stage, StageStarted, silent
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.merging import merge_components
from gmm_dask.storage.input.reader import ParquetChunks
from gmm_dask.storage.models.checkpoint import open_checkpoint
from gmm_dask.storage.models.registry import Registry
from tests.steps.tables import (
    THREADS,
    files_below,
    make_run,
    model_files,
    out_of_core,
    run_fit,
    write_day,
    write_days,
)
from tests.storage.stored import verified

KINDS = ("full", "tied", "diag", "spherical")
# Rows enough for a search, and a sample of fewer, so that the polish reads the files.
DAYS = {"rows": 2000}
SMALL_SEARCH = {"fit__search_rows": 2500}


@pytest.fixture
def run(tmp_path):
    write_days(tmp_path, **DAYS)
    return make_run(tmp_path, **SMALL_SEARCH)


def fit_and_evaluate(run, scanner, plan, notify=silent):
    with scanner:
        fitted = steps.fit(run, plan, scanner, notify)
        return fitted, steps.evaluate(run, plan, scanner, fitted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("search_rows", [300, "auto"])
@pytest.mark.parametrize("weight", [None, "share"])
def test_rows_are_conserved(tmp_path, kind, search_rows, weight):
    write_days(tmp_path)
    run = make_run(
        tmp_path,
        model__covariance_type=kind,
        fit__search_rows=search_rows,
        fit__n_init=2,
        input__sample_weight=weight,
    )
    events = []
    plan = steps.inspect_input(run)
    fitted, evaluation = fit_and_evaluate(
        run, out_of_core(plan, events.append), plan, events.append
    )
    table = pq.read_table(run.input.path)
    complete = np.array(table["height"].is_valid())
    total = np.array(table["share"])[complete].sum() if weight else complete.sum()
    manifest = evaluation.model.manifest
    assert manifest.rows == complete.sum() == 1470
    assert manifest.rows_dropped == 30
    assert manifest.weight == pytest.approx(total, rel=1e-13)
    assert sum(manifest.counts) == pytest.approx(total, rel=1e-12)
    assert sum(manifest.occupancy) == pytest.approx(1.0, rel=1e-12)
    assert evaluation.densities.rows == 1470
    assert evaluation.densities.weight == pytest.approx(total, rel=1e-13)
    assert {candidate.rows for candidate in fitted.result.candidates} == {1470}
    for candidate in fitted.result.candidates:
        assert candidate.weight == pytest.approx(total, rel=1e-13)
        assert candidate.counts.sum() == pytest.approx(total, rel=1e-12)
    iterations = [event for event in events if isinstance(event, IterationFinished)]
    assert len(iterations) == max(len(candidate.history) for candidate in fitted.result.candidates)
    assert {iteration.rows for iteration in iterations} == {1470}


def test_the_manifest_describes_the_fit(run):
    fitted = run_fit(run)
    manifest = fitted.manifest
    missing = [key for key, value in manifest.to_json().items() if value is None]
    # This model was not chosen from a table, and its input is not filtered.
    assert missing == ["selection", "filter", "effective_rows", "transforms", "refit", "labels"]
    assert manifest.status == "converged"
    assert manifest.n_iter == len(manifest.history) - 1  # the last E-step led to no M-step
    assert np.all(np.diff(manifest.history) > 0)
    assert manifest.log_likelihood == pytest.approx(manifest.history[-1], rel=1e-13)
    assert manifest.snapshot == fitted.plan.digest
    assert manifest.files == 3
    assert manifest.configuration == json.loads(
        run.model_dump_json(include={"input", "model", "fit"})
    )
    quantiles = manifest.quantiles
    assert list(quantiles) == list(steps.manifest.QUANTILES)
    assert list(quantiles.values()) == sorted(quantiles.values())
    assert manifest.low_density_threshold == quantiles[0.001]
    heights = np.array(pq.read_table(run.input.path)["height"].drop_null())
    feature = manifest.features["height"]
    assert feature.minimum == heights.min()
    assert feature.maximum == heights.max()


def test_what_is_stored_is_what_was_evaluated(run, drawn):
    fitted = run_fit(run)
    stored = verified(fitted.published.path)
    model = fitted.evaluation.model
    assert stored.manifest == model.manifest
    assert stored.parameters.digest == model.parameters.digest
    assert stored.columns == ("height", "width")
    assert stored.component_ids == (0, 1, 2)
    assert Registry(run.output.models, run.output.name).current_version() == 1
    for name in ("components.png", "responsibilities.png", "log_likelihood.png"):
        assert (fitted.published.path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_fit_gives_the_same_bytes(tmp_path, kind):
    write_days(tmp_path, **DAYS)
    run = make_run(tmp_path, model__covariance_type=kind, **SMALL_SEARCH)
    versions = [
        run_fit(run, f"fit-{threads}", cluster=ThreadsCluster(threads=threads)).published
        for threads in (1, 3)
    ]
    assert [version.version for version in versions] == [1, 2]
    assert model_files(versions[0].path) == model_files(versions[1].path)


def test_cached_rows_and_rows_read_again_give_the_same_bits(run):
    plan = steps.inspect_input(run)
    with steps.open_scanner(run, plan, THREADS, silent) as scanner:
        assert scanner.cached
        cached = steps.fit(run, plan, scanner, silent)
        first = steps.evaluate(run, plan, scanner, cached)
    for threads in (1, 3):
        reread, second = fit_and_evaluate(run, out_of_core(plan, threads=threads), plan)
        assert not reread.result.in_memory
        assert first.model.sha256 == second.model.sha256


def count_chunks_read(monkeypatch):
    """Return a list to which every decoded chunk is added."""
    decoded, read = [], ParquetChunks.read

    def counted(self, start, stop, digests=False):
        for rows in read(self, start, stop, digests):
            decoded.append(rows.chunk)
            yield rows

    monkeypatch.setattr(ParquetChunks, "read", counted)
    return decoded


def test_the_scans_in_the_manifest_are_those_that_were_made(run, monkeypatch):
    decoded = count_chunks_read(monkeypatch)
    plan = steps.inspect_input(run)
    scanner = out_of_core(plan)
    fitted, evaluation = fit_and_evaluate(run, scanner, plan)
    scans = evaluation.model.manifest.scans
    assert scans == scanner.scans == 1 + fitted.result.best.n_iter + 1
    assert len(decoded) == scans * len(scanner.chunks.rows)


def test_small_data_is_read_once(tmp_path, monkeypatch):
    write_days(tmp_path)
    run = make_run(tmp_path)
    decoded = count_chunks_read(monkeypatch)
    plan = steps.inspect_input(run)
    scanner = out_of_core(plan)
    fitted, evaluation = fit_and_evaluate(run, scanner, plan)
    assert fitted.result.in_memory
    assert len(fitted.result.best.history) > 1
    assert evaluation.model.manifest.scans == 1
    assert len(decoded) == len(scanner.chunks.rows)


def test_the_sample_is_whole_though_most_rows_hold_nulls(tmp_path):
    path = write_day(tmp_path, 1, rows=40_000)
    table = pq.read_table(path, partitioning=None)
    widths = pa.array(table["width"].to_numpy(), mask=np.arange(40_000) % 50 != 0)
    pq.write_table(table.set_column(2, "width", widths), path)
    run = make_run(tmp_path, fit__search_rows=300)
    plan = steps.inspect_input(run)
    fitted, evaluation = fit_and_evaluate(run, out_of_core(plan), plan)
    manifest = evaluation.model.manifest
    assert (manifest.rows, manifest.rows_dropped) == (800, 39_200)
    assert fitted.result.survey.defects.missing.tolist() == [800, 39_200, 0]
    assert len(fitted.result.survey.draw.numbers) == 300
    assert manifest.scans == 2 + manifest.n_iter + 1  # the survey took two scans
    means = np.sort(evaluation.model.parameters.means[:, 0])
    np.testing.assert_allclose(means, [-6, 0, 6], atol=0.5)


def test_given_parameters_are_polished_in_their_order_without_a_search(tmp_path):
    write_days(tmp_path)
    run = make_run(
        tmp_path,
        fit__weights_init=[0.2, 0.3, 0.5],
        fit__means_init=[[-6, 5], [6, 5], [0, 0]],
        fit__precisions_init=[np.eye(2).tolist()] * 3,
    )
    fitted = run_fit(run)
    assert fitted.manifest.search is None
    np.testing.assert_allclose(
        fitted.evaluation.model.parameters.means, [[-6, 5], [6, 5], [0, 0]], atol=0.3
    )


def test_without_an_iteration_the_given_parameters_are_published(tmp_path):
    write_days(tmp_path)
    means = [[-6.0, 5.0], [6.0, 5.0], [0.0, 0.0]]
    run = make_run(
        tmp_path,
        fit__max_iter=0,
        fit__weights_init=[0.2, 0.3, 0.5],
        fit__means_init=means,
        fit__precisions_init=[np.eye(2).tolist()] * 3,
    )
    fitted = run_fit(run)
    assert fitted.evaluation.model.parameters.means.tolist() == means
    assert fitted.manifest.status == "max_iter"
    assert fitted.manifest.history == ()
    assert fitted.manifest.counts is None


def test_a_plain_fit_over_parquet_without_a_search(tmp_path):
    write_days(tmp_path)
    fitted = run_fit(make_run(tmp_path, fit__search_rows="none", fit__n_init=2))
    assert fitted.manifest.search is None
    assert fitted.manifest.status == "converged"


def test_warnings_are_logged_and_stored(tmp_path, caplog):
    write_days(tmp_path)
    run = make_run(tmp_path, model__reg_covar=1.0)
    with caplog.at_level(logging.INFO, "gmm_dask"):
        fitted = run_fit(run)
    # One warning for both columns, with the numbers of the narrower one.
    (warning,) = (text for text in fitted.manifest.warnings if text.startswith("reg_covar 1 is"))
    assert "column 'width' and flattens it and 1 more; try" in warning
    messages = caplog.messages
    assert warning in messages
    assert "fitting 3 full components to 1,500 rows of 2 columns in 3 file(s)" in messages
    assert f"published {fitted.published.path}" in messages


def test_stages_are_announced_in_their_order(run):
    events = []
    run_fit(run, notify=events.append)
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert list(dict.fromkeys(stages)) == ["survey", "search", "polish"]


def test_every_start_breaking_down_is_an_error_and_nothing_is_published(tmp_path):
    write_days(tmp_path)
    run = make_run(
        tmp_path,
        model__reg_covar=0.0,
        input__columns=["height", "day"],  # day has three values
        model__n_components=8,
    )
    before = files_below(tmp_path)
    with pytest.raises(
        NumericalError, match=r"covariance of component \d is not positive definite"
    ):
        run_fit(run)
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("columns", [["width"], ["height", "width", "share", "day"]])
@pytest.mark.parametrize("kind", ["full", "spherical"])
def test_a_single_column_and_a_constant_column(tmp_path, drawn, columns, kind):
    write_day(tmp_path, 1)
    run = make_run(tmp_path, input__columns=columns, model__covariance_type=kind)
    fitted = run_fit(run)
    assert fitted.manifest.rows == (500 if columns == ["width"] else 490)
    assert verified(fitted.published.path).columns == tuple(columns)


@pytest.mark.parametrize("scale", [1e-100, 1e12, 1e100])
def test_columns_of_any_scale(tmp_path, scale):
    path = write_day(tmp_path, 1)
    table = pq.read_table(path, partitioning=None)
    for place, name in ((1, "height"), (2, "width")):
        values = np.array(table[name].to_numpy()) * scale
        table = table.set_column(place, name, [values])
    pq.write_table(table, path)
    run = make_run(tmp_path, model__reg_covar=0.0, input__nulls="drop")
    fitted = run_fit(run)
    means = np.sort(fitted.evaluation.model.parameters.means[:, 0]) / scale
    np.testing.assert_allclose(means, [-6, 0, 6], atol=0.5)


def test_publishing_again_with_the_same_run_id_is_the_same_version(run):
    fitted = run_fit(run)
    before = files_below(fitted.published.path.parent)
    repeated = steps.publish(run, fitted.evaluation, "fit-1")
    assert repeated == fitted.published
    assert files_below(fitted.published.path.parent) == before


def test_a_version_that_is_no_longer_current_is_a_conflict_and_keeps_the_candidate(run):
    first = run_fit(run, "fit-1")
    run_fit(run, "fit-2")
    before = files_below(first.published.path.parent)
    with pytest.raises(ConflictError, match="based on version 1, but version 2 is current now"):
        steps.publish(run, first.evaluation, "fit-3", based_on=1)
    added = files_below(first.published.path.parent).keys() - before.keys()
    assert {name.rsplit("/", 1)[0] for name in added} == {"rejected/fit-3"}
    assert Registry(run.output.models, "boxes").current_version() == 2


def test_a_published_model_stands_though_its_checkpoint_is_in_use(run, caplog):
    plan = steps.inspect_input(run)
    fitted, evaluation = fit_and_evaluate(run, out_of_core(plan), plan)
    with open_checkpoint(Registry(run.output.models, run.output.name), fitted.checkpoint_key):
        published = steps.publish(run, evaluation, "fit-1")
    assert published.version == 1
    assert "the checkpoint is kept: the fit" in caplog.text


def test_read_model_reads_the_current_version_or_says_that_it_is_missing(run):
    with pytest.raises(ModelError, match=r"has no model 'boxes'"):
        steps.read_model(run)
    run_fit(run)
    assert steps.read_model(run).version == 1


def test_the_fit_key_changes_with_what_decides_the_fit(tmp_path):
    write_days(tmp_path)
    run = make_run(tmp_path)
    plan = steps.inspect_input(run)
    key = steps.manifest.fit_key(run, plan)
    assert key == steps.manifest.fit_key(
        make_run(tmp_path, output__models=str(tmp_path / "m"), predict__probabilities=True), plan
    )
    changed = [
        make_run(tmp_path, model__n_components=4),
        make_run(tmp_path, model__reg_covar=1e-5),
        make_run(tmp_path, fit__tol=1e-5),
        make_run(tmp_path, fit__random_state=1),
        make_run(tmp_path, input__nulls="error"),
        make_run(tmp_path, input__columns=["width", "height"]),
    ]
    keys = [steps.manifest.fit_key(other_run, plan) for other_run in changed]
    write_day(tmp_path, 4)
    keys.append(steps.manifest.fit_key(run, steps.inspect_input(run)))
    assert len({key, *keys}) == len(keys) + 1


def test_a_scan_frees_what_it_has_decoded(tmp_path):
    for day in range(12):
        write_day(tmp_path, day, rows=66_000)
    plan = steps.inspect_input(make_run(tmp_path))
    allocated = []

    def measure(event):
        allocated.append(pa.total_allocated_bytes())

    file_bytes = 66_000 * 2 * 8
    before = pa.total_allocated_bytes()
    with out_of_core(plan, measure, threads=1) as scanner:
        assert len(scanner.lanes) == 12
        scanner.reduce(lambda rows, argument: rows.source_rows, None, Stage.SURVEY)
    assert max(allocated) - before < 2 * file_bytes


def test_the_merge_tree_is_that_of_the_rows_where_the_sample_holds_them_all(tmp_path):
    write_days(tmp_path)
    run = make_run(tmp_path, model__n_components=5, input__sample_weight="share")
    fitted = run_fit(run)
    model, table = fitted.evaluation.model, pq.read_table(run.input.path)
    complete = np.array(table["height"].is_valid())
    rows = np.column_stack([table[name].to_numpy() for name in model.columns])[complete]
    shares = assign(model.parameters, rows, responsibilities=True).responsibilities
    tree = merge_components(shares, table["share"].to_numpy()[complete])
    stored = model.manifest.clusters.tree(model.component_ids)
    assert stored.merges == tree.merges
    assert stored.rows == 1470
    np.testing.assert_allclose(stored.entropies, tree.entropies, atol=1e-12)
    assert model.manifest.clusters.n_clusters == 3  # as many as the rows were drawn from


def test_the_merge_tree_does_not_depend_on_threads_nor_on_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("gmm_dask.mixture.merging.rows_to_merge", lambda k: 1000)
    write_days(tmp_path, **DAYS)
    run = make_run(tmp_path, model__n_components=5, **SMALL_SEARCH)
    trees = [
        run_fit(run, f"fit-{n}", cluster=ThreadsCluster(threads=n)).manifest.clusters
        for n in (1, 3)
    ]
    assert trees[0] == trees[1]
    assert trees[0].rows == 1000
