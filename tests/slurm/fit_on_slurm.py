"""Fit on two Slurm jobs and on threads, print what was seen; fails unless the bits are equal."""

from __future__ import annotations

import logging
import time

from gmm_dask.chunked.cluster import open_executor
from gmm_dask.chunked.fit import fit
from gmm_dask.chunked.fit_records import FitOptions
from gmm_dask.chunked.scan import Executor, Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.config import Deadlines, SlurmJobs
from gmm_dask.mixture.spec import MixtureSpec
from tests.row_sources import drawn

SOURCE = drawn(40, 40_000, weighted=True)
OPTIONS = FitOptions(MixtureSpec(3), search_rows=2_000)


def digest(executor: Executor) -> str:
    return fit(Scanner(SOURCE, executor), OPTIONS).parameters.digest


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("gmm_dask").setLevel(logging.INFO)
    expected = digest(Threads(1))
    kind = SlurmJobs(kind="slurm", jobs=2, cores=1, memory="1GB", deadlines=Deadlines(connect=120))
    began = time.monotonic()
    with open_executor(kind) as executor:
        print(f"open after {time.monotonic() - began:.1f} s, {executor.threads} threads")
        found = digest(executor)
        print(f"fitted after {time.monotonic() - began:.1f} s, {executor.threads} threads")
    print("threads", expected, "slurm", found, "same bits" if found == expected else "OTHER BITS")
    assert found == expected


if __name__ == "__main__":
    main()
