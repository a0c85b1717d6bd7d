"""The log-likelihood from the search to the last iteration of the polish."""

from __future__ import annotations

import numpy as np

from gmm_dask.report.frame import first_drawn
from gmm_dask.report.page.markup import Markup, element, join
from gmm_dask.report.page.plot import BOTTOM, TOP, Plot, number, padded
from gmm_dask.report.page.subject import Subject
from gmm_dask.report.page.tables import behind

SIZE = (480.0, 230.0)
MOST_ROWS = 60  # of the table
SEARCH_SHARE = 0.16  # of the axis, left of the polish


def log_likelihood_chart(subject: Subject) -> Markup | None:
    """Draw the mean log-likelihood after each iteration, left of it what the search had found."""
    manifest = subject.model.manifest
    if not manifest.n_iter:
        return None
    values = np.array([*manifest.history[: manifest.n_iter], manifest.log_likelihood])
    first = first_drawn(values)
    finalists = manifest.search.log_likelihoods if manifest.search else ()
    drawn = [*values[first:].tolist(), *finalists]
    width = max(manifest.n_iter - first, 1)
    begin = first - SEARCH_SHARE * width / (1.0 - SEARCH_SHARE) if finalists else float(first)
    plot = Plot(
        *SIZE,
        (begin - 0.02 * width, manifest.n_iter + 0.02 * width),
        padded(min(drawn), max(drawn), 0.1),
    )
    iterations = range(first, len(values))
    kept = {frame["iteration"] for frame in subject.aggregates.frames}
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
            _search(plot, begin, float(first), finalists),
            element("path", class_="line", d=plot.path(list(iterations), values[first:].tolist())),
            *points,
        ),
        element("p", _words(subject, first), class_="note"),
        behind(("iteration", "nats per row", "gain"), _rows(values)),
    )


def _search(plot: Plot, begin: float, first: float, finalists: tuple[float, ...]) -> Markup:
    """Mark what the finalists of the search had reached, on the sample."""
    if not finalists:
        return Markup("")
    right = plot.x(first) - 8.0
    middle = (plot.left + right) / 2.0
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
            element("circle", class_="ring", cx=middle, cy=plot.y(value), r="4")
            for value in finalists
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
    if first:
        left_out = "the start" if first == 1 else f"the first {first} iterations"
        sentences.append(f"Not drawn: {left_out}, from {number(manifest.history[0], 3)} on.")
    return " ".join(sentences)


def _rows(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> list[tuple[str, str, str]]:
    places = np.unique(np.linspace(0, len(values) - 1, MOST_ROWS).round().astype(int)).tolist()
    return [
        (
            str(place),
            f"{values[place]:.7g}".replace("-", "−"),
            f"{values[place] - values[place - 1]:+.2e}".replace("-", "−") if place else "",
        )
        for place in places
    ]
