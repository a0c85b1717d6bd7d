"""The history of drift: which feature, in which component, since when."""

from __future__ import annotations

from collections.abc import Sequence

from gmm_dask.printable import typeset
from gmm_dask.report.page.markup import Markup, element, join
from gmm_dask.report.page.plot import Plot, padded, shorten
from gmm_dask.report.page.subject import Subject
from gmm_dask.report.page.tables import behind
from gmm_dask.report.palette import COLORS
from gmm_dask.storage.models.drift_history import DriftRecord, seen_since
from gmm_dask.storage.models.estimates import Estimate

SIZE = (480.0, 220.0)
#: Most lines of a chart: those that were found last, then those that moved most.
MOST_LINES = 6
#: Most lines of what has never been found.
MOST_QUIET = 3

Place = tuple[int | None, str | None]


def nights_chart(subject: Subject) -> Markup | None:
    """Draw shifts of means night by night, spreads where one has changed; None without nights."""
    nights = subject.nights
    if not nights:
        return None
    drifted = sum(record.drifted for record in nights)
    counted = "1 night" if len(nights) == 1 else f"{len(nights)} nights"
    words = "none with drift" if not drifted else f"{drifted} with drift"
    since = [
        element(
            "li",
            f"{typeset(item.finding.words)}: "
            + (
                "seen for the first time."
                if item.nights == 1
                else f"seen {item.nights} nights in a row, since {item.created[:10]}."
            ),
        )
        for item in seen_since(nights)
    ]
    spreads = any(finding.kind == "spread" for record in nights for finding in record.findings)
    return join(
        element(
            "p",
            f"{counted}, {words}. The new rows of each are compared with the model that was in "
            "use before them.",
            class_="lead",
        ),
        element("ul", *since, class_="since") if since else Markup(""),
        _chart(nights, "mean"),
        _chart(nights, "spread") if spreads else Markup(""),
        _table(nights),
    )


def _chart(nights: Sequence[DriftRecord], kind: str) -> Markup:
    """Draw the estimates of a kind with their standard errors, and the limits."""
    places = _places(nights, kind)
    if not places:
        return Markup("")
    estimates = [
        {place: item for item in _of_kind(record, kind) if (place := item[:2]) in places}
        for record in nights
    ]
    nothing = 1.0 if kind == "spread" else 0.0
    check = "spread change" if kind == "spread" else "mean shift"
    limit = next(
        (record.checks[check][1] for record in reversed(nights) if check in record.checks), 0.0
    )
    limits = (1.0 / (1.0 + limit), 1.0 + limit) if kind == "spread" else (-limit, limit)
    shown = [by_place[place] for by_place in estimates for place in places if place in by_place]
    ends = [item.value + way * item.error for item in shown for way in (-1.0, 1.0)]
    last = max(len(nights), 2)
    plot = Plot(
        *SIZE,
        padded(1.0, float(last), 0.04),
        padded(min(*ends, limits[0], nothing), max(*ends, limits[1], nothing), 0.08),
    )
    key = [
        element(
            "li",
            element("i", class_="dash series", style=f"--c:{COLORS[number]}"),
            shorten(_words(place), 60),
        )
        for number, place in enumerate(places)
    ]
    names = ", ".join(_words(place) for place in places)
    label = "Spread as a multiple of that of the fit" if kind == "spread" else "Shift of the mean"
    unit = "σ ratio" if kind == "spread" else "σ"
    return join(
        element("ul", *key, class_="key", aria_label=label),
        plot.picture(
            f"{label}, night by night: {names}",
            plot.frame("night", f"{label.lower().split(' as ')[0]}, {unit}", x_whole=True),
            *(
                element(
                    "line", class_="cut", x1=plot.x(1.0), x2=plot.x(float(last)), y1=plot.y(value),
                    y2=plot.y(value),
                )
                for value in limits
            ),
            *(_line(plot, estimates, place, number) for number, place in enumerate(places)),
        ),
    )  # fmt: skip


def _places(nights: Sequence[DriftRecord], kind: str) -> list[Place]:
    """Return what is drawn: what was found, the last first, or what moved most in the last."""
    found = [
        (finding.component, finding.feature)
        for record in reversed(nights)
        for finding in record.findings
        if finding.kind == kind
    ]
    if found:
        return list(dict.fromkeys(found))[:MOST_LINES]
    nothing = 1.0 if kind == "spread" else 0.0
    last = _of_kind(nights[-1], kind)
    moved = sorted(last, key=lambda item: -abs(item.value - nothing) / item.error)
    return [(item.component, item.feature) for item in moved[:MOST_QUIET]]


def _line(
    plot: Plot, estimates: Sequence[dict[Place, Estimate]], place: Place, number: int
) -> Markup:
    """Draw what is known of a place; a component of another version leaves a gap."""
    known = [
        (float(night), by_place[place])
        for night, by_place in enumerate(estimates, 1)
        if place in by_place
    ]
    marks = [
        join(
            element(
                "line", class_="whisker", x1=plot.x(night), x2=plot.x(night),
                y1=plot.y(item.value - item.error), y2=plot.y(item.value + item.error),
            ),
            element("circle", class_="point", cx=plot.x(night), cy=plot.y(item.value), r="3"),
        )
        for night, item in known
    ]  # fmt: skip
    line = plot.path([night for night, _ in known], [item.value for _, item in known])
    return element(
        "g",
        element("path", class_="line", d=line),
        *marks,
        class_="series",
        style=f"--c:{COLORS[number]}",
    )


def _of_kind(record: DriftRecord, kind: str) -> Sequence[Estimate]:
    return record.spreads if kind == "spread" else record.means


def _words(place: Place) -> str:
    component, feature = place
    which = "all components" if component is None else f"component {component}"
    return f"{feature or 'all features'} in {which}"


def _table(nights: Sequence[DriftRecord]) -> Markup:
    rows = [
        (
            record.created.replace("T", " ")[:16],
            record.by,
            "" if record.version is None else f"version {record.version}",
            f"{record.rows:,}",
            typeset(
                "; ".join(
                    filter(None, [*(item.words for item in record.findings), record.other_words])
                )
            )
            or "none",
        )
        for record in reversed(nights)
    ]
    return behind(("night (UTC)", "by", "compared with", "rows", "drift"), rows, "All nights")
