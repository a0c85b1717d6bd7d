"""The layers of DESIGN section 2 as law: imports only point down, and heavy ones are lazy."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the bottom up. A module imports from its own line and the lines above it.
LAYERS = [
    {
        "gmm_dask.addresses",
        "gmm_dask.arrays",
        "gmm_dask.errors",
        "gmm_dask.events",
        "gmm_dask.frames",
        "gmm_dask.nulls",
        "gmm_dask.printable",
    },
    {"gmm_dask.mixture.kernels", "gmm_dask.mixture.spec", "gmm_dask.mixture.threads"},
    {"gmm_dask.mixture.covariance"},
    {
        "gmm_dask.mixture.parameters",
        "gmm_dask.mixture.row_major",
        "gmm_dask.mixture.single_precision",
        "gmm_dask.mixture.sparse",
    },
    {"gmm_dask.mixture.engine"},
    {"gmm_dask.mixture"},
    {"gmm_dask.config"},
    {"gmm_dask.chunked"},
    {"gmm_dask.storage", "gmm_dask.storage.files"},
    {"gmm_dask.storage.input"},
    {"gmm_dask.storage.models"},
    {"gmm_dask.storage.predictions"},
    {"gmm_dask.report"},
    {
        "gmm_dask.estimator",
        "gmm_dask.estimator_clusters",
        "gmm_dask.estimator_criteria",
        "gmm_dask.estimator_exchange",
        "gmm_dask.estimator_frames",
        "gmm_dask.estimator_labels",
        "gmm_dask.estimator_transforms",
        "gmm_dask.estimator_values",
        "gmm_dask.input_checks",
        "gmm_dask.loading",
        "gmm_dask.selection",
        "gmm_dask.verbosity",
        "gmm_dask.versions",
        "gmm_dask.steps",
        "gmm_dask",
    },
    {"gmm_dask.pipelines"},
]
# Who may import these, by the beginning of the module's name; nobody else may.
ONLY = {
    "prefect": ("gmm_dask.pipelines",),
    "typer": ("gmm_dask.pipelines",),
    "rich": ("gmm_dask.pipelines",),
    "matplotlib": ("gmm_dask.report",),
    "PIL": ("gmm_dask.report",),
    "pyarrow": ("gmm_dask.storage",),
    "narwhals": ("gmm_dask.frames",),
    "obstore": ("gmm_dask.storage.files.stores", "gmm_dask.storage.files.store_errors"),
    "sqlglot": ("gmm_dask.storage.input.filters.sql",),
    "dask": (
        "gmm_dask.chunked",
        "gmm_dask.storage",
        "gmm_dask.estimator",
        "gmm_dask.input_checks",
        "gmm_dask.steps",
    ),
    "distributed": ("gmm_dask.chunked.cluster",),
    "dask_jobqueue": ("gmm_dask.chunked.cluster",),
    # The engine, and what asks a worker for its CPU.
    "numba": ("gmm_dask.mixture.kernels", "gmm_dask.chunked.cluster.worker"),
    "llvmlite": ("gmm_dask.mixture.kernels", "gmm_dask.chunked.cluster.worker"),
}
#: The one file that may write vector instructions by hand (DESIGN, "Cleverness and its price").
VECTORS, WHITENING = "gmm_dask.mixture.kernels.vectors", "gmm_dask.mixture.kernels.whitening"
SAYS_NOTHING = re.compile(r"utils?|helpers?|managers?|data|process(es|or)?|common|misc")

# The link gmm_dask/pipelines is not followed: its files are named by the folder that it leads to.
SOURCES = sorted(
    path for top in (ROOT / "gmm_dask", ROOT / "gmm_dask/pipelines") for path in top.rglob("*.py")
)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(module, package):
    return module == package or module.startswith(package + ".")


def layer(module):
    """The unit of LAYERS with the longest name that fits, and its number."""
    fits = [(unit, i) for i, units in enumerate(LAYERS) for unit in units if within(module, unit)]
    return max(fits, key=lambda fit: len(fit[0]), default=(None, -1))


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            # `from gmm_dask import errors` names a module by its second part.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_down_and_the_file_says_what_it_is_for(path):
    module, tree = module_name(path), ast.parse(path.read_text())
    assert (ast.get_docstring(tree) or "").splitlines(), f"{path} does not say what it is for"
    assert not SAYS_NOTHING.fullmatch(module.rpartition(".")[2]), f"{module} is no name"
    unit, own = layer(module)
    assert unit == "gmm_dask" if module == "gmm_dask" else unit not in {None, "gmm_dask"}, (
        f"{module} is in no layer: add it to LAYERS"
    )
    for name in imported(tree):
        assert layer(name)[1] <= own, f"{module} imports {name}, from a layer above it"
        allowed = ONLY.get(name.partition(".")[0])
        assert allowed is None or module.startswith(allowed), f"{module} imports {name}"
        assert not name.startswith(VECTORS) or module == WHITENING, f"{module} imports {name}"


def test_no_file_imports_itself_by_way_of_others():
    modules = {module_name(path): path for path in SOURCES}
    imports = {}
    for module, path in modules.items():
        # Of `from gmm_dask.errors import BadInput` the last part is no module.
        names = (
            name if name in modules else name.rpartition(".")[0]
            for name in imported(ast.parse(path.read_text()))
        )
        imports[module] = {name for name in names if name in modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as circle:
        pytest.fail(" imports ".join(reversed(circle.args[1])))


HEAVY = {
    "numpy",
    "scipy",
    "numba",
    "dask",
    "pyarrow",
    "sklearn",
    "pydantic",
    "prefect",
    "sqlglot",
    "obstore",
}


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import gmm_dask", HEAVY),
        ("import gmm_dask.pipelines.command", HEAVY),
        # A prediction makes a report, and need not wait for what draws pictures.
        ("import gmm_dask.report.page.document", {"matplotlib", "sklearn", "prefect"}),
        # Predictions and the workers of a cluster get by without.
        (
            "import gmm_dask.steps",
            {
                "sklearn",
                "matplotlib",
                "scipy.optimize",
                "dask",
                "prefect",
                "distributed",
                "sqlglot",
                "numba",
                "scipy.linalg",
            },
        ),
        # Nor does it take numba to make an estimator, or to read a model.
        (
            "import gmm_dask.estimator, gmm_dask.loading, gmm_dask.versions",
            {"numba", "llvmlite.binding"},
        ),
    ],
)
def test_heavy_imports_are_lazy(statement, heavy):
    program = f"{statement}, sys; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not heavy & set(run.stdout.split()), f"{statement} imports them"
