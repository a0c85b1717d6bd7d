"""``current.json``: the record of which version of a model is in use."""

from __future__ import annotations

from dataclasses import dataclass

from gmm_dask.addresses import Place
from gmm_dask.errors import ModelError
from gmm_dask.storage.files.sealed import seal, unseal

CURRENT = "current.json"


@dataclass(frozen=True)
class Current:
    """The version in use, and the highest version ever put into use."""

    version: int
    published: int

    def encode(self) -> bytes:
        """Return the sealed text of the file."""
        return seal({"version": self.version, "published": self.published})

    @classmethod
    def decode(cls, text: bytes, path: Place) -> Current:
        """Decode the text of the file at ``path``; raises `ModelError` if it is damaged."""
        document = unseal(text, path, ModelError)
        try:
            return cls(int(document["version"]), int(document["published"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{path}: does not name a version; write it again with `{use_command(path.parent)}`"
            ) from error


def use_command(directory: Place) -> str:
    """Return the command that chooses a version of the model in a directory."""
    return f"gmm-dask use {directory} VERSION"
