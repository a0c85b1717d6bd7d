"""Writing a prediction dataset: staged, verified, published; old parts used again.

What lies where: `gmm_dask.storage.predictions.staging.dataset`.
"""

from __future__ import annotations

import errno
import logging
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from gmm_dask.errors import ConflictError, StorageError
from gmm_dask.storage.files.atomic import (
    check_writable,
    publish_directory,
    remove_stale,
    replace_file,
    replace_link,
    replacement,
    storage_errors,
    sync_files,
)
from gmm_dask.storage.files.locks import HeldLock, acquire
from gmm_dask.storage.files.sealed import plain, seal
from gmm_dask.storage.input.overlap import place_of
from gmm_dask.storage.input.plan import InputFile, InputPlan
from gmm_dask.storage.models.model import StoredModel
from gmm_dask.storage.predictions.dataset import (
    FORMAT,
    RUN_ID,
    check_output,
    linked_run,
    prune,
    read_predictions,
    record_path,
    versions_path,
)
from gmm_dask.storage.predictions.parts import Part, PartWriter, check_key_columns, part_name
from gmm_dask.storage.predictions.verification import check_coverage, check_parts, readable

logger = logging.getLogger(__name__)


class StagedPredictions:
    """A version that is being written; made by `begin`, ended by `publish` or `abandon`.

    Attributes
    ----------
    out, run_id
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
        out: Path,
        run_id: str,
        plan: InputPlan,
        reused: Mapping[str, tuple[Part, ...]],
        writer: PartWriter,
        record: Mapping[str, Any],
        lock: HeldLock,
    ) -> None:
        self.out = out
        self.run_id = run_id
        self.plan = plan
        self.remaining = writer.plan
        self.reused = reused
        self.writer = writer
        self._record = record
        self._lock = lock
        self._before = linked_run(out)
        self._ended = False

    @property
    def path(self) -> Path:
        """Where the version will lie."""
        return versions_path(self.out) / self.run_id

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
        ordered = tuple(named[name] for name in sorted(named, key=_order))
        check_coverage(self.plan, ordered, self.out)
        directory = self.path if self.path.exists() else self.writer.directory
        check_parts(directory, ordered)
        return ordered

    def publish(self, parts: Iterable[Part], summary: Mapping[str, Any] | None = None) -> Path:
        """Make this version the one that ``OUT`` means; returns its path.

        May be called again after a failure; what was done is not done twice.

        Parameters
        ----------
        parts
            What `PartWriter.write` returned; verified first.
        summary
            Kept in the record.

        Raises
        ------
        StorageError
            The version is not whole, or the disk refuses. ``OUT`` is what it was.
        """
        if self._ended:
            return self.path
        ordered = self.verify(parts)
        if not self.path.exists():
            sync_files(self.writer.directory / part.name for part in ordered)
            publish_directory(self.writer.directory, self.path)
        record = {
            **self._record,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "reused": sum(len(kept) for kept in self.reused.values()),
            "summary": plain(summary or {}),
            "parts": [list(asdict(part).values()) for part in ordered],
        }
        replace_file(record_path(self.path), seal(record))
        replace_link(self.out, f"{versions_path(self.out).name}/{self.run_id}")
        try:
            prune(versions_path(self.out), {self.run_id, self._before})
        except StorageError as error:  # the new version stands; the next run tries again
            logger.warning("old predictions were not removed: %s", error)
        self._end()
        return self.path

    def abandon(self) -> None:
        """Remove what was staged, unless it was published, and let the next run begin."""
        if self._ended:
            return
        # A publish that failed after its last step has published all the same.
        if linked_run(self.out) != self.run_id:
            for directory in (self.writer.directory, self.path):
                shutil.rmtree(directory, ignore_errors=True)
            with suppress(OSError):
                record_path(self.path).unlink(missing_ok=True)
        with suppress(OSError):  # not empty: there are other versions
            versions_path(self.out).rmdir()
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._lock.release()

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
        Whether parts of the current version are used again for input files that have not
        changed (`reusable_parts`).
    deadline
        Seconds to wait while another run writes to ``out``.

    Raises
    ------
    ConfigError
        A key column cannot be had.
    ConflictError
        This run id is published already (`read_predictions` tells).
    StorageError
        ``out`` is not a link that gmm-dask made, another run writes to it, or the disk refuses.
    """
    out = place_of(out)
    if not RUN_ID.fullmatch(run_id):
        raise StorageError(f"run id {run_id!r}: use up to 100 letters, digits and . _ -")
    check_key_columns(plan, key_columns)
    check_output(out)
    check_writable(out.parent)
    lock = acquire(out.with_name(f".{out.name}.lock"), f"prediction dataset {out}", deadline)
    staged = versions_path(out) / f".partial-{run_id}"
    try:
        _make_room(out, run_id, staged)
        settings = _settings(plan, key_columns, probabilities)
        kept = reusable_parts(out, plan, model.sha256, settings) if reuse else {}
        numbers = {file.path: number for number, file in enumerate(plan.files)}
        reused = _take_over(out, kept, staged, run_id, numbers)
        remaining = tuple(file for file in plan.files if file.rows and file.path not in reused)
        writer = PartWriter(
            staged,
            run_id,
            replace(plan, files=remaining),
            tuple(numbers[file.path] for file in remaining),
            model.component_ids,
            model.low_density_threshold,
            probabilities,
        )
        record = {
            "format": FORMAT,
            "run_id": run_id,
            "model": {"name": model_name, "version": model.version, "sha256": model.sha256},
            "snapshot": plan.digest,
            "settings": settings,
            "files": {file.path: [file.size, file.footer] for file in plan.files},
        }
        return StagedPredictions(out, run_id, plan, reused, writer, record, lock)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        with suppress(OSError):
            staged.parent.rmdir()
        lock.release()
        raise


