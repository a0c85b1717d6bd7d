"""Transforms of features: Gaussians in the log of a price are log-normals in the price.

A mixture with transforms has its parameters in *model units*: those of y = T(x). Its densities are
in *natural units*, those of x: p(x) = p(y) · dy/dx, a factor for each feature that is transformed.
So densities, likelihoods and criteria of models with different transforms can be compared.

=============  ==========================  ==================  ================================
name           y                           values of x         log dy/dx, by y
=============  ==========================  ==================  ================================
log            log x                       above 0             −y
log1p          log(1 + x)                  above −1            −y
asinh          log(x + √(x² + 1))          all                 −log cosh y
sqrt           √x                          above 0             −log 2y
logit          log(x / (1 − x))            between 0 and 1     2 log(2 cosh(y/2))
standardise    (x − center) / scale        all                 −log scale
=============  ==========================  ==================  ================================

At 0 the slope of the square root is infinite, so a row there would have an infinite density: 0 is
refused. Center and scale of ``standardise`` are mean and standard deviation of the rows of the
fit; before the survey they are not known, and the transform is *pending*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import TRANSFORM_NAMES
from gmm_dask.printable import spread

#: The open interval of the values that a transform is defined for.
_DOMAINS = {
    "log": (0.0, np.inf),
    "log1p": (-1.0, np.inf),
    "asinh": (-np.inf, np.inf),
    "sqrt": (0.0, np.inf),
    "logit": (0.0, 1.0),
    "standardise": (-np.inf, np.inf),
}


@dataclass(frozen=True)
class Transform:
    """The transform of a feature.

    Attributes
    ----------
    name
        One of `TRANSFORM_NAMES`.
    center, scale
        Of ``standardise`` once they are known, else None.
    """

    name: str
    center: float | None = None
    scale: float | None = None

    @property
    def pending(self) -> bool:
        """Whether center and scale are not known yet; values then stay as they are."""
        return self.name == "standardise" and self.scale is None

    @property
    def domain(self) -> tuple[float, float]:
        """The open interval of the values that it is defined for."""
        return _DOMAINS[self.name]

    def forward(self, x: npt.ArrayLike) -> FloatArray:
        """Return y of x; both may have any shape."""
        x = np.asarray(x, dtype=np.float64)
        if self.name == "log":
            return np.log(x)
        if self.name == "log1p":
            return np.log1p(x)
        if self.name == "asinh":
            return np.arcsinh(x)
        if self.name == "sqrt":
            return np.sqrt(x)
        if self.name == "logit":
            return np.log(x) - np.log1p(-x)
        if self.center is None or self.scale is None:
            return x
        return (x - self.center) / self.scale

    def inverse(self, y: npt.ArrayLike) -> FloatArray:
        """Return x of y. No x has a square root below 0; of such a y it is 0."""
        y = np.asarray(y, dtype=np.float64)
        with np.errstate(over="ignore"):
            if self.name == "log":
                return np.exp(y)
            if self.name == "log1p":
                return np.expm1(y)
            if self.name == "asinh":
                return np.sinh(y)
            if self.name == "sqrt":
                return np.square(np.maximum(y, 0.0))
            if self.name == "logit":
                return 1.0 / (1.0 + np.exp(-y))
        if self.center is None or self.scale is None:
            return y
        return y * self.scale + self.center

    def log_slope(self, y: npt.ArrayLike) -> FloatArray:
        """Return log dy/dx, nats, at y."""
        y = np.asarray(y, dtype=np.float64)
        if self.name in ("log", "log1p"):
            return -y
        if self.name == "sqrt":
            return -np.log(2.0 * y)
        if self.name in ("asinh", "logit"):
            size = np.abs(y)
            if self.name == "logit":
                return size + 2.0 * np.log1p(np.exp(-size))
            return np.log(2.0) - size - np.log1p(np.exp(-2.0 * size))
        return np.full_like(y, 0.0 if self.scale is None else -np.log(self.scale))

    def spread(self, mean: float, deviation: float) -> str:
        """Write a component's mean and deviation in y for a person, in natural units.

        The mean of y becomes the median of x. Its deviation becomes the interval of x between
        the two ends of it, which is not symmetric: 12.3 (8.1 to 18.6).
        """
        if self.name == "standardise":
            scale = 1.0 if self.scale is None else self.scale
            return spread(float(self.inverse(mean)), deviation * scale)
        ends = self.inverse([mean - deviation, mean, mean + deviation]).tolist()
        low, middle, high = map(_three_digits, ends)
        return f"{middle} ({low} to {high})"

    def label(self, column: str) -> str:
        """Name the values of a column after the transform: log1p(price)."""
        return f"{self.name}({column})"


@dataclass(frozen=True)
class Transforms:
    """The transforms of d features.

    Attributes
    ----------
    by_feature
        The transform of each feature, or None, (d,); at least one is not None.
    """

    by_feature: tuple[Transform | None, ...]

    @classmethod
    def of(cls, columns: Sequence[Any], names: Mapping[Any, str]) -> Transforms | None:
        """Make the transforms from their names by column; None if there are none."""
        if not names:
            return None
        chosen = (names.get(column) for column in columns)
        return cls(tuple(None if name is None else Transform(name) for name in chosen))

    def to_json(self) -> list[dict[str, Any] | None]:
        """Return the transforms in JSON form, which keeps every bit; `from_json` reads it back."""
        return [None if item is None else {**vars(item)} for item in self.by_feature]

    @classmethod
    def from_json(cls, content: Sequence[Mapping[str, Any] | None]) -> Transforms:
        """Read what `to_json` wrote.

        Raises
        ------
        ValueError, TypeError
            The content is something else.
        """
        transforms = tuple(None if item is None else Transform(**item) for item in content)
        for transform in transforms:
            if transform is not None and transform.name not in TRANSFORM_NAMES:
                raise ValueError(f"transform {transform.name!r} is not known")
        return cls(transforms)

    @property
    def pending(self) -> bool:
        """Whether the rows must be surveyed before the transforms are known."""
        return any(transform is not None and transform.pending for transform in self.by_feature)

    @property
    def names(self) -> tuple[str | None, ...]:
        """Name of each feature's transform, (d,)."""
        return tuple(transform.name if transform else None for transform in self.by_feature)

    def settled(self, mean: FloatArray, deviation: FloatArray) -> Transforms:
        """Return the transforms with what was pending put in; a constant is only centred.

        Parameters
        ----------
        mean, deviation
            Mean and standard deviation of each feature, (d,).
        """
        return Transforms(
            tuple(
                replace(transform, center=float(middle), scale=float(spread) or 1.0)
                if transform is not None and transform.pending
                else transform
                for transform, middle, spread in zip(self.by_feature, mean, deviation, strict=True)
            )
        )

    def apply(self, values: RowsArray, done: Transforms | None = None) -> RowsArray:
        """Return the values after the transforms, (m, d) feature-major, of the same type.

        Parameters
        ----------
        values
            (m, d), inside the domains (`outside`) or NaN.
        done
            Transforms that the values have had already (`extends`).
        """
        columns = np.array(values.T, order="C")  # (d, m), a copy
        for feature, transform in self.missing(done):
            columns[feature] = transform.forward(columns[feature])
        return columns.T

    def outside(
        self, values: RowsArray, done: Transforms | None = None
    ) -> tuple[int, npt.NDArray[np.bool_]] | None:
        """Find values outside of the domains: the first such feature, and its mask, (m,).

        Infinities at the open end of a domain are not outside; nulls never are.
        """
        for feature, transform in self.missing(done):
            low, high = transform.domain
            column = values[:, feature]
            outside = np.zeros(len(column), dtype=np.bool_)
            if np.isfinite(low):
                outside |= column <= low
            if np.isfinite(high):
                outside |= column >= high
            if outside.any():
                return feature, outside
        return None

    def scales(self, done: Transforms | None = None) -> FloatArray:
        """Return by what values that had ``done`` are still divided to be standardised, (d,)."""
        scales = np.ones(len(self.by_feature))
        for feature, transform in self.missing(done):
            scales[feature] = transform.scale or 1.0
        return scales

    def extends(self, done: Transforms | None) -> bool:
        """Whether values that have had the transforms ``done`` lack only what was pending."""
        if done is None:
            return True
        return all(
            before is None or before.pending or before == transform
            for before, transform in zip(done.by_feature, self.by_feature, strict=True)
        )

    def missing(self, done: Transforms | None) -> list[tuple[int, Transform]]:
        """Return feature and transform of what values that have had ``done`` still lack."""
        before = (None,) * len(self.by_feature) if done is None else done.by_feature
        return [
            (feature, transform)
            for feature, transform in enumerate(self.by_feature)
            if transform is not None and not transform.pending and transform != before[feature]
        ]

    def inverse(self, values: RowsArray) -> FloatArray:
        """Return values in natural units of values in model units, (…, d)."""
        natural = np.array(values, dtype=np.float64)
        for feature, transform in enumerate(self.by_feature):
            if transform is not None:
                natural[..., feature] = transform.inverse(natural[..., feature])
        return natural

    def log_slopes(self, values: RowsArray) -> FloatArray:
        """Return Σ log dy/dx over the features of each row, nats, (m,), by values in model units.

        Added to the log-density of y it is that of x. A feature that a row lacks adds nothing.
        """
        slopes = np.zeros(values.shape[0])
        for feature, transform in enumerate(self.by_feature):
            if transform is not None:
                column = values[:, feature]
                slopes += np.where(np.isnan(column), 0.0, transform.log_slope(column))
        return slopes

    def steepest(self, means: FloatArray, deviations: FloatArray) -> FloatArray:
        """Return a bound of `log_slopes` within four deviations of each component's mean, (k,).

        Parameters
        ----------
        means, deviations
            Of the components, (k, d).
        """
        bounds = np.zeros(len(means))
        for feature, transform in enumerate(self.by_feature):
            if transform is not None:
                mean, deviation = means[:, feature], deviations[:, feature]
                low, high = mean - 4.0 * deviation, mean + 4.0 * deviation
                places = np.stack([low, np.clip(0.0, low, high), high])  # asinh is steepest at 0
                if transform.name == "sqrt":  # √x is above 0
                    places = np.maximum(places, np.maximum(1e-3 * deviation, 1e-150))
                bounds += transform.log_slope(places).max(axis=0)
        return bounds

    def words(self, columns: Sequence[str]) -> str:
        """Say which columns are transformed: price = log1p, weight = standardise."""
        named = zip(columns, self.names, strict=True)
        return ", ".join(f"{column} = {name}" for column, name in named if name is not None)

    def labels(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Name the features in model units: log1p(price)."""
        return tuple(
            column if transform is None else transform.label(column)
            for column, transform in zip(columns, self.by_feature, strict=True)
        )


def _three_digits(value: float) -> str:
    """Write a number to three digits: 0.0475, 12.3, 1,810."""
    if 1e3 <= abs(value) < 1e6:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def convert_units(
    parameters: MixtureParameters, before: Transforms | None, after: Transforms | None
) -> MixtureParameters | None:
    """Return a mixture in the model units of other transforms; None where it has no such form.

    It has one where no more than center and scale differ. The covariances of the result are full.
    """
    d = parameters.n_features
    nothing = (None,) * d
    pairs = zip(
        before.by_feature if before else nothing,
        after.by_feature if after else nothing,
        strict=True,
    )
    center, scale = np.zeros(d), np.ones(d)
    for feature, (old, new) in enumerate(pairs):
        if old == new:
            continue
        affine = all(item is None or item.name == "standardise" for item in (old, new))
        if not affine:
            return None
        first, second = (item or Transform("standardise", 0.0, 1.0) for item in (old, new))
        assert first.center is not None
        assert first.scale is not None
        assert second.center is not None
        assert second.scale is not None
        scale[feature] = first.scale / second.scale
        center[feature] = (first.center - second.center) / second.scale
    return MixtureParameters.from_covariances(
        "full",
        parameters.weights,
        parameters.means * scale + center,
        parameters.matrices * scale[:, None] * scale,
    )
