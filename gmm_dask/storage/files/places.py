"""The places of a prediction dataset: the output as it was named, and the paths beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gmm_dask.addresses import local_path, resolved
from gmm_dask.errors import StorageError
from gmm_dask.storage.files.atomic import link_in_the_making
from gmm_dask.storage.files.pointers import LinkPointer
from gmm_dask.storage.files.versions import Versions

_LONGEST_NAME = 255  # bytes of a file name, on every file system in use


@dataclass(frozen=True)
class PredictionPlaces:
    """The paths of a prediction dataset; made by `of`.

    Attributes
    ----------
    out
        The link to the current version, which readers open; an absolute path.
    """

    out: Path

    @classmethod
    def of(cls, output: str | Path) -> PredictionPlaces:
        """Find the places of an output; links above it are followed, the output's own link is not.

        The paths are absolute, so they stay valid when the working directory changes.

        Raises
        ------
        ConfigError
            The output is not a local path.
        """
        path = local_path(output)
        if path.name in ("", ".."):
            return cls(resolved(path))
        return cls(resolved(path.parent) / path.name)

    @property
    def versions(self) -> Path:
        """Directory ``OUT.versions``, with the versions and their records."""
        return self.out.parent / f"{self.out.name}.versions"

    @property
    def lock(self) -> Path:
        """Lock file ``.OUT.lock``, held while a run writes."""
        return self.out.parent / f".{self.out.name}.lock"

    @property
    def store(self) -> Versions:
        """Versions and pointer of the dataset."""
        pointer = LinkPointer(self.out, self.versions)
        return Versions(self.versions, pointer, self.lock, f"prediction dataset {self.out}")

    def current_run(self) -> str | None:
        """Return the id of the run whose version ``OUT`` links to; None if ``OUT`` does not exist.

        Raises
        ------
        StorageError
            ``OUT`` is a file, a directory, or a link that gmm-dask did not make; or its name is
            too long for the names made from it, which otherwise fails only at the end of the run.
        """
        surplus = len(os.fsencode(link_in_the_making(self.out).name)) - _LONGEST_NAME
        if surplus > 0:
            raise StorageError(
                f"{self.out}: the name is {surplus} bytes too long for the names that are made "
                "from it; choose a shorter one"
            )
        pointer = self.store.pointer()
        return None if pointer is None else pointer.content.decode()
