"""The registry: numbers without gaps, forward by publishing, back only by choice."""

import json
import shutil

import pytest

from gmm_dask import load_model
from gmm_dask.errors import ConflictError, ModelError, StorageError
from gmm_dask.storage.files.locks import acquire
from gmm_dask.storage.files.retention import Keep
from gmm_dask.storage.files.versions import Writer
from gmm_dask.storage.models.lineage import share_ids
from gmm_dask.storage.models.paths import load_model_at
from gmm_dask.storage.models.pruning import prune_models
from gmm_dask.storage.models.registry import Registry
from tests.storage.stored import some_model, verified


def published(root, count):
    for number in range(1, count + 1):
        assert (
            Registry(root, "stars").publish(some_model(seed=number), run_id=f"run-{number}")
            == number
        )


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def test_versions_count_up_and_the_last_is_current(tmp_path):
    published(tmp_path, 3)
    assert Registry(tmp_path, "stars").versions() == (1, 2, 3)
    assert Registry(tmp_path, "stars").current_version() == 3
    assert names(tmp_path / "stars") == ["current.json", "v000001", "v000002", "v000003"]
    assert Registry(tmp_path, "stars").load().sha256 == some_model(seed=3).sha256
    assert Registry(tmp_path, "stars").load(1).sha256 == some_model(seed=1).sha256


def test_a_version_knows_where_it_comes_from(tmp_path):
    Registry(tmp_path, "stars").publish(
        some_model(), run_id="blue-fox", extra={"a.png": b"picture"}
    )
    read = Registry(tmp_path, "stars").load()
    assert (read.version, read.run.run_id) == (1, "blue-fox")
    assert read.run.created.startswith("20")
    assert read.run.created.endswith("+00:00")
    assert read.run.host
    assert read.path == tmp_path / "stars" / "v000001"
    assert (read.path / "a.png").read_bytes() == b"picture"
    verified(read.path)


def test_the_same_model_is_the_same_bytes_in_every_version(tmp_path):
    for run_id in ("one", "two"):
        Registry(tmp_path, "stars").publish(some_model(), run_id=run_id)
    for name in ("manifest.json", "parameters.safetensors"):
        first, second = (tmp_path / "stars" / f"v00000{n}" / name for n in (1, 2))
        assert first.read_bytes() == second.read_bytes()


def test_a_run_publishes_once(tmp_path):
    published(tmp_path, 2)
    before = (tmp_path / "stars" / "current.json").read_bytes()
    assert Registry(tmp_path, "stars").publish(some_model(seed=9), run_id="run-1") == 1
    assert Registry(tmp_path, "stars").versions() == (1, 2)
    assert (tmp_path / "stars" / "current.json").read_bytes() == before


def test_a_run_id_that_is_part_of_another_is_another(tmp_path):
    Registry(tmp_path, "stars").publish(some_model(), run_id="run-12")
    assert Registry(tmp_path, "stars").publish(some_model(), run_id="run-1") == 2


def test_a_model_on_a_superseded_base_is_kept_but_not_published(tmp_path):
    published(tmp_path, 2)
    with pytest.raises(
        ConflictError,
        match=r"model stars in .* was not published: it is based on version 1, but version 2 is "
        r"current now; it is kept in .*/rejected/late; start the retrain again",
    ):
        Registry(tmp_path, "stars").publish(some_model(seed=9), run_id="late", based_on=1)
    assert Registry(tmp_path, "stars").versions() == (1, 2)
    assert Registry(tmp_path, "stars").current_version() == 2
    kept = load_model_at(tmp_path / "stars" / "rejected" / "late")
    assert kept.sha256 == some_model(seed=9).sha256
    assert kept.run.rejected == "it is based on version 1, but version 2 is current now"
    assert kept.version is None


def test_a_model_on_the_current_base_is_published(tmp_path):
    published(tmp_path, 2)
    assert Registry(tmp_path, "stars").publish(some_model(), run_id="x", based_on=2) == 3
    assert Registry(tmp_path, "stars").load().run.based_on == 2


