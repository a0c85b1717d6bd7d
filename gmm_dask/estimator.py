"""`GaussianMixture`: scikit-learn's interface to the fit that the pipelines run."""

from __future__ import annotations

import logging
import warnings
from functools import cache
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import dask.array as da
import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, DensityMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from gmm_dask.arrays import FloatArray, RowsArray
from gmm_dask.chunked.array import array_chunks, predict_array, sum_array
from gmm_dask.chunked.evaluation import LOW_DENSITY_SHARE, DensitySummary, evaluate
from gmm_dask.chunked.fit import fit
from gmm_dask.chunked.fit_records import FitOptions, FitResult
from gmm_dask.chunked.rows import MemoryChunks
from gmm_dask.chunked.scan import Executor, Scanner, group_rows
from gmm_dask.chunked.threads import Threads, available_cores
from gmm_dask.errors import ConfigError, SchemaError
from gmm_dask.mixture.assignment import Assignment, assign, sum_assignment
from gmm_dask.mixture.covariance import COVARIANCE_TYPES
from gmm_dask.mixture.criteria import aic, bic, icl
from gmm_dask.mixture.em import Status
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import (
    COVARIANCE_NAMES,
    INITIALIZATION_NAMES,
    EMOptions,
    MixtureSpec,
    Start,
)
from gmm_dask.verbosity import progress_printer

logger = logging.getLogger("gmm_dask")


