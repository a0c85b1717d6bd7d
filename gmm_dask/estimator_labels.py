"""Labels of `GaussianMixture`: of the rows of a fit, of its components, and of what it predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import dask.array as da
import numpy as np
import numpy.typing as npt
from sklearn.utils.validation import check_is_fitted

from gmm_dask.chunked.evaluation import evaluate
from gmm_dask.chunked.survey import survey_source
from gmm_dask.errors import ConfigError, SchemaError
from gmm_dask.mixture.label_names import MISSING, are_integers, encode_labels
from gmm_dask.mixture.labels import UNKNOWN, ComponentLabels, RowLabels
from gmm_dask.nulls import NullPolicy

if TYPE_CHECKING:
    from gmm_dask.chunked.evaluation import DensitySummary
    from gmm_dask.chunked.fit_records import FitResult
    from gmm_dask.chunked.scan import Scanner
    from gmm_dask.mixture.parameters import MixtureParameters

#: So many rows are held in memory while components are labelled, and read only once.
LABELLED_ROWS = 65_536


def labels_in_memory(y: Any, n: int) -> RowLabels:
    """Return the labels of n rows in memory; refuse another number of them."""
    labels = encode_labels(y)
    if len(labels.codes) != n:
        raise SchemaError(f"y has {len(labels.codes):,} labels, and X has {n:,} rows")
    return labels


class LabelsMixin:
    """Labels of a mixture's components, by rows of which they are known."""

    component_labels_: ComponentLabels
    components_per_label: int | None
    least_label_weight: float
    nulls: str
    _integer_labels: bool = False

    if TYPE_CHECKING:  # what it needs of the estimator

        def _parameters(self) -> MixtureParameters: ...
        def _scanner(
            self,
            X: Any,
            sample_weight: Any,
            client: Any = None,
            y: Any = None,
            *,
            reset: bool = True,
        ) -> Scanner: ...
        def predict(self, X: Any) -> Any:
            """Index of the most probable component of each row, (n,)."""

    def label_components(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Label the components of a mixture that was fitted without labels.

        The parameters stay as they are. Each component gets the label that most of the labelled
        rows in it have; one with fewer than ``least_label_weight`` of them is "unknown".

        Parameters
        ----------
        X
            (n, d), whatever `fit` takes: rows of which some have a label. One scan, and another for
            more rows than are held in memory.
        y
            (n,), as for `fit`; −1, None and NaN are no label.
        sample_weight
            (n,), ≥ 0; a row of weight 2 counts as two rows.

        Returns
        -------
        GaussianMixture
            This estimator, with ``component_labels_``.

        Raises
        ------
        NotFittedError
            There is no mixture yet.
        SchemaError, InputError
            Labels are no text, integers or booleans, there are too many, or not one a row; or a
            row cannot be used, as `predict` says.
        ConfigError
            ``y`` is missing.

        Examples
        --------
        >>> import numpy as np
        >>> from gmm_dask import GaussianMixture
        >>> X = np.random.default_rng(0).normal(size=(200, 1)) + [[0.0], [20.0]] * 100
        >>> y = ["low", "high"] * 5 + [None] * 190
        >>> gm = GaussianMixture(2, random_state=0).fit(X).label_components(X, y)
        >>> gm.predict_labels([[0.5], [19.0]])
        array(['low', 'high'], dtype=object)
        """
        parameters = self._parameters()
        if y is None:
            raise ConfigError("y is missing: give the label of each row, None where it has none")
        with self._scanner(X, sample_weight, y=y, reset=False) as scanner:
            survey = survey_source(scanner, LABELLED_ROWS, 0, NullPolicy(self.nulls))
            (densities,) = evaluate(scanner, [parameters], survey)
        self._integer_labels = are_integers(y)
        self.component_labels_ = self._label(densities)
        return self

    def predict_labels(self, X: Any) -> Any:
        """Label of each row: that of its most probable component, (n,).

        Integers, where the labels of ``y`` were integers, and −1 where the component has no label;
        else text, and "unknown" there. For dask arrays and frames the result is lazy. How far a
        label can be trusted, ``component_labels_.confidences`` says for each component.

        Parameters
        ----------
        X
            (n, d), whatever `predict` takes.

        Raises
        ------
        NotFittedError
            The mixture was fitted without labels.
        """
        check_is_fitted(
            self,
            "component_labels_",
            msg="This %(name)s knows no labels: fit takes them from y if components_per_label is "
            "set, or call 'label_components' with some labelled rows after 'fit'.",
        )
        names = self._names_of_components()
        components = self.predict(X)
        if isinstance(components, da.Array):
            return components.map_blocks(lambda block: names[block], dtype=names.dtype)
        return names[components]

    def _names_of_components(self) -> npt.NDArray[Any]:
        """Return the label of each component, and last that of a row without a value, (k + 1,)."""
        labels = [*self.component_labels_.labels, UNKNOWN]
        if self._integer_labels:
            numbers = [MISSING if label == UNKNOWN else int(label) for label in labels]
            # Hashes of 64 bits without a sign have no dtype that holds −1 too.
            fit = all(-(2**63) <= number < 2**63 for number in numbers)
            return np.array(numbers, dtype=np.int64 if fit else object)
        return np.array(labels, dtype=object)

    def _labels_to_fit(self, y: Any) -> Any:
        """Return the labels of a fit; None where it takes none."""
        if self.components_per_label is None:
            return None
        if y is None:
            raise ConfigError(
                f"components_per_label = {self.components_per_label} asks for labels, but y is "
                "missing: give the label of each row, and -1 or None where it has none"
            )
        self._integer_labels = are_integers(y)
        return y

    def _take_labels(self, result: FitResult, densities: DensitySummary) -> None:
        """Label the components by what the evaluation counted, if this was a fit with labels."""
        if self.components_per_label is not None:
            self.component_labels_ = self._label(densities, result)

    def _label(self, densities: DensitySummary, result: FitResult | None = None) -> ComponentLabels:
        return ComponentLabels.of(
            densities.label_counts,
            self._parameters().n_components,
            self.least_label_weight,
            None if result is None else result.ownership,
            scale=densities.rows / densities.weight,
        )
