"""Drift over the batches that a model has predicted."""

from __future__ import annotations

from gmm_dask.printable import typeset
from gmm_dask.report.page.markup import Markup, element, join
from gmm_dask.report.page.plot import Plot, padded
from gmm_dask.report.page.subject import Batch, Subject
from gmm_dask.report.page.tables import behind
from gmm_dask.report.palette import COLORS

SIZE = (480.0, 220.0)
LARGEST = 5.0  # times the limit: more is drawn at the edge


def drift_chart(subject: Subject) -> Markup | None:
    """Draw each check as a multiple of its limit, batch by batch; None without batches."""
    batches = subject.drift
    if not batches:
        return None
    names = list(dict.fromkeys(name for batch in batches for name in batch.checks))
    tallest = max(1.3, *(_ratio(batch, name) for batch in batches for name in names))
    last = max(len(batches), 2)
    plot = Plot(*SIZE, padded(1.0, float(last), 0.04), (0.0, 1.08 * tallest))
    limit = plot.y(1.0)
    lines = [_line(plot, batches, name, place) for place, name in enumerate(names)]
    key = [
        element("li", element("i", class_="dash series", style=f"--c:{COLORS[place]}"), name)
        for place, name in enumerate(names)
    ]
    outside = sum(not batch.passed for batch in batches)
    counted = "1 batch" if len(batches) == 1 else f"{len(batches)} batches"
    words = "none beyond a limit" if not outside else f"{outside} of them beyond a limit"
    return join(
        element("p", f"{counted} predicted with this model, {words}.", class_="lead"),
        element("ul", *key, class_="key", aria_label="Checks"),
        plot.picture(
            f"Drift of {counted} as multiples of the limits, {words}",
            plot.frame("batch", "times the limit", x_whole=True),
            element("line", class_="cut", x1=plot.x(1.0), x2=plot.x(last), y1=limit, y2=limit),
            *lines,
        ),
        _table(batches, names),
    )


def _ratio(batch: Batch, name: str) -> float:
    """Return a value in limits, between 0 and `LARGEST`; a limit of 0 allows nothing."""
    value, limit = batch.checks.get(name, (0.0, 1.0))
    if value <= 0.0:
        return 0.0
    return min(value / limit, LARGEST) if limit > 0.0 else LARGEST


def _line(plot: Plot, batches: tuple[Batch, ...], name: str, place: int) -> Markup:
    ratios = [_ratio(batch, name) for batch in batches]
    numbers = list(range(1, len(batches) + 1))
    points = [
        element("circle", class_="point", cx=plot.x(number), cy=plot.y(ratio), r="3")
        for number, ratio in zip(numbers, ratios, strict=True)
    ]
    line = element("path", class_="line", d=plot.path(numbers, ratios))
    return element("g", line, *points, class_="series", style=f"--c:{COLORS[place]}")


def _table(batches: tuple[Batch, ...], names: list[str]) -> Markup:
    rows = [
        (
            batch.created.replace("T", " ")[:16],
            f"{batch.rows:,}",
            *(
                "" if name not in batch.checks
                else typeset(f"{batch.checks[name][0]:.4g} of {batch.checks[name][1]:.4g}")
                for name in names
            ),
            "yes" if batch.passed else "NO",
        )
        for batch in reversed(batches)
    ]  # fmt: skip
    return behind(("batch (UTC)", "rows", *names, "within"), rows, "All batches")
