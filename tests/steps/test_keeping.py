"""Predictions outside the filter stay as they are: nothing is lost, nothing is predicted twice."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash

from gmm_dask import steps
from gmm_dask.config import ThreadsCluster
from gmm_dask.errors import (
    ConfigError,
    DriftError,
    ModelError,
    SchemaError,
    StorageError,
    TooFewRowsError,
)
from gmm_dask.events import silent
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.pipelines import sequences
from gmm_dask.storage.files.sealed import seal, unseal
from gmm_dask.storage.input import decode, input_file
from gmm_dask.storage.input.hints import hint_at
from gmm_dask.storage.models.registry import Registry
from gmm_dask.storage.predictions.dataset import read_predictions as read_record
from tests.steps.tables import MEANS, THREADS, make_run, points, read_predictions, run_fit
from tests.steps.test_predicting import count_files_read
from tests.waiting import until

DAYS = (1, 2, 3, 4)
ROWS = 60


def table_of(day, generation=0, rows=ROWS):
    heights, widths = points(rows, 100 * generation + day).T
    return pa.table({
        "number": np.arange(rows) + 1000 * day,
        "n": np.arange(rows),
        "height": pa.array(heights, mask=np.arange(rows) % 20 == 7),
        "width": widths,
        "country": np.array(["FR", "DE", "US"])[(np.arange(rows) * 7 + day) % 3],
    })  # fmt: skip


def path_of(root, day):
    return root / "input" / f"day={day}" / "part.parquet"


def write(root, day, generation=0, rows=ROWS):
    path = path_of(root, day)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(day, generation, rows), path, row_group_size=20)
    os.utime(path, (1e9, 1e9 + generation))  # no hint is too young
    return path


def publish(run, shift, component_ids=(0, 1, 2), like=None):
    """Publish a mixture that is known by its shift as the next version."""
    precisions = np.broadcast_to(np.eye(2), (3, 2, 2))
    parameters = MixtureParameters.from_covariances(
        "full", np.full(3, 1 / 3), MEANS + shift, precisions
    )
    model = like or steps.read_model(run)
    changed = replace(
        model, parameters=parameters, component_ids=component_ids, run=None, path=None,
        manifest=replace(model.manifest, clusters=None),
    )  # fmt: skip
    return Registry(run.output.models, run.output.name).publish(changed, run_id=f"shift-{shift}")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Four days, a model of which version 2 and 3 are shifted."""
    root = tmp_path_factory.mktemp("prepared")
    for day in DAYS:
        write(root, day)
    run = make_run(root)
    run_fit(run)
    publish(run, 0.1)
    publish(run, 0.2)
    return root


