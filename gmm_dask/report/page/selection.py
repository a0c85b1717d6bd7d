"""The chart of a selection: its criterion over the number of components, a line for each type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gmm_dask.printable import typeset
from gmm_dask.report.page.markup import Markup, element, join
from gmm_dask.report.page.plot import Plot, number, padded
from gmm_dask.report.page.subject import Subject
from gmm_dask.report.page.tables import behind
from gmm_dask.report.palette import COLORS

SIZE = (480.0, 270.0)
BEST = 3  # cells that are labelled
#: Ends after which a cell may be chosen.
SOUND = ("converged", "max_iter", "beaten")
NAMES = {"bic": "BIC", "icl": "ICL", "aic": "AIC"}
STATUS = {
    "max_iter": "not converged",
    "beaten": "given up early: it could not win",
    "collapsed": "a component collapsed",
    "starved": "a component starved",
    "ill_conditioned": "broke down",
    "too_few_rows": "more components than rows",
}

Cell = Mapping[str, Any]


def selection_chart(subject: Subject) -> Markup | None:
    """Draw the table of the selection that the model was chosen by; None where it was not."""
    selection = subject.section("selection")
    if selection is None:
        return None
    criterion, cells = selection["criterion"], selection["cells"]
    name = NAMES.get(criterion, criterion)
    known = [cell for cell in cells if cell[criterion] is not None]
    best = _best(known, criterion, selection["chosen"])
    types = list(dict.fromkeys(cell["covariance_type"] for cell in cells))
    counts = [cell["n_components"] for cell in cells]
    values = [cell[criterion] for cell in known]
    plot = Plot(
        *SIZE, padded(min(counts), max(counts), 0.04), padded(min(values), max(values), 0.08)
    )
    lines = [_line(plot, known, kind, place, criterion) for place, kind in enumerate(types)]
    key = [
        element("li", element("i", class_="dash series", style=f"--c:{_color(place)}"), kind)
        for place, kind in enumerate(types)
    ]
    labels = [_label(plot, cell, place, criterion) for place, cell in enumerate(best)]
    chosen = f"{best[0]['n_components']} {best[0]['covariance_type']} components" if best else ""
    return join(
        element(
            "p", f"{name} chose {chosen} among {len(cells)} mixtures; lower is better.",
            class_="lead",
        ),
        element("ul", *key, class_="key", aria_label="Covariance types"),
        plot.picture(
            f"{name} over the number of components, a line for each covariance type; "
            f"the lowest is {chosen}",
            plot.frame("number of components", name, x_whole=True),
            *lines,
            *labels,
        ),
        _table(cells, best),
    )  # fmt: skip


def _best(cells: Sequence[Cell], criterion: str, chosen: Cell) -> list[Cell]:
    """Return the chosen cell and those that come next, of the cells that could be chosen."""

    def key(cell: Cell) -> tuple[bool, float]:
        return not _same(cell, chosen), cell[criterion]

    able = [cell for cell in cells if cell["status"] in SOUND or _same(cell, chosen)]
    return sorted(able, key=key)[:BEST]


def _same(cell: Cell, other: Cell) -> bool:
    return all(cell[name] == other[name] for name in ("n_components", "covariance_type"))


def _line(plot: Plot, cells: Sequence[Cell], kind: str, place: int, criterion: str) -> Markup:
    chosen = sorted(
        (cell for cell in cells if cell["covariance_type"] == kind),
        key=lambda cell: int(cell["n_components"]),
    )
    if not chosen:
        return Markup("")
    points = [
        element(
            "circle", element("title", _words(cell, criterion)),
            class_="point" if cell["status"] in SOUND else "ring",
            cx=plot.x(cell["n_components"]), cy=plot.y(cell[criterion]), r="3",
        )
        for cell in chosen
    ]  # fmt: skip
    path = plot.path(
        [cell["n_components"] for cell in chosen], [cell[criterion] for cell in chosen]
    )
    return element(
        "g", element("path", class_="line", d=path), *points, class_="series",
        style=f"--c:{_color(place)}",
    )  # fmt: skip


def _words(cell: Cell, criterion: str) -> str:
    words = f"{cell['n_components']} {cell['covariance_type']}: {number(cell[criterion], 6)}"
    return words + ("" if cell["status"] == "converged" else f" ({_status(cell)})")


def _label(plot: Plot, cell: Cell, place: int, criterion: str) -> Markup:
    left, top = plot.x(cell["n_components"]), plot.y(cell[criterion])
    return join(
        element("circle", class_="halo", cx=left, cy=top, r="7"),
        element(
            "text", str(place + 1), class_="rank", x=left, y=top - 11.0, text_anchor="middle"
        ),
    )  # fmt: skip


def _table(cells: Sequence[Cell], best: Sequence[Cell]) -> Markup:
    def value(cell: Cell, name: str) -> str:
        given = cell.get(name)
        return "" if given is None else typeset(f"{given:,.4f}")

    rows = []
    for cell in cells:
        rank = next((str(i + 1) for i, other in enumerate(best) if _same(cell, other)), "")
        reason = cell.get("reason") or ""
        rows.append(
            (
                f"{cell['n_components']} {cell['covariance_type']}",
                rank,
                value(cell, "log_likelihood"),
                *(value(cell, name) for name in NAMES),
                _status(cell) + (f": {reason}" if reason else ""),
            )
        )
    header = ("mixture", "rank", "nats per row", *NAMES.values(), "end")
    return behind(header, rows, f"All {len(cells)} mixtures")


def _status(cell: Cell) -> str:
    status = str(cell["status"])
    return STATUS.get(status, status)


def _color(place: int) -> str:
    return COLORS[place % len(COLORS)]
