"""A fitted mixture as a directory: what it is, the bytes it becomes, and reading them back.

::

    manifest.json            what was fitted: columns, components, configuration, snapshot, ...
    parameters.safetensors   weights, means, covariances, precisions_cholesky; float64
    run.json                 when and where: version, run id, host, times; sha256 of all files
    *.png ...                files that were given along

``manifest.json`` and ``parameters.safetensors`` are the model: the same fit gives the same bytes,
on whatever day and by whatever way it was started. Everything that differs from run to run
stands in ``run.json``. No file can carry code.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from gmm_dask.arrays import FloatArray
from gmm_dask.errors import ModelError
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.storage.files.contents import Version
from gmm_dask.storage.files.sealed import Document, digest, seal
from gmm_dask.storage.models.manifest import Manifest, Publication

FORMAT = 1
MANIFEST, PARAMETERS, RUN = "manifest.json", "parameters.safetensors", "run.json"
ARRAYS = ("weights", "means", "covariances", "precisions_cholesky")

_LARGEST_HEADER = 4096  # bytes before the arrays in a parameters file; ours has about 350
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A mixture with what is known about it; the content of a model directory.

    Attributes
    ----------
    parameters
        The mixture: k components in d dimensions.
    columns
        Names of the d features, in the order of the means' columns.
    component_ids
        k permanent numbers, by which predictions name the components.
    manifest
        What the fit was and found.
    run
        Who stored it, when and where; None before it is stored.
    path
        Where it was read from; None before it is stored.

    Raises
    ------
    ModelError
        The parts do not fit together.
    """

    parameters: MixtureParameters
    columns: tuple[str, ...]
    component_ids: tuple[int, ...]
    manifest: Manifest
    run: Publication | None = None
    path: Path | None = None

    def __post_init__(self) -> None:
        k, d = self.parameters.n_components, self.parameters.n_features
        ids = tuple(int(number) for number in self.component_ids)
        if len(self.columns) != d:
            raise ModelError(f"{len(self.columns)} column names for means of {d} features")
        if len(ids) != k or len(set(ids)) != k:
            raise ModelError(f"component ids {list(ids)} are not {k} different numbers")
        object.__setattr__(self, "component_ids", ids)

    @property
    def document(self) -> Document:
        """Content of ``manifest.json``, without its seal."""
        content = safetensors.numpy.save(self._arrays)
        return {
            "format": FORMAT,
            "columns": list(self.columns),
            "component_ids": list(self.component_ids),
            "covariance_type": self.parameters.covariance_type,
            "parameters": {
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "shapes": {name: list(array.shape) for name, array in self._arrays.items()},
            },
            "manifest": self.manifest.to_json(),
        }

    @cached_property
    def sha256(self) -> str:
        """Of the model: manifest and, through it, parameters; not of the run."""
        return digest(self.document)

    @property
    def _arrays(self) -> dict[str, FloatArray]:
        return {
            name: np.ascontiguousarray(getattr(self.parameters, name), dtype=np.float64)
            for name in ARRAYS
        }

    @property
    def version(self) -> int | None:
        """Number in the registry; None if it has none."""
        return None if self.run is None else self.run.version