def test_the_winner_of_two_on_one_base_may_ask_again(tmp_path):
    published(tmp_path, 1)
    assert Registry(tmp_path, "stars").publish(some_model(), run_id="winner", based_on=1) == 2
    with pytest.raises(ConflictError):
        Registry(tmp_path, "stars").publish(some_model(), run_id="loser", based_on=1)
    assert Registry(tmp_path, "stars").publish(some_model(), run_id="winner", based_on=1) == 2


def test_a_base_that_never_was_is_a_conflict(tmp_path):
    with pytest.raises(ConflictError, match="based on version 1, but no version is current now"):
        Registry(tmp_path, "stars").publish(some_model(), run_id="x", based_on=1)


def test_rolling_back_and_publishing_again(tmp_path):
    published(tmp_path, 7)
    Registry(tmp_path, "stars").use(5)
    assert Registry(tmp_path, "stars").current_version() == 5
    assert Registry(tmp_path, "stars").load().version == 5
    # A late retry of a run that was rolled back does not undo the roll-back.
    assert Registry(tmp_path, "stars").publish(some_model(), run_id="run-7") == 7
    assert Registry(tmp_path, "stars").current_version() == 5
    # A retrain that began before it must not either.
    with pytest.raises(ConflictError, match="based on version 7, but version 5 is current"):
        Registry(tmp_path, "stars").publish(some_model(), run_id="retrain", based_on=7)
    assert Registry(tmp_path, "stars").publish(some_model(), run_id="next") == 8
    assert Registry(tmp_path, "stars").current_version() == 8


def interrupted(root, run_id, **options):
    """Publish, but die between the version and current.json."""

    def die(writer, content, expecting):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Writer, "point", die)
        with pytest.raises(KeyboardInterrupt):
            Registry(root, "stars").publish(some_model(seed=9), run_id=run_id, **options)


def test_an_interrupted_publish_is_finished_by_its_own_run(tmp_path):
    published(tmp_path, 2)
    interrupted(tmp_path, "unlucky")
    assert Registry(tmp_path, "stars").versions() == (1, 2, 3)
    assert Registry(tmp_path, "stars").current_version() == 2
    assert Registry(tmp_path, "stars").publish(some_model(seed=9), run_id="unlucky") == 3
    assert Registry(tmp_path, "stars").current_version() == 3


def test_an_interrupted_publish_does_not_come_back_after_a_later_one(tmp_path):
    published(tmp_path, 1)
    interrupted(tmp_path, "unlucky")
    assert Registry(tmp_path, "stars").publish(some_model(seed=4), run_id="later") == 3
    assert Registry(tmp_path, "stars").publish(some_model(seed=9), run_id="unlucky") == 2
    assert Registry(tmp_path, "stars").current_version() == 3


def test_the_very_first_publish_interrupted_says_what_to_do(tmp_path):
    interrupted(tmp_path, "unlucky")
    with pytest.raises(
        ModelError,
        match=r"no version is in use; there are versions 1; .*`gmm-dask use .*/stars VERSION`",
    ):
        Registry(tmp_path, "stars").load()
    Registry(tmp_path, "stars").use(1)
    assert Registry(tmp_path, "stars").load().version == 1


def test_a_damaged_current_is_named_and_repaired_by_use(tmp_path):
    published(tmp_path, 3)
    path = tmp_path / "stars" / "current.json"
    path.write_bytes(path.read_bytes().replace(b"3", b"2", 1))
    with pytest.raises(ModelError, match=r"stars/current.json: is damaged"):
        Registry(tmp_path, "stars").load()
    Registry(tmp_path, "stars").use(2)
    assert Registry(tmp_path, "stars").current_version() == 2
    assert Registry(tmp_path, "stars").publish(some_model(), run_id="run-3") == 3
    assert Registry(tmp_path, "stars").current_version() == 2
    assert Registry(tmp_path, "stars").publish(some_model(), run_id="new") == 4


