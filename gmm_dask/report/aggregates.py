"""What a report knows of the rows: counts and sums, never a row.

The aggregates of a fit are ``report.json`` beside the model, from which its report can be made
again at any time. Their size depends neither on the number of rows nor, beyond a bound, on the
numbers of features, components and iterations.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic_core import to_json

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.report.frame import feature_limits, separating_features, substantial_components
from gmm_dask.report.hard_and_soft import (
    certainty_bands,
    compare_with_kmeans,
    confusions,
    largest_shares,
    nearest_centres,
)

#: Name of the file that holds them, beside a model.
AGGREGATES = "report.json"
FORMAT = 1
MOST_FEATURES = 6  # drawn: more than 15 pairs cannot be read
MOST_COMPONENTS = 100  # drawn, the heaviest
MOST_RESPONSIBILITIES = 4_000_000  # rows × components that are evaluated
MOST_FRAME_NUMBERS = 80_000  # in all frames, which is half a megabyte

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Aggregates:
    """Counts and sums over a sample of the rows, and the way of EM, as a report draws them.

    Coordinates are shares of the axis of a feature: 0 at its lower limit, 1 at the upper one.

    Attributes
    ----------
    sample_rows
        Rows of the sample; 0 if nothing is known of the rows.
    features
        Indices of the features drawn, f of them.
    limits
        Limits of the axis of each, in model units.
    components
        Indices of the components drawn, from heavy to light, c of them.
    frames
        For each iteration kept: ``iteration``; ``weights`` (c,); ``means`` and ``deviations``
        (c, f); ``correlations`` (c, f(f−1)/2), in the order of `pairs_of`. Those from the start of
        the search come first, and have ``sample_log_likelihood`` too, nats per row.
    bins
        Bins of each axis in ``pairs``.
    histograms
        Counts of the rows that have each feature, in equal bins of its axis, (f, any).
    pairs
        For each pair of features the cells that hold rows with both: the cell's number
        (x · bins + y), its rows, 1 − the largest responsibility in percent, mean over these rows,
        and those of the rows that k-means assigns to another component.
    certainty
        For each component, how the rows assigned to it divide by their largest responsibility:
        shares in ``BANDS``.
    confused_with
        For each component, the index of the one it shares most with, and how much of it.
    kmeans
        Comparison with k-means on the same rows; None if there is none.
    before
        Earlier versions, the oldest first: ``version``, ``created``, ``rows``, and the ``weights``
        of their components by id.
    seconds
        Seconds of parts of the run that made the model, by name.
    """

    sample_rows: int
    features: tuple[int, ...]
    limits: tuple[tuple[float, float], ...]
    components: tuple[int, ...]
    frames: tuple[Json, ...]
    bins: int = 0
    histograms: tuple[tuple[int, ...], ...] = ()
    pairs: tuple[tuple[tuple[int, int, int, int], ...], ...] = ()
    certainty: tuple[tuple[float, ...], ...] = ()
    confused_with: tuple[tuple[int, float], ...] = ()
    kmeans: Json | None = None
    before: tuple[Json, ...] = ()
    seconds: Mapping[str, float] | None = None

    def encode(self) -> bytes:
        """Return the content of ``report.json``; the same aggregates give the same bytes."""
        document = {"format": FORMAT, **vars(self)}
        # The pairs are tens of thousands of whole numbers, for which pydantic's writer takes a
        # third of the time. Of what is no number it would make null.
        json.dumps({**document, "pairs": ()}, allow_nan=False)
        return to_json(dict(sorted(document.items())))

    @classmethod
    def decode(cls, content: bytes) -> Aggregates:
        """Read the content of ``report.json``; keys of a later gmm-dask are ignored.

        Raises
        ------
        KeyError, TypeError, ValueError
            The content is something else.
        """
        document = json.loads(content)
        if document["format"] != FORMAT:
            raise ValueError(f"its format is {document['format']}, this gmm-dask reads {FORMAT}")
        known = cls.__dataclass_fields__.keys() & document.keys()
        return cls(**{name: _frozen(document[name]) for name in known})


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def aggregate(
    sample: FloatArray,
    final: MixtureParameters,
    replay: Mapping[int, MixtureParameters],
    before: Sequence[Json] = (),
    seconds: Mapping[str, float] | None = None,
    search: Sequence[tuple[MixtureParameters, float]] = (),
) -> Aggregates:
    """Count a sample of the rows under a mixture, in memory.

    Parameters
    ----------
    sample
        (m, d) float64, m ≥ 1, finite but for holes: a uniform sample of the rows. A panel counts
        those that have its features; k-means gets the complete ones.
    final
        The mixture.
    replay
        Its parameters by the number of M-steps done, in rising order.
    before, seconds
        See `Aggregates`.
    search
        Parameters on the way from the start of the search, and their mean log-likelihood over the
        sample.
    """
    sample = sample[: max(2_000, MOST_RESPONSIBILITIES // final.n_components)]
    features = separating_features(final, MOST_FEATURES)
    substantial = substantial_components(final, len(sample))
    limits = [
        feature_limits(
            sample[:, feature],
            final.means[substantial, feature],
            np.sqrt(final.matrices[substantial, feature, feature]),
        )
        for feature in features
    ]
    assigned = assign(final, sample, responsibilities=True)
    shares = assigned.responsibilities
    assert shares is not None
    complete = ~np.isnan(sample).any(axis=1)  # (m,)
    kmeans = nearest_centres(sample if complete.all() else sample[complete], final)
    moved = np.zeros(len(sample), dtype=bool)
    if kmeans is not None:
        moved[complete] = kmeans.labels != assigned.labels[complete]
    bins = int(np.clip(np.sqrt(len(sample)) / 2.0, 24, 56))
    components = drawn_components(final)
    kept = _thinned(replay, len(components), len(features))
    return Aggregates(
        sample_rows=len(sample),
        features=tuple(features),
        limits=tuple(limits),
        components=components,
        frames=(
            *_search_frames(search, features, limits, components),
            *frames_of(kept or {0: final}, features, limits, components),
        ),
        bins=bins,
        histograms=tuple(
            _histogram(sample[:, feature], limit)
            for feature, limit in zip(features, limits, strict=True)
        ),
        pairs=_pairs(sample[:, features], limits, bins, 1.0 - largest_shares(shares), moved),
        certainty=certainty_bands(shares, assigned.labels),
        confused_with=confusions(shares),
        kmeans=None
        if kmeans is None
        else compare_with_kmeans(kmeans, assigned.labels[complete], features, limits),
        before=tuple(before),
        seconds=seconds,
    )


def outline(final: MixtureParameters, ranges: Sequence[tuple[float, float]]) -> Aggregates:
    """Return what is known without rows: where the components lie, on the features' ranges.

    Parameters
    ----------
    ranges
        Minimum and maximum of each feature, (d, 2).
    """
    features = separating_features(final, MOST_FEATURES)
    substantial = substantial_components(final, 1_000_000)
    limits = [
        feature_limits(
            np.array(ranges[feature]),
            final.means[substantial, feature],
            np.sqrt(final.matrices[substantial, feature, feature]),
        )
        for feature in features
    ]
    components = drawn_components(final)
    return Aggregates(
        sample_rows=0,
        features=tuple(features),
        limits=tuple(limits),
        components=components,
        frames=frames_of({0: final}, features, limits, components),
    )


def _thinned(
    replay: Mapping[int, MixtureParameters], c: int, f: int
) -> dict[int, MixtureParameters]:
    """Keep as many iterations as a small file can hold, evenly, with the first and the last."""
    most = max(2, MOST_FRAME_NUMBERS // (c * (1 + 2 * f + f * (f - 1) // 2)))
    iterations = list(replay)
    if len(iterations) > most:
        places = np.linspace(0, len(iterations) - 1, most).round().astype(int)
        iterations = [iterations[place] for place in places]
    return {iteration: replay[iteration] for iteration in iterations}


def _search_frames(
    search: Sequence[tuple[MixtureParameters, float]],
    features: Sequence[int],
    limits: Sequence[tuple[float, float]],
    components: Sequence[int],
) -> list[Json]:
    way = dict(enumerate(parameters for parameters, _ in search))
    kept = _thinned(way, len(components), len(features)) if way else {}
    frames = frames_of(kept, features, limits, components)
    return [
        {**frame, "sample_log_likelihood": float(f"{search[frame['iteration']][1]:.8g}")}
        for frame in frames
    ]


def is_of_search(frame: Json) -> bool:
    """Whether a frame shows an iteration from the start of the search, not one of the polish."""
    return "sample_log_likelihood" in frame


def point_of(frame: Json) -> str:
    """Return the name by which a frame and its point on a chart belong together."""
    return f"{'search-' if is_of_search(frame) else ''}{frame['iteration']}"


def drawn_components(final: MixtureParameters) -> tuple[int, ...]:
    """Return the indices of the heaviest components, the heaviest first."""
    heaviest = np.argsort(-final.weights, kind="stable")[:MOST_COMPONENTS]
    return tuple(int(component) for component in heaviest)


def pairs_of(n: int) -> list[tuple[int, int]]:
    """Return all pairs (x, y) of n features, x < y, in the order in which panels are drawn."""
    return sorted(combinations(range(n), 2), key=lambda pair: (pair[1], pair[0]))


def frames_of(
    replay: Mapping[int, MixtureParameters],
    features: Sequence[int],
    limits: Sequence[tuple[float, float]],
    components: Sequence[int],
) -> tuple[Json, ...]:
    """Describe the components at each iteration, in the coordinates of the axes."""
    lows, highs = np.transpose(limits)  # (f,)
    frames = []
    for iteration, mixture in replay.items():
        chosen = list(components)
        means = (mixture.means[np.ix_(chosen, features)] - lows) / (highs - lows)  # (c, f)
        matrices = mixture.matrices[np.ix_(chosen, features, features)]  # (c, f, f)
        spreads = np.sqrt(np.diagonal(matrices, axis1=1, axis2=2))  # (c, f)
        correlations = [
            matrices[:, x, y] / np.maximum(spreads[:, x] * spreads[:, y], np.finfo(float).tiny)
            for x, y in pairs_of(len(features))
        ]
        frames.append(
            {
                "iteration": int(iteration),
                "weights": _short(mixture.weights[chosen], 4),
                "means": _short(np.clip(means, -1e3, 1e3), 5),
                "deviations": _short(np.clip(spreads / (highs - lows), 0.0, 1e3), 4),
                "correlations": _short(
                    np.clip(np.transpose(correlations), -1.0, 1.0)
                    if correlations
                    else np.empty((len(chosen), 0)),
                    4,
                ),
            }
        )
    return tuple(frames)


def _short(values: FloatArray, digits: int) -> Any:
    """Return nested lists of numbers with that many significant digits, for a small file."""
    if values.ndim > 1:
        return tuple(_short(row, digits) for row in values)
    return tuple(float(f"{value:.{digits}g}") for value in values.tolist())


def _histogram(values: FloatArray, limits: tuple[float, float]) -> tuple[int, ...]:
    """Count values in equal bins, as wide as the rule of Freedman and Diaconis says."""
    low, high = limits
    values = values[~np.isnan(values)]
    if not len(values):
        return (0,) * 12
    quartiles = np.quantile(values, [0.25, 0.75])
    width = 2.0 * float(quartiles[1] - quartiles[0]) / len(values) ** (1 / 3)
    bins = int(np.clip((high - low) / width if width > 0.0 else 0, 12, 120))
    counts, _ = np.histogram(values, bins=bins, range=limits)
    return tuple(counts.tolist())


def _pairs(
    values: FloatArray,
    limits: Sequence[tuple[float, float]],
    bins: int,
    uncertainty: FloatArray,
    moved: npt.NDArray[np.bool_],
) -> tuple[tuple[tuple[int, int, int, int], ...], ...]:
    """Count the rows of each pair of features in cells; see `Aggregates.pairs`."""
    lows, highs = np.transpose(limits)
    places = np.floor((values - lows) / (highs - lows) * bins).T  # (f, m)
    inside = (places >= 0) & (places < bins)
    numbers = np.where(inside, places, 0).astype(np.int64)
    others_of_rows = moved.astype(np.float64)
    pairs = []
    for x, y in pairs_of(len(limits)):
        cells = np.where(inside[x] & inside[y], numbers[x] * bins + numbers[y], bins * bins)
        rows, doubt, others = (
            np.bincount(cells, weights, minlength=bins * bins + 1)[:-1]  # the last: outside
            for weights in (None, uncertainty, others_of_rows)
        )
        occupied = np.flatnonzero(rows)
        columns = (
            occupied,
            rows[occupied],
            np.rint(100.0 * doubt[occupied] / rows[occupied]),
            others[occupied],
        )
        cells_of_pair = zip(*(column.astype(np.int64).tolist() for column in columns), strict=True)
        pairs.append(tuple(cells_of_pair))
    return tuple(pairs)
