"""The log-likelihood from the search to the last iteration of the polish."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gmm_dask.printable import typeset
from gmm_dask.report.aggregates import is_of_search, point_of
from gmm_dask.report.frame import first_drawn
from gmm_dask.report.page.markup import Markup, element, join
from gmm_dask.report.page.plot import BOTTOM, TOP, Plot, number, padded
from gmm_dask.report.page.subject import Subject
from gmm_dask.report.page.tables import behind

SIZE = (480.0, 230.0)
MOST_ROWS = 60  # of the table
SEARCH_SHARE = 0.16  # of the axis, left of the polish
WAY_SHARE = 0.45  # the same, if the way of the search is drawn


def log_likelihood_chart(subject: Subject) -> Markup | None:
    """Draw the mean log-likelihood after each iteration, left of it what the search had found."""
    manifest = subject.model.manifest
    if not manifest.n_iter:
        return None
    values = np.array([*manifest.history[: manifest.n_iter], manifest.log_likelihood])
    first = first_drawn(values)
    finalists = manifest.search.log_likelihoods if manifest.search else ()
    way = _way(subject)
    drawn = [*values[first:].tolist(), *finalists, *(value for _, value in way)]
    width = max(manifest.n_iter - first, 1)
    share = WAY_SHARE if way else SEARCH_SHARE
    begin = first - share * width / (1.0 - share) if finalists else float(first)
    plot = Plot(
        *SIZE,
        (begin - 0.02 * width, manifest.n_iter + 0.02 * width),
        padded(min(drawn), max(drawn), 0.1),
    )
    iterations = range(first, len(values))
    kept = {frame["iteration"] for frame in subject.aggregates.frames if not is_of_search(frame)}
    points = [
        element(
            "circle", class_="point", cx=plot.x(number_), cy=plot.y(float(values[number_])),
            r="2.4", data_iteration=number_,
        )
        for number_ in iterations
        if number_ in kept or len(values) <= 60
    ]  # fmt: skip
    label = (
        f"Mean log-likelihood: {number(float(values[first]), 6)} nats per row at iteration "
        f"{first}, {number(float(values[-1]), 6)} at the last, iteration {manifest.n_iter}"
    )
    return join(
        plot.picture(
            label,
            plot.frame("iterations of the polish", "nats per row", x_whole=True, x_first=first),
            _search(plot, begin, float(first), finalists, way),
            element("path", class_="line", d=plot.path(list(iterations), values[first:].tolist())),
            *points,
        ),
        element("p", _words(subject, first), class_="note"),
        behind(("iteration", "nats per row", "gain"), _rows(values)),
    )


def _way(subject: Subject) -> list[tuple[str, float]]:
    """Return name and mean log-likelihood of the search's iterations that are drawn."""
    frames = [frame for frame in subject.aggregates.frames if is_of_search(frame)]
    values = np.array([frame["sample_log_likelihood"] for frame in frames])
    first = first_drawn(values)
    names = [point_of(frame) for frame in frames]
    return list(zip(names[first:], values[first:].tolist(), strict=True))


def _search(
    plot: Plot,
    begin: float,
    first: float,
    finalists: tuple[float, ...],
    way: Sequence[tuple[str, float]],
) -> Markup:
    """Mark what the finalists of the search had reached, and how the winner came there."""
    if not finalists:
        return Markup("")
    right = plot.x(first) - 8.0
    middle = (plot.left + right) / 2.0
    edge = right - 14.0 if way else middle  # where finalists are marked
    places = np.linspace(plot.left + 8.0, edge - 14.0, max(len(way), 2)).tolist()
    points = [(x, plot.y(value)) for x, (_, value) in zip(places, way, strict=False)]
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return join(
        element(
            "rect", class_="aside", x=plot.left, y=TOP, width=right - plot.left,
            height=plot.height - TOP - BOTTOM,
        ),
        element(
            "text", "search", class_="tick", x=middle, y=plot.height - BOTTOM + 14.0,
            text_anchor="middle",
        ),
        *(
            element("circle", class_="ring", cx=edge, cy=plot.y(value), r="4")
            for value in finalists
        ),
        element("path", class_="line way", d=line) if way else Markup(""),
        *(
            element("circle", class_="point", cx=x, cy=y, r="2.4", data_iteration=name)
            for (x, y), (name, _) in zip(points, way, strict=True)
        ),
    )  # fmt: skip


def _words(subject: Subject, first: int) -> str:
    manifest = subject.model.manifest
    sentences = []
    if manifest.search is not None:
        finalists = len(manifest.search.log_likelihoods)
        sentences.append(
            f"The search tried {manifest.search.starts} starts on a sample of "
            f"{manifest.search.rows:,} rows; "
            + (
                "circles show where the best of them"
                if finalists > 1
                else "the circle shows where it"
            )
            + " ended. From there the polish ran on all rows."
        )
    if any(map(is_of_search, subject.aggregates.frames)):
        sentences.append(
            "The line beside them is EM from the start that won, run again on rows of the sample."
        )
    if first:
        left_out = "the start" if first == 1 else f"the first {first} iterations"
        sentences.append(f"Not drawn: {left_out}, from {number(manifest.history[0], 3)} on.")
    return " ".join(sentences)


def _rows(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[tuple[str, str, str]]:
    places = np.unique(np.linspace(0, len(values) - 1, MOST_ROWS).round().astype(int)).tolist()
    return [
        (
            str(place),
            typeset(f"{values[place]:.7g}"),
            typeset(f"{values[place] - values[place - 1]:+.2e}") if place else "",
        )
        for place in places
    ]
