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

from gmm_dask.chunked.partitions import is_frame
from gmm_dask.chunked.tables import TableRequest, predict_partitions, predict_table
from gmm_dask.errors import ConfigError, SchemaError
from gmm_dask.frames import as_frame, open_frame, select_columns
from gmm_dask.input_checks import frame_rows
from gmm_dask.mixture.prediction_columns import LABEL, LABEL_CONFIDENCE
from gmm_dask.mixture.threads import available_cores
from gmm_dask.nulls import NullPolicy
from gmm_dask.storage.models.clusters import name_clusters

if TYPE_CHECKING:
    from gmm_dask.arrays import IndexArray
    from gmm_dask.mixture.parameters import MixtureParameters
    from gmm_dask.mixture.transforms import Transforms


class FramesMixin(TransformerMixin):  # type: ignore[misc]
    """Predictions of a fitted mixture as features of a pipeline, and as data frames."""

    feature_names_in_: npt.NDArray[np.object_]
    component_ids_: npt.NDArray[np.integer[Any]]  # of a published model
    nulls: str

    if TYPE_CHECKING:  # what it needs of the estimator

        def _parameters(self) -> MixtureParameters: ...
        def _fitted_transforms(self) -> Transforms | None: ...
        def _cut(self, n_clusters: int | None) -> IndexArray: ...
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

    def predict_frame(
        self, table: Any, keys: str | Sequence[str] = (), *, cluster: bool | int = False
    ) -> Any:
        """Predictions of a data frame's rows, as a data frame of the same kind.

        The features are found by name: the table may have other columns, and any order. What is
        predicted has the names, ids and types that ``gmm-dask predict`` publishes.

        Parameters
        ----------
        table
            A data frame of pandas, polars or pyarrow, n rows, or of dask: then nothing is computed
            yet, and only the columns needed are. For a record batch of Arrow the result is a table.
        keys
            Name or names of the columns that are copied, to know the rows by. A pandas index, and
            a dask frame's index and divisions, are kept without.
        cluster
            Whether the cluster of each row is predicted: as many clusters as ``merge_tree_``
            suggests, or this number of them.

        Returns
        -------
        table
            (n rows) The keys; ``component``, the permanent id of the most probable component, for
            a model that has ids, else its index; for a mixture with labels ``label``, that of the
            component as text, and ``label_confidence``; ``cluster`` if asked for, the smallest id
            of its components; ``log_density``, log p(x) in nats; with ``nulls="marginalize"`` also
            ``observed``, how many features the row has (0: the ids are −1, and there is no
            density).

        Raises
        ------
        NotFittedError
            There is no mixture yet, or no ``merge_tree_`` for the clusters.
        SchemaError
            A column is missing or holds no numbers, or ``table`` is no data frame in memory or of
            dask.
        NonFiniteError
            A feature is infinite, or null or NaN where ``nulls`` refuses it; the message says
            where.
        InputError
            A feature is outside of the domain of its transform.
        ConfigError
            The mixture was fitted to rows without names of columns; a key has the name of a column
            of the result, or is named twice; or there are fewer components than clusters.

        Examples
        --------
        >>> import pyarrow as pa
        >>> from gmm_dask import GaussianMixture
        >>> table = pa.table({"id": list("abcd"), "x": [0.0, 1.0, 8.0, 9.0]})
        >>> gm = GaussianMixture(2, random_state=0).fit(table.select(["x"]))
        >>> gm.predict_frame(table, keys=["id"]).column_names
        ['id', 'component', 'log_density']
        """
        request = self._table_request(keys, cluster)
        lazy = is_frame(table)
        known = table._meta if lazy else as_frame(table)
        frame = open_frame(known)
        if frame is None:
            raise SchemaError(
                "predict_frame takes a data frame of pandas, polars, pyarrow or dask, not "
                f"{type(table).__name__}; for arrays take predict and score_samples"
            )
        select_columns(frame, request.keys, "keys")
        features = select_columns(frame, request.features, "features")
        rows = frame_rows(self, features, reset=False, least_rows=0)
        predicted = predict_table(known, rows, request, threads=available_cores())
        return predict_partitions(table, request, predicted, rows.dtype) if lazy else predicted

    def _table_request(self, keys: str | Sequence[str], cluster: bool | int) -> TableRequest:
        """Check what `predict_frame` is asked for, and return it."""
        parameters, component_ids = self._parameters(), self._component_ids()
        if not hasattr(self, "feature_names_in_"):
            raise ConfigError(
                "this mixture was fitted to rows without names of columns, so its features cannot "
                "be found in a table: fit a data frame, or take predict and score_samples"
            )
        cluster_ids = None
        suggested = isinstance(cluster, bool | np.bool_)  # True is no number, though it is 1
        if cluster or not suggested:
            cut = self._cut(None if suggested else cluster)
            cluster_ids = name_clusters(cut, component_ids)
        names = (keys,) if isinstance(keys, str) else tuple(keys)
        nulls = NullPolicy(self.nulls)
        predicted = {"component", "log_density"} | ({"cluster"} if cluster_ids else set())
        labels = getattr(self, "component_labels_", None)
        predicted |= {LABEL, LABEL_CONFIDENCE} if labels is not None else set()
        predicted |= {"observed"} if nulls is NullPolicy.MARGINALIZE else set()
        for name in names:
            if not isinstance(name, str):
                raise ConfigError(f"keys: {name!r} is no name of a column; give strings")
            if name in predicted:
                raise ConfigError(
                    f"keys: {name!r} is the name of a column of the result; rename it in the "
                    "table, or leave it out"
                )
            if names.count(name) > 1:
                raise ConfigError(f"keys names {name!r} twice; name each column once")
        features = tuple(self.feature_names_in_)
        return TableRequest(
            parameters,
            features,
            names,
            component_ids,
            cluster_ids,
            nulls,
            self._fitted_transforms(),
            labels,
        )

    def _component_ids(self) -> tuple[int, ...]:
        """Return the permanent id of each component, or its index where it has none, (k,)."""
        k = self._parameters().n_components
        return tuple(map(int, getattr(self, "component_ids_", range(k))))