def _make_room(out: Path, run_id: str, staged: Path) -> None:
    """Make the staged directory, and remove what dead runs left."""
    versions = staged.parent
    check_writable(versions)
    remove_stale(versions)
    if linked_run(out) == run_id:
        raise ConflictError(
            f"{out}: run {run_id} is published already; give another run id, or read it"
        )
    shutil.rmtree(versions / run_id, ignore_errors=True)  # it died before it was linked
    with storage_errors(staged):
        staged.mkdir()


def reusable_parts(
    out: str | Path, plan: InputPlan, model_sha256: str, settings: Mapping[str, Any]
) -> dict[str, tuple[Part, ...]]:
    """Parts of the current version that are still right, by input file.

    A file's parts are right if the file has the same path, size and footer, and the same model
    and settings wrote them; and if all of them are there, whole by their footers. Reads the
    footers of these parts.
    """
    try:
        current = read_predictions(out)
    except StorageError as error:
        logger.warning("no parts are used again: %s", error)
        return {}
    if current is None or current.model.get("sha256") != model_sha256:
        return {}
    if dict(current.settings) != plain(settings):
        return {}
    by_file: dict[str, list[Part]] = {}
    for part in current.parts:
        by_file.setdefault(part.input_file, []).append(part)
    unchanged = {
        file.path: tuple(by_file.get(file.path, ()))
        for file in plan.files
        if current.files.get(file.path) == _identity(file)
    }
    whole = readable(current.path, [part for parts in unchanged.values() for part in parts])
    return {
        path: parts
        for path, parts in unchanged.items()
        if parts and all(part.name in whole for part in parts)
    }


def _identity(file: InputFile) -> tuple[int, str]:
    return file.size, file.footer


def _settings(plan: InputPlan, key_columns: Sequence[str], probabilities: bool) -> dict[str, Any]:
    """Everything besides model and file that decides what a part holds."""
    return {
        "columns": [[column.name, column.type] for column in plan.columns],
        "nulls": plan.nulls,
        "convert": dict(plan.convert),
        "key_columns": [[name, plan.types[name]] for name in key_columns],
        "probabilities": probabilities,
    }


def _take_over(
    out: Path,
    kept: Mapping[str, Sequence[Part]],
    staged: Path,
    run_id: str,
    numbers: Mapping[str, int],
) -> dict[str, tuple[Part, ...]]:
    """Give parts a second name in the staged version: a hard link where that can be had."""
    source = versions_path(out) / (linked_run(out) or "")
    taken: dict[str, tuple[Part, ...]] = {}
    for path, parts in kept.items():
        renamed = []
        for part in parts:
            # The new number of the file; the old one of the chunk, unique within the file.
            name = part_name(run_id, numbers[path], _order(part.name)[1])
            _link_or_copy(source / part.name, staged / name)
            renamed.append(replace(part, name=name))
        taken[path] = tuple(renamed)
    return taken


def _link_or_copy(source: Path, target: Path) -> None:
    with storage_errors(target):
        try:
            target.hardlink_to(source)
        except OSError as error:
            # File systems without hard links, or with too many links to one file already.
            if error.errno not in (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            with source.open("rb") as old, replacement(target, sync=False) as new:
                shutil.copyfileobj(old, new)


def _order(name: str) -> tuple[int, int]:
    """File and chunk number of a part, by its name."""
    file, chunk = name.removesuffix(".parquet").rsplit("-", 2)[1:]
    return int(file), int(chunk)
