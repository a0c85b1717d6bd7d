"""A fitted mixture as a directory of files: writing them and reading them back.

::

    manifest.json            what was fitted: columns, components, configuration, snapshot, ...
    parameters.safetensors   weights, means, covariances, precisions_cholesky; float64
    run.json                 when and where: version, run id, host, times; sha256 of all files
    *.png ...                further files, such as pictures

``manifest.json`` and ``parameters.safetensors`` are the model: the same fit gives the same bytes,
whenever and however it was started. Everything that differs from run to run is in ``run.json``.
No file can carry code.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from gmm_dask.addresses import Place
from gmm_dask.arrays import FloatArray
from gmm_dask.errors import ModelError
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.nulls import NullPolicy
from gmm_dask.printable import spread
from gmm_dask.storage.files.choice import AnyVersion
from gmm_dask.storage.files.sealed import Document, digest, seal, sealed_digest, unseal
from gmm_dask.storage.models.manifest import Manifest, Publication

FORMAT = 1
MANIFEST, PARAMETERS, RUN = "manifest.json", "parameters.safetensors", "run.json"
ARRAYS = ("weights", "means", "covariances", "precisions_cholesky")

_LARGEST_HEADER = 4096  # bytes before the arrays in a parameters file; ours has about 350
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A mixture and what is known about it: the content of a model directory.

    Attributes
    ----------
    parameters
        The mixture: k components in d dimensions.
    columns
        Names of the d features, in the order of the means' columns.
    component_ids
        k permanent numbers, by which predictions name the components.
    manifest
        The record of the fit: its configuration and its results.
    run
        The run that stored the model, with time and host; None before it is stored.
    path
        The directory that the model was read from; None before it is stored.

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
    path: Place | None = None

    def __post_init__(self) -> None:
        k, d = self.parameters.n_components, self.parameters.n_features
        ids = tuple(int(number) for number in self.component_ids)
        if len(self.columns) != d:
            raise ModelError(f"{len(self.columns)} column names for means of {d} features")
        if len(ids) != k or len(set(ids)) != k:
            raise ModelError(f"component ids {list(ids)} are not {k} different numbers")
        object.__setattr__(self, "component_ids", ids)
        try:
            transforms = self.transforms
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"the manifest has transforms that this gmm-dask does not know ({error}); upgrade "
                "gmm-dask, or use another version"
            ) from error
        if transforms is not None and len(transforms.by_feature) != d:
            raise ModelError(f"{len(transforms.by_feature)} transforms of {d} features")
        if self.manifest.clusters is not None:
            self.manifest.clusters.tree(ids)  # raises if it is another's

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
        """Digest of the model: the manifest and, through it, the parameters; not the run."""
        return digest(self.document)

    @property
    def _arrays(self) -> dict[str, FloatArray]:
        return {
            name: np.ascontiguousarray(getattr(self.parameters, name), dtype=np.float64)
            for name in ARRAYS
        }

    @cached_property
    def transforms(self) -> Transforms | None:
        """The transforms of the features; None where the parameters are in natural units."""
        stored = self.manifest.transforms
        return None if stored is None else Transforms.from_json(stored)

    def spread(self, component: int, feature: int) -> str:
        """Write where a component lies in a feature, in natural units: 12.3 ± 4.5.

        With a transform, it is the median and the ends of one standard deviation.
        """
        mean = float(self.parameters.means[component, feature])
        deviation = float(np.sqrt(self.parameters.matrices[component, feature, feature]))
        transform = self.transforms and self.transforms.by_feature[feature]
        return transform.spread(mean, deviation) if transform else spread(mean, deviation)

    @property
    def nulls(self) -> NullPolicy:
        """How the fit treated rows that hold a null."""
        section = self.manifest.configuration.get("input", {})
        return NullPolicy(section.get("nulls", NullPolicy.ERROR))

    @property
    def version(self) -> int | None:
        """Number in the registry; None if it has none."""
        return None if self.run is None else self.run.version


def model_files(model: StoredModel, extra: Mapping[str, bytes] | None = None) -> dict[str, bytes]:
    """Return the files of a model's directory: their content by name.

    Parameters
    ----------
    model
        The model to write.
    extra
        Further files by name, such as pictures.

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


