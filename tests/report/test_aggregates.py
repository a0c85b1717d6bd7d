"""The aggregates of a report hold counts and never rows, and are small whatever they describe."""

import json

import numpy as np
import pytest

from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.report.aggregates import Aggregates, aggregate, frames_of, outline, pairs_of
from gmm_dask.report.hard_and_soft import (
    BANDS,
    certainty_bands,
    compare_with_kmeans,
    confusions,
    nearest_centres,
)
from tests.report.subjects import fitted, mixture_of, rows_of, subject_of


def test_aggregates_come_back_from_their_file():
    aggregates = subject_of(k=3, d=3).known
    assert Aggregates.decode(aggregates.encode()) == aggregates
    later = json.loads(aggregates.encode()) | {"of a later version": 1}
    assert Aggregates.decode(json.dumps(later).encode()) == aggregates


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 99}', b'{"format": 1}', b"[1]"])
def test_something_else_is_refused(content):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Aggregates.decode(content)


@pytest.mark.parametrize(("d", "pairs"), [(1, 0), (2, 1), (3, 3), (9, 15)])
def test_cells_count_every_row_inside_the_axes(d, pairs):
    mixture = mixture_of(4, d)
    rows = rows_of(mixture, 4_000)
    aggregates = aggregate(rows, mixture, {0: mixture})
    assert len(aggregates.pairs) == pairs
    assert len(aggregates.features) == min(d, 6)
    assigned = assign(mixture, rows, responsibilities=True)
    doubt = 100 * (1 - assigned.responsibilities.max(axis=1))
    moved = nearest_centres(rows, mixture).labels != assigned.labels
    for (x, y), cells in zip(pairs_of(len(aggregates.features)), aggregates.pairs, strict=True):
        table = np.array(cells)
        values = rows[:, [aggregates.features[x], aggregates.features[y]]]
        limits = [aggregates.limits[x], aggregates.limits[y]]
        bins = aggregates.bins
        edges = [np.linspace(*limit, bins + 1) for limit in limits]
        expected = np.histogram2d(*values.T, bins=edges)[0].ravel()
        counts = np.zeros(bins * bins)
        counts[table[:, 0]] = table[:, 1]
        assert np.abs(counts - expected).sum() <= 2  # a row on an edge
        weighted = np.histogram2d(*values.T, bins=edges, weights=doubt)[0].ravel()
        alike = counts[table[:, 0]] == expected[table[:, 0]]
        mean_doubt = weighted[table[:, 0]] / table[:, 1]
        np.testing.assert_allclose(table[alike, 2], mean_doubt[alike], atol=0.51)
        assert abs(table[:, 3].sum() - np.histogram2d(*values[moved].T, bins=edges)[0].sum()) <= 2
    for place, feature in enumerate(aggregates.features):
        low, high = aggregates.limits[place]
        inside = (rows[:, feature] >= low) & (rows[:, feature] <= high)
        assert sum(aggregates.histograms[place]) == inside.sum()


def test_no_value_of_a_row_is_in_the_aggregates():
    mixture = mixture_of(3, 4)
    rows = rows_of(mixture, 500)
    text = aggregate(rows, mixture, {0: mixture}).encode().decode()
    assert not [value for value in rows.ravel() if f"{value:.6f}"[:-1] in text]


@pytest.mark.parametrize(("k", "d", "n"), [(2, 1, 100), (3, 2, 200_000), (150, 12, 20_000)])
def test_aggregates_are_small_whatever_they_describe(k, d, n):
    mixture = mixture_of(k, d)
    replay = dict.fromkeys(range(61), mixture)
    content = aggregate(rows_of(mixture, n), mixture, replay).encode()
    assert len(content) < 1_500_000


def test_a_frame_holds_the_ellipses_in_coordinates_of_the_axes():
    mixture = mixture_of(3, 3)
    limits = [(-10.0, 10.0), (0.0, 5.0), (-1e3, 1e3)]
    (frame,) = frames_of({4: mixture}, [0, 1, 2], limits, [2, 0, 1])
    assert frame["iteration"] == 4
    widths = np.array([high - low for low, high in limits])
    lows = np.array([low for low, _ in limits])
    for place, component in enumerate([2, 0, 1]):
        means = np.array(frame["means"][place]) * widths + lows
        np.testing.assert_allclose(
            means, mixture.means[component], rtol=1e-4, atol=2e-5 * widths.max()
        )
        spreads = np.array(frame["deviations"][place]) * widths
        for pair, (x, y) in enumerate(pairs_of(3)):
            covariance = frame["correlations"][place][pair] * spreads[x] * spreads[y]
            assert covariance == pytest.approx(mixture.matrices[component, x, y], abs=2e-3)


