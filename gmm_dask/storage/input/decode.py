"""Row groups decoded as Arrow batches; each file is checked against the input plan.

Only one file is open at a time, and only one batch of a row group is in memory, however large the
row group is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from gmm_dask.errors import BadFileError, InputChangedError, InputError
from gmm_dask.storage.input.bad_files import is_unanswered
from gmm_dask.storage.input.columns import INT96_UNIT
from gmm_dask.storage.input.footer import read_footer
from gmm_dask.storage.input.input_file import InputFile
from gmm_dask.storage.input.location import READ_ERRORS, open_file, reason
from gmm_dask.storage.input.plan import InputPlan

# Measured on local files: 64 KiB stay in the cache, 1 MiB is 15 % slower. Memory mapping is 20 %
# faster still, but a mapped file that is shortened kills the process (SIGBUS).
_LOCAL_BUFFER = 1 << 16
_REMOTE_BUFFER = 1 << 22  # each refill is a request


class OpenFile:
    """An open file of a plan, checked to be the one that was planned.

    Parameters
    ----------
    plan
        The input plan.
    number
        The file's index in the plan.

    Raises
    ------
    InputChangedError
        The file is gone, or its size or footer has changed.
    InputError
        The file cannot be read.
    """

    def __init__(self, plan: InputPlan, number: int) -> None:
        self.file: InputFile = plan.files[number]
        self.partitions = self.file.partitions
        self._root = plan.root
        try:
            self._source = open_file(plan.root, self.file.path)
        except FileNotFoundError as error:
            raise InputChangedError(_changed(self.file, "is gone")) from error
        except READ_ERRORS as error:
            raise InputError(_unreadable(self.file, error)) from error
        try:
            footer = _checked_footer(self._source, self.file)
            self._parquet = pq.ParquetFile(
                self._source,
                metadata=footer,
                pre_buffer=False,
                buffer_size=_REMOTE_BUFFER if "://" in plan.root else _LOCAL_BUFFER,
                page_checksum_verification=True,  # free for files without checksums
                coerce_int96_timestamp_unit=INT96_UNIT,
            )
            self._stored = frozenset(self._parquet.schema_arrow.names)
        except BaseException:
            self._source.close()
            raise

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._source.close()

    def stores(self, name: str) -> bool:
        """Whether the file stores a column; otherwise the column is a key of its partition."""
        return name in self._stored

    def batches(
        self, row_group: int, names: Sequence[str], batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """Decode a row group, ``batch_rows`` rows at a time.

        Raises
        ------
        InputChangedError
            The file has changed since it was opened.
        BadFileError
            The file is damaged, or does not hold the number of rows that its footer states.
        InputError
            The disk or the network does not answer.
        """
        delivered, promised = 0, self.file.row_groups[row_group]
        try:
            for batch in self._parquet.iter_batches(
                batch_rows, row_groups=[row_group], columns=names, use_threads=False
            ):
                delivered += batch.num_rows
                if delivered > promised:
                    break
                yield batch
        except READ_ERRORS as error:
            _check_file(self._root, self.file)
            if is_unanswered(error):
                raise InputError(_unreadable(self.file, error)) from error
            raise BadFileError(
                self.file.path,
                f"row group {row_group} cannot be decoded ({reason(error)}); restore or rewrite "
                "the file",
            ) from error
        if delivered != promised:
            _check_file(self._root, self.file)
            raise BadFileError(
                self.file.path,
                f"row group {row_group} delivers {delivered:,} rows where the footer has "
                f"{promised:,}; it was overwritten or damaged, restore the file",
            )


def check_files(plan: InputPlan, numbers: Sequence[int]) -> None:
    """Check some files of a plan by their sizes and footers; reads no rows.

    Raises
    ------
    InputChangedError
        A file is gone or changed.
    InputError
        A file cannot be read.
    """
    for number in numbers:
        _check_file(plan.root, plan.files[number])


def _check_file(root: str, file: InputFile) -> None:
    try:
        with open_file(root, file.path) as source:
            _checked_footer(source, file)
    except FileNotFoundError as error:
        raise InputChangedError(_changed(file, "is gone")) from error
    except InputError:
        raise
    except READ_ERRORS as error:
        raise InputError(_unreadable(file, error)) from error


def _checked_footer(source: pa.NativeFile, file: InputFile) -> pq.FileMetaData:
    try:
        size = source.size()
        if size < file.size:
            what = f"was shortened from {file.size:,} to {size:,} bytes"
            raise InputChangedError(_changed(file, what))
        if size > file.size:
            what = f"has grown from {file.size:,} to {size:,} bytes"
            raise InputChangedError(_changed(file, what))
        try:
            footer = read_footer(source, file.path)
        except InputError as error:
            raise InputChangedError(_changed(file, "was overwritten")) from error
        if footer.digest != file.footer:
            raise InputChangedError(_changed(file, "was replaced (its footer differs)"))
        return footer.parse(file.path)
    except InputError:
        raise
    except READ_ERRORS as error:
        raise InputError(_unreadable(file, error)) from error


def _changed(file: InputFile, what: str) -> str:
    return f"{file.path}: {what} since the input was planned; start again when nothing writes to it"


def _unreadable(file: InputFile, error: BaseException) -> str:
    return f"{file.path}: cannot be read ({reason(error)}); it could when the input was planned"
