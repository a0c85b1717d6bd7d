"""What a run says of input files that it left out, in its summary and its state."""

from __future__ import annotations

from collections.abc import Mapping

from gmm_dask.pipelines.sequences import Outcome, PredictOutcome
from gmm_dask.storage.input.bad_files import BadFile, describe


def skipped_facts(files: Mapping[str, str]) -> list[tuple[str, str]]:
    """Say which input files were left out because they cannot be used."""
    if not files:
        return []
    return [("skipped", describe([BadFile(path, reason) for path, reason in files.items()]))]


def unsettled_words(files: int) -> str:
    """Say how many files were left out because they were not at rest."""
    written = "file was" if files == 1 else "files were"
    return f"{files:,} {written} not at rest (input.settled_for), and belong to a later run"


def left_out_words(outcome: Outcome) -> str:
    """Say which files a run left out, and what that took from its predictions."""
    words = [describe(outcome.skipped)] if outcome.skipped else []
    if outcome.unsettled:
        words.append(unsettled_words(outcome.unsettled))
    predictions = getattr(outcome, "predictions", outcome)
    if isinstance(predictions, PredictOutcome) and predictions.lost_rows:
        words.append(f"{predictions.lost_rows:,} predictions of before went with files left out")
    return "; ".join(words)


def left_out_notes(outcome: Outcome) -> list[str]:
    """Return what a summary notes of files that were left out."""
    words = left_out_words(outcome)
    return [words] if words else []
