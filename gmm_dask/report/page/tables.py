"""Tables: the figures behind a chart, for those who cannot see it or want the digits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gmm_dask.report.page.markup import Child, Markup, element


def table(
    header: Sequence[str], rows: Iterable[Sequence[Child]], caption: str | None = None
) -> Markup:
    """Make a table that scrolls sideways where it is too wide; the first cells name the rows."""
    return element(
        "div",
        element(
            "table",
            element("caption", caption) if caption else None,
            element("thead", element("tr", *(element("th", text, scope="col") for text in header))),
            element("tbody", *(_row(cells) for cells in rows)),
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption or ", ".join(header),
    )


def _row(cells: Sequence[Child]) -> Markup:
    first, *others = cells
    return element("tr", element("th", first, scope="row"), *(element("td", c) for c in others))


def behind(
    header: Sequence[str], rows: Iterable[Sequence[Child]], title: str = "The figures"
) -> Markup:
    """Make a table that is folded away."""
    return element("details", element("summary", title), table(header, rows))


def mark(identity: int) -> Markup:
    """Write the id of a component so that it can be clicked and is followed."""
    return element(
        "button", str(identity), type="button", class_="mark", data_id=identity,
        aria_pressed="false", aria_label=f"component {identity}",
    )  # fmt: skip
