"""Methods of `GaussianMixture` that make values: new rows, and those missing in given ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import DensityMixin
from sklearn.utils import check_random_state

from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.imputation import impute_array, impute_partitions, impute_rows, impute_table
from gmm_dask.chunked.partitions import is_frame
from gmm_dask.frames import as_frame, open_frame
from gmm_dask.input_checks import columns_of, frame_rows, lazy_array, rows_in_memory
from gmm_dask.nulls import NullPolicy

if TYPE_CHECKING:
    from gmm_dask.mixture.parameters import MixtureParameters
    from gmm_dask.mixture.transforms import Transforms


class ValuesMixin(DensityMixin):  # type: ignore[misc]
    """Values that a fitted mixture makes: of new rows, and in the holes of given ones."""

    nulls: str
    random_state: Any

    if TYPE_CHECKING:  # what it needs of the estimator

        def _parameters(self) -> MixtureParameters: ...
        def _fitted_transforms(self) -> Transforms | None: ...

    @property
    def _nulls(self) -> NullPolicy:
        return NullPolicy(self.nulls)

    def __sklearn_tags__(self) -> Any:
        """Say whether NaN is allowed, beside what the classes below say."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.nulls == "marginalize"
        return tags

    def sample(self, n_samples: int = 1) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """Draw rows from the fitted mixture: X (n, d), grouped by component, and labels (n,).

        X is in natural units. A square root that is drawn below 0 becomes the row 0.
        """
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
        transforms = self._fitted_transforms()
        return X if transforms is None else transforms.inverse(X), labels

    def impute(self, X: Any) -> Any:
        """Fill the holes of rows by what the mixture expects, given the features they have.

        That is the mean over components, weighted by the responsibilities of what a row has, of
        μ_m + Σ_mo Σ_oo⁻¹ (x_o − μ_o). It has the least squared error; but where components are
        apart it may lie between them, where no row is. A row without any value gets the mean of
        the mixture.

        Parameters
        ----------
        X
            (n, d), whatever `predict` takes, with NaN or nulls, whatever ``nulls`` is.

        Returns
        -------
        X
            (n, d) A copy without holes: an array, or a data frame of the same kind. For dask
            arrays and frames it is lazy.

        Raises
        ------
        NotFittedError
            There is no mixture yet.
        NonFiniteError
            A value is infinite.
        InputError
            A value is outside of the domain of its transform.

        Examples
        --------
        >>> import numpy as np
        >>> from gmm_dask import GaussianMixture
        >>> x = np.random.default_rng(0).normal(size=500)
        >>> gm = GaussianMixture(random_state=0).fit(np.column_stack([x, 2.0 * x]))
        >>> gm.impute([[1.0, np.nan], [np.nan, 4.0]]).round(3)
        array([[1., 2.],
               [2., 4.]])
        """
        mixture = self._parameters(), self._fitted_transforms()
        if is_frame(X):
            empty = frame_rows(self, X._meta, reset=False, least_rows=0)
            return impute_partitions(X, mixture, tuple(X.columns), empty.dtype)
        array = lazy_array(self, X, reset=False)
        if array is not None:
            return impute_array(array, mixture, columns_of(self))
        X = as_frame(X)
        if open_frame(X) is not None:
            rows = frame_rows(self, X, reset=False)
            return impute_table(X, rows, mixture, columns_of(self))
        rows = rows_in_memory(self, X, reset=False)
        return impute_rows(rows, mixture, columns_of(self))
