"""Where models and predictions may lie, in every spelling; what is no local path is refused."""

import re
from pathlib import Path

import pytest

from gmm_dask import load_model
from gmm_dask.addresses import local_path, place_of
from gmm_dask.config import RunConfig, check_config
from gmm_dask.errors import ConfigError, StorageError
from gmm_dask.storage.files.atomic import check_writable
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.models.registry import Registry
from gmm_dask.storage.predictions.dataset import read_predictions

ELSEWHERE = ["abfss://b/x", "hdfs://h/x", "S3://b/x", "https://h/x"]

TABLES = {
    "input": {"path": "stars", "columns": ["a"]},
    "model": {"n_components": 2},
    "output": {"name": "stars"},
}


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("models", "models"),
        ("../a/b", "../a/b"),
        ("/a b", "/a b"),
        ("~/models", "{home}/models"),
        ("file:///a/b%20c", "/a/b c"),
        ("file://localhost/a", "/a"),
        ("file:/a", "/a"),
        ("FILE:///a", "/a"),
        ("file:///a#b?c", "/a#b?c"),
        ("a:b", "a:b"),
        ("a/s3://b", "a/s3:/b"),
        (Path("~/models"), "{home}/models"),
        (Path("a"), "a"),
    ],
)
def test_what_a_local_address_means(tmp_path, address, path):
    assert local_path(address) == Path(path.format(home=tmp_path))


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("file://data/x", "names the machine 'data', not a path; write file:///"),
        ("file://~/x", "names the machine '~', not a path"),
        ("file://host", "names the machine 'host'"),
        ("a\0b", "holds a NUL character"),
        ("file:///a%00b", "holds a NUL character"),
        ("~nobody-of-this-name/x", "write the path out"),
        (Path("hdfs://host/x"), "hdfs:// is no place for models or predictions"),
    ],
)
def test_what_no_path_can_be_made_of_is_refused(address, problem):
    with pytest.raises(ConfigError, match=re.escape(problem)):
        local_path(address)


def test_credentials_are_not_repeated():
    with pytest.raises(ConfigError) as caught:
        local_path("ftp://AKIAKEY:secret@bucket/x?secret_key=secret")
    assert str(caught.value).startswith("ftp://bucket/x: ftp:// is no place")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_place_on_a_store_is_joined_and_taken_apart_like_a_path(scheme):
    place = place_of(f"{scheme}://bucket/a/b/")
    assert place == place_of(Path(f"{scheme}://bucket/a/b")) == place_of(place)
    assert str(place / "c.json") == f"{scheme}://bucket/a/b/c.json"
    assert (place.name, str(place.parent), str(place.parent.parent.parent)) == (
        "b",
        f"{scheme}://bucket/a",
        f"{scheme}://bucket",
    )
    assert place_of(f"{scheme}://bucket") / "a" / "b" == place


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("s3://AKIAKEY:secret@bucket/x", "s3://bucket/x: has options or credentials in it"),
        ("s3://bucket/x?secret_key=secret", "s3://bucket/x: has options or credentials in it"),
        ("s3:/bucket/x", "s3:/bucket/x: has one slash after s3:, where two belong"),
        ("s3:///x", "s3:///x: is no place on a store; write s3://BUCKET/KEY"),
        ("gs://bucket//x", "is no place on a store; write gs://BUCKET/KEY"),
        ("s3://bucket/../x", "is no place on a store"),
        ("s3://bucket/a\nb", "is no place on a store"),
    ],
)
def test_an_address_of_a_store_that_cannot_be_is_refused(address, problem):
    with pytest.raises(ConfigError) as caught:
        place_of(address)
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError):
        check_config(RunConfig, {**TABLES, "output": {"name": "x", "models": address}}, "run.toml")


def test_a_bucket_alone_is_no_place_for_predictions():
    with pytest.raises(ConfigError, match="s3://bucket: is a bucket; name a place in it"):
        PredictionPlaces.of("s3://bucket")


@pytest.mark.parametrize("address", ELSEWHERE)
def test_every_place_that_takes_a_path_refuses_what_is_elsewhere(tmp_path, address):
    """Before, a local directory "s3:" was made, and the run ended well."""
    takers = [
        lambda: Registry(address, "stars"),
        lambda: load_model(address),
        lambda: load_model(Path(address)),
        lambda: PredictionPlaces.of(address),
        lambda: read_predictions(address),
    ]
    for take in takers:
        with pytest.raises(ConfigError, match=r":// is no place for models or predictions"):
            take()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ELSEWHERE)
@pytest.mark.parametrize("key", ["models", "predictions"])
def test_a_run_file_with_an_output_elsewhere_is_refused(key, address):
    tables = {**TABLES, "output": {"name": "stars", key: address}}
    with pytest.raises(ConfigError) as caught:
        check_config(RunConfig, tables, "run.toml")
    message = str(caught.value)
    assert message.startswith(f"run.toml: output.{key} = {address}: ")
    assert "give a path of this machine, s3://, gs:// or az://" in message
    assert "value error" not in message


@pytest.mark.parametrize("spelling", ["~/models", "file://{home}/models", "models"])
def test_models_and_predictions_are_the_same_by_every_spelling(tmp_path, spelling):
    address = spelling.format(home=tmp_path)
    assert Registry(address, "stars").directory.absolute() == tmp_path / "models" / "stars"
    assert PredictionPlaces.of(address).out == tmp_path / "models"


def test_links_that_lead_in_a_circle_are_no_foreign_error(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorageError, match="/loop: is a link to loop"):
        PredictionPlaces.of("loop").current_run()
    within = PredictionPlaces.of("loop/predictions")
    assert within.current_run() is None
    with pytest.raises(StorageError, match="/loop: cannot be written"):
        check_writable(within.out.parent)
    with pytest.raises(
        StorageError, match="loop/stars: cannot be read: its symbolic links lead in a circle"
    ):
        load_model("loop/stars")


def test_a_model_by_a_name_that_cannot_be_is_no_foreign_error():
    with pytest.raises(StorageError, match="the name is too long; choose a shorter one"):
        load_model("x" * 256)
    with pytest.raises(ConfigError, match="NUL"):
        load_model("a\0b")


@pytest.mark.parametrize("length", [242, 255, 256, 5000])
def test_a_name_too_long_for_what_is_made_from_it_is_refused(length):
    """A link is made under a longer name: that was noticed when all rows were predicted."""
    with pytest.raises(StorageError, match=r"too long .*; choose a shorter one"):
        PredictionPlaces.of("x" * length).current_run()
    assert PredictionPlaces.of("x" * 241).current_run() is None


def test_a_root_is_no_output():
    with pytest.raises(StorageError, match="/: is a directory that gmm-dask did not write"):
        PredictionPlaces.of("/").current_run()
