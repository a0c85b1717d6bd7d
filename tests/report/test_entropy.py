"""The picture of the merge tree shows each merge once, and which of them are suggested."""

from itertools import pairwise

import numpy as np
import pytest

from gmm_dask.mixture.merging import APART, ONE_HUMP, MergeTree
from gmm_dask.report.entropy import MOST_LABELLED, entropy_figure
from gmm_dask.storage.models.clusters import Clusters


def clusters_of(k, n, entropies=None, first_id=0):
    merges = tuple((0, b) for b in range(1, k))
    left = tuple(np.linspace(0.9, 0.0, k).tolist()) if entropies is None else entropies
    return Clusters.of(
        MergeTree(500, merges, left, (0.5,) * (k - 1), n), range(first_id, first_id + k)
    )


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def test_the_entropy_of_every_number_of_clusters_is_drawn():
    clusters = clusters_of(4, 2)
    _, entropies = entropy_figure(clusters).axes
    whole, made = entropies.lines[:2]
    assert whole.get_xdata().tolist() == [4, 3, 2, 1]
    assert whole.get_ydata().tolist() == list(clusters.entropies)
    assert made.get_xdata().tolist() == [4, 3, 2]
    low, high = entropies.get_ylim()
    assert (low, high > clusters.entropies[0]) == (0.0, True)


def test_each_merge_stands_between_two_numbers_at_its_overlap_and_names_its_clusters():
    clusters = clusters_of(4, 2, (0.4, 0.2, 0.1, 0.0))
    overlaps, _ = entropy_figure(clusters).axes
    heads = [line for line in overlaps.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in heads] == [3.5, 2.5, 1.5]
    np.testing.assert_allclose([line.get_ydata()[0] for line in heads], clusters.overlaps)
    made, *_, left = [line.get_color() for line in heads]
    assert [line.get_color() for line in heads] == [made, made, left]
    assert made != left
    assert texts_of(overlaps)[:3] == ["0+1", "0+2", "0+3"]
    levels = [line.get_ydata()[0] for line in overlaps.lines if len(set(line.get_ydata())) == 1]
    assert {ONE_HUMP, APART} <= set(levels)


def test_the_suggestion_is_marked_and_said():
    figure = entropy_figure(clusters_of(6, 4))
    assert (
        figure.texts[1].get_text() == "4 clusters suggested, from 6 components · 500 rows decided"
    )
    for axes in figure.axes:
        assert [4, 4] in [list(line.get_xdata()) for line in axes.lines]
        assert axes.get_xlim() == (6.5, 0.5)


@pytest.mark.parametrize("k", [2, 8, 30, MOST_LABELLED, MOST_LABELLED + 1, 200])
def test_names_neither_run_into_each_other_nor_out_of_the_picture(k):
    figure = entropy_figure(clusters_of(k, 1, first_id=1000))
    figure.canvas.draw()
    overlaps, _ = figure.axes
    boxes = [text.get_window_extent() for text in overlaps.texts if "+" in text.get_text()]
    assert len(boxes) == (k - 1 if k <= MOST_LABELLED else 0)
    for left, right in pairwise(boxes):
        assert left.x1 < right.x0 or left.y1 < right.y0
    assert all(box.y1 < figure.axes[1].get_window_extent().y0 for box in boxes)
    assert 1 in overlaps.get_xticks()


def test_separate_components_are_drawn_on_the_floor():
    overlaps, entropies = entropy_figure(clusters_of(3, 3, (0.0, 0.0, 0.0))).axes
    heads = [line.get_ydata()[0] for line in overlaps.lines if line.get_marker() == "o"]
    assert heads == [overlaps.get_ylim()[0]] * 2
    assert entropies.get_ylim() == (0.0, 0.1)
