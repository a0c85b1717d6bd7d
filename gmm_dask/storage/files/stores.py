"""Requests to an object store: read, list, copy, delete, and the conditional puts.

A conditional put either creates an object (``If-None-Match: *``) or replaces exactly the one that
was read (``If-Match``); of writers that race, one wins. The store answers 412 where the condition
does not hold, 409 where another request was under way, and 404 where the object to replace is
gone; and an answer may be lost although the put was done. All of these are settled in one way: the
object is read back. If it holds what was to be written, the put was done. If it is what was
expected, nothing has happened yet, and the put is tried again. Otherwise somebody else has won.

Credentials, endpoint and region come from the environment of each process, by the usual variables
(``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, …); only addresses travel between processes.
"""

from __future__ import annotations

import io
import os
import random
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gmm_dask.addresses import ObjectAddress, without_credentials
from gmm_dask.errors import ConflictError, StorageError
from gmm_dask.storage.files.sealed import LARGEST_DOCUMENT
from gmm_dask.storage.files.store_errors import is_open, remedy_of, store_errors

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from typing_extensions import Buffer

#: Requests that one process has under way at once.
REQUESTS = 16

_ATTEMPTS = 8  # at a conditional put that fails although the object is as expected
_PIECE = 16 << 20  # bytes; larger objects are uploaded in pieces


@dataclass(frozen=True)
class Tag:
    """What tells an object from those that had its key before: its etag, and on GCS a number."""

    etag: str | None
    version: str | None

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Tag:
        """Return the tag in an answer of the client."""
        return cls(meta.get("e_tag"), meta.get("version"))

    @property
    def condition(self) -> dict[str, str]:
        """The tag as the client takes it, for a put that replaces the object."""
        values = {"e_tag": self.etag, "version": self.version}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Entry:
    """An object that a listing shows: its size in bytes, its tag, and when it was written."""

    size: int
    tag: Tag
    written: float


@lru_cache(maxsize=16)
def _client(bucket: str) -> ObjectStore:
    """Return the client of a bucket, made once in a process from its environment."""
    from obstore.store import from_url

    endpoint, options = "", dict[str, Any]()
    if bucket.startswith("s3://"):
        endpoint = _check_environment()
        options = {"endpoint": endpoint} if endpoint else {}
    return from_url(
        bucket,
        # http only where the endpoint says so itself.
        client_options={
            "allow_http": endpoint.startswith("http://") or _says_yes("AWS_ALLOW_HTTP"),
            "connect_timeout": "5s",
            "timeout": "180s",
        },
        retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=60)},
        **options,
    )


def _check_environment() -> str:
    """Refuse values on which the client would panic; return the endpoint, or an empty text."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"):
        value = os.environ.get(name, "")
        if not value.isprintable() or value != value.strip():
            raise StorageError(f"{name} in the environment has blanks or line breaks; remove them")
    name = "AWS_ENDPOINT_URL_S3" if os.environ.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"
    endpoint = os.environ.get(name, "")
    if endpoint and not re.fullmatch(
        r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:\d+)?/?", endpoint
    ):
        raise StorageError(
            f"{name} = {without_credentials(endpoint)} in the environment is no endpoint; write "
            "https://HOST or http://HOST:PORT"
        )
    return endpoint.rstrip("/")


def _says_yes(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")


def forget_clients() -> None:
    """Make clients again at the next request, from what the environment says then."""
    _client.cache_clear()


def find(
    address: ObjectAddress, largest: int = LARGEST_DOCUMENT, kind: type[StorageError] = StorageError
) -> tuple[bytes, Tag] | None:
    """Return the content and the tag of an object; None if it does not exist.

    Raises
    ------
    StorageError
        (of the class ``kind``) It cannot be read, or has more than ``largest`` bytes.
    """
    import obstore

    with store_errors(address, "cannot be read", kind):
        try:
            answer = obstore.get(_client(address.bucket), address.key)
        except FileNotFoundError as error:
            if remedy_of(str(error)) is not None:  # of the bucket, not of the object
                raise
            return None
        if answer.meta["size"] > largest:
            raise kind(f"{address}: is larger than any of its kind; gmm-dask did not write it")
        return bytes(answer.bytes()), Tag.of(answer.meta)


def look_up(address: ObjectAddress) -> Entry | None:
    """Return what the store says of an object, unread; None if it does not exist."""
    import obstore

    with store_errors(address, "cannot be read"):
        try:
            return _entry(obstore.head(_client(address.bucket), address.key))
        except FileNotFoundError as error:
            if remedy_of(str(error)) is not None:
                raise
            return None


def put(address: ObjectAddress, content: Buffer) -> Tag:
    """Write an object under a key of this writer's own, in pieces where it is large."""
    import obstore

    with store_errors(address, "cannot be written"):
        client = _client(address.bucket)
        body = io.BytesIO(content)
        return Tag.of(obstore.put(client, address.key, body, chunk_size=_PIECE, max_concurrency=4))