@pytest.fixture
def root(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    for day in DAYS:
        os.utime(path_of(tmp_path, day), (1e9, 1e9))
    wait_for_hints(tmp_path)
    return tmp_path


def wait_for_hints(root):
    """Wait until the change times of all files are old enough to be relied on."""
    paths = [str(path_of(root, day).relative_to(root)) for day in DAYS]
    until(lambda: all(hint_at(str(root), path) for path in paths), "a file has no hint")


def predict(root, run_id, condition=None, version=None, threads=THREADS, **keys):
    """Predict the rows of a condition by a version, as the sequence does."""
    if condition is not None:
        keys["predict__filter"] = condition
    return sequences.predict(
        make_run(root, **keys), threads, sequences.directly, silent, run_id, model_version=version
    )


def rows_of(root):
    """What the dataset says of each row: (file, row) → (version, component, density)."""
    table = read_predictions(make_run(root))
    names = ("input_file", "row", "model_version", "component", "log_density", "number")
    columns = [table[name].to_pylist() for name in names]
    answers = {(path, row): tuple(rest) for path, row, *rest in zip(*columns, strict=True)}
    assert len(answers) == table.num_rows
    assert list(answers) == sorted(answers)  # in the order of the input
    return answers


class Oracle:
    """What each version says of each row of each generation of a file."""

    def __init__(self, run):
        registry = Registry(run.output.models, run.output.name)
        self.models = {version: registry.load(version) for version in registry.versions()}

    def answer(self, version, day, generation, row):
        table, model = table_of(day, generation), self.models[version]
        number = table["number"][row].as_py()
        if not table["height"].is_valid()[row].as_py():
            return version, None, None, number
        x = np.column_stack([table[name].to_numpy() for name in ("height", "width")])[row : row + 1]
        found = assign(model.parameters, x)
        component = model.component_ids[found.labels[0]]
        return version, component, pytest.approx(found.log_densities[0], rel=1e-12), number


#: Conditions as SQL and as Python; partition keys, statistics and masks decide them.
CONDITIONS = [
    ("true", lambda day, n, country: True),
    ("day >= 3", lambda day, n, country: day >= 3),
    ("day = 2 and country = 'FR'", lambda day, n, country: day == 2 and country == "FR"),
    ("country <> 'US'", lambda day, n, country: country != "US"),
    ("n >= 40", lambda day, n, country: n >= 40),
    ("n < 20 or n >= 50", lambda day, n, country: n < 20 or n >= 50),
    ("n >= 30 and day < 4", lambda day, n, country: n >= 30 and day < 4),
    ("n between 10 and 29 and (day = 1 or country = 'DE')",
     lambda day, n, country: 10 <= n <= 29 and (day == 1 or country == "DE")),
]  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_every_row_is_that_of_the_last_run_that_asked_for_it(root, seed):
    random = np.random.default_rng(seed)
    oracle = Oracle(make_run(root))
    generations, expected, predicted = dict.fromkeys(DAYS, 0), {}, dict.fromkeys(DAYS, 0)
    for number in range(14):
        event = random.choice(["nothing", "nothing", "write", "touch", "remove"])
        day = int(random.choice(DAYS))
        if event == "write":
            generations[day] = number + 1
            write(root, day, number + 1)
        elif event == "touch" and path_of(root, day).exists():
            os.utime(path_of(root, day), (2e9, 2e9 + number))
        elif event == "remove" and sum(path_of(root, other).exists() for other in DAYS) > 2:
            path_of(root, day).unlink(missing_ok=True)
        condition, inside = CONDITIONS[random.integers(len(CONDITIONS))]
        version = int(random.integers(1, 4))
        present = [day for day in DAYS if path_of(root, day).exists()]
        asked = {
            (day, n)
            for day in present
            for n, country in enumerate(table_of(day)["country"].to_pylist())
            if inside(day, n, country)
        }
        if not asked:
            continue
        outcome = predict(root, f"run-{number}", condition, version)
        for day in DAYS:
            if day not in present or predicted[day] != generations[day]:
                expected = {key: answer for key, answer in expected.items() if key[0] != day}
        predicted = dict(generations)
        for day, n in asked:
            expected[day, n] = oracle.answer(version, day, generations[day], n)
        found = rows_of(root)
        assert found == {
            (f"day={day}/part.parquet", n): answer for (day, n), answer in expected.items()
        }, (number, condition, version)
        assert outcome.total_rows == len(expected) == read_record(root / "predictions").rows


def count_opens(monkeypatch):
    """Return a list to which the path of every input file that is opened is added."""
    opened = []
    for module in (input_file, decode):
        original = module.open_file

        def open_file(root, path, original=original):
            opened.append(path)
            return original(root, path)

        monkeypatch.setattr(module, "open_file", open_file)
    return opened


def test_files_outside_are_kept_without_being_opened(root, monkeypatch):
    predict(root, "all")
    before = read_record(root / "predictions")
    inodes = {part.input_file: (before.path / part.name).stat().st_ino for part in before.parts}
    opened = count_opens(monkeypatch)
    outcome = predict(root, "one", "day = 2", 2)
    assert set(opened) == {"day=2/part.parquet"}
    assert (outcome.predicted.kept, outcome.predicted.reused, outcome.total_rows) == (3, 0, 240)
    assert outcome.predicted.rows == 57
    after = read_record(root / "predictions")
    assert {
        part.input_file: (after.path / part.name).stat().st_ino
        for part in after.parts
        if part.input_file != "day=2/part.parquet"
    } == {path: inode for path, inode in inodes.items() if path != "day=2/part.parquet"}
    assert after.reused == 3


def test_the_record_says_how_each_part_came_about(root):
    everything = predict(root, "all", version=1)
    predict(root, "one", "day = 2 and country = 'FR'", 2)
    record = read_record(root / "predictions")
    newest, oldest = record.origins
    assert (newest.run_id, newest.model["version"], newest.cluster) == ("one", 2, False)
    assert newest.filter == '"day" = 2 and "country" = \'FR\''
    assert (oldest.run_id, oldest.model["version"], oldest.filter) == ("all", 1, None)
    whole = steps.inspect_input(make_run(root), for_fit=False)
    assert (oldest.snapshot, newest.snapshot) == (whole.digest, record.snapshot)
    assert everything.model.version == 1
    assert {part.input_file: part.origins for part in record.parts} == {
        f"day={day}/part.parquet": (0, 1) if day == 2 else (1,) for day in DAYS
    }
    predict(root, "again", version=3)  # no row of these origins is left
    assert [origin.run_id for origin in read_record(root / "predictions").origins] == ["again"]


def test_a_file_that_was_predicted_whole_answers_a_narrower_question(root, monkeypatch):
    predict(root, "all")
    read_from = count_files_read(monkeypatch)
    for number, condition in enumerate(("country = 'FR'", "n >= 40", "day = 2", "true")):
        outcome = predict(root, f"run-{number}", condition)
        assert (outcome.predicted.parts, outcome.total_rows) == ((), 240)
    assert read_from == []


def test_a_narrower_question_is_no_answer_to_a_wider(root, monkeypatch):
    predict(root, "some", "n >= 40 and day < 3")
    assert predict(root, "same", "n >= 40 and day < 3").predicted.reused == 2
    assert predict(root, "wider", "n >= 20 and day < 3").predicted.reused == 0
    read_from = count_files_read(monkeypatch)
    assert predict(root, "narrower", "n >= 20 and day = 1").predicted.reused == 1
    assert read_from == []
    assert len(rows_of(root)) == 80


def test_rows_that_were_kept_once_are_kept_again(root):
    predict(root, "all", version=1)
    for version in (2, 3):  # the same question, so that only the origins say that rows are kept
        outcome = predict(root, f"run-{version}", "country = 'FR' and day < 3", version)
    answers = rows_of(root).items()
    assert len(answers) == 240
    french = {(f"day={day}/part.parquet", n) for day in (1, 2)
              for n, country in enumerate(table_of(day)["country"].to_pylist())
              if country == "FR"}  # fmt: skip
    assert {key for key, (version, *_) in answers if version == 3} == french
    missing = sum(key in french and component is None for key, (_, component, *_) in answers)
    assert (outcome.predicted.rows, outcome.predicted.dropped) == (len(french) - missing, missing)
    assert missing > 0
    assert {version for key, (version, *_) in answers if key not in french} == {1}
    assert [origin.run_id for origin in read_record(root / "predictions").origins] == [
        "run-3",
        "all",
    ]


@pytest.mark.parametrize("refresh", ["changed", "all"])
def test_refresh_says_whether_a_new_version_predicts_history_again(root, refresh):
    current = Registry(root / "models", "boxes")
    current.use(1)
    predict(root, "first", predict__refresh=refresh)
    current.use(2)
    write(root, 2, generation=1)
    write(root, 5)
    outcome = predict(root, "second", predict__refresh=refresh)
    versions = {path: version for (path, _), (version, *_) in rows_of(root).items()}
    new = {"day=2/part.parquet", "day=5/part.parquet"}
    assert versions == {path: 2 if path in new or refresh == "all" else 1 for path in versions}
    assert outcome.predicted.reused == (3 if refresh == "changed" else 0)
    assert outcome.predicted.rows == 57 * (2 if refresh == "changed" else 5)
    # A version that is named predicts all that is asked for, whatever refresh says.
    predict(root, "third", "day = 1", 3, predict__refresh=refresh)
    assert {version for (path, _), (version, *_) in rows_of(root).items() if "=1/" in path} == {3}


def test_what_is_new_is_predicted_and_the_rest_is_kept_over_nights(root):
    """The sentence of the issue: fit on some days, predict what is new, keep the rest."""
    keys = {
        "input__filter": "day >= 3",
        "predict__filter": "day >= 1",
        "predict__refresh": "changed",
        "fit__tol": 1e-3,
    }
    run = make_run(root, **keys)
    sequences.retrain(run, THREADS, sequences.directly, silent, "night-1")
    assert set(versions_of(root).values()) == {4}
    write(root, 5)
    outcome = sequences.retrain(run, THREADS, sequences.directly, silent, "night-2")
    assert outcome.published is not None
    assert steps.read_model(run).manifest.files == 3
    assert versions_of(root) == {1: 4, 2: 4, 3: 4, 4: 4, 5: 5}
    # Drift is that of the rows predicted now.
    assert outcome.predictions.predicted.rows == 57
    path_of(root, 1).unlink()
    predict(root, "later", **keys)
    assert versions_of(root) == {2: 4, 3: 4, 4: 4, 5: 5}


def versions_of(root):
    """The version that has predicted each day, which is one."""
    versions = {}
    for (path, _), (version, *_) in rows_of(root).items():
        versions.setdefault(int(path[4]), set()).add(version)
    assert all(len(several) == 1 for several in versions.values())
    return {day: several.pop() for day, several in versions.items()}


def test_drift_is_judged_on_the_rows_predicted_now(root):
    predict(root, "all", version=1)
    strict = {
        "predict__on_drift": "fail",
        "predict__max_low_density_share": 0.5,
        "predict__max_log_likelihood_drop": 10.0,
        "predict__max_occupancy_change": 1.0,
    }
    table = table_of(2)
    far = [500.0 if n < 20 else height for n, height in enumerate(table["height"].to_pylist())]
    pq.write_table(table.set_column(2, "height", [far]), path_of(root, 2), row_group_size=20)
    with pytest.raises(DriftError, match="low-density threshold"):
        predict(root, "far", "day = 2 and n < 20", **strict)
    near = predict(root, "near", "day = 2 and n >= 20", **strict)
    assert near.predicted.rows == 38
    # Rows of the file that are kept beside it are not judged: they were predicted before.
    predict(root, "warned", "day = 2 and n < 20")
    assert predict(root, "again", "day = 2 and n >= 20", 2, **strict).predicted.rows == 38
    assert len(rows_of(root)) == 240


def test_a_file_outside_that_has_changed_loses_its_predictions_with_a_warning(root, caplog):
    predict(root, "all")
    write(root, 3, generation=1)
    os.utime(path_of(root, 4), (2e9, 2e9))  # only touched
    outcome = predict(root, "some", "day = 2 and country = 'FR'")
    assert outcome.predicted.lost == ("day=3/part.parquet",)
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "are lost for 1 input file(s), the first of them day=3/part" in warning.getMessage()
    assert {path for path, _ in rows_of(root)} == {f"day={day}/part.parquet" for day in (1, 2, 4)}
    assert read_record(root / "predictions").summary["lost"] == ["day=3/part.parquet"]


def test_a_file_outside_that_is_damaged_loses_its_predictions_with_a_warning(root, caplog):
    predict(root, "all")
    path_of(root, 3).write_bytes(b"half a file")
    assert predict(root, "some", "day = 2").predicted.lost == ("day=3/part.parquet",)
    assert "are lost for 1 input file(s), the first of them day=3/part" in caplog.text
    assert len(rows_of(root)) == 180


def test_a_touched_file_with_rows_of_several_filters_is_recognized(root, monkeypatch):
    """Its digest is of the columns and row groups that were read, not of those read now."""
    predict(root, "first", "n < 20 and country <> 'US'", 1)
    predict(root, "second", "n >= 40", 2)
    before = rows_of(root)
    for day in DAYS:
        os.utime(path_of(root, day), (2e9, 2e9))
    read_from = count_files_read(monkeypatch)
    assert predict(root, "same", "n >= 40", 2).predicted.reused == 4
    assert predict(root, "outside", "day = 1 and n >= 40", 2).predicted.kept == 3
    assert read_from == []
    assert rows_of(root) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predict__key_columns": []}, r"their predict\.key_columns are number \(int64\)"),
        ({"predict__key_columns": ["n"]}, r"their predict\.key_columns are number \(int64\)"),
        ({"predict__probabilities": True}, "they lack the column probability_0"),
        ({"predict__cluster": True}, "they lack the column cluster"),
    ],
)
@pytest.mark.parametrize("condition", ["day = 2", "n >= 40"])
def test_what_has_other_columns_is_refused_by_name(root, changes, message, condition):
    Registry(root / "models", "boxes").use(1)
    predict(root, "all")
    with pytest.raises(ConfigError, match=message) as caught:
        predict(root, "other", condition, **changes)
    text = str(caught.value)
    assert "input file(s), the first of them day=1/part.parquet: " in text
    assert text.endswith('predict.filter = "true", or give another output.predictions')
    assert len(rows_of(root)) == 240
    assert predict(root, "whole", "true", **changes).total_rows == 240


