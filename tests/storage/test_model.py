"""A model directory: the same bytes for the same fit, and any damage noticed."""

import hashlib
import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import gmm_dask.storage.models
from gmm_dask.errors import ModelError
from gmm_dask.storage.files.sealed import seal
from gmm_dask.storage.models.model import (
    ARRAYS,
    MANIFEST,
    PARAMETERS,
    RUN,
    StoredModel,
)
from tests.storage.stored import (
    SHAPES,
    read,
    some_manifest,
    some_model,
    some_parameters,
    verified,
    write,
)

PICTURE = bytes(range(256))


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "v000001"
    path.mkdir()
    write(some_model(version=1, created="2026-01-01T00:00:00+00:00"), path, {"a.png": PICTURE})
    return path


@pytest.mark.parametrize("kind", SHAPES)
def test_what_is_read_is_what_was_written(tmp_path, kind):
    model = some_model(kind, version=3, host="h")
    write(model, tmp_path)
    loaded = read(tmp_path)
    assert loaded.parameters.covariance_type == kind
    for name in ARRAYS:
        written, back = getattr(model.parameters, name), getattr(loaded.parameters, name)
        assert back.dtype == np.float64
        assert back.shape == written.shape
        assert back.tobytes() == written.tobytes()
    assert loaded.columns == ("größe", "b")
    assert loaded.component_ids == (4, 0, 7)
    assert loaded.manifest == model.manifest
    assert loaded.run == model.run
    assert loaded.sha256 == model.sha256
    assert loaded.path == tmp_path


def test_another_process_and_another_run_write_the_same_model(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write(some_model(version=1, created="monday"), tmp_path / "one")
    script = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[2])\n"
        "from tests.storage.stored import some_model, write\n"
        "write(some_model(version=2, created='tuesday'), pathlib.Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, tmp_path / "two", Path(__file__).parents[2]]
    subprocess.run(command, check=True, env={"PYTHONHASHSEED": "7"})
    for name in (MANIFEST, PARAMETERS):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one" / RUN).read_bytes() != (tmp_path / "two" / RUN).read_bytes()


def test_the_sha256_is_of_the_model_not_of_the_run():
    assert some_model(version=1).sha256 == some_model(version=2).sha256
    assert some_model(seed=1).sha256 != some_model(seed=2).sha256
    assert some_model("diag").sha256 != some_model("full").sha256


def test_the_sha256_stands_in_the_manifest_and_in_the_run(directory):
    sha256 = read(directory).sha256
    assert json.loads((directory / MANIFEST).read_text())["sha256"] == sha256
    assert json.loads((directory / RUN).read_text())["model"] == sha256


def test_the_manifest_can_be_read_by_people(directory):
    text = (directory / MANIFEST).read_text()
    assert "größe" in text
    assert len(text.splitlines()) > 20


@pytest.mark.parametrize(
    ("columns", "ids", "message"),
    [
        (("a",), (0, 1, 2), "1 column names for means of 2 features"),
        (("a", "b"), (0, 1), r"\[0, 1\] are not 3 different numbers"),
        (("a", "b"), (0, 1, 1), r"\[0, 1, 1\] are not 3 different numbers"),
    ],
)
def test_parts_that_do_not_fit_are_refused(columns, ids, message):
    with pytest.raises(ModelError, match=message):
        StoredModel(some_parameters(), columns, ids, some_manifest())


@pytest.mark.parametrize("name", [MANIFEST, PARAMETERS, RUN])
def test_any_flipped_bit_is_noticed(directory, name):
    path = directory / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in range(0, len(whole), 2):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=rf"{name}: is damaged"):
            read(directory)
    path.write_bytes(whole)
    read(directory)


@pytest.mark.parametrize("name", [MANIFEST, PARAMETERS, RUN])
def test_any_truncation_or_addition_is_noticed(directory, name):
    path = directory / name
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=rf"{name}: is damaged"):
            read(directory)
    for more in (b" ", b"\n", b"\0" * 100):
        path.write_bytes(whole + more)
        with pytest.raises(ModelError, match=rf"{name}: is damaged"):
            read(directory)


@pytest.mark.parametrize("name", [MANIFEST, PARAMETERS, RUN])
def test_a_missing_file_is_named(directory, name):
    (directory / name).unlink()
    with pytest.raises(ModelError, match=rf"/{name}: is missing; restore it"):
        read(directory)


