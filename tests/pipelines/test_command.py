"""The command: exit codes, one line per error, and the same model with Prefect and without."""

import json
import subprocess
import sys
import webbrowser
from dataclasses import dataclass
from inspect import signature
from types import SimpleNamespace
from typing import get_type_hints

import pytest
from typer.testing import CliRunner

from gmm_dask.errors import InputError
from gmm_dask.pipelines import kinds
from gmm_dask.pipelines.command import app
from gmm_dask.pipelines.sequences import Outcome, PredictOutcome
from gmm_dask.pipelines.summary import predict_summary
from gmm_dask.steps import Predicted
from gmm_dask.steps.drift import Check, Drift
from gmm_dask.storage.models.registry import Registry
from gmm_dask.storage.predictions.parts import Part
from tests.pipelines.runs import read_run, write_part, write_run
from tests.steps.tables import model_files
from tests.storage.stored import some_model


@dataclass
class Run:
    returncode: int
    stdout: str
    stderr: str


def gmm_dask(*arguments):
    """The command within this process: importing everything anew takes seconds."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Run(result.exit_code, result.stdout, result.stderr)


def gmm_dask_alone(*arguments):
    """The command as a user starts it."""
    return subprocess.run(
        [sys.executable, "-m", "gmm_dask.pipelines", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def refused(run):
    """What is said of a run that was refused before it started: the last line, and no more."""
    assert run.returncode == 2, run.stderr
    assert run.stdout == ""
    *log, line = run.stderr.splitlines()
    assert not [said for said in log if "gmm-dask:" in said or "Traceback" in said]
    assert line.startswith("gmm-dask: ")
    return line.removeprefix("gmm-dask: ")


@pytest.fixture
def run_file(tmp_path):
    return write_run(tmp_path)


def test_fit_through_prefect_and_directly_leave_the_same_model(run_file, tmp_path):
    embedded = gmm_dask_alone("fit", run_file)  # on a server of its own: none is named here
    direct = gmm_dask_alone("fit", run_file, "--direct")
    for run in (embedded, direct):
        assert run.returncode == 0, run.stderr
    first, second = (tmp_path / "models" / "boxes" / name for name in ("v000001", "v000002"))
    assert model_files(first) == model_files(second)
    assert "boxes, version 1: 3 full components of 2 columns" in embedded.stdout
    assert "3,000 read, 30 dropped for nulls, 2,970 used" in embedded.stdout
    assert "iteration 1: log-likelihood -" in embedded.stderr
    assert "Flow run" not in embedded.stderr  # Prefect's own lines are for --debug


def test_predict_inspect_and_use(run_file, tmp_path):
    for _ in range(2):
        assert gmm_dask("fit", run_file, "--direct").returncode == 0
    used = gmm_dask("use", tmp_path / "models/boxes", 1)
    assert used.stdout == f"{tmp_path}/models/boxes: version 1 is current\n"
    assert Registry(tmp_path / "models", "boxes").current_version() == 1
    shown = gmm_dask("inspect", tmp_path / "models" / "boxes")
    assert "boxes, version 1: 3 full components of 2 columns" in shown.stdout
    predicted = gmm_dask("predict", run_file, "--direct")
    assert predicted.returncode == 0, predicted.stderr
    assert "2,970 predicted, 30 with nulls left null" in predicted.stdout
    assert "version 1" in predicted.stdout


def test_select_prints_the_table_and_inspect_shows_it_again(run_file, tmp_path):
    run_file.write_text(run_file.read_text().replace("n_components = 3", ""))
    options = ("--direct", "--set", "select.n_components=[2, 4]", "--set", "fit.tol=1e-8")
    selected = gmm_dask("select", run_file, *options)
    assert selected.returncode == 0, selected.stderr
    assert "boxes, version 1: 3 tied components of 2 columns" in selected.stdout
    assert "12 cells on 2,970 rows" in selected.stderr
    assert "chose 3 tied components by bic" in selected.stderr
    shown = gmm_dask("inspect", tmp_path / "models" / "boxes").stdout
    for text in (selected.stdout, shown):
        lines = [line.split() for line in text.splitlines()]
        table = lines[lines.index(["k", "full", "tied", "diag", "spherical"]) :]
        assert [row[0] for row in table[1:4]] == ["2", "3", "4"]
        assert table[2][2:4] == [table[2][2], "*1"]
        assert sum(cell in ("*1", "*2", "*3") for row in table[1:4] for cell in row) == 3
        assert "bic, lower is better, *1 *2 *3 the best" in text


def test_a_run_file_that_does_not_say_what_to_choose_from_is_refused(run_file):
    message = refused(gmm_dask("select", run_file, "--direct"))
    assert message == (
        "section [select] is missing; say what to choose from: [select] n_components = [1, 12]"
    )
    run_file.write_text(run_file.read_text().replace("n_components = 3", ""))
    message = refused(gmm_dask("fit", run_file, "--direct"))
    assert message == f"{run_file}: key model.n_components is missing"
    message = refused(gmm_dask("fit", run_file, "--direct", "--set", "select.n_components=[1, 3]"))
    assert message == (
        "key model.n_components is missing; give it, or let `gmm-dask select` choose it"
    )


def test_a_filter_is_shown_fitted_predicted_and_refused(run_file, tmp_path):
    plain = gmm_dask("inspect", run_file)
    assert "files       3\n" in plain.stdout
    assert "rows        3,000, before nulls" in plain.stdout
    filtered = ("--set", "input.filter=height > 0 or width > 100")
    shown = gmm_dask("inspect", run_file, *filtered).stdout
    assert '  filter      "height" > 0 or "width" > 100\n' in shown
    assert "files       3 of 3 are read" in shown
    assert "rows        at most 3,000, before nulls" in shown
    assert not (tmp_path / "models").exists()
    fitted = gmm_dask("fit", run_file, "--direct", *filtered)
    assert fitted.returncode == 0, fitted.stderr
    used = read_model_rows(tmp_path)
    assert 0 < used < 2_900
    line = f"3,000 read, {3_000 - used:,} outside the filter, 0 dropped for nulls, {used:,} used"
    assert line in fitted.stdout
    assert (
        'filter          "height" > 0 or' in gmm_dask("inspect", tmp_path / "models/boxes").stdout
    )
    predicted = gmm_dask("predict", run_file, "--direct", *filtered)
    assert f"{used:,} rows, those inside the filter" in predicted.stdout
    message = refused(gmm_dask("fit", run_file, "--direct", "--set", "input.filter=height like 1"))
    assert message.startswith("filter: line 1, column 1, 'height like 1': is not a condition that")
    message = refused(gmm_dask("inspect", tmp_path / "models/boxes", *filtered))
    assert message.startswith("--set changes a run file")


def test_a_backfill_predicts_what_is_asked_for_and_keeps_the_rest(run_file, tmp_path):
    for _ in range(2):
        assert gmm_dask("fit", run_file, "--direct").returncode == 0
    assert gmm_dask("predict", run_file, "--direct").returncode == 0
    some = ("--set", "predict.filter=day = 2 and height > 0")
    shown = gmm_dask("inspect", run_file, *some).stdout
    assert "files       3\n" in shown.partition("to predict")[0]
    assert "files       1 of 3 are read" in shown.partition("to predict")[2]
    # Two versions of one fit are one model: its predictions stand.
    first = gmm_dask("predict", run_file, "--direct", *some, "--model-version", 1)
    assert "new rows        none: all of these files are predicted already" in first.stdout
    assert gmm_dask("fit", run_file, "--direct", "--set", "fit.tol=1e-3").returncode == 0
    second = gmm_dask("predict", run_file, "--direct", *some, "--model-version", 3)
    assert second.returncode == 0, second.stderr
    assert '  predict filter  "day" = 2 and "height" > 0\n' in second.stdout
    assert "input files     1 read, 0 unchanged, 2 kept outside the filter" in second.stdout
    assert "3,000 rows, those inside the filter, and those kept outside" in second.stdout
    next((tmp_path / "predictions").glob("*-00000-*")).write_bytes(b"half a part")
    third = gmm_dask("predict", run_file, "--direct", *some)
    assert "are lost for 1 input file(s), the first of them day=1/" in third.stdout
    assert "changed, or its parts are damaged\n" in third.stdout
    message = refused(gmm_dask("predict", run_file, "--direct", *some, "--model-version", 7))
    assert message == (f"{tmp_path}/models/boxes: has no version 7; there are versions 1, 2, 3")


def read_model_rows(tmp_path):
    stored = Registry(tmp_path / "models", "boxes").load()
    return stored.manifest.rows


def test_clusters_of_components(run_file):
    five = ("--direct", "--set", "model.n_components=5")
    assert "clusters        3 from 5 components: " in gmm_dask("fit", run_file, *five).stdout
    asking = ("predict", run_file, "--direct", "--set")
    message = refused(gmm_dask(*asking, "predict.cluster=6"))
    assert (
        message == "predict.cluster = 6: 6 clusters cannot be made of 5 components; ask for 1 to 5"
    )
    predicted = gmm_dask(*asking, "predict.cluster=2")
    assert "clusters     2, in the column cluster" in predicted.stdout


def test_models_elsewhere_are_refused_by_name(run_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    said = "hdfs://host/x: hdfs:// is no place for models or predictions; give a path of this"
    assert refused(gmm_dask("inspect", "hdfs://host/x")).startswith(said)
    assert refused(gmm_dask("use", "hdfs://host/x", 1)).startswith(said)
    for key in ("models", "predictions"):
        run = gmm_dask("fit", run_file, "--direct", "--set", f"output.{key}=hdfs://host/x")
        assert refused(run).startswith(f"{run_file}: output.{key} = {said}")
    assert sorted(tmp_path.iterdir()) == before


def test_a_report_is_written_for_any_versions_and_opened(run_file, tmp_path, monkeypatch):
    for _ in range(2):
        assert gmm_dask("fit", run_file, "--direct").returncode == 0
    predicted = gmm_dask("predict", run_file, "--direct")
    assert "report       " in predicted.stdout
    monkeypatch.chdir(tmp_path)
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    shown = gmm_dask("report", "models/boxes", 1, 2, "--predictions", "predictions", "--open")
    assert shown.stdout == "boxes-v1-v2.html\n"
    page = tmp_path / "boxes-v1-v2.html"
    assert opened == [page.as_uri()]
    assert page.read_text().count("<article") == 2
    assert "1 batch predicted with this model" in page.read_text()
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    alone = gmm_dask("report", "models/boxes", "--output", "x.html", "--open")
    assert alone.returncode == 1
    assert alone.stderr == "gmm-dask: no browser was found here; open x.html where there is one\n"
    assert (tmp_path / "x.html").exists()
    said = refused(gmm_dask("report", "models/boxes", 3))
    assert said == "models/boxes: has no version 3; there are versions 1, 2"
    assert refused(gmm_dask("report", "models/nothing")).endswith("models in models: boxes")


@pytest.mark.parametrize("name", ["a.png", "input_plan.json", "manifest.json", "run.json"])
def test_inspect_checks_every_file_of_a_model(tmp_path, name):
    registry = Registry(tmp_path, "stars")
    extra = {"a.png": b"picture", "input_plan.json": b"{}"}
    registry.publish(some_model(), run_id="run-1", extra=extra)
    for place in (registry.directory, registry.path(1)):
        assert "stars, version 1: 3 full components" in gmm_dask("inspect", place).stdout
    path = registry.path(1) / name
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    for place in (registry.directory, registry.path(1)):
        message = refused(gmm_dask("inspect", place))
        assert message.startswith(f"{path}: is damaged (")
        assert message.endswith("; restore it from a backup, or use another version")
    path.unlink()
    message = refused(gmm_dask("inspect", registry.directory))
    assert message == f"{path}: is missing; restore it, or use another version"


def test_input_files_are_counted_not_the_parts_made_of_them(run_file, tmp_path):
    parts = tuple(Part(name, "a.parquet", 0, 5, 100) for name in ("part-0", "part-1"))
    predicted = Predicted(parts, rows=10, dropped=0, reused=1, drift=None)
    model = SimpleNamespace(version=1)
    summary = predict_summary(PredictOutcome(read_run(run_file), model, predicted, 15, tmp_path))
    assert ("input files", "1 read, 1 unchanged") in summary.facts


def test_a_difference_of_equals_reads_as_zero(run_file, tmp_path):
    drift = Drift((Check("log-likelihood drop", -4e-16, 0.5, True, ""),), {})
    predicted = Predicted((), rows=0, dropped=0, reused=0, drift=drift)
    model = SimpleNamespace(version=1)
    summary = predict_summary(PredictOutcome(read_run(run_file), model, predicted, 15, tmp_path))
    assert summary.rows == [["log-likelihood drop", "0", "0.5", "yes"]]


def test_a_cluster_key_is_named_as_in_its_file(run_file, tmp_path):
    (tmp_path / "cluster.toml").write_text('[cluster]\nkind = "threads"\nthreads = 0\n')
    message = refused(gmm_dask("fit", run_file, "--direct", "--cluster", tmp_path / "cluster.toml"))
    assert message.startswith(f"{tmp_path}/cluster.toml: cluster.threads = 0: input should be")


def test_a_direct_run_imports_only_what_it_needs(run_file):
    """Each would take 0.03 s (scipy.special) to 1.2 s (scikit-learn)."""
    program = (
        "import sys; from gmm_dask.pipelines.command import app; "
        "app(sys.argv[1:], standalone_mode=False); print(*sys.modules, file=sys.stderr)"
    )
    heavy = {
        "prefect", "sklearn", "pandas", "dask", "distributed", "narwhals", "sqlglot", "obstore",
        "scipy.special", "scipy.optimize", "pyarrow.dataset",
    }  # fmt: skip
    for command in ("fit", "predict"):  # what compiles a kernel imports more
        assert gmm_dask(command, run_file, "--direct").returncode == 0
    for command, more in (("fit", set()), ("predict", {"matplotlib"})):
        run = subprocess.run(
            [sys.executable, "-c", program, command, str(run_file), "--direct"],
            capture_output=True,
            text=True,
            check=True,
        )
        imported = set(run.stderr.splitlines()[-1].split())
        assert sorted(imported & (heavy | more)) == [], command


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.n_component=3"], "run.toml: unknown key model.n_component"),
        (["model.n_components=0"], "run.toml: model.n_components = 0: input should be greater"),
        (["fit.tol"], "--set fit.tol: write section.key=value"),
        (["input.path=nowhere"], "nowhere"),
        (["input.path="], "run.toml: input.path = '': string should have at least 1 character"),
        (['input.columns=["height", "depth"]'], "'depth'"),
        (['input.columns=["day"]', "output.models=input"], "input"),
        (["model.n_components=5000"], "3,000 rows are too few for model.n_components = 5000"),
        (["input.nulls=error"], "'height'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_work_is_refused_in_one_line(run_file, monkeypatch, overrides, words):
    monkeypatch.chdir(run_file.parent)
    options = [option for override in overrides for option in ("--set", override)]
    message = refused(gmm_dask("fit", run_file, "--direct", *options))
    assert words in message
    assert not list(run_file.parent.glob("models/boxes/v*"))


def test_a_refusal_is_the_same_line_through_prefect(run_file, prefect_server):
    arguments = ("fit", run_file, "--set", "input.path=nowhere")
    message = refused(gmm_dask(*arguments))
    assert message == refused(gmm_dask(*arguments, "--direct"))
    assert message.startswith("nowhere: ")


def test_predicting_without_a_model_is_refused(run_file):
    message = refused(gmm_dask("predict", run_file, "--direct"))
    assert "has no model 'boxes'" in message


def test_predicting_with_a_damaged_model_is_refused(run_file, tmp_path):
    assert gmm_dask("fit", run_file, "--direct").returncode == 0
    parameters = tmp_path / "models" / "boxes" / "v000001" / "parameters.safetensors"
    content = bytearray(parameters.read_bytes())
    content[-1] ^= 1
    parameters.write_bytes(content)
    message = refused(gmm_dask("predict", run_file, "--direct"))
    assert message.startswith(f"{parameters}: is damaged")


def test_an_error_in_the_middle_is_a_failure(run_file, tmp_path):
    assert gmm_dask("fit", run_file, "--direct").returncode == 0
    write_part(tmp_path, day=4, seed=4, shift=100.0)
    run = gmm_dask("predict", run_file, "--direct", "--set", "predict.on_drift=fail")
    assert run.returncode == 1, run.stderr
    assert "is not like what model boxes was fitted to" in run.stderr.splitlines()[-1]
    assert not (tmp_path / "predictions").exists()


def test_debug_shows_the_traceback(run_file):
    with pytest.raises(InputError, match="nowhere"):
        gmm_dask("fit", run_file, "--direct", "--debug", "--set", "input.path=nowhere")


def test_a_server_that_does_not_answer_is_named(run_file):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    address = "http://127.0.0.1:9/api"
    with temporary_settings({PREFECT_API_URL: address}):
        message = refused(gmm_dask("fit", run_file))
    assert message.startswith(f"PREFECT_API_URL = {address}: no Prefect server answers")


def test_a_home_that_prefect_cannot_write_is_refused(run_file, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    home = tmp_path / "file" / "prefect"
    monkeypatch.setenv("PREFECT_HOME", str(home))
    message = refused(gmm_dask("fit", run_file))
    assert message.startswith(f"PREFECT_HOME = {home}: Prefect cannot write there (Not a directory")


def test_version():
    assert gmm_dask("--version").stdout.startswith("gmm-dask 0.")


def test_help_imports_nothing_heavy():
    program = (
        "import sys, json; from gmm_dask.pipelines.command import app; "
        "app(['fit', '--help'], standalone_mode=False); print(json.dumps(list(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    imported = set(json.loads(run.stdout.splitlines()[-1]))
    assert not imported & {"numpy", "numba", "dask", "pyarrow", "prefect"}


def test_nothing_is_searched_for_garbage_at_the_end():
    program = (
        "import atexit, gc, sys; "
        "atexit.register(lambda: print(gc.get_freeze_count(), gc.collect())); "
        "from gmm_dask.pipelines.command import main; sys.argv = ['gmm-dask', '--version']; main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    frozen, collected = map(int, run.stdout.splitlines()[-1].split())
    assert frozen > 1000
    assert collected < 100


@pytest.mark.parametrize("command", ["fit", "predict", "retrain"])
def test_a_kind_of_run_holds_what_belongs_together(command):
    """Its sequence and its flow take the same options and its summary takes their outcome."""
    kind = getattr(kinds, command.upper())
    steps, flow = kind.steps(), kind.flow()
    outcome = get_type_hints(steps.sequence)["return"]
    assert flow.name == steps.sequence.__name__ == command
    assert issubclass(outcome, Outcome)
    assert outcome in get_type_hints(steps.sum_up).values()
    # By whoever calls the sequence.
    given = {"call", "notify", "run_id", "as_of", "skipped", "kind", "measured"}
    taken = signature(steps.sequence).parameters.keys() - given
    assert taken == signature(flow).parameters.keys()