def test_certainty_and_confusions_are_those_counted_row_by_row():
    mixture = mixture_of(4, 1)
    shares = assign(mixture, rows_of(mixture, 600), responsibilities=True).responsibilities
    labels = shares.argmax(axis=1)
    bands = certainty_bands(shares, labels)
    edges = [0.0, *BANDS, 2.0]
    for j in range(4):
        largest = shares[labels == j].max(axis=1)
        for band in range(4):
            share = np.mean((largest >= edges[band]) & (largest < edges[band + 1]))
            assert bands[j][band] == pytest.approx(share, abs=1e-5)
        overlaps = {i: float((shares[:, j] * shares[:, i]).sum()) for i in range(4) if i != j}
        partner = max(overlaps, key=overlaps.get)
        total = shares[:, j].sum()
        share = pytest.approx(overlaps[partner] / total, abs=1e-5)
        assert confusions(shares)[j] == (partner, share)


def test_a_single_component_is_confused_with_nothing_and_has_no_kmeans():
    mixture = mixture_of(1, 2)
    aggregates = aggregate(rows_of(mixture, 100), mixture, {0: mixture})
    assert aggregates.confused_with == ((0, 0.0),)
    assert aggregates.kmeans is None
    assert aggregates.certainty == ((0.0, 0.0, 0.0, 1.0),)


def test_kmeans_agrees_on_equal_clusters_and_not_on_unequal_ones():
    def compared(covariances, means):
        mixture = MixtureParameters.from_covariances(
            "full", np.array([0.5, 0.5]), np.array(means), np.array(covariances)
        )
        rows = rows_of(mixture, 4_000)
        clusters = nearest_centres(rows, mixture)
        labels = assign(mixture, rows).labels
        comparison = compare_with_kmeans(clusters, labels, [0, 1], [(-20.0, 20.0)] * 2)
        assert comparison["moved"] == pytest.approx(np.mean(clusters.labels != labels))
        assert sum(flow[2] for flow in comparison["flows"]) == pytest.approx(comparison["moved"])
        return comparison

    equal = compared([np.eye(2), np.eye(2)], [[-6.0, 0.0], [6.0, 0.0]])
    assert equal["moved"] == 0.0
    assert equal["kept"] == (1.0, 1.0)
    np.testing.assert_allclose(equal["centres"], [[0.35, 0.5], [0.65, 0.5]], atol=0.01)
    unequal = compared([9.0 * np.eye(2), 0.05 * np.eye(2)], [[0.0, 0.0], [4.0, 0.0]])
    assert unequal["moved"] > 0.05


def test_a_sample_of_few_distinct_rows_makes_no_noise():
    mixture = mixture_of(3, 2)
    rows = np.repeat(rows_of(mixture, 2), 20, axis=0)
    assert aggregate(rows, mixture, {0: mixture}).kmeans["moved"] >= 0.0


def test_without_rows_the_components_are_still_outlined():
    mixture = mixture_of(4, 3)
    aggregates = outline(mixture, [(-9.0, 9.0)] * 3)
    assert aggregates.sample_rows == 0
    assert len(aggregates.frames) == 1
    assert not aggregates.pairs
    assert all(low < -9.0 < 9.0 < high for low, high in aggregates.limits)


def test_only_the_heaviest_of_very_many_components_are_drawn():
    mixture = mixture_of(120, 1)
    rows = rows_of(mixture, 500)
    aggregates = aggregate(rows, mixture, fitted(rows, mixture, 1))
    assert len(aggregates.components) == 100
    weights = mixture.weights[list(aggregates.components)]
    assert (np.diff(weights) <= 0).all()
    assert weights.min() >= np.sort(mixture.weights)[20]
    assert all(len(frame["means"]) == 100 for frame in aggregates.frames)
