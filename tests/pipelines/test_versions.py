"""The commands that list, pin and prune versions, by themselves and by a run file."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gmm_dask.storage.models.drift_history import DRIFT, encode_drift
from gmm_dask.storage.models.registry import Registry
from tests.pipelines.runs import RUN_FILE
from tests.pipelines.test_command import gmm_dask, refused
from tests.storage.stored import some_model
from tests.storage.test_drift_history import FOUND, NIGHT


@pytest.fixture
def models(tmp_path, two_models):
    """A directory of two models: stars of three versions and a candidate, and moons."""
    return Path(shutil.copytree(two_models, tmp_path / "models"))


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """What `models` is copied from: publishing waits for the disk."""
    root = tmp_path_factory.mktemp("two") / "models"
    stars = Registry(root, "stars")
    for number in (1, 2, 3):
        stars.publish(some_model(seed=number), run_id=f"run-{number}")
    stars.reject(some_model(), run_id="bad", reason="it is [bold]bad")
    stars.use(2)
    Registry(root, "moons").publish(some_model("diag"), run_id="moon-1")
    return root


def lines(run):
    assert run.returncode == 0, run.stderr
    return [line.split() for line in run.stdout.splitlines()]


def test_list_shows_every_version_and_what_is_current_pinned_rejected_or_damaged(models):
    assert gmm_dask("pin", models / "stars", 1).returncode == 0
    (models / "stars/v000003/manifest.json").write_text("{}")
    header, _, moons, first, second, third, candidate = lines(gmm_dask("list", models))
    assert header == ["model", "version", "stored", "rows", "components", "nats", "per", "row",
                      "BIC", "state"]  # fmt: skip
    assert moons[:2] == ["moons", "1"]
    assert moons[4:] == ["1,000", "3", "diag", "-2.125", "4,367.4", "current"]
    assert (first[-1], second[-1], first[1], second[1]) == ("pinned", "current", "1", "2")
    assert third[:2] == ["stars", "3"]
    assert "damaged" in third
    assert candidate[:2] == ["stars", "–"]
    assert " ".join(candidate[9:]) == "rejected: it is [bold]bad (bad)"
    assert lines(gmm_dask("list", models, "stars")) == lines(gmm_dask("list", models / "stars"))


def test_list_says_the_same_as_json(models):
    (models / "stars/v000003/manifest.json").write_text("{}")
    listed = json.loads(gmm_dask("list", models, "stars", "--json").stdout)
    assert [model["version"] for model in listed] == [1, 2, 3, None]
    assert [model["current"] for model in listed] == [False, True, False, False]
    assert listed[1] | {"created": ""} == {
        "bound": None,
        "model": "stars",
        "version": 2,
        "path": f"{models}/stars/v000002",
        "run_id": "run-2",
        "created": "",
        "rows": 1000,
        "n_components": 3,
        "covariance_type": "full",
        "log_likelihood": -2.125,
        "bic": 4367.4,
        "current": True,
        "pinned": False,
        "rejected": None,
        "problem": None,
    }
    assert listed[2]["rows"] is None
    assert "manifest.json: is damaged" in listed[2]["problem"]
    assert listed[3]["rejected"] == "it is [bold]bad"


def test_prune_says_what_goes_then_removes_it(models):
    asked = gmm_dask("prune", models, "--keep-versions", 1, "--dry-run")
    size = sum(file.stat().st_size for file in (models / "stars/v000001").iterdir())
    assert asked.stdout == (
        f"{models}/stars/v000001\n1 old version, {size:,} bytes would be removed\n"
    )
    assert Registry(models, "stars").versions() == (1, 2, 3)
    with Registry(models, "stars").store.version("v000001").held():
        assert gmm_dask("prune", models / "stars", "--keep-versions", 1).stdout == (
            f"{models}/stars/v000001 stays: somebody reads it\nnothing is to be removed\n"
        )
    done = gmm_dask("prune", models, "--keep-versions", 1)
    assert done.stdout == f"{models}/stars/v000001\n1 old version, {size:,} bytes removed\n"
    assert Registry(models, "stars").versions() == (2, 3)
    assert gmm_dask("prune", models, "--keep-versions", 1).stdout == "nothing is to be removed\n"


def test_prune_says_why_a_version_on_a_store_stays(bucket):
    stars = Registry(f"{bucket}/models", "stars")
    for number in (1, 2):
        stars.publish(some_model(), run_id=f"run-{number}")
    assert gmm_dask("prune", f"{bucket}/models", "--keep-versions", 1).stdout == (
        f"{stars.path(1)} stays: readers have a day after the next version was stored\n"
        "nothing is to be removed\n"
    )


def test_a_pinned_version_stays_until_it_is_unpinned(models):
    pinned = gmm_dask("pin", models / "stars", 1)
    assert pinned.stdout == f"{models}/stars: version 1 is pinned\n"
    assert gmm_dask("prune", models, "--keep-versions", 1).stdout == "nothing is to be removed\n"
    unpinned = gmm_dask("unpin", models / "stars", 1)
    assert unpinned.stdout == f"{models}/stars: version 1 is no longer pinned\n"
    gmm_dask("prune", models, "--keep-versions", 1)
    assert Registry(models, "stars").versions() == (2, 3)


def test_prune_takes_the_rule_of_a_run_file_or_that_of_its_options(models, tmp_path):
    run_file = tmp_path / "run.toml"
    text = RUN_FILE.format(root=tmp_path).replace('"boxes"', '"stars"')
    run_file.write_text(text + "keep = {versions = 1, days = 1}\n")
    prune = ("prune", run_file, "--dry-run")
    assert gmm_dask(*prune).stdout == "nothing is to be removed\n"
    os.utime(models / "stars/v000001", (0, 0))
    for options in ((), ("--keep-versions", 1), ("--set", "output.keep={days=3}")):
        assert "stars/v000001\n1 old version, " in gmm_dask(*prune, *options).stdout
    run_file.write_text(text)
    assert refused(gmm_dask(*prune)) == (
        f"{run_file}: key output.keep is missing; give it, such as "
        "keep = {versions = 30, days = 90}, or --keep-versions, or --keep-days"
    )


def test_what_was_removed_before_an_error_is_said(models):
    tides = Registry(models, "tides")  # comes after stars
    for number in (1, 2):
        tides.publish(some_model(seed=number), run_id=f"run-{number}")
    (models / "tides/current.json").write_text("half")
    run = gmm_dask("prune", models, "--keep-versions", 1)
    assert run.returncode == 1
    assert run.stdout == f"{models}/stars/v000001\n"
    assert run.stderr.startswith(f"gmm-dask: {models}/tides/current.json: is damaged")
    assert Registry(models, "stars").versions() == (2, 3)
    assert tides.versions() == (1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune", "{models}"], "say what to keep: --keep-versions N, --keep-days D, or both"),
        (
            ["prune", "{models}", "--keep-days", "0"],
            "days to keep = 0.0: give a number above 0",
        ),
        (
            ["prune", "{models}", "--keep-days", "1", "--set", "a.b=1"],
            "--set changes a run file, and {models} is none; leave it out",
        ),
        (
            ["prune", "{models}", "--keep-days", "1", "--predictions", "{models}/no"],
            "{models}/no: holds no predictions; name the directory of a run file",
        ),
        (
            ["drift", "{models}/stars", "--predictions", "{models}/no"],
            "{models}/no: holds no predictions; name the directory of a run file",
        ),
        (
            ["report", "{models}/stars", "--predictions", "{models}/no"],
            "{models}/no: holds no predictions; name the directory of a run file",
        ),
        (
            ["list", "{models}", "star"],
            "{models}: has no model 'star'; models in {models}: moons, stars",
        ),
        (
            ["list", "{models}/stars/rejected"],
            "{models}/stars/rejected: holds no model; there are no models in "
            "{models}/stars/rejected; fit one first, or give another path",
        ),
        (
            ["pin", "{models}/stars", "9"],
            "{models}/stars: has no version 9; there are versions 1, 2, 3",
        ),
        (
            ["use", "{models}/", "1"],
            "{models}: is no model, but a directory of models; name one: moons, stars, as in "
            "{models}/moons",
        ),
        (["pin", "", "1"], "the path of the model is empty; give models/NAME"),
        (
            ["use", "{models}/stars/../..", "1"],
            "{root}: holds no model; models in {models}: moons, stars",
        ),
        (
            ["use", "{models}/../run.toml", "1"],
            "{models}/../run.toml: is a file, and a model is a directory; models in "
            "{models}/../models: moons, stars",
        ),
        (
            ["unpin", "{models}/star", "1"],
            "{models}/star: holds no model; models in {models}: moons, stars",
        ),
        (
            ["use", "{models}/stars/v000001", "1"],
            "{models}/stars/v000001: is in a model; name {models}/stars, and the version after it",
        ),
    ],
)
def test_mistakes_are_named(models, arguments, message):
    (models.parent / "run.toml").touch()
    run = gmm_dask(*(argument.format(models=models) for argument in arguments))
    assert refused(run) == message.format(models=models, root=models.parent)


def test_a_model_is_named_by_the_folder_that_one_is_in(models, monkeypatch):
    monkeypatch.chdir(models / "stars" / "v000001")
    assert gmm_dask("use", "..", 1).stdout == f"{models}/stars: version 1 is current\n"
    listed = json.loads(gmm_dask("list", "..", "--json").stdout)
    assert {model["model"] for model in listed} == {"stars"}
    assert refused(gmm_dask("use", ".", 1)) == (
        f".: is in a model; name {models}/stars, and the version after it"
    )


def test_diff_shows_components_likelihoods_and_settings(models):
    registry = Registry(models, "stars")
    registry.publish(some_model(seed=4), run_id="run-4", based_on=2, based_on_log_likelihood=-2.5)
    shown = gmm_dask("diff", models / "stars", 2)  # with the current one
    rows = lines(shown)
    assert rows[0] == ["version", "2", "version", "4"]
    assert [
        "nats",
        "per",
        "row,",
        "on",
        "the",
        "rows",
        "of",
        "version",
        "4",
        "-2.5",
        "-2.125",
    ] in rows
    assert "matched by their permanent ids" in shown.stdout
    assert [row[0] for row in rows if "→" in row] == ["0", "4", "7"]
    assert rows[-1] == ["nothing", "was", "set", "otherwise"]
    assert "matched by their distance" in gmm_dask("diff", models / "stars", 1, 4).stdout
    document = json.loads(gmm_dask("diff", models / "stars", 4, 2, "--json").stdout)
    assert document["before"]["log_likelihood_of_the_other_on_these_rows"] == -2.5
    assert [component["before"] for component in document["components"]] == [0, 4, 7]
    message = refused(gmm_dask("diff", models / "stars", 4, 9))
    assert message == f"{models}/stars: has no version 9; there are versions 1, 2, 3, 4"
    assert refused(gmm_dask("diff", models, 1)).startswith(
        f"{models.parent}: has no model 'models'"
    )


def test_a_reader_of_the_output_who_has_enough_ends_the_command_without_a_word(models):
    ended = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    ended.wait()  # nobody reads from the pipe any more
    command = [sys.executable, "-m", "gmm_dask.pipelines", "list", models, "--json"]
    run = subprocess.run(command, stdout=ended.stdin, stderr=subprocess.PIPE, text=True)
    ended.stdin.close()
    assert (run.returncode, run.stderr) == (1, "")


def test_drift_lists_the_nights_and_since_when(tmp_path):
    stars = Registry(tmp_path / "models", "stars")
    stars.publish(some_model(seed=1), run_id="run-1")
    again = replace(NIGHT, run_id="run-9", created="2026-01-02T03:00:00+00:00")
    history = {DRIFT: encode_drift(None, [NIGHT, again])}
    stars.publish(some_model(seed=2), run_id="run-2", extra=history)
    header, _, first, second, since = lines(gmm_dask("drift", stars.directory))
    assert header == ["night", "(UTC)", "by", "compared", "with", "files", "rows", "drift"]
    assert first[:7] == ["2026-01-01", "03:00", "retrain", "version", "3", "1", "400"]
    assert " ".join(second[7:]).startswith(FOUND.words)
    assert " ".join(since) == (
        "the mean of height in component 2: seen 2 nights in a row, since 2026-01-01"
    )
    shown = json.loads(gmm_dask("drift", stars.directory, "--json").stdout)
    assert shown["nights"][0] == NIGHT.to_json()
    assert [(item["feature"], item["nights"]) for item in shown["since"]] == [("height", 2)]
    older = gmm_dask("drift", stars.directory / "v000001")  # stored without a history
    assert older.stdout.startswith("no night is recorded: nothing has been compared yet")


def test_no_command_that_only_reads_models_imports_numba(models):
    """It would take a third of their time; and scipy's BLAS as much as pyarrow."""
    program = (
        "import sys; from gmm_dask.pipelines.command import app\n"
        "for command in sys.argv[1:]:\n"
        "    app(command.split(), standalone_mode=False)\n"
        "    imported = {'numba', 'llvmlite.binding', 'scipy.linalg', 'dask', 'prefect'}\n"
        "    assert not imported & set(sys.modules), command\n"
    )
    stars = models / "stars"
    commands = [
        f"list {models}", f"inspect {stars}", f"drift {stars}", f"use {stars} 3", f"pin {stars} 1",
        f"unpin {stars} 1", f"report {stars} --output {models}/page.html",
        f"prune {models} --keep-versions 2",
    ]  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", program, *commands], check=False, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
