"""Writing a prediction dataset: staged, verified, published; old parts used again.

What lies where: `gmm_dask.storage.predictions.dataset`.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from gmm_dask.errors import ConflictError, StorageError
from gmm_dask.storage.files.contents import StagedVersion
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.files.sealed import plain, seal
from gmm_dask.storage.files.versions import Writer
from gmm_dask.storage.input.content import Contents, contents_of
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.predictions.dataset import FORMAT, PART, RUN_ID
from gmm_dask.storage.predictions.parts import Part, PartWriter, check_key_columns, order_of
from gmm_dask.storage.predictions.reuse import Reusable, reusable_parts, take_over
from gmm_dask.storage.predictions.verification import check_coverage, check_parts

logger = logging.getLogger(__name__)


class StagedPredictions:
    """A version that is being written; made by `begin`, ended by `publish` or `abandon`.

    Attributes
    ----------
    places, run_id
        Where, and by whom.
    plan
        The whole input.
    remaining
        The input without the files whose parts are used again: what is to be read.
    writer
        For the chunks of ``remaining``.
    reused
        The parts that are used again, by input file; they are in place already.
    """

    def __init__(
        self,
        places: PredictionPlaces,
        plan: InputPlan,
        reused: Mapping[str, tuple[Part, ...]],
        known: Contents,
        writer: PartWriter,
        record: Mapping[str, Any],
        version_writer: Writer,
    ) -> None:
        self.places = places
        self.run_id = writer.run_id
        self.plan = plan
        self.remaining = writer.plan
        self.reused = reused
        self.writer = writer
        self._known = known
        self._record = record
        self._version_writer = version_writer
        self._before = places.store.pointer()
        self._ended = False

    @property
    def path(self) -> Path:
        """Where the version will lie."""
        return self.places.store.version(self.run_id).path

    def verify(self, parts: Iterable[Part]) -> tuple[Part, ...]:
        """See that the version is whole: every row of the input once, every part readable.

        Reads footers, no rows.

        Parameters
        ----------
        parts
            What `PartWriter.write` returned.

        Returns
        -------
        tuple of Part
            All parts, those used again included, in the order of the input.

        Raises
        ------
        StorageError
            Rows or parts are missing, or a part is not what was written; names the file.
        """
        # A chunk whose worker died may have been written twice: the same name, the same rows.
        named = {part.name: part for part in parts}
        named |= {part.name: part for kept in self.reused.values() for part in kept}
        ordered = tuple(named[name] for name in sorted(named, key=order_of))
        check_coverage(self.plan, ordered, self.places.out)
        check_parts(self.writer.stage, ordered)
        return ordered

    def publish(
        self,
        parts: Iterable[Part],
        summary: Mapping[str, Any] | None = None,
        digests: Sequence[str] = (),
    ) -> Path:
        """Make this version the one that ``OUT`` means; returns its path.

        May be called again after a failure; what was done is not done twice.

        Parameters
        ----------
        parts
            What `PartWriter.write` returned; verified first.
        summary
            Kept in the record.
        digests
            Of the row groups of ``remaining``, as they were read (`Scanner.digests`). Without
            them these files count as changed in the next run.

        Raises
        ------
        ConflictError
            ``OUT`` leads to another version than when this one was begun.
        StorageError
            The version is not whole, or the disk refuses. ``OUT`` is what it was.
        """
        if self._ended:
            return self.path
        ordered = self.verify(parts)
        contents = {**contents_of(self.plan, ()), **contents_of(self.remaining, digests)}
        contents |= self._known
        record = {
            **self._record,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "files": {path: content.to_json() for path, content in contents.items()},
            "reused": sum(len(kept) for kept in self.reused.values()),
            "summary": plain(summary or {}),
            "parts": [list(astuple(part)) for part in ordered],
        }
        self.writer.stage.seal((part.name for part in ordered), record=seal(record))
        # A link that somebody removed is made again: nobody's predictions are replaced by that.
        before = self._before if self.places.store.pointer() else None
        self._version_writer.point(self.run_id.encode(), expecting=before)
        self._prune()
        self._end()
        return self.path

    def _prune(self) -> None:
        """Keep the version before, for readers that began with it; remove older ones."""
        keep = {self.run_id} | ({self._before.content.decode()} if self._before else set())
        try:
            self._version_writer.prune(keep, PART)
        except StorageError as error:  # the new version stands; the next run tries again
            logger.warning("old predictions were not removed: %s", error)

    def abandon(self) -> None:
        """Remove what was staged, unless it was published, and let the next run begin."""
        if self._ended:
            return
        # A publish that failed after its last step has published all the same.
        with suppress(StorageError):
            if not self._is_published():
                self._version_writer.remove(self.run_id)
        self._end()

    def _is_published(self) -> bool:
        try:
            return self.places.current_run() == self.run_id
        except StorageError:  # something else is there by now
            return False

    def _end(self) -> None:
        self._ended = True
        self._version_writer.close()

    def __enter__(self) -> StagedPredictions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abandon()


def begin(
    out: str | Path,
    plan: InputPlan,
    model: StoredModel,
    *,
    model_name: str,
    run_id: str,
    key_columns: Sequence[str] = (),
    probabilities: bool = False,
    reuse: bool = True,
    deadline: float = 0.0,
) -> StagedPredictions:
    """Begin a version of a prediction dataset; until it is published ``OUT`` stays what it is.

    Parameters
    ----------
    out
        What readers open: a link, which is made if it is not there.
    plan
        The input.
    model, model_name
        Who predicts, by which name it is known.
    run_id
        Part of all names; letters, digits and ``._-``.
    key_columns
        Columns of the input that are copied.
    probabilities
        Whether responsibilities are written.
    reuse
        Whether parts of the current version are used again for input files that hold what
        they held (`reusable_parts`).
    deadline
        Seconds to wait while another run writes to ``out``.

    Raises
    ------
    ConfigError
        A key column is missing in the input, or its name is one of the predictions' own.
    ConflictError
        This run id is published already (`read_predictions` tells).
    StorageError
        ``out`` is not a link that gmm-dask made, another run writes to it, or the disk refuses.
    """
    places = PredictionPlaces.of(out)
    if not RUN_ID.fullmatch(run_id):
        raise StorageError(f"run id {run_id!r}: use up to 100 letters, digits and . _ -")
    check_key_columns(plan, key_columns)
    places.current_run()  # refuses what is not ours, before anything is made
    settings = _settings(plan, key_columns, probabilities)
    version_writer = places.store.open(deadline)
    try:
        stage = _stage(places, version_writer, run_id)
        kept: dict[str, Reusable] = {}
        if reuse:
            kept = reusable_parts(places.out, plan, model.sha256, settings, key_columns)
        reused = take_over(places, kept, stage, run_id, plan)
        known = {path: reusable.content for path, reusable in kept.items()}
        writer = _part_writer(stage, run_id, plan, reused, model, probabilities)
        record = {
            "format": FORMAT,
            "run_id": run_id,
            "model": {"name": model_name, "version": model.version, "sha256": model.sha256},
            "snapshot": plan.digest,
            "settings": settings,
        }
        return StagedPredictions(places, plan, reused, known, writer, record, version_writer)
    except BaseException:
        version_writer.close()
        raise


def _stage(places: PredictionPlaces, version_writer: Writer, run_id: str) -> StagedVersion:
    if places.current_run() == run_id:
        raise ConflictError(
            f"{places.out}: run {run_id} is published already; give another run id, or read it"
        )
    version_writer.remove(run_id)  # of a run that died before it was pointed to
    return version_writer.stage(run_id)


def _part_writer(
    stage: StagedVersion,
    run_id: str,
    plan: InputPlan,
    reused: Mapping[str, tuple[Part, ...]],
    model: StoredModel,
    probabilities: bool,
) -> PartWriter:
    """Make the writer for the files whose parts are not used again."""
    numbered = [
        (number, file)
        for number, file in enumerate(plan.files)
        if file.rows and file.path not in reused
    ]
    return PartWriter(
        stage,
        run_id,
        replace(plan, files=tuple(file for _, file in numbered)),
        tuple(number for number, _ in numbered),
        model.component_ids,
        model.manifest.low_density_threshold,
        probabilities,
    )


def _settings(plan: InputPlan, key_columns: Sequence[str], probabilities: bool) -> dict[str, Any]:
    """Everything besides model and file that decides what a part holds."""
    return {
        "columns": [[column.name, column.type] for column in plan.columns],
        "nulls": plan.nulls,
        "convert": dict(plan.convert),
        "key_columns": [[name, plan.types[name]] for name in key_columns],
        "probabilities": probabilities,
    }
