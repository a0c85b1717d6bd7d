"""Tables of versions on a terminal, and the same as JSON for other programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gmm_dask.printable import printable
from gmm_dask.storage.files.sealed import plain
from gmm_dask.storage.models.listing import ListedModel

#: Columns of a table in a file or a pipe, where nothing says how wide it may be.
UNLIMITED = 10_000


def print_json(content: Any) -> None:
    """Write JSON to stdout; a number that is not finite becomes null."""
    print(json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False))


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[str] = ()
) -> None:
    """Write a table to stdout, as wide as the terminal; in a file no cell is broken.

    Parameters
    ----------
    header, rows
        Cells; what a terminal would obey is made visible.
    texts
        The columns that hold words; the others are aligned to the right.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in header:
        table.add_column(Text(printable(name)), justify="left" if name in texts else "right")
    for cells in rows:
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Console(width=None if sys.stdout.isatty() else UNLIMITED, highlight=False).print(table)


def print_listing(listed: Sequence[ListedModel]) -> None:
    """Write a line for each version and candidate."""
    header = ["model", "version", "stored", "rows", "components", "nats per row", "BIC", "state"]
    print_table(header, [_cells(model) for model in listed], texts=("model", "state"))


def _cells(model: ListedModel) -> list[str]:
    version = "–" if model.version is None else str(model.version)
    if model.problem is not None or model.rows is None:
        return [model.model, version, "", "", "", "", "", _state(model)]
    return [
        model.model,
        version,
        (model.created or "")[:16].replace("T", " "),
        f"{model.rows:,}",
        f"{model.n_components} {model.covariance_type}",
        f"≥ {model.bound:.6g}" if model.log_likelihood is None else f"{model.log_likelihood:.6g}",
        "" if model.bic is None else f"{model.bic:,.1f}",
        _state(model),
    ]


def _state(model: ListedModel) -> str:
    words = [
        "current" if model.current else "",
        "pinned" if model.pinned else "",
        "" if model.rejected is None else f"rejected: {model.rejected} ({model.run_id})",
        model.problem or "",
    ]
    return ", ".join(filter(None, words))