def test_other_components_are_refused_where_their_probabilities_are_kept(root):
    keys = {"predict__probabilities": True}
    predict(root, "all", **keys)
    publish(make_run(root), 0.3, component_ids=(0, 1, 7))
    with pytest.raises(ConfigError, match="they alone have the column probability_2"):
        predict(root, "some", "day = 2", **keys)
    # Inside the filter, what cannot stay is predicted again.
    outcome = predict(root, "changed", predict__refresh="changed", **keys)
    assert (outcome.predicted.reused, outcome.predicted.rows) == (0, 228)


def test_clusters_of_the_same_version_are_those_asked_for(root):
    Registry(root / "models", "boxes").use(1)
    predict(root, "all", predict__cluster=3)
    with pytest.raises(ConfigError, match=r"their clusters are those of predict\.cluster = 3"):
        predict(root, "some", "day = 2", predict__cluster=2)
    run_fit(make_run(root, model__n_components=2, input__filter="day > 1"), "other")
    assert steps.read_model(make_run(root)).version == 4
    with pytest.raises(ConfigError, match=r"predict\.cluster = 3"):
        predict(root, "other", "day = 2", predict__cluster=2)
    Registry(root / "models", "boxes").use(1)
    predict(root, "two", predict__cluster=2)
    Registry(root / "models", "boxes").use(4)
    assert predict(root, "next", "day = 2", predict__cluster=2).predicted.kept == 3


