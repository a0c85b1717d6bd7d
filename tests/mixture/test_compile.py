"""Compilation: once per installation, announced, by many processes, and without a cache.

Each test runs real processes with their own cache directory. Where the package itself matters, they
compile the kernels of a copy of it; elsewhere, a kernel of one line.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gmm_dask
from gmm_dask.mixture.kernels.code_cache import SOURCES

FIT = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
logging.getLogger("gmm_dask").setLevel(logging.INFO)
import numpy as np
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import sum_statistics
parameters = MixtureParameters.from_covariances(
    "spherical", np.array([0.5, 0.5]), np.array([[0.0], [4.0]]), np.ones(2)
)
X = np.repeat([[0.0], [4.0]], [30, 10], axis=0)
print("counts", sum_statistics(parameters, X).counts.round(1))
"""
SMALL = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
logging.getLogger("gmm_dask").setLevel(logging.INFO)
from small import double
print("result", double(21.0))
"""
KERNEL = """
from gmm_dask.mixture.kernels.compile import kernel

@kernel("kernel of one line")
def double(x):
    return 2.0 * x
"""
MEDIAN = """
import numpy as np
from gmm_dask.mixture.kernels.compile import kernel

@kernel("kernel with arrays of its own")
def double(x):
    values = np.empty(3)
    values[:] = 2.0 * x
    return np.median(values)
"""
LOST = """
import numpy as np
from gmm_dask.mixture.kernels.compile import allocating, inlined, kernel

@inlined
def halves(x):
    return x[:1], x[1:]

@allocating
@inlined
def twice(x):
    return 2.0 * x

@inlined
def last_of_twice(x):
    return twice(x)[1]

@kernel("kernel that frees what others hold")
def first(x):
    return halves(x)[0][0]

@kernel("kernel that frees nothing")
def second(x):
    return last_of_twice(x)

@inlined
def last_of_halves(x):
    return halves(x)[1][0]

@allocating
@inlined
def last(x):
    return twice(x)[1]

@kernel("kernel without a fault")
def both(x):
    return last_of_halves(x) + last(x)
"""
BITS = """
import hashlib, sys
import numpy as np
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.statistics import sum_statistics
random = np.random.default_rng(0)
X, means = random.normal(size=(5000, 5)), random.normal(size=(3, 5))
kind = sys.argv[1]
covariances = {
    "full": np.stack([np.eye(5)] * 3), "tied": np.eye(5), "diag": np.ones((3, 5)),
    "spherical": np.ones(3),
}[kind]
parameters = MixtureParameters.from_covariances(kind, np.full(3, 1 / 3), means, covariances)
sums = sum_statistics(parameters, X)
assigned = assign(parameters, X, responsibilities=True)
arrays = (
    sums.counts, sums.residual_sums, sums.residual_products, np.array(sums.log_likelihood),
    assigned.log_densities, assigned.responsibilities,
)
print(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest())
"""
ALLOCATIONS = """
import warnings
import numpy as np
from numba.core.runtime import rtsys
from gmm_dask import GaussianMixture
random = np.random.default_rng(0)

def fit(kind, rows, d, k, dtype):
    X = 30.0 * random.integers(0, k, (rows, 1)) + random.normal(size=(rows, d))
    mixture = GaussianMixture(k, covariance_type=kind, random_state=0, max_iter=3)
    mixture.fit(X.astype(dtype)).predict(X.astype(dtype))

def fit_all():
    for kind in ("full", "tied", "diag", "spherical"):
        for dtype in ("f4", "f8"):
            fit(kind, 300, 3, 2, dtype)  # the search of small samples
            fit(kind, 5000, 3, 2, dtype)
            fit(kind, 9000, 2, 70, dtype)  # bundles of rows
            fit(kind, 600, 130, 2, dtype)  # row-major passes

warnings.simplefilter("ignore")  # fits that are stopped say so
fit_all()
before = rtsys.get_allocation_stats()
fit_all()
after = rtsys.get_allocation_stats()
print(after.alloc > before.alloc, after.alloc - before.alloc == after.free - before.free,
      after.mi_alloc - before.mi_alloc == after.mi_free - before.mi_free)
