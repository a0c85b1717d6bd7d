"""What an installation brings into somebody's environment: one import name, `gmm_dask`."""

import site
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments, cwd):
    run = subprocess.run([*map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh environment with the wheel, built from what git would clone."""
    place = tmp_path_factory.mktemp("installed")
    run("git", "clone", "-q", ROOT, place / "clone", cwd=place)
    pip = (sys.executable, "-m", "pip", "--quiet")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", place, place / "clone")
    run(*pip, *build, cwd=place)
    run(sys.executable, "-m", "venv", "--without-pip", place / "venv", cwd=place)
    (wheel,) = place.glob("*.whl")
    run(*pip, "--python", place / "venv/bin/python", "install", "--no-deps", wheel, cwd=place)
    # The dependencies of this environment, but not the package: its .pth files are not followed.
    fresh = place / "venv" / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (fresh / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return place / "venv/bin"


def test_a_wheel_neither_shadows_a_package_called_pipelines_nor_is_shadowed_by_it(
    installed, tmp_path
):
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/__init__.py").write_text("OWNER = 'somebody else'\n")
    program = (
        "import pipelines, gmm_dask, gmm_dask.pipelines.deployed as deployed; "
        "print(pipelines.OWNER, gmm_dask.__file__, deployed.__file__, sep='\\n')"
    )
    owner, package, flows = run(installed / "python", "-c", program, cwd=tmp_path).splitlines()
    assert owner == "somebody else"
    assert Path(package).is_relative_to(installed.parent)
    assert Path(flows) == Path(package).parent / "pipelines/deployed.py"
    for command in ([installed / "gmm-dask"], [installed / "python", "-m", "gmm_dask.pipelines"]):
        assert run(*command, "--version", cwd=tmp_path).startswith("gmm-dask ")
        assert "retrain" in run(*command, "--help", cwd=tmp_path)


def test_a_wheel_has_one_import_name(installed):
    program = (
        "from importlib.metadata import files; "
        "print(*{f.parts[0] for f in files('gmm-dask') if f.suffix == '.py'})"
    )
    assert run(installed / "python", "-c", program, cwd=installed).split() == ["gmm_dask"]


def test_a_wheel_has_the_script_and_the_style_of_the_report(installed):
    program = (
        "from importlib.metadata import files; "
        "print(*sorted(f.name for f in files('gmm-dask') if f.suffix in {'.js', '.css'}))"
    )
    found = run(installed / "python", "-c", program, cwd=installed).split()
    assert found == ["script.js", "style.css"]
