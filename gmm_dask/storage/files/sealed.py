"""JSON documents that contain their sha256, so that any changed byte is noticed.

The text is canonical: each value is written in exactly one way. The last key is ``sha256``, taken
over the text without that key. It guards against damage and is not a signature: anyone who can
write the file can seal it again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gmm_dask.addresses import Place
from gmm_dask.errors import ModelError, StorageError
from gmm_dask.storage.files.atomic import open_regular, storage_error

_END = b"\n}\n"  # of a text; the seal goes before it

LARGEST_DOCUMENT = 64 << 20  # bytes; nothing that gmm-dask writes comes near

Document = dict[str, Any]


def seal(content: Mapping[str, Any]) -> bytes:
    """Return the canonical text of a document of one key or more, with its ``sha256`` added."""
    text = _text(content)
    return text.removesuffix(_END) + _seal_of(hashlib.sha256(text).hexdigest())


def digest(content: Mapping[str, Any]) -> str:
    """Return the hexadecimal sha256 of the canonical text of a document."""
    return hashlib.sha256(_text(content)).hexdigest()


def unseal(text: bytes, path: Place, kind: type[StorageError] = StorageError) -> Document:
    """Check a sealed text and return its content, without ``sha256``.

    Raises
    ------
    StorageError
        (of the class ``kind``) The text is truncated or changed; the message names ``path``.
    """
    try:
        content = json.loads(text.decode("utf-8", "surrogatepass"))
        sha256 = content.pop("sha256")
        # The bytes themselves are checked: to write the document again would take far longer.
        sealed = text.removesuffix(_seal_of(sha256))
        intact = sealed != text and hashlib.sha256(sealed + _END).hexdigest() == sha256
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        intact = False
    if not intact:
        raise kind(
            f"{path}: is damaged (truncated, or changed after it was written: its sha256 does "
            "not fit); restore it from a backup, or use another version"
        )
    return dict(content)


def sealed_digest(text: bytes) -> str:
    """Return the `digest` of the content of a text that `unseal` accepts."""
    end = len(_END) + 1
    return text[-end - 64 : -end].decode()


def read_sealed(path: Path, kind: type[StorageError] = StorageError) -> Document:
    """Read and check a sealed file; see `read_whole` and `unseal`."""
    return unseal(read_whole(path, kind), path, kind)


def read_whole(
    path: Path, kind: type[StorageError] = StorageError, largest: int = LARGEST_DOCUMENT
) -> bytes:
    """Read a file of at most ``largest`` bytes; nothing is read from a larger file.

    Raises
    ------
    StorageError
        (of the class ``kind``) The file is missing, unreadable or larger; the message names
        ``path``.
    """
    try:
        with open_regular(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
            size = os.fstat(descriptor).st_size
            if size <= largest:
                return file.read(size)
    except OSError as error:
        raise read_error(error, path, kind) from error
    raise kind(f"{path}: is larger than any file of its kind; gmm-dask did not write it")


def read_error(error: OSError, path: Path, kind: type[StorageError] = StorageError) -> StorageError:
    """Return an error of the class ``kind`` that says in one line why ``path`` was not read."""
    if isinstance(error, FileNotFoundError):
        return kind(f"{path}: is missing; restore it, or use another version")
    return kind(str(storage_error(error, path, "cannot be read")))


def plain(value: Any) -> Any:
    """Return the JSON form of a value; numpy objects become numbers and lists.

    A float that is not finite becomes null, because JSON cannot express it.

    Raises
    ------
    ModelError
        A value has no JSON form; the message names its type.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise ModelError(
        f"a manifest holds numbers, text, lists and mappings, not {type(value).__name__}"
    )


def _text(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "surrogatepass")


def _seal_of(sha256: str) -> bytes:
    """Return the last key of a sealed text, with what precedes and ends it."""
    return f',\n  "sha256": "{sha256}"'.encode() + _END