"""
STATISTICS = "INFO compiling the statistics kernel of the spherical covariance"
COMPILING = f"{STATISTICS}, once per installation"


def environment(**changes):
    """The environment of a process that writes no bytecode and knows only the given caches."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "XDG_"))
    }
    given = {name: str(value) for name, value in changes.items()}
    # The package under test, behind what a test puts before it.
    places = [given.pop("PYTHONPATH", ""), str(Path(gmm_dask.__file__).parent.parent)]
    path = os.pathsep.join(filter(None, places))
    return {**inherited, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": path, **given}


def start(code, **changes):
    return subprocess.Popen(
        [sys.executable, "-P", "-W", "error", "-c", code],
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines_of(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.splitlines()


def run(code, **changes):
    return lines_of(start(code, **changes))


@pytest.fixture
def small(tmp_path):
    """A module of one kernel, in a directory that can be written."""
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "small.py").write_text(KERNEL)
    return folder


@pytest.fixture
def package(tmp_path):
    """A copy of the package, in which nothing can be written beside the kernels."""
    folder = tmp_path / "installed"
    source = Path(gmm_dask.__file__).parent
    shutil.copytree(
        source, folder / "gmm_dask", ignore=shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc")
    )
    # A file in place of the directory stops even root, as whom tests run in a container.
    for name in ("covariance", "kernels"):
        (folder / f"gmm_dask/mixture/{name}/__pycache__").write_text("")
    return folder


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("first", "lost.halves returns arrays to lost.first"),
        ("second", "lost.twice returns arrays to lost.last_of_twice"),
    ],
)
def test_parts_whose_arrays_would_be_freed_twice_or_never_are_refused(tmp_path, name, parts):
    (tmp_path / "lost.py").write_text(LOST)
    places = {"PYTHONPATH": tmp_path, "NUMBA_CACHE_DIR": tmp_path / "cache"}
    for _ in range(2):  # what was refused was not kept
        process = start(f"import numpy, lost; lost.{name}(numpy.ones(2))", **places)
        _, error = process.communicate(timeout=120)
        assert process.returncode == 1
        assert f"TypeError: {parts}" in error.splitlines()[-1]
    assert run("import numpy, lost; print(lost.both(numpy.ones(2)))", **places) == ["3.0"]


def test_kernels_free_what_they_allocate():
    assert run(ALLOCATIONS, NUMBA_NRT_STATS="1") == ["True True True"]


def test_one_of_the_processes_that_start_together_compiles_and_all_are_right(tmp_path):
    processes = [start(FIT, NUMBA_CACHE_DIR=tmp_path) for _ in range(3)]
    outputs = [lines_of(process) for process in processes]
    assert [output[-1] for output in outputs] == ["counts [30. 10.]"] * 3
    assert sum(COMPILING in output for output in outputs) == 1
    assert run(FIT, NUMBA_CACHE_DIR=tmp_path) == ["counts [30. 10.]"]  # nothing is compiled


def test_a_read_only_installation_keeps_its_code_in_the_users_cache(package, tmp_path):
    home = tmp_path / "cache"
    first = run(FIT, PYTHONPATH=package, XDG_CACHE_HOME=home)
    assert first == [COMPILING, "counts [30. 10.]"]
    assert list(home.rglob("*.nbc"))
    assert run(FIT, PYTHONPATH=package, XDG_CACHE_HOME=home) == ["counts [30. 10.]"]
    # A kernel consists of functions from several files: a change in any of them is noticed.
    tile = package / "gmm_dask/mixture/kernels/tiles.py"
    tile.write_text(tile.read_text() + "\n# a new version\n")
    assert run(FIT, PYTHONPATH=package, XDG_CACHE_HOME=home) == first


def test_kernels_work_without_a_cache_where_nothing_can_be_written(package, tmp_path):
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    output = run(FIT, PYTHONPATH=package, XDG_CACHE_HOME=nowhere, NUMBA_CACHE_DIR=nowhere / "x")
    assert output == [
        f"{STATISTICS} for this process only: no cache directory can be written; "
        "set NUMBA_CACHE_DIR to one",
        "counts [30. 10.]",
    ]


