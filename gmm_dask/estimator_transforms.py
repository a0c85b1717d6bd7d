"""Transforms of `GaussianMixture`: asked for and fitted, and what a warm start goes on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gmm_dask.arrays import FloatArray
from gmm_dask.errors import ConfigError
from gmm_dask.input_checks import columns_of
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.spec import TRANSFORM_NAMES
from gmm_dask.mixture.transforms import Transforms

if TYPE_CHECKING:
    from gmm_dask.mixture.parameters import MixtureParameters


class TransformsMixin:
    """The transforms of a mixture's features, and what a warm start needs of the last fit."""

    transforms: Mapping[str | int, str] | None
    transforms_: Transforms
    warm_start: bool
    n_components: int
    covariance_type: str
    n_features_in_: int
    means_: FloatArray
    covariances_: FloatArray

    if TYPE_CHECKING:  # what it needs of the estimator

        def _parameters(self) -> MixtureParameters: ...

    def _fitted_transforms(self) -> Transforms | None:
        """Return the transforms of the fitted mixture."""
        return getattr(self, "transforms_", None)

    def _transforms_for(self, *, reset: bool) -> Transforms | None:
        """Return the transforms of the rows of a scan, once their columns are known.

        They are those of the mixture, or those asked for if this is a fit (``reset``). A fit that
        goes on with the last (``warm_start``) keeps its center and scale of ``standardise``.

        Raises
        ------
        ConfigError
            A column or a transform is unknown, or the last fit had other transforms.
        """
        last = self._fitted_transforms()
        if not reset:
            return last
        asked = self._asked_transforms()
        if not self.warm_start or not hasattr(self, "means_"):
            return asked
        if (last and last.names) != (asked and asked.names):
            raise ConfigError("warm_start: the last fit had other transforms; set warm_start=False")
        return last

    def _last_parameters(self) -> tuple[MixtureParameters, ...]:
        """Return the parameters of the last fit, or nothing before the first.

        ``n_features_in_`` must be that of the new rows: call `_scanner` first.
        """
        if not hasattr(self, "means_"):
            return ()
        k, d = self.n_components, self.n_features_in_
        shape = COVARIANCE_TYPES[self.covariance_type].shape(k, d)
        if self.means_.shape != (k, d) or self.covariances_.shape != shape:
            raise ConfigError(
                f"warm_start: the last fit left means of shape {self.means_.shape} and "
                f"covariances of shape {self.covariances_.shape}; {k} {self.covariance_type} "
                f"components of {d} features have {(k, d)} and {shape}: set warm_start=False"
            )
        return (self._parameters(),)

    def _asked_transforms(self) -> Transforms | None:
        """Check the keyword, and make the transforms; what needs a survey is pending."""
        columns, asked = columns_of(self), self.transforms or {}
        named = hasattr(self, "feature_names_in_")
        keys: Sequence[str | int] = columns if named else range(len(columns))
        for key, name in asked.items():
            if isinstance(key, bool) or key not in keys:
                known = ", ".join(columns) if named else f"none by name: 0 to {len(columns) - 1}"
                raise ConfigError(
                    f"transforms: there is no column {key!r}; the rows of this fit have {known}"
                )
            if name not in TRANSFORM_NAMES:
                raise ConfigError(
                    f"transforms: {key!r} is {name!r}; there are {', '.join(TRANSFORM_NAMES)}"
                )
        return Transforms.of(keys, asked)
