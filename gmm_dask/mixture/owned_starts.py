"""Starts of a fit with labels: components begin at the rows of their label, free ones elsewhere."""

from __future__ import annotations

import numpy as np

from gmm_dask.arrays import FloatArray, IndexArray, LabelsArray, RowsArray
from gmm_dask.mixture.imputation import Filled
from gmm_dask.mixture.initialization import kmeans_labels, labelled_start, wide_start
from gmm_dask.mixture.labels import UNLABELLED, Labelling, code_of
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import MixtureSpec


def owned_start(
    X: RowsArray,
    sample_weight: FloatArray | None,
    labelling: Labelling,
    standardised: RowsArray,
    spec: MixtureSpec,
    random_state: np.random.RandomState,
    filled: Filled | None,
    wide: bool,
) -> MixtureParameters:
    """Make a start in which the components of a label lie where its rows do.

    A component of a label begins at the mean of the label's rows, several at the clusters of
    k-means within them. A free one begins at a row that is far from the others (D² sampling, as
    in k-means++).

    Parameters
    ----------
    X, sample_weight
        Rows in memory, (m, d), and their weights.
    standardised
        The same rows with unit variances and without holes, by which distances are measured.
    wide
        Whether all components begin with the covariance of all rows, at random scales; else with
        that of the rows nearest to them, those with a label at their label's.
    """
    anchors = _find_anchors(standardised, labelling, random_state)
    if wide:
        start = wide_start(X, spec, random_state, filled)
        values = X if filled is None else filled.values
        means = np.array([values[rows].mean(axis=0, dtype=np.float64) for rows in anchors])
        return MixtureParameters.from_covariances(
            spec.covariance_type, start.weights, means, start.covariances
        )
    nearest = _label_by_nearest(standardised, labelling, anchors)
    return labelled_start(X, nearest, sample_weight, spec, filled)


def _find_anchors(
    standardised: RowsArray, labelling: Labelling, random_state: np.random.RandomState
) -> list[IndexArray]:
    """Find the rows that each component begins at: k index arrays, none of them empty."""
    ownership, codes = labelling.ownership, labelling.codes
    anchors: list[IndexArray] = [np.empty(0, np.intp)] * ownership.n_components
    for number, name in enumerate(ownership.names):
        components = ownership.components_of(number)
        rows = np.flatnonzero(codes == code_of(name))
        for component, part in zip(
            components.tolist(),
            _split(standardised, rows, len(components), random_state),
            strict=True,
        ):
            anchors[component] = part
    missing = [component for component, rows in enumerate(anchors) if not len(rows)]
    unlabelled = np.flatnonzero(codes == UNLABELLED)
    candidates = unlabelled if len(unlabelled) else np.arange(len(codes))
    centres = [standardised[rows].mean(axis=0) for rows in anchors if len(rows)]
    for component in missing:
        row = _far_row(standardised[candidates], centres, random_state)
        anchors[component] = candidates[row : row + 1]
        centres.append(standardised[candidates[row]])
    return anchors


def _split(
    standardised: RowsArray, rows: IndexArray, parts: int, random_state: np.random.RandomState
) -> list[IndexArray]:
    """Split the rows of a label by k-means; a part is empty where there are too few."""
    if parts == 1 or len(rows) < parts:
        return [rows, *[rows[:0]] * (parts - 1)]
    clusters = kmeans_labels(standardised[rows], None, parts, random_state)
    return [rows[clusters == number] for number in range(parts)]


def _far_row(X: RowsArray, centres: list[RowsArray], random_state: np.random.RandomState) -> int:
    """Draw a row with a probability that grows with its squared distance from all centres."""
    squares = np.full(len(X), 1.0)
    if centres:
        squares = _squared_distances(X, centres).min(axis=1)
    total = squares.sum()
    share = squares / total if total > 0.0 else None
    return int(random_state.choice(len(X), p=share))


def _label_by_nearest(
    standardised: RowsArray, labelling: Labelling, anchors: list[IndexArray]
) -> LabelsArray:
    """Return the component of each row: the nearest, among those of its label where it has one."""
    centres = [standardised[rows].mean(axis=0) for rows in anchors]
    squares = _squared_distances(standardised, centres)  # (m, k)
    nearest = squares.argmin(axis=1)
    for code, components in labelling.ownership.by_code().items():
        rows = np.flatnonzero(labelling.codes == code)
        nearest[rows] = components[squares[np.ix_(rows, components)].argmin(axis=1)]
    return nearest


def _squared_distances(X: RowsArray, centres: list[RowsArray]) -> FloatArray:
    """Return squared distances of rows from centres, (m, c)."""
    squares = [np.square(X - centre).sum(axis=1, dtype=np.float64) for centre in centres]
    return np.stack(squares, axis=1)
