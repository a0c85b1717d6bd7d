"""Where a prediction dataset lies: the output as it was named, and what stands around it."""

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
    """The places around a prediction output; make it with `of`.

    Attributes
    ----------
    out
        What readers open: a link to the current version. An absolute path.
    """

    out: Path

    @classmethod
    def of(cls, output: str | Path) -> PredictionPlaces:
        """Find the place of a name: links on the way are followed, one of the name itself is not.

        So it stays where it was meant when the working directory changes.

        Raises
        ------
        ConfigError
            It is not a local path.
        """
        path = local_path(output)
        if path.name in ("", ".."):
            return cls(resolved(path))
        return cls(resolved(path.parent) / path.name)

    @property
    def versions(self) -> Path:
        """``OUT.versions``: the versions, each beside its record."""
        return self.out.parent / f"{self.out.name}.versions"

    @property
    def lock(self) -> Path:
        """``.OUT.lock``, held while a run writes."""
        return self.out.parent / f".{self.out.name}.lock"

    @property
    def store(self) -> Versions:
        """Versions and pointer."""
        pointer = LinkPointer(self.out, self.versions)
        return Versions(self.versions, pointer, self.lock, f"prediction dataset {self.out}")

    def current_run(self) -> str | None:
        """Id of the run whose version ``OUT`` leads to; None if there is none yet.

        Raises
        ------
        StorageError
            ``OUT`` is a file, a directory, or a link that gmm-dask did not make; or its name is
            too long for those around it, which would be noticed at the end of the run only.
        """
        surplus = len(os.fsencode(link_in_the_making(self.out).name)) - _LONGEST_NAME
        if surplus > 0:
            raise StorageError(
                f"{self.out}: the name is {surplus} bytes too long for the names that are made "
                "from it; choose a shorter one"
            )
        pointer = self.store.pointer()
        return None if pointer is None else pointer.content.decode()
