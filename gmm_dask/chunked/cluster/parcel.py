"""What every worker needs once, packed: the recipe of the rows, and what a scan does to them."""

from __future__ import annotations

from typing import Any

import dask

#: Bytes from which a message is sent to one worker and copied from there to the others.
LARGE = 1 << 20


class Parcel:
    """Something that every worker needs once: small, it travels with each request for it.

    Parameters
    ----------
    client
        A `distributed.Client`.
    content
        Anything that can be pickled.
    """

    def __init__(self, client: Any, content: Any) -> None:
        from distributed.protocol.pickle import dumps

        self.client = client
        self.content = dumps(content)
        self._first: Any = None

    @property
    def size(self) -> int:
        """Bytes of the packed content."""
        return len(self.content)

    def for_worker(self, address: str) -> Any:
        """Give the bytes, or the future of them on the first worker that asked."""
        if len(self.content) < LARGE:
            return self.content
        if self._first is None:
            # A task and not scattered data: if that worker dies, Dask runs it again elsewhere.
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1PiB"}):
                self._first = self.client.submit(
                    bytes,
                    self.content,
                    workers=[address],
                    allow_other_workers=True,
                    pure=False,
                )
        return self._first
