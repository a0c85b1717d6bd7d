"""The places of a prediction dataset: the output as it was named, and the paths beside it.

On an object store there are no links. Everything lies below ``OUT/``, and readers begin at
``OUT/current.json``, which names the folder of the current version. The versions are in
``OUT/_versions/``: pyarrow, Spark and Polars skip names with ``_``, so ``OUT`` itself is never read
as a mixture of versions. (``OUT.versions`` would not do: SeaweedFS hides such names.)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gmm_dask.addresses import ObjectAddress, Place, place_of, resolved
from gmm_dask.errors import ConfigError, StorageError
from gmm_dask.storage.files.atomic import link_in_the_making
from gmm_dask.storage.files.choice import AnyVersions
from gmm_dask.storage.files.objects import ObjectVersions
from gmm_dask.storage.files.pointers import LinkPointer
from gmm_dask.storage.files.versions import Versions

CURRENT = "current.json"

_LONGEST_NAME = 255  # bytes of a file name, on every file system in use


@dataclass(frozen=True)
class PredictionPlaces:
    """The paths of a prediction dataset; made by `of`.

    Attributes
    ----------
    out
        The link to the current version, which readers open; an absolute path. On a store, the
        address below which ``current.json`` is.
    """

    out: Place

    @classmethod
    def of(cls, output: str | Place) -> PredictionPlaces:
        """Find the places of an output; links above it are followed, the output's own link is not.

        The paths are absolute, so they stay valid when the working directory changes.

        Raises
        ------
        ConfigError
            The output is no path, and no address of a store that has a key.
        """
        path = place_of(output)
        if isinstance(path, ObjectAddress):
            if not path.key:
                raise ConfigError(f"{path}: is a bucket; name a place in it: {path}/predictions")
            return cls(path)
        if path.name in ("", ".."):
            return cls(resolved(path))
        return cls(resolved(path.parent) / path.name)

    @property
    def versions(self) -> Place:
        """Directory ``OUT.versions``, with the versions and their records."""
        if isinstance(self.out, ObjectAddress):
            return self.out / "_versions"
        return self.out.parent / f"{self.out.name}.versions"

    @property
    def store(self) -> AnyVersions:
        """Versions and pointer of the dataset; the lock file is ``.OUT.lock``."""
        out, directory = self.out, self.versions
        if isinstance(out, ObjectAddress) or isinstance(directory, ObjectAddress):
            assert isinstance(out, ObjectAddress)
            assert isinstance(directory, ObjectAddress)
            return ObjectVersions(directory, out / CURRENT, names_version=True)
        lock = out.parent / f".{out.name}.lock"
        title = f"prediction dataset {out}"
        return Versions(directory, LinkPointer(out, directory), lock, title)

    def current_run(self) -> str | None:
        """Return the id of the run whose version ``OUT`` links to; None if ``OUT`` does not exist.

        Raises
        ------
        StorageError
            ``OUT`` is a file, a directory, or a link that gmm-dask did not make; or its name is
            too long for the names made from it, which otherwise fails only at the end of the run.
        """
        if isinstance(self.out, Path):
            surplus = len(os.fsencode(link_in_the_making(self.out).name)) - _LONGEST_NAME
            if surplus > 0:
                raise StorageError(
                    f"{self.out}: the name is {surplus} bytes too long for the names that are made "
                    "from it; choose a shorter one"
                )
        pointer = self.store.pointer()
        return None if pointer is None else pointer.content.decode()