def model_files(model: StoredModel, extra: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Return the files of a model's directory: their content by name.

    Parameters
    ----------
    model
        What to write.
    extra
        Further files, pictures for example, by name.

    Raises
    ------
    ModelError
        A name in ``extra`` cannot be used.
    """
    document = model.document
    contents = {
        MANIFEST: seal(document),
        PARAMETERS: safetensors.numpy.save(model._arrays),
    }
    for name, content in (extra or {}).items():
        if not _FILE_NAME.fullmatch(name) or name in (*contents, RUN):
            raise ModelError(f"{name!r} cannot be the name of a file beside a model")
        contents[name] = content
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    run = {} if model.run is None else model.run.to_json()
    contents[RUN] = seal({"format": FORMAT, "model": digest(document), "run": run, "files": files})
    return contents


def read_model(version: Version) -> StoredModel:
    """Read and check a model.

    Files given along are not read: a damaged picture does not stop a prediction
    (`verify_files` looks at them).

    Raises
    ------
    ModelError
        A file is missing, truncated, changed, of a newer format, or says what cannot be; names
        the file. Nothing larger than the parameters that the manifest lists is allocated.
    """
    document = _read_document(version, MANIFEST)
    run = _read_document(version, RUN)
    sha256 = digest(document)
    if run.get("model") != sha256:
        raise ModelError(
            f"{version.path}: {RUN} and {MANIFEST} are of different models; "
            "restore both from one backup, or use another version"
        )
    with _understanding(version.path / MANIFEST, "is not the manifest of a model"):
        columns = tuple(str(name) for name in document["columns"])
        ids = tuple(int(number) for number in document["component_ids"])
        kind = str(document["covariance_type"])
        content = _read_exactly(
            version, PARAMETERS, document["parameters"],
            _expected_bytes(kind, len(ids), len(columns)) + _LARGEST_HEADER,
        )  # fmt: skip
        arrays = _arrays(version.path / PARAMETERS, content, kind, len(ids), len(columns))
        parameters = MixtureParameters(kind, **arrays)
        manifest = Manifest.from_json(document["manifest"])
    with _understanding(version.path / RUN, "does not say which run stored the model"):
        publication = Publication.from_json(run["run"]) if run["run"] else None
    model = StoredModel(parameters, columns, ids, manifest, publication, version.path)
    # What the file says, whatever bytes another version of safetensors would write.
    model.__dict__["sha256"] = sha256
    return model


def verify_files(version: Version) -> None:
    """Read every file of a model, those given along too, and check it.

    Raises
    ------
    ModelError
        A file is missing or damaged; names it.
    """
    run = _read_document(version, RUN)
    with _understanding(version.path / RUN, "does not list the files of a model"):
        for name, said in run["files"].items():
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no file name")
            _read_exactly(version, name, said, largest=said["bytes"])


def read_file(version: Version, name: str) -> bytes:
    """Read one file that was given along, and check it.

    Raises
    ------
    ModelError
        The model has no such file, or it is damaged; names it.
    """
    run = _read_document(version, RUN)
    with _understanding(version.path / RUN, "does not list the files of a model"):
        said = run["files"].get(name)
        if said is not None:
            return _read_exactly(version, name, said, largest=said["bytes"])
    raise ModelError(f"{version.path}: has no file {name}; it was stored by an older gmm-dask")


@contextmanager
def _understanding(path: Path, problem: str) -> Iterator[None]:
    """Turn what is raised by content of another form than was written into one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{path}: {problem} ({type(error).__name__}: {error}); "
            "restore it from a backup, or use another version"
        ) from error


def _read_document(version: Version, name: str) -> Document:
    """Content of a sealed file of a format that this version of gmm-dask knows."""
    document = version.document(name, ModelError)
    if document.get("format") != FORMAT:
        raise ModelError(
            f"{version.path / name}: has format {document.get('format')!r}, this version of "
            f"gmm-dask reads {FORMAT}; it was written by another version: upgrade gmm-dask"
        )
    return document


def _read_exactly(version: Version, name: str, said: Mapping[str, Any], largest: int) -> bytes:
    """Bytes of a file, only if they are as many as was said and reasonable, and the same."""
    expected, sha256 = int(said["bytes"]), str(said["sha256"])
    size = version.size(name, ModelError)
    if size != expected:
        problem = f"{size:,} bytes instead of {expected:,}"
    elif size > largest:
        problem = f"{size:,} bytes, where at most {largest:,} are possible"
    else:
        content = version.read(name, ModelError, largest)
        if hashlib.sha256(content).hexdigest() == sha256:
            return content
        problem = "its sha256 is another one"
    raise ModelError(
        f"{version.path / name}: is damaged ({problem}); "
        "restore it from a backup, or use another version"
    )


def _shapes(kind: str, k: int, d: int) -> dict[str, tuple[int, ...]]:
    if kind not in COVARIANCE_TYPES:
        raise ValueError(f"unknown covariance type {kind!r}")
    covariance = COVARIANCE_TYPES[kind].shape(k, d)
    return dict(zip(ARRAYS, ((k,), (k, d), covariance, covariance), strict=True))


def _expected_bytes(kind: str, k: int, d: int) -> int:
    total = 0
    for shape in _shapes(kind, k, d).values():
        size = 8
        for length in shape:
            size *= length
        total += size
    return total


def _arrays(path: Path, content: bytes, kind: str, k: int, d: int) -> dict[str, FloatArray]:
    """The arrays of a parameters file, of the right names, shapes, types and finite."""
    try:
        arrays = safetensors.numpy.load(content)
    except SafetensorError as error:
        raise ModelError(f"{path}: is not a parameters file ({error})") from error
    expected = _shapes(kind, k, d)
    found = {name: array.shape for name, array in arrays.items()}
    if found != expected or any(array.dtype != np.float64 for array in arrays.values()):
        raise ModelError(f"{path}: holds {found}, not float64 arrays {expected}")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ModelError(f"{path}: holds values that are not finite numbers")
    return arrays
