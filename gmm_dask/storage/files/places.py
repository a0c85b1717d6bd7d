"""Where a prediction dataset lies: the output as it was named, and what stands around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gmm_dask.storage.files.pointers import LinkPointer
from gmm_dask.storage.files.versions import Versions


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
        """
        path = Path(output)
        if path.name in ("", ".."):
            return cls(path.resolve())
        return cls(path.parent.resolve() / path.name)

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
            ``OUT`` is a file, a directory, or a link that gmm-dask did not make.
        """
        pointer = self.store.pointer()
        return None if pointer is None else pointer.content.decode()