def test_files_of_two_models_are_not_mixed(directory, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write(some_model(seed=1), other)
    for name in (MANIFEST, PARAMETERS):
        (directory / name).write_bytes((other / name).read_bytes())
    with pytest.raises(ModelError, match="are of different models"):
        read(directory)


def test_a_damaged_picture_does_not_stop_a_prediction_but_is_noticed(directory):
    assert (directory / "a.png").read_bytes() == PICTURE
    verified(directory)
    (directory / "a.png").write_bytes(PICTURE[:-1] + b"x")
    read(directory)
    with pytest.raises(ModelError, match=r"/a\.png: is damaged \(its sha256 differs\)"):
        verified(directory)
    (directory / "a.png").write_bytes(PICTURE + b"x")
    with pytest.raises(ModelError, match=r"/a\.png: is damaged \(257 bytes instead of 256\)"):
        verified(directory)
    (directory / "a.png").unlink()
    with pytest.raises(ModelError, match=r"/a\.png: is missing"):
        verified(directory)


@pytest.mark.parametrize(
    "files", [None, {"a.png": 1}, {"../a.png": {"bytes": 1, "sha256": ""}}, {"a.png": {"bytes": 1}}]
)
def test_a_forged_list_of_files_is_refused(directory, files):
    reseal(directory / RUN, lambda run: run.update(files=files))
    with pytest.raises(ModelError, match=r"/run\.json: does not list the files of a model"):
        verified(directory)


@pytest.mark.parametrize("name", [MANIFEST, PARAMETERS, RUN, "../x", "a/b", "", ".hidden"])
def test_files_given_along_cannot_take_another_place(tmp_path, name):
    with pytest.raises(ModelError, match="cannot be the name of a file beside a model"):
        write(some_model(), tmp_path, {name: b""})


def reseal(path, change):
    """What somebody could write who knows how documents are sealed."""
    document = json.loads(path.read_text())
    del document["sha256"]
    change(document)
    path.write_bytes(seal(document))
    return json.loads(path.read_text())["sha256"]


def forge(directory, change):
    sha256 = reseal(directory / MANIFEST, change)
    reseal(directory / RUN, lambda run: run.update(model=sha256))


def test_a_newer_format_is_refused(directory):
    forge(directory, lambda document: document.update(format=2))
    with pytest.raises(
        ModelError, match=r"manifest.json: has format 2, .* reads 1; .* upgrade gmm-dask"
    ):
        read(directory)


def forged_header(shape, end):
    text = json.dumps({"weights": {"dtype": "F64", "shape": shape, "data_offsets": [0, end]}})
    return len(text).to_bytes(8, "little") + text.encode()


HUGE = 1 << 46
FORGERIES = {
    "a manifest that promises terabytes": (
        lambda m: m["parameters"].update(bytes=HUGE),
        None,
        "bytes instead of 70,368,744,177,664",
    ),
    "a header that promises terabytes": (
        lambda m: None,
        forged_header([HUGE // 8], HUGE),
        "is not a parameters file",
    ),
    "a header longer than the file": (
        lambda m: None,
        HUGE.to_bytes(8, "little"),
        "is not a parameters file",
    ),
    "no header": (lambda m: None, b"", "is not a parameters file"),
    "another shape": (
        lambda m: None,
        forged_header([2], 16) + bytes(16),
        r"holds \{'weights': \(2,\)\}, not float64 arrays",
    ),
    "a file larger than the columns allow": (
        lambda m: None,
        bytes(10_000),
        "10,000 bytes, where at most",
    ),
    "an unknown covariance type": (
        lambda m: m.update(covariance_type="round"),
        None,
        "unknown covariance type 'round'",
    ),
    "no columns": (lambda m: m.pop("columns"), None, "KeyError: 'columns'"),
    "columns that are a number": (lambda m: m.update(columns=10**9), None, "TypeError"),
    "no rows": (lambda m: m["manifest"].pop("rows"), None, "not the manifest .*KeyError: 'rows'"),
    "features without a mean": (
        lambda m: m["manifest"]["features"]["b"].pop("mean"),
        None,
        "not the manifest .*KeyError: 'mean'",
    ),
    "features that are a number": (
        lambda m: m["manifest"].update(features=3),
        None,
        "not the manifest .*AttributeError",
    ),
}


def refusal(directory):
    """The error of a reader, and the most that it allocated at any instant, bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(ModelError) as caught:
            read(directory)
        return str(caught.value), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_files_are_refused_without_allocating_what_they_promise(directory, forgery, measure):
    change, content, message = FORGERIES[forgery]

    def both(manifest):
        if content is not None:
            (directory / PARAMETERS).write_bytes(content)
            manifest["parameters"]["bytes"] = len(content)
            manifest["parameters"]["sha256"] = hashlib.sha256(content).hexdigest()
        change(manifest)

    forge(directory, both)
    error, allocated = measure(refusal, directory)
    assert re.search(message, error)
    assert allocated < 1 << 20


def test_what_a_later_version_added_is_passed_over(directory):
    def add(document):
        document["manifest"]["later"] = 1
        document["manifest"]["features"]["b"]["later"] = [2]

    model = read(directory)
    forge(directory, add)
    reseal(directory / RUN, lambda run: run["run"].update(later=3))
    again = read(directory)
    assert (again.manifest, again.run) == (model.manifest, model.run)
    # The digest is that of the file, whatever of it is known here.
    assert again.sha256 == json.loads((directory / MANIFEST).read_text())["sha256"] != model.sha256


@pytest.mark.parametrize("run", [{"version": 1}, [1], {"host": "h", "created": ""}])
def test_a_forged_publication_is_refused(directory, run):
    reseal(directory / RUN, lambda document: document.update(run=run))
    with pytest.raises(ModelError, match=r"run\.json: does not say which run stored the model"):
        read(directory)


def test_a_manifest_of_gigabytes_is_not_read(directory):
    with (directory / MANIFEST).open("r+b") as file:
        file.truncate(4 << 30)  # sparse: no bytes on the disk
    with pytest.raises(ModelError, match=r"manifest.json: is larger than any file of its kind"):
        read(directory)


def test_parameters_that_are_no_numbers_are_refused(tmp_path):
    model = some_model()
    model.parameters.means[0, 0] = np.nan
    write(model, tmp_path)
    with pytest.raises(ModelError, match="values that are not finite numbers"):
        read(tmp_path)


def test_no_file_is_a_pickle(directory):
    for path in directory.iterdir():
        assert not path.read_bytes().startswith(b"\x80")
    source = Path(gmm_dask.storage.models.__file__).parent
    assert not [p.name for p in source.glob("*.py") if "import pickle" in p.read_text()]
