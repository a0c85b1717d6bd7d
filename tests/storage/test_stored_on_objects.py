"""Models, predictions and checkpoints on an object store: what their callers may rely on."""

import numpy as np
import pytest

from gmm_dask import compare_models, list_models
from gmm_dask.addresses import place_of
from gmm_dask.errors import ConflictError, ModelError, StorageError
from gmm_dask.storage.files import objects, stores
from gmm_dask.storage.files.retention import Keep, Pruned
from gmm_dask.storage.files.stores import entries_under, find
from gmm_dask.storage.models.checkpoint import (
    interrupted_fits,
    open_checkpoint,
    remove_forgotten,
)
from gmm_dask.storage.models.paths import load_model_at
from gmm_dask.storage.models.pruning import pin, prune_models, unpin
from gmm_dask.storage.models.registry import Registry
from gmm_dask.storage.predictions.dataset import read_predictions
from tests.storage.stored import some_model
from tests.storage.test_predictions import begun, predict, stars, write_all  # noqa: F401


@pytest.fixture
def registry(bucket):
    return Registry(f"{bucket}/models", "stars")


def test_models_are_published_found_and_rolled_back(registry, bucket):
    for number in (1, 2, 3):
        assert registry.publish(some_model(), run_id=f"run-{number}") == number
    assert registry.publish(some_model(), run_id="run-2") == 2  # tried again
    assert registry.current_version() == 3
    registry.use(1)
    assert registry.load().version == 1
    assert registry.publish(some_model(), run_id="run-4", based_on=1) == 4
    assert str(registry.path(4)) == f"{bucket}/models/stars/v000004"
    kept = registry.reject(some_model(), run_id="run-5", reason="worse")
    assert load_model_at(kept).run.rejected == "worse"
    assert registry.reject(some_model(), run_id="run-5", reason="again") == kept
    assert load_model_at(str(registry.path(2))).version == 2


def test_old_versions_are_listed_compared_pinned_and_pruned(registry, bucket, monkeypatch):
    for number in range(1, 5):
        registry.publish(some_model(), run_id=f"run-{number}")
    registry.reject(some_model(), run_id="run-5", reason="worse")
    pin(registry, 1)
    listed = list_models(f"{bucket}/models", "stars")
    assert [(model.version, model.current, model.pinned) for model in listed] == [
        (1, False, True),
        (2, False, False),
        (3, False, False),
        (4, True, False),
        (None, False, False),
    ]
    assert compare_models(f"{bucket}/models/stars", 1).components
    keep = Keep(versions=1)
    stays = tuple(str(registry.path(number)) for number in (2, 3))
    assert prune_models(registry, keep) == Pruned(in_grace=stays)  # for a day: there is no lock
    monkeypatch.setattr(objects, "GRACE", 0.0)
    assert prune_models(registry, keep).paths == stays
    assert registry.versions() == (1, 4)
    unpin(registry, 1)
    assert prune_models(registry, keep).paths == (str(registry.path(1)),)
    assert registry.publish(some_model(), run_id="run-6") == 5


def test_a_model_that_is_missing_is_told_from_those_that_are_there(registry, bucket):
    registry.publish(some_model(), run_id="run-1")
    for path, problem in {
        "models/galaxies": "holds no model; models in {bucket}/models: stars",
        "models/stars/v000009": "is missing; there are versions 1",
        "elsewhere/stars": "holds no model; there are no models in {bucket}/elsewhere",
    }.items():
        with pytest.raises(ModelError) as caught:
            load_model_at(f"{bucket}/{path}")
        assert str(caught.value).startswith(f"{bucket}/{path}: {problem.format(bucket=bucket)}")


def test_a_damaged_pointer_names_the_command_that_repairs_it(registry, bucket):
    registry.publish(some_model(), run_id="run-1")
    stores.put(place_of(f"{bucket}/models/stars/current.json"), b"{}")
    with pytest.raises(ModelError, match=r"current\.json: is damaged"):
        registry.load()
    registry.use(1)
    assert registry.load().version == 1


@pytest.fixture
def overtaken(registry, monkeypatch):
    """Makes another publisher come between this one and its seal, or its pointer."""

    def overtake(before):
        real, once = stores.put_if, []

        def put_if(address, content, expected):
            if str(address).endswith(before) and not once:
                once.append(True)
                Registry(registry.root, "stars").publish(some_model(), run_id="other")
            return real(address, content, expected)

        for module in ("objects", "object_contents"):
            monkeypatch.setattr(f"gmm_dask.storage.files.{module}.put_if", put_if)

    return overtake


