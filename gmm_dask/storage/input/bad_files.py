"""Bad files of an input: those that cannot be used. All are refused at once, or left out.

A file is bad if its footer cannot be read, if it lacks a column or has it in a type that cannot be
used while other files have it, or if its rows cannot be decoded, which only a scan finds. A file
system that does not answer says nothing of a file: that is an error, whatever is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gmm_dask.config import InputSection
from gmm_dask.errors import PASSING, BadFileError, InputError, SchemaError

#: Bad files that a message names.
_MOST_NAMED = 5


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be used.

    Attributes
    ----------
    path
        Path relative to the root of the input.
    reason
        What is wrong with it, and after a semicolon what to try.
    cause
        The error that says so; None if its columns cannot be used.
    """

    path: str
    reason: str
    cause: BadFileError | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, error: BadFileError) -> BadFile:
        """Return the file that an error names."""
        return cls(error.path, error.reason, error)

    @property
    def problem(self) -> str:
        """What is wrong with it."""
        return self.reason.partition("; ")[0]


def is_unanswered(error: BaseException) -> bool:
    """Whether a disk or network failed that may recover: this says nothing of the file."""
    if not isinstance(error, OSError):
        return False
    return error.errno in PASSING or (error.errno is None and "AWS Error" in str(error))


def left_out(section: InputSection, bad: Sequence[BadFile], files: int) -> tuple[BadFile, ...]:
    """Return the bad files if a run may go on without them.

    Parameters
    ----------
    files
        Number of files of the input, the bad ones included.

    Raises
    ------
    InputError
        Bad files are not to be skipped, are more than the limit, or are all files; the message
        has their number and names the first of them. It is a `SchemaError` where only columns are
        to blame, and a `BadFileError` of a single file.
    """
    few = len(bad) <= section.max_bad_files and len(bad) < files
    if not bad or (section.bad_files == "skip" and few):
        return tuple(bad)
    first = bad[0]
    of_columns = all(file.cause is None for file in bad)
    if len(bad) == 1 and section.bad_files == "error":
        raise first.cause or SchemaError(f"{first.path}: {first.reason}")
    named = ", ".join(
        f"({number}) {file.path} {file.problem}"
        for number, file in enumerate(bad[:_MOST_NAMED], start=1)
    )
    more = f" and {len(bad) - _MOST_NAMED:,} more" if len(bad) > _MOST_NAMED else ""
    raise (SchemaError if of_columns else InputError)(
        f"{section.path}: {len(bad):,} of {files:,} files cannot be used: {named}{more}; "
        f"{_advice(section, len(bad), files)}"
    ) from first.cause


def _advice(section: InputSection, bad: int, files: int) -> str:
    if bad == files:
        return "there is none left: check the path, the columns and the writer"
    if section.bad_files == "skip":
        return (
            f"input.max_bad_files = {section.max_bad_files} allows no more; repair or remove them, "
            "or raise it"
        )
    return (
        'repair or remove them, or let a run go on without them: [input] bad_files = "skip", '
        f"max_bad_files = {bad}"
    )


def describe(bad: Sequence[BadFile]) -> str:
    """Say how many files were skipped, which, and why."""
    files = "1 file was" if len(bad) == 1 else f"{len(bad):,} files were"
    named = ", ".join(f"{file.path} {file.problem}" for file in bad[:_MOST_NAMED])
    more = f" and {len(bad) - _MOST_NAMED:,} more" if len(bad) > _MOST_NAMED else ""
    return f"{files} skipped: {named}{more}"
