"""
Larger than memory
==================

A fit needs the rows one chunk at a time, and keeps only sums (:doc:`em_in_one_dimension` shows
which). So the same code fits a table in memory, a folder of Parquet that no memory could hold, and
the same folder on many workers. The parameters have the same bits wherever they were computed.
"""

# %%
# A folder of Parquet
# -------------------
#
# Eight files of a quarter of a million rows. Make ``ROWS`` as large as your disk allows: nothing
# below changes but the time it takes.

import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gmm_dask import GaussianMixture, load_model, read_parquet
from gmm_dask.report.palette import component_colors

ROWS, FILES = 250_000, 8
folder = tempfile.TemporaryDirectory()
work = Path(folder.name)
(work / "sensors").mkdir()

random = np.random.default_rng(0)
for number in range(FILES):
    day = random.random(ROWS) < 0.6
    temperature = np.where(day, random.normal(24, 3, ROWS), random.normal(12, 2, ROWS))
    humidity = np.where(day, 90 - 1.5 * temperature, 80) + random.normal(0, 4, ROWS)
    pressure = random.normal(1013, 6, ROWS)
    table = pa.table({"temperature": temperature, "humidity": humidity, "pressure": pressure})
    pq.write_table(table, work / "sensors" / f"{number}.parquet", row_group_size=125_000)

# %%
# Lazily, on the threads of this process
# --------------------------------------
#
# :func:`~gmm_dask.read_parquet` reads the footers of the files only. ``fit`` reads the rows, chunk
# by chunk, and forgets them; ``scans_`` says how often.

COLUMNS = ["temperature", "humidity", "pressure"]
X = read_parquet(work / "sensors", columns=COLUMNS)
print(X)
gm = GaussianMixture(n_components=2, random_state=0).fit(X)
print("scans:", gm.scans_)
print("weights:", gm.weights_.round(3))
print("means:")
print(gm.means_.round(2))

# %%
# Predictions of lazy rows are lazy: dask computes what is asked for. Here two numbers come back,
# not two million labels.

labels = gm.predict(X)
print([int((labels == component).sum().compute()) for component in range(2)])

rows = X[:4000].compute()
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
shares = gm.predict_proba(X)[:4000].compute()
axes.scatter(rows[:, 0], rows[:, 1], c=np.clip(shares @ component_colors(range(2)), 0, 1), s=5)
axes.set(xlabel="temperature", ylabel="humidity", title="the first rows, by their responsibilities")
axes.spines[["top", "right"]].set_visible(False)

# %%
# How much memory?
# ----------------
#
# The peak of a process that fits one file, and of one that fits all eight:

PROGRAM = """
import resource, sys
from gmm_dask import GaussianMixture, read_parquet
X = read_parquet(sys.argv[1], columns=sys.argv[2:])
GaussianMixture(n_components=2, random_state=0).fit(X)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
for files in ("sensors/0.parquet", "sensors"):
    command = [sys.executable, "-c", PROGRAM, str(work / files), *COLUMNS]
    peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(f"{files}: {peak.strip()} MiB")

# %%
# Eight times the rows, but not eight times the memory: chunks come and go, and the sample of the
# search has 65,536 rows whatever the size of the data. Most of it are the libraries themselves.

# %%
# On workers
# ----------
#
# A run file says *what* to fit, a cluster file *where*. This one starts two worker processes;
# others name a running scheduler or ask Slurm for jobs (:doc:`/clusters`).

(work / "run.toml").write_text("""
[input]
path = "sensors"
columns = ["temperature", "humidity", "pressure"]

[model]
n_components = 2

[output]
name = "sensors"
predictions = "predictions"
""")
(work / "cluster.toml").write_text("""
[cluster]
kind = "local"
workers = 2
memory_limit = "2GiB"
""")


def gmm_dask(*arguments):
    """Run the command as in a shell, and show what it prints."""
    command = [sys.executable, "-m", "gmm_dask.pipelines", *arguments]
    done = subprocess.run(command, cwd=work, check=True, capture_output=True, text=True)
    print(done.stdout)


gmm_dask("fit", "run.toml", "--direct", "--cluster", "cluster.toml")

# %%
# The same mixture, to the last bit:

on_workers = load_model(work / "models" / "sensors")
assert np.array_equal(on_workers.means_, gm.means_)
assert np.array_equal(on_workers.covariances_, gm.covariances_)
print("equal")

# %%
# In Python, a ``distributed.Client`` does the same: ``gm.fit(X, client=client)``.
#
# And the predictions: one row for each row of the input, as Parquet, published whole.

gmm_dask("predict", "run.toml", "--direct", "--cluster", "cluster.toml")
predictions = pq.read_table(work / "predictions")
print(predictions.num_rows, predictions.column_names)

folder.cleanup()