@pytest.mark.parametrize("before", ["v000002.json", "current.json"])
def test_a_publisher_that_is_overtaken_takes_the_next_number(registry, overtaken, before):
    registry.publish(some_model(), run_id="run-1")
    overtaken(before)
    number = registry.publish(some_model(), run_id="run-2")
    assert registry.versions() == (1, 2, 3)
    assert number == (3 if before == "v000002.json" else 2)
    assert registry.load(number).run.run_id == "run-2"
    assert registry.current_version() == 3


@pytest.mark.parametrize("before", ["v000002.json", "current.json"])
def test_a_retrain_that_is_overtaken_is_kept_as_a_candidate(registry, overtaken, before):
    registry.publish(some_model(), run_id="run-1")
    overtaken(before)
    with pytest.raises(ConflictError, match=r"it is based on version 1, but version \d is current"):
        registry.publish(some_model(), run_id="run-2", based_on=1)
    assert registry.load().run.run_id == "other"
    assert load_model_at(registry.directory / "rejected" / "run-2").run.run_id == "run-2"
    assert "run-2" not in {registry.load(number).run.run_id for number in registry.versions()}


def test_of_two_runs_of_a_fit_the_younger_goes_on(registry, caplog):
    older = open_checkpoint(registry, "key")
    assert older.load() is None
    older.save({"means": np.ones(3)}, {"iteration": 1})
    younger = open_checkpoint(registry, "key")
    arrays, meta = younger.load()
    assert (arrays["means"].tolist(), meta) == ([1.0, 1.0, 1.0], {"iteration": 1})
    younger.save({"means": np.ones(3)}, {"iteration": 2})
    with pytest.raises(ConflictError, match="another process has written it, or removed it"):
        older.save({"means": np.ones(3)}, {"iteration": 3})
    older.clear()
    assert [fit["iteration"] for fit in interrupted_fits(registry)] == [2]
    remove_forgotten(registry)
    assert len(interrupted_fits(registry)) == 1  # it is young
    younger.clear()
    assert interrupted_fits(registry) == []
    assert entries_under(registry.directory) == {}


def test_only_parts_that_hold_what_was_written_are_used_again(stars, bucket):  # noqa: F811
    out = f"{bucket}/out"
    predict(stars, out, "run-1")
    record = read_predictions(out)
    folder = place_of(out) / "_versions"
    (key,) = (key for key in entries_under(folder) if key.endswith(record.parts[0].name))
    content, _ = find(folder / key)
    stores.put(folder / key, content[:-1] + b"?")
    with begun(stars, out, "run-2") as staged:
        assert [file.path for file in staged.remaining.files] == [record.parts[0].input_file]
        staged.publish(write_all(staged, ()))
    spared = [part for part in record.parts if part.input_file != record.parts[0].input_file]
    assert read_predictions(out).reused == len(spared) > 0
    stores.put(folder / key, content)  # of the version before, which is kept
    predict(stars, out, "run-3")
    names = {key.partition(".")[0] for key in entries_under(folder)}
    assert names == {"run-1", "run-2", "run-3"}  # a reader may still have the first one open


def test_the_second_of_two_predictions_to_end_is_refused(stars, bucket):  # noqa: F811
    out = f"{bucket}/out"
    predict(stars, out, "run-1")
    with begun(stars, out, "run-2") as first, begun(stars, out, "run-3") as second:
        first.publish(write_all(first, ()))
        with pytest.raises(ConflictError, match=r"out/current\.json: was changed by somebody else"):
            second.publish(write_all(second, ()))
    assert read_predictions(out).run_id == "run-2"
    with pytest.raises(ConflictError, match="run run-2 is already published"):
        begun(stars, out, "run-2")


def test_what_others_wrote_in_the_place_of_the_pointer_is_refused(stars, bucket):  # noqa: F811
    out = f"{bucket}/out"
    stores.put(place_of(out) / "current.json", b'{"version": "theirs"}')
    with pytest.raises(StorageError, match=r"out/current\.json: is damaged"):
        predict(stars, out, "run-1")
