"""Writing a prediction dataset: it is staged, verified and published.

The layout is described in `gmm_dask.storage.predictions.dataset`.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from gmm_dask.errors import StorageError
from gmm_dask.storage.files.atomic import replace_file
from gmm_dask.storage.files.contents import report_path
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.files.retention import Keep
from gmm_dask.storage.files.sealed import plain, seal
from gmm_dask.storage.files.versions import Writer
from gmm_dask.storage.input.content import contents_of
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.predictions.held import filters_of
from gmm_dask.storage.predictions.origins import renumber
from gmm_dask.storage.predictions.part_writer import PartWriter
from gmm_dask.storage.predictions.parts import Part, order_of
from gmm_dask.storage.predictions.pruning import old_predictions
from gmm_dask.storage.predictions.reuse import Carried
from gmm_dask.storage.predictions.verification import check_coverage, check_parts

logger = logging.getLogger(__name__)


class StagedPredictions:
    """A version that is being written; made by `begin`, ended by `publish` or `abandon`.

    Attributes
    ----------
    places, run_id
        The places of the dataset, and the id of the run that writes it.
    plan
        The whole input inside the filter.
    remaining
        The files to read: those whose parts are not reused. Of a file of which rows outside the
        filter are kept, the row groups of these are read too.
    writer
        Writes the parts for the chunks of ``remaining``.
    reused
        The parts that are reused, by input file; they are already in place.
    kept
        The parts of files outside the filter, likewise.
    lost
        Files whose predictions outside the filter could not be kept.
    """

    def __init__(
        self,
        places: PredictionPlaces,
        plan: InputPlan,
        carried: Carried,
        taken: Mapping[str, tuple[Part, ...]],
        writer: PartWriter,
        record: Mapping[str, Any],
        version_writer: Writer,
    ) -> None:
        self.places = places
        self.run_id = writer.run_id
        self.plan = plan
        self.remaining = writer.plan
        self.reused = {path: taken[path] for path in carried.reused}
        self.kept = {path: taken[path] for path in carried.kept}
        self.lost = carried.lost
        self.writer = writer
        self._taken = {**carried.reused, **carried.kept}
        self._record = record
        self._version_writer = version_writer
        self._before = places.store.pointer()
        self._ended = False

    @property
    def path(self) -> Path:
        """Directory of the version once it is published."""
        return self.places.store.version(self.run_id).path

    def verify(self, parts: Iterable[Part]) -> tuple[Part, ...]:
        """Check that the version is whole: each row that was read once, every part readable.

        Reads footers, no rows.

        Parameters
        ----------
        parts
            The parts that `PartWriter.write` returned.

        Returns
        -------
        tuple of Part
            All parts, those taken over included, in the order of the input.

        Raises
        ------
        StorageError
            Rows or parts are missing, or a part is not what was written; the message names the
            file.
        """
        # A chunk whose worker died may have been written twice, with the same name and rows.
        by_name = {part.name: part for part in parts}
        taken = {**self.reused, **self.kept}
        by_name |= {part.name: part for kept in taken.values() for part in kept}
        ordered = tuple(by_name[name] for name in sorted(by_name, key=order_of))
        widened = {file.path: file for file in self.remaining.files}
        read = tuple(widened.get(file.path, file) for file in self.plan.files)
        check_coverage(replace(self.plan, files=read), ordered, self.places.out, taken)
        check_parts(self.writer.stage, ordered)
        return ordered

    def publish(
        self,
        parts: Iterable[Part],
        summary: Mapping[str, Any] | None = None,
        digests: Sequence[str] = (),
        report: bytes | None = None,
        keep: Keep | None = None,
    ) -> Path:
        """Make ``OUT`` link to this version; returns its path.

        May be called again after a failure; finished steps are not repeated.

        Parameters
        ----------
        parts
            The parts that `PartWriter.write` returned; they are verified first.
        summary
            Values to keep in the record.
        digests
            Digests of the row groups of ``remaining``, as they were read (`Scanner.digests`).
            Without them these files count as changed in the next run.
        report
            A page for people, kept beside the version. If it cannot be written, that is a warning.
        keep
            Which versions stay besides this one and the one before, which readers may still have
            open; None: no others. If an old one cannot be removed, that is a warning.

        Raises
        ------
        ConflictError
            ``OUT`` links to another version than when this one was begun.
        StorageError
            The version is not whole, or the disk refuses. ``OUT`` stays as it was.
        """
        if self._ended:
            return self.path
        ordered = self.verify(parts)
        contents = {**contents_of(self.plan, ()), **contents_of(self.remaining, digests)}
        contents |= {path: held.content for path, held in self._taken.items()}
        residuals = {path: held.residual for path, held in self._taken.items()}
        asked = {path: text for path, text in residuals.items() if text is not None}
        origins, numbered = renumber(self._record["origins"], ordered)
        record = {
            **self._record,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "files": {path: content.to_json() for path, content in contents.items()},
            "filters": {**filters_of(self.remaining), **asked},
            "reused": sum(len(parts) for parts in (*self.reused.values(), *self.kept.values())),
            "summary": plain(summary or {}),
            "origins": [plain(asdict(origin)) for origin in origins],
            "parts": [list(astuple(part)) for part in numbered],
        }
        self.writer.stage.seal((part.name for part in ordered), record=seal(record))
        # A link that somebody removed is made again: that replaces nobody's predictions.
        before = self._before if self.places.store.pointer() else None
        self._version_writer.point(self.run_id.encode(), expecting=before)
        self._keep_report(report)
        self._prune(keep)
        self._end()
        return self.path

    def _keep_report(self, report: bytes | None) -> None:
        if report is not None:
            try:
                replace_file(report_path(self.path), report)
            except StorageError as error:  # the version stands
                logger.warning("the report was not kept: %s", error)

    def _prune(self, keep: Keep | None) -> None:
        before = self._before.content.decode() if self._before else None
        try:
            old = old_predictions(self.places, keep, before)
            pruned = self._version_writer.prune(old)
        except StorageError as error:  # the new version stands; the next run tries again
            logger.warning("old predictions were not removed: %s", error)
        else:
            if pruned.paths:
                logger.info("removed %s", pruned)

    def abandon(self) -> None:
        """Remove what was staged, unless it was published, and release the lock."""
        if self._ended:
            return
        # A publish that failed after its last step has still published.
        with suppress(StorageError):
            if not self._is_published():
                self._version_writer.remove(self.run_id)
        self._end()

    def _is_published(self) -> bool:
        try:
            return self.places.current_run() == self.run_id
        except StorageError:  # something else is now in the link's place
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
