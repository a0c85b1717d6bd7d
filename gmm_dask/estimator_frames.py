"""Methods of `GaussianMixture` that give its predictions to pipelines and as data frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from sklearn.base import TransformerMixin
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import _check_feature_names_in

from gmm_dask.errors import ConfigError

if TYPE_CHECKING:
    from gmm_dask.mixture.parameters import MixtureParameters


class FramesMixin(TransformerMixin):  # type: ignore[misc]
    """Predictions of a fitted mixture as features of a pipeline."""

    component_ids_: npt.NDArray[np.integer[Any]]  # of a published model

    if TYPE_CHECKING:  # what it needs of the estimator

        def _parameters(self) -> MixtureParameters: ...
        def predict_proba(self, X: Any) -> Any:
            """Responsibilities, (n, k)."""

    def transform(self, X: Any) -> Any:
        """Responsibilities as features: p(component | row), (n, k).

        The same as `predict_proba`, for the steps of a `sklearn.pipeline.Pipeline`. With
        ``set_output(transform="pandas")`` or ``"polars"`` the result is such a data frame, whose
        columns `get_feature_names_out` names.

        Parameters
        ----------
        X
            (n, d), whatever `predict` takes. For dask arrays and frames the result is a lazy dask
            array.

        Raises
        ------
        NotFittedError
            There is no mixture yet.
        NonFiniteError, SchemaError, ValueError
            As `predict` raises them.
        ConfigError
            X is a dask array or frame, and `set_output` asks for a data frame in memory.

        Examples
        --------
        >>> import numpy as np
        >>> from gmm_dask import GaussianMixture
        >>> X = np.random.default_rng(0).normal(size=(200, 1)) + [[0.0], [20.0]] * 100
        >>> gm = GaussianMixture(2, random_state=0).set_output(transform="pandas").fit(X)
        >>> gm.transform([[0.0], [20.0]]).round(1)
           gaussianmixture0  gaussianmixture1
        0               1.0               0.0
        1               0.0               1.0
        """
        responsibilities = self.predict_proba(X)
        if isinstance(responsibilities, da.Array):
            container = _get_output_config("transform", self)["dense"]
            if container != "default":
                raise ConfigError(
                    f"set_output(transform={container!r}) makes a data frame in memory, but X is "
                    "lazy and may not fit: compute() X first, or take set_output("
                    "transform='default') and a lazy dask array"
                )
        return responsibilities

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> Any:
        """Names of the columns that `transform` returns, (k,) str.

        They end in the number of the component: its index, or for a published model its permanent
        id.

        Parameters
        ----------
        input_features
            Names of the d features, which must be those of the fit; None: not compared.

        Raises
        ------
        NotFittedError
            There is no mixture yet.
        ValueError
            ``input_features`` are others than those of the fit.

        Examples
        --------
        >>> from gmm_dask import GaussianMixture
        >>> gm = GaussianMixture(2).fit([[0.0], [1.0], [8.0], [9.0]])
        >>> list(gm.get_feature_names_out())
        ['gaussianmixture0', 'gaussianmixture1']
        """
        numbers = self._component_ids()
        _check_feature_names_in(self, input_features, generate_names=False)
        prefix = type(self).__name__.lower()
        return np.array([f"{prefix}{number}" for number in numbers], dtype=object)

    def _component_ids(self) -> tuple[int, ...]:
        """Return the permanent id of each component, or its index where it has none, (k,)."""
        k = self._parameters().n_components
        return tuple(map(int, getattr(self, "component_ids_", range(k))))
