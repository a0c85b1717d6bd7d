"""Parcels: the source of rows and the work of a scan, pickled once for all workers."""

from __future__ import annotations

from typing import Any

import dask

#: Bytes of its copies for all workers from which a parcel is sent to one worker and copied from
#: there to the others: of 1 MiB for four workers, of 4 KiB for a thousand.
LARGE = 4 << 20


class Parcel:
    """An object that every worker needs once, pickled.

    The bytes of a small parcel are sent to each worker. Those of a large one are sent to the first
    worker only, and the others fetch them from there.

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
        self._future: Any = None

    @property
    def size(self) -> int:
        """Bytes of the pickled content."""
        return len(self.content)

    def for_worker(self, address: str, workers: int) -> Any:
        """Return the argument to send to a worker: the bytes, or a future of them if they are many.

        ``workers`` is the number of all workers.

        The first worker for which a large parcel is asked holds its bytes.
        """
        if self._future is None and len(self.content) * max(workers, 4) < LARGE:
            return self.content
        if self._future is None:
            # A task and not scattered data: if that worker dies, Dask runs it again elsewhere.
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1PiB"}):
                self._future = self.client.submit(
                    bytes,
                    self.content,
                    workers=[address],
                    allow_other_workers=True,
                    pure=False,
                )
        return self._future