class GaussianMixture(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """A Gaussian mixture fitted by expectation maximization (EM) to any number of rows.

    Every keyword of `sklearn.mixture.GaussianMixture` keeps its name, default and meaning.
    For a numpy array, methods return numpy arrays; for a dask array, lazy dask arrays.

    A fit scans the rows once for a survey, searches for a start on a sample, polishes it on all
    rows (usually 2 to 4 scans) and evaluates the result in one more. Data of up to ``search_rows``
    rows are read once and held in memory.

    Parameters
    ----------
    n_components, covariance_type, tol, reg_covar, max_iter, n_init, init_params
        As in scikit-learn. ``tol`` and ``max_iter`` apply to the iterations over all rows.
        ``n_init`` candidates are polished, all of them in the same scans. With the default
        ``init_params="kmeans"`` the search mixes kinds of starts; with any other value all starts
        are of that kind.
    weights_init, means_init, precisions_init
        First parameters; if all three are given, nothing is searched.
    random_state
        Seed of the sample and of every start.
    warm_start
        Start from the parameters of the last `fit`.
    verbose, verbose_interval
        1: print a line for each stage and every ``verbose_interval`` iterations; 2: for every
        iteration.
    search_rows
        Rows of the sample for the search; ``"auto"``: max(65,536, 50·k·d). None: no search, but
        ``n_init`` plain starts by ``init_params``, as in scikit-learn.

    Attributes
    ----------
    weights_, means_, covariances_, precisions_, precisions_cholesky_
        The parameters, shaped as in scikit-learn. The heaviest component comes first, unless
        the start was given.
    converged_, n_iter_, lower_bound_, lower_bounds_
        Whether the polish converged, its number of iterations, and the mean log-likelihood before
        its last and before each M-step, nats per row.
    log_likelihood_
        Mean log-likelihood of all rows under the final parameters, nats per row.
    low_density_threshold_
        The log-density below which 0.1 % of the rows lie, nats.
    scans_
        How many times all rows were read.
    n_features_in_, feature_names_in_
        As in scikit-learn.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(set(COVARIANCE_NAMES))],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "init_params": [StrOptions(set(INITIALIZATION_NAMES))],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "random_state": ["random_state"],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "search_rows": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"}), None],
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: npt.ArrayLike | None = None,
        means_init: npt.ArrayLike | None = None,
        precisions_init: npt.ArrayLike | None = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        search_rows: int | Literal["auto"] | None = "auto",
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.search_rows = search_rows

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, client: Any = None) -> Self:
        """Estimate the parameters.

        Parameters
        ----------
        X
            (n, d), array-like or dask array, in chunks of any size.
        sample_weight
            (n,), ≥ 0; a row of weight 2 counts as two rows.
        client
            A `distributed.Client` whose workers scan a dask array; by default threads of this
            process scan it.

        Raises
        ------
        TooFewRowsError
            Fewer rows than components.
        NonFiniteError
            X holds NaN or infinity.
        ConfigError
            ``warm_start`` is set, but the last fit had other components, features or covariances;
            or ``client`` is given for an array in memory.
        NumericalError
            EM broke down from every start.
        """
        attributes = dict(self.__dict__)
        try:
            with self._scanner(X, sample_weight, client) as scanner:
                start = self._last_parameters() if self.warm_start else ()
                before = self.lower_bound_ if start else -np.inf
                result = fit(scanner, self._options(), start=start, before=before)
                (densities,) = evaluate(scanner, [result.parameters], result.survey)
        except BaseException:
            self.__dict__.clear()  # an earlier fit is what it was, its features too
            self.__dict__.update(attributes)
            raise
        self._take_result(result, densities, scanner.scans)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, then label the same rows, (n,); one scan more than `fit`."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def predict(self, X: Any) -> Any:
        """Index of the most probable component of each row, (n,) int64."""
        if isinstance(X, da.Array):
            return predict_array(self._check_array(X), self._parameters(), "labels")
        return self._assign(X).labels.astype(np.int64)

    def predict_proba(self, X: Any) -> Any:
        """Responsibilities: p(component | row), (n, k)."""
        if isinstance(X, da.Array):
            return predict_array(self._check_array(X), self._parameters(), "responsibilities")
        return self._assign(X, responsibilities=True).responsibilities

    def score_samples(self, X: Any) -> Any:
        """Log p(x) of each row, nats, (n,)."""
        if isinstance(X, da.Array):
            return predict_array(self._check_array(X), self._parameters(), "log_densities")
        return self._assign(X).log_densities

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log p(x), nats per row; a dask array is computed at once, in one scan."""
        return float(self.score_samples(X).mean())

    def aic(self, X: Any) -> float:
        """Akaike's criterion on X; lower is better. One scan."""
        return aic(self._parameters(), self._sums(X)[0])

    def bic(self, X: Any) -> float:
        """Schwarz's criterion on X; lower is better. One scan."""
        return bic(self._parameters(), *self._sums(X)[:2])

    def icl(self, X: Any) -> float:
        """Integrated completed likelihood on X; lower is better. One scan.

        It is BIC plus twice −Σ log r of the most probable component of each row, so that it
        prefers components that are apart. R's mclust calls −1 times this ICL.
        """
        return icl(self._parameters(), *self._sums(X))

    def sample(self, n_samples: int = 1) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """Draw rows from the fitted mixture: X (n, d), grouped by component, and labels (n,)."""
        parameters = self._parameters()
        if n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least "
                "one sample."
            )
        random = check_random_state(self.random_state)
        counts = random.multinomial(n_samples, parameters.weights)  # (k,)
        lower = np.linalg.cholesky(parameters.matrices)  # (k, d, d)
        labels = np.repeat(np.arange(parameters.n_components), counts)  # (n,)
        noise = random.standard_normal((n_samples, parameters.n_features))
        X = parameters.means[labels] + np.einsum("nij,nj->ni", lower[labels], noise)  # (n, d)
        return X, labels

    @classmethod
    @cache
    def _get_param_names(cls) -> list[str]:
        """Names of the parameters; cached, as scikit-learn reads the signature for every fit."""
        names: list[str] = super()._get_param_names()
        return names

    def _sums(self, X: Any) -> tuple[float, float, float]:
        """Sum over rows: log p(x) in nats, 1, and −log r of the most probable component."""
        if isinstance(X, da.Array):
            return sum_array(self._check_array(X), self._parameters())
        return sum_assignment(self._assign(X, certainties=True))

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

    def _parameters(self) -> MixtureParameters:
        check_is_fitted(self)
        return MixtureParameters(
            self.covariance_type,
            self.weights_,
            self.means_,
            self.covariances_,
            self.precisions_cholesky_,
        )

    def _check_array(self, X: da.Array) -> da.Array:
        check_is_fitted(self)
        if X.ndim != 2 or X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {X.shape[-1] if X.ndim == 2 else X.ndim} features, but GaussianMixture "
                f"is expecting {self.n_features_in_} features as input"
            )
        return X

    def _assign(self, X: Any, **wanted: bool) -> Assignment:
        parameters = self._parameters()
        _require_numbers(X)
        rows: RowsArray = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return assign(parameters, rows, **wanted, threads=available_cores())

    def _options(self) -> FitOptions:
        seed = self.random_state
        if not isinstance(seed, Integral):
            seed = check_random_state(seed).randint(2**31)

        def as_float(array: npt.ArrayLike | None) -> FloatArray | None:
            return None if array is None else np.asarray(array, dtype=np.float64)

        start = Start(
            self.init_params,
            as_float(self.weights_init),
            as_float(self.means_init),
            as_float(self.precisions_init),
        )
        return FitOptions(
            MixtureSpec(self.n_components, self.covariance_type, self.reg_covar, start),
            EMOptions(self.tol, self.max_iter),
            self.n_init,
            int(seed),
            self.search_rows,
        )

    def _scanner(self, X: Any, sample_weight: Any, client: Any) -> Scanner:
        notify = progress_printer(self.verbose, self.verbose_interval)
        if isinstance(X, da.Array):
            from gmm_dask.storage.input.reader import source_of

            source = source_of(X) if sample_weight is None else None
            chunks = source or array_chunks(X, sample_weight)
            self._set_unnamed_features(len(chunks.columns))
            # If the number of rows was unknown, they were counted by computing every block.
            counted = source is None and any(np.isnan(X.chunks[0]))
            return Scanner(chunks, _executor(client), notify, scans=int(counted))
        if client is not None:
            raise ConfigError(
                "client is for dask arrays: an array in memory is scanned by threads here; leave "
                "it out, or give dask.array.from_array(X)"
            )
        rows = self._rows(X)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(
                sample_weight, rows, dtype=np.float64, ensure_non_negative=True
            )
        names = getattr(self, "feature_names_in_", None)
        columns = (
            tuple(f"x{number}" for number in range(rows.shape[1]))
            if names is None
            else tuple(str(name) for name in names)
        )
        chunks = MemoryChunks(rows, weights, group_rows(rows.shape[0]), columns)
        return Scanner(chunks, Threads(), notify)

    def _rows(self, X: Any) -> RowsArray:
        """Return the rows of a fit as an array; the survey checks whether they are finite."""
        if type(X) is np.ndarray and X.ndim == 2 and X.size and X.dtype in (np.float64, np.float32):
            # Nothing needs conversion, and scikit-learn's checks take longer than a small scan.
            self._set_unnamed_features(X.shape[1])
            return X
        _require_numbers(X)
        rows: RowsArray = validate_data(
            self, X, dtype=[np.float64, np.float32], ensure_all_finite=False
        )
        return rows

    def _set_unnamed_features(self, d: int) -> None:
        self.n_features_in_ = d
        if hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _take_parameters(self, parameters: MixtureParameters) -> None:
        self.weights_ = parameters.weights
        self.means_ = parameters.means
        self.covariances_ = parameters.covariances
        self.precisions_cholesky_ = parameters.precisions_cholesky
        self.precisions_ = parameters.covariance.precisions(parameters.precisions_cholesky)

    def _take_features(self, other: GaussianMixture) -> None:
        """Take number and names of the features from a mixture that has seen the same rows."""
        self._set_unnamed_features(other.n_features_in_)
        if (names := getattr(other, "feature_names_in_", None)) is not None:
            self.feature_names_in_ = names

    def _take_result(self, result: FitResult, densities: DensitySummary, scans: int) -> None:
        if hasattr(self, "component_ids_"):  # of the published model that this one was loaded from
            del self.component_ids_
        self._take_parameters(result.parameters)
        self.converged_ = result.best.status is Status.CONVERGED
        self.n_iter_ = result.best.n_iter
        self.lower_bounds_ = list(result.best.lower_bounds)
        self.lower_bound_ = result.best.log_likelihood
        self.scans_ = scans
        self.log_likelihood_ = densities.mean_log_likelihood
        self.low_density_threshold_ = densities.quantile(LOW_DENSITY_SHARE)
        for sentence in result.warnings:
            logger.warning(sentence)
        if result.best.status is Status.MAX_ITER and self.max_iter > 0:
            warnings.warn(
                f"EM did not converge in {self.max_iter} iterations over all rows. Try a larger "
                "max_iter or tol, or check for degenerate data.",
                ConvergenceWarning,
                stacklevel=3,
            )


def _require_numbers(X: Any) -> None:
    """Refuse dates and text, which numpy would turn into numbers without a word."""
    if isinstance(X, np.ndarray) and X.dtype.kind in "mMUS":
        raise SchemaError(f"X has dtype {X.dtype}; only numbers can be clustered: convert it first")


def _executor(client: Any) -> Executor:
    if client is None:
        return Threads()
    from gmm_dask.chunked.cluster import ClusterExecutor

    return ClusterExecutor(client)