def test_a_damaged_version_is_not_put_into_use(tmp_path):
    published(tmp_path, 2)
    (tmp_path / "stars" / "v000001" / "parameters.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"v000001/parameters.safetensors: is damaged"):
        Registry(tmp_path, "stars").use(1)
    assert Registry(tmp_path, "stars").current_version() == 2


def test_a_damaged_old_version_does_not_stop_a_new_one(tmp_path):
    published(tmp_path, 2)
    run = tmp_path / "stars" / "v000001" / "run.json"
    run.write_bytes(run.read_bytes()[:-20])
    assert Registry(tmp_path, "stars").publish(some_model(), run_id="run-1") == 3


def test_unknown_names_and_versions_are_refused_with_what_there_is(tmp_path):
    with pytest.raises(ModelError, match=rf"no model 'stars'; there is no directory {tmp_path}/no"):
        Registry(tmp_path / "no", "stars").load()
    with pytest.raises(ModelError, match="no model 'stars'; there are no models in"):
        Registry(tmp_path, "stars").load()
    published(tmp_path, 3)
    Registry(tmp_path, "flowers").publish(some_model(), run_id="x")
    with pytest.raises(ModelError, match=r"no model 'star'; models in .*: flowers, stars"):
        Registry(tmp_path, "star").load()
    with pytest.raises(ModelError, match="stars: has no version 4; there are versions 1, 2, 3"):
        Registry(tmp_path, "stars").load(4)
    with pytest.raises(ModelError, match="has no version 4"):
        Registry(tmp_path, "stars").use(4)
    published(tmp_path / "more", 8)
    with pytest.raises(ModelError, match=r"there are versions 1 … 8 \(8 of them\)"):
        Registry(tmp_path / "more", "stars").load(9)
    assert Registry(tmp_path, "nothing").versions() == ()
    assert Registry(tmp_path, "nothing").current_version() is None


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a b", "x" * 129])
def test_names_that_are_no_names_are_refused(tmp_path, name):
    with pytest.raises(ModelError, match="cannot be a model name: use up to 128 letters"):
        Registry(tmp_path, name).publish(some_model(), run_id="x")
    with pytest.raises(ModelError, match="cannot be a run id"):
        Registry(tmp_path, "stars").publish(some_model(), run_id=name)
    assert names(tmp_path) == []


def test_a_candidate_is_rejected_once(tmp_path):
    published(tmp_path, 1)
    kept = Registry(tmp_path, "stars").reject(
        some_model(seed=5), run_id="x", reason="too low", extra={"p.png": b"1"}
    )
    again = Registry(tmp_path, "stars").reject(some_model(seed=6), run_id="x", reason="other")
    assert again == kept == tmp_path / "stars" / "rejected" / "x"
    model = verified(kept)
    assert (model.run.rejected, model.run.run_id) == ("too low", "x")
    assert model.sha256 == some_model(seed=5).sha256
    assert Registry(tmp_path, "stars").versions() == (1,)


def test_loading_by_path(tmp_path, monkeypatch):
    published(tmp_path, 3)
    stars = tmp_path / "stars"
    (tmp_path / "link").symlink_to("stars")
    assert load_model_at(stars).version == 3
    assert load_model_at(str(stars / "v000002")).version == 2
    assert load_model_at(stars, 1).version == 1
    assert load_model_at(tmp_path / "link", 1).version == 1
    monkeypatch.chdir(tmp_path)
    assert load_model_at("stars").version == 3
    monkeypatch.chdir(stars)
    assert load_model_at(".").version == 3
    assert load_model_at(".", 2).version == 2


def test_an_estimator_is_loaded_by_the_same_paths(tmp_path, monkeypatch):
    published(tmp_path, 3)
    monkeypatch.chdir(tmp_path / "stars")
    for path, version, seed in (
        (".", None, 3),
        (".", 2, 2),
        ("v000001", None, 1),
        ("../stars", 1, 1),
    ):
        loaded = load_model(path, version)
        assert (loaded.means_ == some_model(seed=seed).parameters.means).all()
    assert (loaded.lower_bounds_, loaded.n_iter_, loaded.scans_) == ([-3.5, -2.25], 2, 5)
    assert (loaded.converged_, loaded.log_likelihood_) == (True, -2.125)


def test_loading_by_a_wrong_path(tmp_path):
    published(tmp_path, 2)
    with pytest.raises(ModelError, match=r"/v000009: is missing; there are versions 1, 2"):
        load_model_at(tmp_path / "stars" / "v000009")
    with pytest.raises(ModelError, match=r"a directory of models; name one: stars, as in .*/stars"):
        load_model_at(tmp_path)
    with pytest.raises(ModelError, match=r"/star: holds no model; models in .*: stars"):
        load_model_at(tmp_path / "star")
    with pytest.raises(ModelError, match="has no version 5"):
        load_model_at(tmp_path / "stars", 5)
    (tmp_path / "stars" / "v000002" / "manifest.json").unlink()
    with pytest.raises(ModelError, match=r"v000002/manifest.json: is missing"):
        load_model_at(tmp_path / "stars" / "v000002")


def test_readers_need_no_lock_and_writers_wait_for_it(tmp_path):
    published(tmp_path, 2)
    with acquire(tmp_path / "stars" / ".lock", "x"):
        assert Registry(tmp_path, "stars").load().version == 2
        with pytest.raises(StorageError, match=r"model stars in .* is in use by process"):
            Registry(tmp_path, "stars").publish(some_model(), run_id="x", deadline=0)
        with pytest.raises(StorageError, match="is in use"):
            Registry(tmp_path, "stars").use(1, deadline=0)
    assert Registry(tmp_path, "stars").versions() == (1, 2)


def test_what_a_killed_publisher_left_is_removed_by_the_next(tmp_path):
    published(tmp_path, 1)
    stars = tmp_path / "stars"
    shutil.copytree(stars / "v000001", stars / ".partial-v000002-0000")
    (stars / ".partial-current.json-1111").write_bytes(b"{")
    assert Registry(tmp_path, "stars").versions() == (1,)
    assert Registry(tmp_path, "stars").publish(some_model(), run_id="x") == 2
    assert names(stars) == ["current.json", "v000001", "v000002"]


def test_current_can_be_read_by_people(tmp_path):
    published(tmp_path, 2)
    Registry(tmp_path, "stars").use(1)
    document = json.loads((tmp_path / "stars" / "current.json").read_text())
    assert (document["version"], document["published"]) == (1, 2)


def test_versions_of_one_family_share_their_ids(tmp_path):
    """1 is a fit, 2 and 3 come from it, 4 from 2 by a roll-back; 5 is another fit, 6 its child."""
    registry = Registry(tmp_path, "stars")
    families = ((1, None), (2, 1), (3, 2), (4, 2), (5, None), (6, 5))
    for number, based_on in families:
        if based_on is not None:
            registry.use(based_on)
        run_id = f"run-{number}"
        registry.publish(some_model(seed=number), run_id=run_id, based_on=based_on)

    def shared(first, second):
        return share_ids(registry, registry.load(first), registry.load(second))

    assert shared(1, 4)
    assert shared(3, 4)
    assert shared(4, 3)
    assert shared(5, 6)
    assert not shared(4, 5)
    assert not shared(6, 1)
    prune_models(registry, Keep(versions=4))  # 1 and 2: their numbers say enough of 3 and 4
    assert registry.versions() == (3, 4, 5, 6)
    assert shared(3, 4)
    assert not shared(4, 6)


def test_what_the_gate_compared_is_recorded(tmp_path):
    registry = Registry(tmp_path, "stars")
    registry.publish(some_model(), run_id="run-1")
    registry.publish(some_model(seed=2), run_id="run-2", based_on=1, based_on_log_likelihood=-2.5)
    assert registry.load(1).run.based_on_log_likelihood is None
    assert registry.load(2).run.based_on_log_likelihood == -2.5
