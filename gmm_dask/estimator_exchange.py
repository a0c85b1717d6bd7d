"""Methods of `GaussianMixture` that exchange fitted mixtures with scikit-learn's own class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from gmm_dask.errors import ConfigError
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.transforms import Transforms

ARRAYS = ("weights_", "means_", "covariances_", "precisions_cholesky_")
#: What a fit says of itself. A mixture that somebody put together by hand may have none of it.
HISTORY = ("converged_", "n_iter_", "lower_bound_", "lower_bounds_")
FEATURES = ("n_features_in_", "feature_names_in_")


class ExchangeMixin:
    """A fitted mixture as scikit-learn's, and scikit-learn's as ours."""

    n_features_in_: int

    if TYPE_CHECKING:  # what it needs of the estimator

        def _take_parameters(self, parameters: MixtureParameters) -> None: ...
        def _fitted_transforms(self) -> Transforms | None: ...

    def _take_features(self, other: ExchangeMixin) -> None:
        """Take number and names of the features from a mixture that has seen the same rows."""
        for name in FEATURES:
            if hasattr(other, name):
                setattr(self, name, getattr(other, name))

    def to_sklearn(self) -> Any:
        """Return the fitted mixture as a `sklearn.mixture.GaussianMixture`.

        Whatever takes scikit-learn's models takes it, and a pickle of it does not need gmm-dask. It
        has copies of the parameters, and of the keywords and attributes that scikit-learn knows.
        Its `predict`, `score_samples`, `aic` and `bic` are equal to rounding; scikit-learn rounds
        more where rows are far from the origin on the scale of their spread.

        Raises
        ------
        NotFittedError
            There is no mixture yet.
        ConfigError
            ``n_components`` or ``covariance_type`` were set after the fit, or the mixture has
            transforms, which scikit-learn's has not.

        Examples
        --------
        >>> import numpy as np
        >>> from gmm_dask import GaussianMixture
        >>> X = np.array([[0.0], [1.0], [8.0], [9.0]])
        >>> gm = GaussianMixture(2, random_state=0).fit(X)
        >>> model = gm.to_sklearn()
        >>> type(model)
        <class 'sklearn.mixture._gaussian_mixture.GaussianMixture'>
        >>> bool(abs(model.bic(X) - gm.bic(X)) < 1e-9)
        True
        """
        from sklearn.mixture import GaussianMixture

        _require_fitted(self)
        if self._fitted_transforms() is not None:
            raise ConfigError(
                "this mixture has transforms of its features, which scikit-learn's has not: it "
                "would take natural units for transformed ones; put the transform into a "
                "sklearn.pipeline.Pipeline before a mixture that is fitted to transformed rows"
            )
        model = GaussianMixture(**_keywords(self, GaussianMixture))
        for name in (*ARRAYS, "precisions_", *HISTORY, *FEATURES):
            if hasattr(self, name):
                setattr(model, name, _copy(getattr(self, name)))
        return model

    @classmethod
    def from_sklearn(cls, model: Any) -> Self:
        """Make a fitted mixture from a fitted `sklearn.mixture.GaussianMixture`.

        It has the parameters, keywords and attributes of the model, and its `predict`,
        `score_samples`, `aic` and `bic` are equal to rounding. Parameters in float32, which
        a newer scikit-learn fits to rows in float32, become float64 without a change; from them
        scikit-learn itself computes in float32, to about six digits.

        Parameters
        ----------
        model
            Is not changed, and shares nothing with the result. The parameters may have been set
            by hand instead of fitted.

        Raises
        ------
        NotFittedError
            The model is not fitted: a parameter is missing.
        ConfigError
            It is another kind of model, the shapes of its parameters do not fit its
            ``n_components`` and ``covariance_type``, or they describe no mixture.

        Examples
        --------
        >>> from sklearn.mixture import GaussianMixture as Theirs
        >>> from gmm_dask import GaussianMixture
        >>> model = Theirs(2, random_state=0).fit([[0.0], [1.0], [8.0], [9.0]])
        >>> gm = GaussianMixture.from_sklearn(model)
        >>> bool((gm.predict([[0.5], [8.5]]) == model.predict([[0.5], [8.5]])).all())
        True
        """
        from sklearn.mixture import GaussianMixture

        if not isinstance(model, GaussianMixture):
            kind = model if isinstance(model, type) else type(model)
            raise ConfigError(
                "from_sklearn takes a fitted sklearn.mixture.GaussianMixture, not "
                f"{'the class ' if kind is model else ''}{kind.__module__}.{kind.__qualname__}"
            )
        _require_fitted(model)
        mixture = cls(**_keywords(model, cls))
        parameters = _parameters_of(model)
        mixture._take_parameters(parameters)
        mixture.n_features_in_ = parameters.n_features
        for name in (*HISTORY, "feature_names_in_"):
            if hasattr(model, name):
                setattr(mixture, name, _copy(getattr(model, name)))
        return mixture


def _require_fitted(model: Any) -> None:
    """Refuse a model without parameters, or with those of other keywords than it has."""
    check_is_fitted(model, ARRAYS)
    k, d = model.n_components, np.shape(model.means_)[-1]
    covariance = COVARIANCE_TYPES[model.covariance_type].shape(k, d)
    for name, expected in zip(ARRAYS, ((k,), (k, d), covariance, covariance), strict=True):
        shape = np.shape(getattr(model, name))
        if shape != expected:
            raise ConfigError(
                f"{name} has the shape {shape}, but {k} {model.covariance_type} components of {d} "
                f"features have {expected}: set n_components and covariance_type as they were in "
                "the fit, or fit again"
            )


def _keywords(model: Any, kind: type) -> dict[str, Any]:
    """Return copies of a model's keywords, those that another kind of model has too."""
    known = kind().get_params(deep=False)
    keywords = clone(model).get_params(deep=False)
    return {name: value for name, value in keywords.items() if name in known}


def _parameters_of(model: Any) -> MixtureParameters:
    """Return the parameters of scikit-learn's model; its factors decide, as in its predictions."""
    arrays = [np.array(getattr(model, name), np.float64, order="C") for name in ARRAYS]
    parameters = MixtureParameters(model.covariance_type, *arrays)
    weights, means, _, factors = arrays
    covariance = parameters.covariance
    with np.errstate(all="ignore"):
        determinants = covariance.log_determinants(factors, *means.shape)
    finite = all(np.isfinite(array).all() for array in (*arrays, determinants))
    if not finite or (weights < 0.0).any():
        raise ConfigError(
            "the model's parameters describe no mixture: weights_ must be 0 or more, the diagonal "
            "of precisions_cholesky_ above 0, and all of them finite; fit it again"
        )
    if covariance.factor_form not in ("full", "tied") or not np.tril(factors, -1).any():
        return parameters
    # Set by hand: scikit-learn takes lower factors too, but our kernels take upper ones alone.
    if np.triu(factors, 1).any():
        raise ConfigError(
            "precisions_cholesky_ of the model are no triangular matrices; take those of "
            "numpy.linalg.cholesky(precisions_)"
        )
    precisions = covariance.precisions(factors)
    return MixtureParameters.from_precisions(model.covariance_type, weights, means, precisions)


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray | list) else value