def read_model(version: AnyVersion) -> StoredModel:
    """Read and check a model.

    Further files are not read: a damaged picture does not stop a prediction (`verify_files`
    checks them).

    Raises
    ------
    ModelError
        A file is missing, truncated, changed, of a newer format, or impossible in its content;
        the message names the file. No more memory is allocated than the parameters listed in the
        manifest can take.
    """
    text = version.read(MANIFEST, ModelError)
    document = _understood(unseal(text, version.path / MANIFEST, ModelError), version, MANIFEST)
    run = _read_document(version, RUN)
    sha256 = sealed_digest(text)
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
    # From the file: another version of safetensors might write the same arrays in other bytes.
    model.__dict__["sha256"] = sha256
    return model


def verify_files(version: AnyVersion) -> None:
    """Read and check every file of a model, the further files too.

    Raises
    ------
    ModelError
        A file is missing or damaged; the message names it.
    """
    run = _read_document(version, RUN)
    with _understanding(version.path / RUN, "does not list the files of a model"):
        for name, properties in run["files"].items():
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a file name")
            _read_exactly(version, name, properties, largest=properties["bytes"])


def other_files(version: AnyVersion) -> tuple[str, ...]:
    """Return the names of the further files of a model, beside manifest and parameters.

    Raises
    ------
    ModelError
        What lists them is damaged.
    """
    run = _read_document(version, RUN)
    with _understanding(version.path / RUN, "does not list the files of a model"):
        return tuple(name for name in run["files"] if name not in (MANIFEST, PARAMETERS))


def read_file(version: AnyVersion, name: str) -> bytes:
    """Read and check one of the further files of a model.

    Raises
    ------
    ModelError
        The model has no such file, or it is damaged; the message names it.
    """
    run = _read_document(version, RUN)
    with _understanding(version.path / RUN, "does not list the files of a model"):
        properties = run["files"].get(name)
        if properties is not None:
            return _read_exactly(version, name, properties, largest=properties["bytes"])
    raise ModelError(f"{version.path}: has no file {name}; it was stored by an older gmm-dask")


@contextmanager
def _understanding(path: Place, problem: str) -> Iterator[None]:
    """Turn errors about content of an unexpected form into a `ModelError` of one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{path}: {problem} ({type(error).__name__}: {error}); "
            "restore it from a backup, or use another version"
        ) from error


def _read_document(version: AnyVersion, name: str) -> Document:
    """Return the content of a sealed file, if this version of gmm-dask knows its format."""
    return _understood(version.document(name, ModelError), version, name)


def _understood(document: Document, version: AnyVersion, name: str) -> Document:
    if document.get("format") != FORMAT:
        raise ModelError(
            f"{version.path / name}: has format {document.get('format')!r}, but this version of "
            f"gmm-dask reads {FORMAT}; another version wrote it: upgrade gmm-dask"
        )
    return document


def _read_exactly(
    version: AnyVersion, name: str, properties: Mapping[str, Any], largest: int
) -> bytes:
    """Read a file if its size and sha256 are the listed ones, and the size is plausible."""
    expected, sha256 = int(properties["bytes"]), str(properties["sha256"])
    size = version.size(name, ModelError)
    if size != expected:
        problem = f"{size:,} bytes instead of {expected:,}"
    elif size > largest:
        problem = f"{size:,} bytes, where at most {largest:,} are possible"
    else:
        content = version.read(name, ModelError, largest)
        if hashlib.sha256(content).hexdigest() == sha256:
            return content
        problem = "its sha256 differs"
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


def _arrays(path: Place, content: bytes, kind: str, k: int, d: int) -> dict[str, FloatArray]:
    """Load a parameters file, and check the arrays' names, shapes, types and finiteness."""
    try:
        arrays = safetensors.numpy.load(content)
    except SafetensorError as error:
        raise ModelError(f"{path}: is not a parameters file ({error})") from error
    expected = _shapes(kind, k, d)
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != expected or any(array.dtype != np.float64 for array in arrays.values()):
        raise ModelError(f"{path}: holds {shapes}, not float64 arrays {expected}")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ModelError(f"{path}: holds values that are not finite numbers")
    return arrays
