"""`GaussianMixture`: scikit-learn's interface to the fit that the pipelines run."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from functools import cache
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import dask.array as da
import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.array import array_chunks, predict_array
from gmm_dask.chunked.defects import require_usable
from gmm_dask.chunked.evaluation import LOW_DENSITY_SHARE, DensitySummary, evaluate
from gmm_dask.chunked.fit import fit
from gmm_dask.chunked.fit_records import FitOptions, FitResult
from gmm_dask.chunked.groups import cut_array
from gmm_dask.chunked.partitions import is_frame
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.threads import Threads
from gmm_dask.chunked.transforming import transform_values
from gmm_dask.errors import ConfigError
from gmm_dask.estimator_clusters import ClustersMixin
from gmm_dask.estimator_criteria import CriteriaMixin
from gmm_dask.estimator_exchange import ExchangeMixin
from gmm_dask.estimator_frames import FramesMixin
from gmm_dask.estimator_labels import LabelsMixin, labels_in_memory
from gmm_dask.estimator_transforms import TransformsMixin
from gmm_dask.estimator_values import ValuesMixin
from gmm_dask.frames import refuse_text_in
from gmm_dask.input_checks import columns_of, executor_of, lazy_array, rows_in_memory, unit_of
from gmm_dask.mixture.assignment import Assignment, assign
from gmm_dask.mixture.em import Status
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import (
    COLLAPSE_NAMES,
    COVARIANCE_NAMES,
    INITIALIZATION_NAMES,
    LEAST_LABEL_WEIGHT,
    EMOptions,
    MixtureSpec,
    Start,
)
from gmm_dask.mixture.threads import available_cores
from gmm_dask.nulls import NullPolicy
from gmm_dask.verbosity import progress_printer

logger = logging.getLogger("gmm_dask")


class GaussianMixture(
    ClustersMixin,
    CriteriaMixin,
    FramesMixin,
    LabelsMixin,
    ExchangeMixin,
    TransformsMixin,
    ValuesMixin,
    BaseEstimator,  # type: ignore[misc]
):
    """A Gaussian mixture fitted by expectation maximization (EM) to any number of rows.

    Every keyword of `sklearn.mixture.GaussianMixture` keeps its name, default and meaning.
    Rows are array-like, a data frame of pandas, polars or pyarrow, a dask array, or a dask data
    frame. For rows in memory, methods return numpy arrays; for dask's, lazy dask arrays. The
    columns of a data frame, and of the array that `read_parquet` returns, count by name: other
    names, or the same in another order, are refused by a prediction, as scikit-learn does.

    A fit scans the rows once for a survey, searches for a start on a sample and polishes it on all
    rows, usually in 2 or 3 scans, of which the last evaluates the result. Data of up to
    ``search_rows`` rows are read once and held in memory.

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
    on_collapse
        ``"replace"``: a component that collapses or starves is placed again, three times at the
        most, where the density is lowest; each time costs a scan. ``"report"``: it is only named.
    nulls
        ``"error"`` refuses NaN and nulls; ``"marginalize"`` lets each row count by the features it
        has, as is right where values are missing at random. A row without any value is no part of
        a fit; its label is −1, and the rest of its prediction NaN.
    transforms
        Transforms of features, by the name of the column, or by its index where rows have no
        names: ``{"price": "log1p"}``. There are ``"log"``, ``"log1p"``, ``"asinh"``, ``"sqrt"``,
        ``"logit"`` and ``"standardise"``, by mean and standard deviation of the rows
        (`gmm_dask.mixture.transforms`). Every method takes rows in natural units. Means and
        covariances are those of transformed rows; log-densities and criteria are in natural
        units, so that models with different transforms can be compared.
    components_per_label
        A number makes the fit semi-supervised: ``fit`` takes labels of some rows as ``y``, and
        each label owns that many components; the others are free. None, the default: ``y`` is not
        used, as in scikit-learn's mixtures, whose pipelines and searches pass it to every step.
    least_label_weight
        Labelled rows that a component needs to have a label (`predict_labels`).

    Attributes
    ----------
    weights_, means_, covariances_, precisions_, precisions_cholesky_
        The parameters, shaped as in scikit-learn; float64, also for float32 rows. The heaviest
        component comes first, unless the start was given.
    converged_, n_iter_, lower_bound_, lower_bounds_
        Whether the polish converged, its number of M-steps, and the mean log-likelihood of its
        last and of each E-step, nats per row. A searched fit that has converged ends with an
        E-step, and ``lower_bound_`` is that of the parameters; from a given start an M-step
        follows, as in scikit-learn.
    log_likelihood_
        Mean log-likelihood of all rows under the final parameters, nats per row.
    low_density_threshold_
        The log-density below which 0.1 % of the complete rows lie, nats; NaN without any.
    scans_
        How many times all rows were read.
    transforms_
        The transforms, if there are. ``transforms_.inverse(means_)`` are centres in natural units.
    n_features_in_, feature_names_in_
        As in scikit-learn.
    merge_tree_
        Which components make one cluster; only after `merge_components`.
    component_labels_
        Label of each component, with its confidence and the counts of labelled rows; only after a
        fit with labels or `label_components`.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions(set(COVARIANCE_NAMES))],
        "tol": [Interval(Real, 0.0, None, closed="left")],
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "on_collapse": [StrOptions(set(COLLAPSE_NAMES))],
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
        "nulls": [StrOptions({"error", "marginalize"})],
        "transforms": [Mapping, None],
        "components_per_label": [Interval(Integral, 1, None, closed="left"), None],
        "least_label_weight": [Interval(Real, 0.0, None, closed="left")],
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
        on_collapse: str = "report",
        nulls: Literal["error", "marginalize"] = "error",
        transforms: Mapping[str | int, str] | None = None,
        components_per_label: int | None = None,
        least_label_weight: float = LEAST_LABEL_WEIGHT,
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
        self.on_collapse = on_collapse
        self.nulls = nulls
        self.transforms = transforms
        self.components_per_label = components_per_label
        self.least_label_weight = least_label_weight

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, client: Any = None) -> Self:
        """Estimate the parameters.

        Parameters
        ----------
        X
            (n, d), array-like or data frame; or a dask array or data frame, in chunks or
            partitions of any size. Each scan reads one after the other, never all. Where dask
            does not know how many rows they have, they are counted first, which is one scan more
            (of one column, where a data frame's source can read that alone).
        y
            Used only with ``components_per_label``: (n,), the label of each row, as text, integers
            or booleans; −1, None and NaN are no label. For dask's rows as ``sample_weight``.
        sample_weight
            (n,), ≥ 0; a row of weight 2 counts as two rows. For dask's rows also a dask array or a
            column of a dask data frame, in the same partitions.
        client
            A `distributed.Client` whose workers scan a dask array or data frame; by default threads
            of this process scan it.

        Raises
        ------
        TooFewRowsError
            Fewer rows than components.
        NonFiniteError
            X holds infinity, or nulls or NaN that ``nulls`` refuses; the message says where.
        SchemaError
            A column holds no numbers, or two have the same name; or the weights do not fit.
        InputError
            X is shuffled or rechunked by messages between workers.
        ConfigError
            ``warm_start`` is set, but the last fit had other components, features or covariances;
            or ``client`` is given for rows in memory.
        NumericalError
            EM broke down from every start.
        """
        attributes = dict(self.__dict__)
        try:
            y = self._labels_to_fit(y)
            with self._scanner(X, sample_weight, client, y) as scanner:
                start = self._last_parameters() if self.warm_start else ()
                before = getattr(self, "lower_bound_", -np.inf) if start else -np.inf
                result = fit(scanner, self._options(), start=start, before=before)
                (densities,) = evaluate(
                    scanner, [result.parameters], result.survey, known=result.evaluated
                )
        except BaseException:
            self.__dict__.clear()  # an earlier fit is what it was, its features too
            self.__dict__.update(attributes)
            raise
        self._take_result(result, densities, scanner.scans)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit, then label the same rows, (n,); one scan more than `fit`."""
        return self.fit(X, y, sample_weight=sample_weight).predict(X)

    def predict(self, X: Any) -> Any:
        """Index of the most probable component of each row, (n,) int64."""
        return self._predict(X, "labels")

    def predict_proba(self, X: Any) -> Any:
        """Responsibilities: p(component | row), (n, k)."""
        return self._predict(X, "responsibilities")

    def score_samples(self, X: Any) -> Any:
        """Log p(x) of each row, nats, (n,)."""
        return self._predict(X, "log_densities")

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log p(x), nats per row; dask's rows are computed at once, in one scan."""
        densities = self.score_samples(X)
        if self._nulls is NullPolicy.ERROR:
            return float(densities.mean())
        lazy = isinstance(densities, da.Array)  # a row without any value says nothing
        return float(da.nanmean(densities) if lazy else np.nanmean(densities))

    @classmethod
    @cache
    def _get_param_names(cls) -> list[str]:
        """Names of the parameters; cached, as scikit-learn reads the signature for every fit."""
        names: list[str] = super()._get_param_names()
        return names

    def _parameters(self) -> MixtureParameters:
        check_is_fitted(self)
        return MixtureParameters(
            self.covariance_type,
            self.weights_,
            self.means_,
            self.covariances_,
            self.precisions_cholesky_,
        )

    def _predict(self, X: Any, what: str) -> Any:
        """Predict what `predict_array` names: lazily for what is lazy, else at once."""
        parameters = self._parameters()
        array = lazy_array(self, X, reset=False)
        if array is not None:
            rules = self._nulls, self._fitted_transforms()
            return predict_array(array, parameters, what, columns_of(self), unit_of(X), *rules)
        predicted = getattr(self._assign(X, responsibilities=what == "responsibilities"), what)
        return predicted.astype(np.int64) if what == "labels" else predicted

    def _assign(self, X: Any, **wanted: Any) -> Assignment:
        wanted |= {"transforms": self._fitted_transforms(), "threads": available_cores()}
        rows = rows_in_memory(self, X, reset=False)
        rows = transform_values(rows, wanted["transforms"], columns_of(self), "row {:,}".format)
        assigned = assign(self._parameters(), rows, **wanted)
        if not assigned.finite:
            require_usable(rows, columns_of(self), self._nulls, "row {:,}".format)
        return assigned

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
            EMOptions(self.tol, self.max_iter, self.on_collapse),
            self.n_init,
            int(seed),
            self.search_rows,
            self._nulls,
            self.components_per_label,
        )

    def _scanner(
        self, X: Any, sample_weight: Any, client: Any = None, y: Any = None, *, reset: bool = True
    ) -> Scanner:
        notify = progress_printer(self.verbose, self.verbose_interval)
        array = lazy_array(self, X, reset=reset, scheduler=client)
        if array is not None:
            from gmm_dask.storage.input.reader import source_to_fit

            source = source_to_fit(array, sample_weight, y)
            names = columns_of(self)
            chunks = source or array_chunks(
                array, sample_weight, names, unit_of(X), scheduler=client, labels=y
            )
            # Rows of an unknown number were counted.
            counted = int(source is None and (is_frame(X) or any(np.isnan(X.chunks[0]))))
            transforms = self._transforms_for(reset=reset)
            executor = executor_of(client)
            return Scanner(chunks, executor, notify, scans=counted, transforms=transforms)
        if client is not None:
            raise ConfigError(
                "client is for dask arrays and frames: rows in memory are scanned by threads here; "
                "leave it out, or give dask.array.from_array(X)"
            )
        rows = rows_in_memory(self, X, reset=reset)
        weights = None
        if sample_weight is not None:
            refuse_text_in(np.asarray(sample_weight), "sample_weight")
            weights = _check_sample_weight(
                sample_weight, rows, dtype=np.float64, ensure_non_negative=True
            )
        row_labels = None if y is None else labels_in_memory(y, len(rows))
        chunks = cut_array(rows, weights, columns_of(self), row_labels)
        return Scanner(chunks, Threads(), notify, transforms=self._transforms_for(reset=reset))

    def _take_parameters(self, parameters: MixtureParameters) -> None:
        self.weights_ = parameters.weights
        self.means_ = parameters.means
        self.covariances_ = parameters.covariances
        self.precisions_cholesky_ = parameters.precisions_cholesky
        self.precisions_ = parameters.covariance.precisions(parameters.precisions_cholesky)

    def _take_result(self, result: FitResult, densities: DensitySummary, scans: int) -> None:
        # What was said of the components before: by `merge_components`, or by a published model.
        for name in ("merge_tree_", "component_ids_", "transforms_", "component_labels_"):
            self.__dict__.pop(name, None)
        if result.survey.transforms is not None:
            self.transforms_ = result.survey.transforms
        self._take_parameters(result.parameters)
        self._take_labels(result, densities)
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
