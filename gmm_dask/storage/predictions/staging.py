"""Writing a prediction dataset: it is staged, verified and published, and reuses old parts.

The layout is described in `gmm_dask.storage.predictions.dataset`.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from gmm_dask.addresses import Place
from gmm_dask.errors import ConflictError, StorageError
from gmm_dask.storage.files.choice import AnyStage, AnyWriter
from gmm_dask.storage.files.places import PredictionPlaces
from gmm_dask.storage.files.sealed import plain, seal
from gmm_dask.storage.input.content import Contents, contents_of
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.predictions.dataset import FORMAT, PART, RUN_ID
from gmm_dask.storage.predictions.parts import Part, PartWriter, check_key_columns, order_of
from gmm_dask.storage.predictions.reuse import (
    Reusable,
    filters_of,
    reusable_parts,
    take_over,
)
from gmm_dask.storage.predictions.verification import check_coverage, check_parts

logger = logging.getLogger(__name__)


class StagedPredictions:
    """A version that is being written; made by `begin`, ended by `publish` or `abandon`.

    Attributes
    ----------
    places, run_id
        The places of the dataset, and the id of the run that writes it.
    plan
        The whole input.
    remaining
        The input without the files whose parts are reused: the files to read.
    writer
        Writes the parts for the chunks of ``remaining``.
    reused
        The parts that are reused, by input file; they are already in place.
    """

    def __init__(
        self,
        places: PredictionPlaces,
        plan: InputPlan,
        reused: Mapping[str, tuple[Part, ...]],
        known: Contents,
        writer: PartWriter,
        record: Mapping[str, Any],
        version_writer: AnyWriter,
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
    def path(self) -> Place:
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
            All parts, reused ones included, in the order of the input.

        Raises
        ------
        StorageError
            Rows or parts are missing, or a part is not what was written; the message names the
            file.
        """
        # A chunk whose worker died may have been written twice, with the same name and rows.
        by_name = {part.name: part for part in parts}
        by_name |= {part.name: part for kept in self.reused.values() for part in kept}
        ordered = tuple(by_name[name] for name in sorted(by_name, key=order_of))
        check_coverage(self.plan, ordered, self.places.out)
        check_parts(self.writer.stage, ordered)
        return ordered

    def publish(
        self,
        parts: Iterable[Part],
        summary: Mapping[str, Any] | None = None,
        digests: Sequence[str] = (),
        report: bytes | None = None,
    ) -> Place:
        """Make ``OUT`` link or point to this version; returns its path.

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
        contents |= self._known
        record = {
            **self._record,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "files": {path: content.to_json() for path, content in contents.items()},
            "filters": filters_of(self.plan),
            "reused": sum(len(kept) for kept in self.reused.values()),
            "summary": plain(summary or {}),
            "parts": [list(astuple(part)) for part in ordered],
        }
        self.writer.stage.seal((part.name for part in ordered), record=seal(record))
        # A link that somebody removed is made again: that replaces nobody's predictions.
        before = self._before if self.places.store.pointer() else None
        self._version_writer.point(self.run_id.encode(), expecting=before)
        self._keep_report(report)
        self._prune()
        self._end()
        return self.path

    def _keep_report(self, report: bytes | None) -> None:
        if report is not None:
            try:
                self._version_writer.put_report(self.run_id, report)
            except StorageError as error:  # the version stands
                logger.warning("the report was not kept: %s", error)

    def _prune(self) -> None:
        """Remove all versions but this and the one before, which readers may still have open."""
        keep = {self.run_id} | ({self._before.content.decode()} if self._before else set())
        try:
            self._version_writer.prune(keep, PART)
        except StorageError as error:  # the new version stands; the next run tries again
            logger.warning("old predictions were not removed: %s", error)

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


def begin(
    out: str | Place,
    plan: InputPlan,
    model: StoredModel,
    *,
    model_name: str,
    run_id: str,
    key_columns: Sequence[str] = (),
    probabilities: bool = False,
    cluster_ids: tuple[int, ...] | None = None,
    reuse: bool = True,
    deadline: float = 0.0,
) -> StagedPredictions:
    """Begin a version of a prediction dataset; ``OUT`` stays as it is until publication.

    Parameters
    ----------
    out
        The link that readers open; it is created if it does not exist.
    plan
        The input.
    model, model_name
        The model that predicts, and the name to record for it.
    run_id
        Id of the run, part of all names; letters, digits and ``._-``.
    key_columns
        Columns of the input to copy.
    probabilities
        Whether to write responsibilities.
    cluster_ids
        Id of the cluster of each component, (k,), to write clusters; None: not to.
    reuse
        Whether to reuse parts of the current version for input files that have not changed
        (`reusable_parts`).
    deadline
        Seconds to wait while another run writes to ``out``.

    Raises
    ------
    ConfigError
        A key column is missing in the input, or predictions use its name.
    ConflictError
        This run id is already published (`read_predictions` reads it).
    StorageError
        ``out`` is not a link that gmm-dask made, another run writes to it, or the disk refuses.
    """
    places = PredictionPlaces.of(out)
    if not RUN_ID.fullmatch(run_id):
        raise StorageError(f"run id {run_id!r}: use up to 100 letters, digits and . _ -")
    check_key_columns(plan, key_columns, clusters=cluster_ids is not None)
    places.current_run()  # refuses what gmm-dask did not write, before anything is created
    settings = _settings(plan, key_columns, probabilities, cluster_ids)
    version_writer = places.store.open(deadline)
    try:
        stage = _stage(places, version_writer, run_id)
        kept: dict[str, Reusable] = {}
        if reuse:
            kept = reusable_parts(places.out, plan, model.sha256, settings, key_columns)
        reused = take_over(places, kept, stage, run_id, plan)
        known = {path: reusable.content for path, reusable in kept.items()}
        writer = _part_writer(stage, run_id, plan, reused, model, probabilities, cluster_ids)
        record = {
            "format": FORMAT,
            "run_id": run_id,
            "model": {"name": model_name, "version": model.version, "sha256": model.sha256},
            "snapshot": plan.digest,
            "filter": None if plan.filter is None else plan.filter.text,
            "settings": settings,
        }
        return StagedPredictions(places, plan, reused, known, writer, record, version_writer)
    except BaseException:
        version_writer.close()
        raise


def _stage(places: PredictionPlaces, version_writer: AnyWriter, run_id: str) -> AnyStage:
    if places.current_run() == run_id:
        raise ConflictError(
            f"{places.out}: run {run_id} is already published; give another run id, or read it"
        )
    version_writer.remove(run_id)  # left by a run that died before it pointed to its version
    return version_writer.stage(run_id)


def _part_writer(
    stage: AnyStage,
    run_id: str,
    plan: InputPlan,
    reused: Mapping[str, tuple[Part, ...]],
    model: StoredModel,
    probabilities: bool,
    cluster_ids: tuple[int, ...] | None,
) -> PartWriter:
    """Make the writer for the files whose parts are not reused."""
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
        cluster_ids,
    )


def _settings(
    plan: InputPlan,
    key_columns: Sequence[str],
    probabilities: bool,
    cluster_ids: tuple[int, ...] | None,
) -> dict[str, Any]:
    """Return everything besides model and file that determines the content of a part."""
    settings = {
        "columns": [[column.name, column.type] for column in plan.columns],
        "nulls": plan.nulls,
        "convert": dict(plan.convert),
        "key_columns": [[name, plan.types[name]] for name in key_columns],
        "probabilities": probabilities,
    }
    # Left out where no clusters are written, so that parts of older versions are reused.
    return settings if cluster_ids is None else {**settings, "cluster_ids": list(cluster_ids)}