def test_predictions_of_another_model_are_not_mixed(root):
    predict(root, "all")
    other = {"output__name": "crates"}
    run_fit(make_run(root, **other), "crates")
    with pytest.raises(ConfigError, match="model boxes made them, and component ids of model cr"):
        predict(root, "some", "day = 2", **other)


def test_a_damaged_record_is_refused_where_it_would_cost_predictions(root):
    predict(root, "all")
    record = root / "predictions.versions" / "all.json"
    record.write_text("{}")
    with pytest.raises(StorageError, match=r"^what lies outside the filter cannot be kept: .*all"):
        predict(root, "some", "day = 2")
    assert predict(root, "again", "true").total_rows == 240


def test_parts_of_an_older_format_are_kept_with_the_version_of_their_model(root):
    predict(root, "all", version=2)
    record = read_record(root / "predictions")
    path = root / "predictions.versions" / "all.json"
    document = unseal(path.read_bytes(), path)
    for values in document["parts"]:
        part = record.path / values[0]
        table = pq.ParquetFile(part).read().drop_columns(["model_version"])
        pq.write_table(table, part)
        content = part.read_bytes()
        del values[8:]  # the origins
        values[4:7] = [len(content), xxhash.xxh3_128_hexdigest(content), None]
    del document["origins"]
    path.write_bytes(seal(document | {"format": 3}))
    outcome = predict(root, "some", "day = 2 and n < 30", 3)
    assert (outcome.predicted.kept, outcome.total_rows) == (3, 240)
    assert predict(root, "others", "day > 2", 2).predicted.reused == 2
    answers = rows_of(root)
    assert {
        (day, version): sum(
            path == f"day={day}/part.parquet" and answer[0] == version
            for (path, _), answer in answers.items()
        )
        for day in DAYS
        for version in (2, 3)
    } == {(1, 2): 60, (1, 3): 0, (2, 2): 30, (2, 3): 30, (3, 2): 60, (3, 3): 0, (4, 2): 60,
          (4, 3): 0}  # fmt: skip


