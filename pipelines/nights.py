"""The history of drift on a terminal, and the same as JSON for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gmm_dask.pipelines.tables import print_table
from gmm_dask.printable import printable
from gmm_dask.storage.models.drift_history import DriftRecord, Since, seen_since

#: Findings of a night that the table names.
NAMED = 3


def print_nights(nights: Sequence[DriftRecord]) -> None:
    """Write a line for each night, and since when what drifts in the last one has been seen."""
    if not nights:
        print(
            "no night is recorded: nothing has been compared yet; a retrain records its new rows, "
            "and so does a prediction of rows that the fit has not seen (--predictions DIR)"
        )
        return
    header = ["night (UTC)", "by", "compared with", "files", "rows", "drift"]
    print_table(header, [_cells(record) for record in nights], texts=("night (UTC)", "by", "drift"))
    for since in seen_since(nights):
        print(f"  {printable(_sentence(since))}")


def _cells(record: DriftRecord) -> list[str]:
    words = [finding.words for finding in record.findings]
    if len(words) > NAMED:
        words = [*words[:NAMED], f"{len(words) - NAMED} more"]
    return [
        record.created[:16].replace("T", " "),
        record.by,
        "–" if record.version is None else f"version {record.version}",
        f"{record.files:,}",
        f"{record.rows:,}",
        "; ".join(filter(None, ["; ".join(words), record.other_words])) or "none",
    ]


def _sentence(since: Since) -> str:
    if since.nights == 1:
        return f"{since.finding.subject_words}: seen for the first time"
    day = since.created[:10]
    return f"{since.finding.subject_words}: seen {since.nights} nights in a row, since {day}"


def nights_to_json(nights: Sequence[DriftRecord]) -> dict[str, Any]:
    """Return the history as JSON: all nights, and what drifts in the last one since when."""
    return {
        "nights": [record.to_json() for record in nights],
        "since": [
            {
                "kind": since.finding.kind,
                "component": since.finding.component,
                "feature": since.finding.feature,
                "since": since.created,
                "nights": since.nights,
            }
            for since in seen_since(nights)
        ],
    }
