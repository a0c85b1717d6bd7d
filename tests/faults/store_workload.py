"""What the fault tests do to an object store, and a driver that kills itself doing it.

``python -m tests.faults.store_workload kill WORK ADDRESS FOLDER`` runs a workload in forked
children; the k-th child is killed by SIGKILL when the store has done its k-th request (which is
before the next one), for every k until one survives. After each, a reader says what it finds. The
client has threads, which a fork loses: only children use it.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq

from gmm_dask.addresses import Place, place_of
from gmm_dask.storage.files import objects
from gmm_dask.storage.files.choice import version_at
from gmm_dask.storage.files.places import PredictionPlaces
from tests.faults.kills import die
from tests.faults.storage_workload import Checkpoints, Models, Predictions, Workload

REQUESTS = ("put", "get", "get_range", "head", "list", "list_with_delimiter", "delete", "copy")


class PredictionsOnStore(Predictions):
    """Writes a prediction dataset of local files to a store."""

    def __init__(self, address: Place, folder: Path) -> None:
        super().__init__(folder)
        self.out = address / "out"

    def look(self) -> int | None:
        """Number of the predictions, when all rows are there and agree."""
        places = PredictionPlaces.of(self.out)
        run = places.current_run()
        if run is None:
            return None
        version = version_at(places.store.version(run).path)
        tables = []
        for name in version.names():
            with version.opened(name) as file:
                tables.append(pq.read_table(file))
        return self.number_of(pa.concat_tables(tables))


WORKLOADS: dict[str, Callable[[Place, Path], Workload]] = {
    "models": lambda address, folder: Models(address),
    "predictions": PredictionsOnStore,
    "checkpoints": lambda address, folder: Checkpoints(address),
}


def die_at(step: int) -> None:
    """Kill this process when the store has done its step-th request."""
    lock, steps = threading.Lock(), itertools.count(1)

    def counted(request: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any, **options: Any) -> Any:
            answer = request(*arguments, **options)
            with lock:
                if next(steps) == step:
                    die()
            return answer

        return ask

    for name in REQUESTS:
        setattr(obstore, name, counted(getattr(obstore, name)))


def in_child(action: Callable[[], int | None]) -> tuple[int, int | None]:
    """Do something in a forked child; returns its exit status and what it returned."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, json.dumps(action()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    return status, json.loads(said) if said else None


def kill_at_every_request(work: str, address: Place, folder: Path) -> None:
    """Print what readers found after each kill: one line of JSON for each."""
    # What the killed leave counts as abandoned at once: else each would leave the next more to do.
    objects.ABANDONED = -3600.0
    workload = WORKLOADS[work](address, folder)
    workload.prepare()
    in_child(lambda: workload.write(0))
    number: int | None = 0
    for step in itertools.count(1):
        old = number

        def write(step: int = step) -> None:
            die_at(step)
            workload.write(step)

        status, _ = in_child(write)
        read, number = in_child(workload.look)
        assert read == 0, "a reader failed"
        print(json.dumps({"step": step, "old": old, "new": step, "found": number}), flush=True)
        if not os.WIFSIGNALED(status):
            assert os.WEXITSTATUS(status) == 0
            return


def publish_many(address: Place, first: int, count: int) -> None:
    """Publish models one after the other, when a line on stdin says so."""
    workload = Models(address)
    sys.stdin.readline()
    for number in range(first, first + count):
        workload.write(number)


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        kill_at_every_request(sys.argv[2], place_of(sys.argv[3]), Path(sys.argv[4]))
    else:
        publish_many(place_of(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
