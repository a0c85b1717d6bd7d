"""A report and pictures of rows with holes: a panel shows the rows that have its features."""

import numpy as np
import pytest

from gmm_dask.report.aggregates import aggregate, pairs_of
from gmm_dask.report.pictures import fit_pictures
from gmm_dask.report.view import View
from tests.report.subjects import mixture_of, rows_of
from tests.report.test_pictures import clusters_of, columns_of


def rows_with_holes(mixture, n):
    rows, random = rows_of(mixture, n), np.random.default_rng(0)
    holes = random.uniform(size=rows.shape) < 0.3
    holes[np.arange(n), random.integers(rows.shape[1], size=n)] = False
    return np.where(holes, np.nan, rows)


def test_aggregates_count_the_rows_that_have_the_features():
    mixture = mixture_of(4, 3)
    rows = rows_with_holes(mixture, 4_000)
    aggregates = aggregate(rows, mixture, {0: mixture})
    inside = np.zeros(rows.shape, dtype=bool)
    for feature, (low, high) in enumerate(aggregates.limits):
        inside[:, feature] = (rows[:, feature] >= low) & (rows[:, feature] < high)
        assert sum(aggregates.histograms[feature]) == pytest.approx(inside[:, feature].sum(), abs=1)
    for (x, y), cells in zip(pairs_of(3), aggregates.pairs, strict=True):
        assert sum(cell[1] for cell in cells) == (inside[:, x] & inside[:, y]).sum()
    complete = aggregate(rows[~np.isnan(rows).any(axis=1)], mixture, {0: mixture})
    assert aggregates.kmeans["moved"] == complete.kmeans["moved"]
    rows[:, 1] = np.nan  # hardly any row has it
    rows = rows[~np.isnan(rows).all(axis=1)]
    assert aggregate(rows, mixture, {0: mixture}).kmeans is None


@pytest.mark.parametrize("d", [1, 3])
def test_pictures_are_drawn_of_rows_with_holes(d):
    mixture = mixture_of(3, d)
    rows = rows_with_holes(mixture, 3_000)
    pictures = fit_pictures(
        rows, columns_of(mixture), mixture, mixture, [-2.0, -1.0], range(3), clusters_of(mixture)
    )
    assert len(pictures) == 4
    view = View.of(rows, columns_of(mixture), mixture, mixture, range(3))
    complete = np.count_nonzero(~np.isnan(rows).any(axis=1))
    words = "3,000 rows" if d == 1 else f"3,000 rows, {complete:,} of them complete"
    assert view.rows_words == words
