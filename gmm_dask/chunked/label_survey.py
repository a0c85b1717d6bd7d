"""What the survey keeps of the labelled rows: how many each label has, and some rows of each.

Labelled rows may be so few that the uniform sample of the survey holds none, while the starts of a
fit with labels are made from them. So each label has a sample of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.chunked.draw import Draw
from gmm_dask.chunked.rows import Rows
from gmm_dask.mixture.kernels.sampling import rows_below
from gmm_dask.mixture.labels import (
    UNLABELLED,
    Labelling,
    Ownership,
    RowLabels,
    code_of,
    count_limited,
    group_rows_by_label,
)
from gmm_dask.mixture.sample import Sample

#: Most rows of a label that its sample holds.
LABEL_ROWS = 256
_EVERY_ROW = 2**64 - 1


@dataclass(frozen=True, eq=False)
class LabelSurvey:
    """Labelled rows by their labels; surveys of parts add by ``+``.

    Attributes
    ----------
    rows
        Used rows of each label, by its name.
    draw
        Of each label, the rows of smallest priority, `LABEL_ROWS` at the most; with their codes.
    """

    rows: Mapping[str, int]
    draw: Draw

    def __add__(self, other: LabelSurvey) -> LabelSurvey:
        names = {*self.rows, *other.rows}
        rows = {name: self.rows.get(name, 0) + other.rows.get(name, 0) for name in sorted(names)}
        count_limited(rows)
        return LabelSurvey(rows, thin_out_labels(Draw.join((self.draw, other.draw))))

    @property
    def names(self) -> tuple[str, ...]:
        """The labels, sorted."""
        return tuple(sorted(self.rows))

    def label(self, draw: Draw) -> RowLabels:
        """Return the labels of the rows of a draw."""
        return RowLabels(draw.codes, {code_of(name): name for name in self.names})


def add_label_surveys(first: LabelSurvey | None, second: LabelSurvey | None) -> LabelSurvey | None:
    """Add two surveys of labels; None is that of rows which no label was asked for."""
    if first is None or second is None:
        return first or second
    return first + second


def thin_out_labels(draw: Draw) -> Draw:
    """Keep `LABEL_ROWS` rows of each label, those of smallest priority, in the input's order."""
    kept = [
        rows
        if len(rows) <= LABEL_ROWS
        else rows[np.argsort(draw.priorities[rows], kind="stable")[:LABEL_ROWS]]
        for _, rows in group_rows_by_label(draw.codes)
    ]
    if sum(map(len, kept)) == len(draw.codes):
        return draw
    return draw.take(np.sort(np.concatenate(kept)))


def survey_labels(used: Rows, weights: FloatArray | None, seed: int) -> LabelSurvey | None:
    """Survey the labels of the used rows of a chunk; None where it has no labels."""
    labels = used.labels
    if labels is None:
        return None
    labelled = np.flatnonzero(labels.codes != UNLABELLED)
    numbers, priorities = rows_below(seed, used.first, used.source_rows, _EVERY_ROW)
    places = labelled if used.used is None else np.flatnonzero(used.used)[labelled]
    codes = labels.codes[labelled]
    rows = {
        labels.names[code]: len(of_label)
        for code, of_label in group_rows_by_label(codes)
        if len(of_label)
    }
    count_limited(rows)
    draw = Draw(
        LABEL_ROWS,
        priorities[places],
        numbers[places],
        used.values.T.take(labelled, axis=1).T,  # (m, d), feature-major
        np.empty(0) if weights is None else weights[labelled],
        codes,
    )
    return LabelSurvey(rows, thin_out_labels(draw))


def labelled_sample(draw: Draw, labels: LabelSurvey, ownership: Ownership) -> Sample:
    """Return the uniform sample and the rows of the labels together, in the input's order.

    Rows of labels that the uniform sample lacks are more in it than their share; the polish, on
    all rows, puts this right.
    """
    missing = ~np.isin(labels.draw.numbers, draw.numbers)
    both = Draw.join((draw, labels.draw.take(np.flatnonzero(missing))))
    both = both.take(np.argsort(both.numbers, kind="stable"))
    weights = both.weights if len(both.weights) else None
    return Sample(both.values, weights, Labelling(both.codes, ownership))
