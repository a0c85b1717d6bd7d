"""A summary for a person: its facts, tables and notes, as Markdown and on a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gmm_dask.printable import printable

_MARKUP = re.compile(r"[\\`*_\[\]<>|~&]")


@dataclass(frozen=True)
class Summary:
    """Facts, a table and warnings, ready to be written to a terminal or a server.

    Attributes
    ----------
    title
        One line.
    facts
        Pairs of a name and a text.
    header, rows
        The table; every row has as many cells as the header. Both may be empty.
    notes
        Sentences below the table.
    comparison
        The table of a selection, which stands before the other, its header first; may be empty.

    Names of columns and files come from data: what a terminal would obey is made visible.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    comparison: Sequence[Sequence[str]] = ()

    def __post_init__(self) -> None:
        shown = {
            "title": printable(self.title),
            "facts": [(printable(name), printable(text)) for name, text in self.facts],
            "header": [*map(printable, self.header)],
            "rows": [[*map(printable, cells)] for cells in self.rows],
            "notes": [*map(printable, self.notes)],
            "comparison": [[*map(printable, cells)] for cells in self.comparison],
        }
        for field, texts in shown.items():
            object.__setattr__(self, field, texts)


def markdown(summary: Summary) -> str:
    """Write a summary as Markdown, for the server."""
    lines = [f"# {_literal(summary.title)}", ""]
    lines += [f"- **{_literal(name)}**: {_literal(text)}" for name, text in summary.facts]
    for table in _tables(summary):
        header, *rows = table
        lines += ["", _row(header), "| " + " | ".join("---" for _ in header) + " |"]
        lines += [_row(cells) for cells in rows]
    lines += [""] if summary.notes else []
    lines += [f"> {_literal(note)}" for note in summary.notes]
    return "\n".join(lines) + "\n"


def _tables(summary: Summary) -> list[list[Sequence[str]]]:
    """Return the tables that have rows, each with its header first."""
    tables = [[*summary.comparison], [summary.header, *summary.rows]]
    return [table for table in tables if len(table) > 1]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_literal, cells)) + " |"


def _literal(text: str) -> str:
    """Text that Markdown shows as it is: no markup, links or HTML of a column's name."""
    return _MARKUP.sub(r"\\\g<0>", text)


def print_summary(summary: Summary) -> None:
    """Write a summary to stdout, plain enough for a file."""
    print(f"\n{summary.title}")
    width = max(len(name) for name, _ in summary.facts)
    for name, text in summary.facts:
        print(f"  {name:<{width}}  {text}")
    for table in _tables(summary):
        print()
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        for row in table:
            cells = (cell.rjust(size) for cell, size in zip(row, widths, strict=True))
            print("  " + "   ".join(cells))
    for note in summary.notes:
        print(f"  note: {note}")