def test_rows_are_kept_over_many_chunks_with_the_same_bits_on_any_threads(root, monkeypatch):
    monkeypatch.setattr("gmm_dask.storage.input.reader.chunk_rows", lambda *arguments: 9)
    contents = []
    for threads in (1, 3):
        cluster = ThreadsCluster(threads=threads)
        predict(root, "a", "country <> 'US'", 1, cluster)
        predict(root, "b", "n < 33 and country <> 'DE'", 2, cluster)
        record = read_record(root / "predictions")
        assert len(record.parts) > 20
        assert {part.origins for part in record.parts} >= {(0, 1)}
        contents.append(
            {part.name: (record.path / part.name).read_bytes() for part in record.parts}
        )
        assert [row for _, row in rows_of(root)][:3] == [0, 1, 2]
        shutil.rmtree(root / "predictions.versions")
        (root / "predictions").unlink()
    assert contents[0] == contents[1]


def test_an_interrupted_prediction_loses_nothing(root):
    predict(root, "all")
    before = rows_of(root)
    run = make_run(root, predict__filter="n >= 40")
    plan, model = steps.inspect_input(run, for_fit=False), steps.read_model(run, 2)

    def stop():
        with steps.open_predictions(run, plan, model, THREADS, silent, "stopped") as prediction:
            predicted = steps.predict(run, prediction)
            assert steps.verify_predictions(run, prediction, predicted) == 240
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert rows_of(root) == before
    assert sorted(path.name for path in (root / "predictions.versions").iterdir()) == [
        "all", "all.html", "all.json"
    ]  # fmt: skip