def flip_a_bit(content):
    """Return the content with one bit changed, of what the compiled function does."""
    place = content.index(b"\x7fELF") + 64  # the first instruction
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("ending", "damage"),
    [
        ("nbi", lambda content: b""),
        ("nbi", lambda content: content[:20]),
        ("nbc", lambda content: b""),
        ("nbc", lambda content: content[:500]),
        ("nbc", flip_a_bit),
    ],
    ids=["no index", "half an index", "no code", "half of the code", "another instruction"],
)
def test_a_damaged_cache_is_replaced(small, tmp_path, ending, damage):
    places = {"PYTHONPATH": small, "NUMBA_CACHE_DIR": tmp_path / "cache"}
    announced = ["INFO compiling the kernel of one line, once per installation", "result 42.0"]
    assert run(SMALL, **places) == announced
    (file,) = (tmp_path / "cache").rglob(f"*.{ending}")
    file.write_bytes(damage(file.read_bytes()))
    first, *rest = run(SMALL, **places)
    assert first.startswith(f"WARNING compiled code in {file.parent} cannot be read: ")
    assert rest == announced
    assert run(SMALL, **places) == ["result 42.0"]


def test_an_index_that_can_neither_be_read_nor_replaced_is_done_without(small, tmp_path):
    places = {"PYTHONPATH": small, "NUMBA_CACHE_DIR": tmp_path / "cache"}
    run(SMALL, **places)
    (index,) = (tmp_path / "cache").rglob("*.nbi")
    index.unlink()
    index.mkdir()
    unread, announced, unkept, result = run(SMALL, **places)
    assert unread.startswith(f"WARNING compiled code in {index.parent} cannot be read: ")
    assert announced.startswith("INFO compiling the kernel of one line")
    assert unkept.startswith(f"WARNING compiled code cannot be kept in {index.parent}: ")
    assert result == "result 42.0"


def test_the_lock_of_the_cache_neither_follows_a_link_nor_waits_for_a_pipe(small, tmp_path):
    places = {"PYTHONPATH": small, "NUMBA_CACHE_DIR": tmp_path / "cache"}
    run(SMALL, **places)
    (lock,) = (tmp_path / "cache").rglob("*.lock")
    lock.unlink()
    lock.symlink_to(tmp_path / "new")
    assert run(SMALL, **places) == ["result 42.0"]
    assert not (tmp_path / "new").exists()
    lock.unlink()
    os.mkfifo(lock)
    assert run(SMALL, **places) == ["result 42.0"]


def test_a_full_disk_is_a_warning(small, tmp_path):
    places = {"PYTHONPATH": small, "NUMBA_CACHE_DIR": tmp_path / "cache"}
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    ignoring = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    announced, warned, result = run(ignoring + limited + SMALL, **places)
    assert announced.startswith("INFO compiling the kernel of one line")
    assert warned.startswith("WARNING compiled code cannot be kept in ")
    assert result == "result 42.0"


def test_cached_code_is_loaded_without_the_parts_of_numba_that_only_compile(small, tmp_path):
    """They take longer to import than all kernels of a fit to load."""
    (small / "small.py").write_text(MEDIAN)
    path = os.pathsep.join([str(small), str(Path(gmm_dask.__file__).parents[1])])
    places = {"PYTHONPATH": path, "NUMBA_CACHE_DIR": tmp_path / "cache"}
    code = SMALL + "print({'numba.np.arrayobj', 'numba.np.arraymath'} & set(sys.modules))"
    assert len(run(code, **places)) == 3
    assert run(code, **places) == ["result 42.0", "set()"]


def test_each_processor_has_its_own_cache(small, tmp_path):
    places = {"PYTHONPATH": small, "NUMBA_CACHE_DIR": tmp_path / "cache"}
    assert len(run(SMALL, **places)) == 2
    # Two processors that share a home: the other must neither load nor overwrite this code.
    assert len(run(SMALL, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", **places)) == 2
    assert len(list((tmp_path / "cache").rglob("*.nbc"))) == 2
    assert run(SMALL, **places) == ["result 42.0"]


@pytest.mark.slow
@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_the_compiling_process_and_later_ones_give_the_same_bits(covariance_type, tmp_path):
    first, second = (
        subprocess.run(
            [sys.executable, "-W", "error", "-c", BITS, covariance_type],
            env=environment(NUMBA_CACHE_DIR=tmp_path),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    )
    assert first == second


def test_every_part_of_a_kernel_is_where_the_cache_looks_for_changes():
    """A change of a part in another folder would not lead to a new compilation."""
    package = Path(gmm_dask.__file__).parent
    users = {
        path.parent
        for path in package.rglob("*.py")
        if re.search(r"^@(inlined|exact|emitted|kernel)\b|emitted\(", path.read_text(), re.M)
    }
    assert users
    assert users <= set(SOURCES)