def put_if(address: ObjectAddress, content: Buffer, expected: Tag | None) -> Tag:
    """Create an object, or replace exactly the one that was read; return its new tag.

    Parameters
    ----------
    expected
        Tag of the object to replace; None: there must be none.

    Raises
    ------
    ConflictError
        Another object is there, or none where one was expected; it stays.
    StorageError
        The store refuses, or does not answer.
    """
    import obstore
    from obstore.exceptions import BaseError

    written = bytes(content)
    mode: Any = "create" if expected is None else expected.condition
    with store_errors(address, "cannot be written"):
        for attempt in range(_ATTEMPTS):
            try:
                client = _client(address.bucket)
                return Tag.of(
                    obstore.put(client, address.key, written, mode=mode, use_multipart=False)
                )
            except (BaseError, FileNotFoundError) as error:
                if not is_open(str(error)) or attempt == _ATTEMPTS - 1:
                    raise
            stored = find(address, largest=max(LARGEST_DOCUMENT, len(written)))
            if stored is not None and stored[0] == written:
                return stored[1]
            if (None if stored is None else stored[1]) != expected:
                raise ConflictError(
                    f"{address}: was changed by somebody else in the meantime; "
                    "check what it says now, and run again"
                )
            time.sleep(random.uniform(0.5, 1.0) * min(0.05 * 2**attempt, 2.0))
    raise AssertionError("the last attempt returns or raises")


def names_under(address: ObjectAddress) -> tuple[list[str], dict[str, float]]:
    """Return the names of the folders and of the objects directly below an address: one listing.

    Of the objects also when they were written, in seconds since 1970.
    """
    import obstore

    with store_errors(address, "cannot be read"):
        prefix = f"{address.key}/" if address.key else ""
        answer = obstore.list_with_delimiter(_client(address.bucket), prefix)
        folders = [path.rstrip("/").rpartition("/")[2] for path in answer["common_prefixes"]]
        return folders, {
            meta["path"].rpartition("/")[2]: _entry(meta).written for meta in answer["objects"]
        }


def entries_under(address: ObjectAddress) -> dict[str, Entry]:
    """Return all objects below an address, by the rest of their keys."""
    import obstore

    with store_errors(address, "cannot be read"):
        prefix = f"{address.key}/"
        return {
            meta["path"].removeprefix(prefix): _entry(meta)
            for page in obstore.list(_client(address.bucket), prefix)
            for meta in page
        }


def delete(address: ObjectAddress) -> None:
    """Delete an object; does nothing without one."""
    import obstore

    with store_errors(address, "cannot be removed"):
        try:
            obstore.delete(_client(address.bucket), address.key)
        except FileNotFoundError as error:
            if remedy_of(str(error)) is not None:
                raise


def copy(source: ObjectAddress, target: ObjectAddress) -> None:
    """Copy an object within its bucket, without reading it."""
    import obstore

    with store_errors(source, "cannot be copied"):
        obstore.copy(_client(source.bucket), source.key, target.key)


def at_once(function: Any, *arguments: Sequence[Any]) -> list[Any]:
    """Call a function for each argument, with many requests under way at once."""
    with ThreadPoolExecutor(REQUESTS) as pool:
        return list(pool.map(function, *arguments))


class ObjectFile(io.RawIOBase):
    """An object that is read like a file, piece by piece."""

    def __init__(self, address: ObjectAddress, size: int) -> None:
        self.address = address
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """Return True: the object can be read."""
        return True

    def seekable(self) -> bool:
        """Return True: reading may begin anywhere."""
        return True

    def tell(self) -> int:
        """Return the position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position, relative to beginning, position or end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readall(self) -> bytes:
        """Read the rest in one request; as inherited, it would take one for each 8 KiB."""
        rest = bytearray(max(self._size - self._position, 0))
        return bytes(memoryview(rest)[: self.readinto(rest)])

    def readinto(self, buffer: Buffer, /) -> int:
        """Read as many bytes as there are and fit."""
        import obstore

        view = memoryview(buffer).cast("B")
        length = min(len(view), self._size - self._position)
        if length <= 0:
            return 0
        with store_errors(self.address, "cannot be read"):
            client = _client(self.address.bucket)
            piece = obstore.get_range(client, self.address.key, start=self._position, length=length)
        view[: len(piece)] = memoryview(piece)
        self._position += len(piece)
        return len(piece)


def check_store(address: ObjectAddress, name: str) -> None:
    """Test what a store must be able to do, before hours go into its content.

    An object is created, then created and replaced on conditions that do not hold, and deleted.

    Parameters
    ----------
    name
        Of the object, which nobody else uses.

    Raises
    ------
    StorageError
        Credentials, bucket, region or endpoint are wrong, a permission is lacking, or the store
        does not know conditional puts.
    """
    probe = address / name
    put_if(probe, b"can this be written?", None)
    try:
        for expected in (None, Tag('"00000000000000000000000000000000"', "1")):
            try:
                put_if(probe, b"is a condition heeded?", expected)
            except ConflictError:
                continue
            raise StorageError(
                f"{address}: the store does not heed the conditions of a put (If-None-Match, "
                "If-Match), so two runs could destroy each other's work; upgrade it, or use another"
            )
    finally:
        delete(probe)


def delete_all(folder: ObjectAddress, names: Iterable[str]) -> None:
    """Delete objects below an address, as many as the store takes in a request."""
    import obstore

    keys = [(folder / name).key for name in names]
    if keys:
        with store_errors(folder, "cannot be removed"):
            obstore.delete(_client(folder.bucket), keys)


def _entry(meta: Mapping[str, Any]) -> Entry:
    return Entry(meta["size"], Tag.of(meta), meta["last_modified"].timestamp())