def test_a_kept_part_that_is_lost_before_it_is_published_is_noticed(root):
    predict(root, "all")
    run = make_run(root, predict__filter="day = 2")
    plan, model = steps.inspect_input(run, for_fit=False), steps.read_model(run, 2)
    with steps.open_predictions(run, plan, model, THREADS, silent, "second") as prediction:
        predicted = steps.predict(run, prediction)
        part = prediction.staged.kept["day=3/part.parquet"][0]
        (prediction.staged.writer.stage.directory / part.name).unlink()
        with pytest.raises(StorageError, match=rf"{part.name}: is missing; predict again"):
            steps.publish_predictions(run, prediction, predicted)
    assert len(rows_of(root)) == 240


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        ("dya = 2", SchemaError, "'dya', which the filter names.*day"),
        ("day = 9", TooFewRowsError, "can be inside the filter"),
        ("", ConfigError, r"^predict\.filter: is empty"),
        ("number = 'x'", ConfigError, r"^predict\.filter: line 1, column 10"),
    ],
)
def test_a_filter_that_cannot_be_used_is_refused_before_a_fit(root, condition, error, message):
    run = make_run(root, predict__filter=condition)
    with pytest.raises(error, match=message):
        sequences.retrain(run, THREADS, sequences.directly, silent, "night")
    assert Registry(root / "models", "boxes").versions() == (1, 2, 3)


def test_a_version_that_does_not_exist_is_refused_with_those_that_do(root):
    with pytest.raises(ModelError, match="has no version 7; there are versions 1, 2, 3"):
        predict(root, "seven", version=7)
    assert not (root / "predictions").exists()
