"""How long the command takes before and around the work: ``python benchmarks/startup.py``.

The fit of a thousand rows, as a new process each time, in turns:

- `gmm-dask --help`, and `python -c pass` for comparison;
- `gmm-dask list`, and `predict --direct` of a model that is new each time;
- `fit --direct`: the same steps without Prefect. The steps alone take the seconds given in the
  title (measured in this process, imports and compiled kernels loaded); the rest is start-up;
- an embedded Prefect server with its database in a new directory, and again in the same one;
- a Prefect server that runs already, on loopback.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from measuring import in_turns, print_machine, print_table, spread, write_parquet
from pipeline import fit_ours, run_file

BIN = Path(sys.executable).parent
ROWS = 1_000


def call(command: Sequence[str], **environment: str) -> None:
    """Run a command to its end; what it prints is shown only when it fails.

    Bytecode is kept, as it is wherever a package is installed.
    """
    inherited = {
        key: value
        for key, value in os.environ.items()
        if "PREFECT" not in key and key != "PYTHONDONTWRITEBYTECODE"
    }
    done = subprocess.run(command, env=inherited | environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def write_run_file(root: Path) -> Path:
    """The run file of `pipeline.run_file`, as TOML."""
    run = run_file(root)
    path = root / "run.toml"
    path.write_text(
        f"[input]\npath = {run.input.path!r}\ncolumns = {run.input.columns!r}\n"
        f"[model]\nn_components = {run.model.n_components}\n"
        f"[output]\nmodels = {run.output.models!r}\nname = {run.output.name!r}\n"
        f"predictions = {str(root / 'predictions')!r}\n"
    )
    return path


@contextmanager
def server(home: Path) -> Iterator[str]:
    """A Prefect server of our own; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [BIN / "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "log").open("w") as log:
        running = subprocess.Popen(
            command, env=os.environ | settings, stdout=log, stderr=log, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}/api"
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise SystemExit((home / "log").read_text()) from None
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(running.pid, signal.SIGINT)
        running.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_parquet(root / "rows", ROWS)
        path = str(write_run_file(root))
        command = [str(BIN / "gmm-dask"), "fit", path]
        fit_ours(run_file(root))
        steps = in_turns(options.repetitions, {"steps": lambda: fit_ours(run_file(root))})
        work, cpu = (float(np.median(one)) for one in (steps["steps"].wall, steps["steps"].cpu))
        homes = (root / f"prefect-{number}" for number in range(options.repetitions))
        known, served = root / "known", root / "served"
        served.mkdir()
        call(command, PREFECT_HOME=str(known))
        with server(served) as address:
            times = in_turns(
                options.repetitions,
                {
                    "python -c pass": lambda: call([sys.executable, "-c", "pass"]),
                    "gmm-dask --help": lambda: call([str(BIN / "gmm-dask"), "--help"]),
                    "gmm-dask list": lambda: call([command[0], "list", f"{root}/models"]),
                    "fit --direct": lambda: call([*command, "--direct"]),
                    "predict --direct": lambda: call([command[0], "predict", path, "--direct"]),
                    "fit, a running server": lambda: call(
                        command, PREFECT_HOME=str(served), PREFECT_API_URL=address
                    ),
                    "fit, embedded server": lambda: call(command, PREFECT_HOME=str(known)),
                    "fit, embedded server, new database": lambda: call(
                        command, PREFECT_HOME=str(next(homes))
                    ),
                },
            )
    lines = [
        (
            name,
            spread(one.wall),
            f"{np.median(one.wall) - work:.2f}" if name.startswith("fit") else "",
            f"{np.median(one.cpu):.2f}",
            f"{np.median(one.cpu) - cpu:.2f}" if name.startswith("fit") else "",
        )
        for name, one in times.items()
    ]
    title = f"Fit of {ROWS:,} × 8, k = 8; the steps alone take {work:.2f} s, CPU {cpu:.2f} s"
    print_table(title, ("", "s", "less the steps", "CPU s", "less the steps"), lines)


if __name__ == "__main__":
    main()
