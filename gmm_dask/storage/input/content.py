"""The content of input files when they were read, and whether they hold the same today.

The proof is the digest of the values, taken while they were read. The hint (times, inode, entity
tag) makes the proof unnecessary where it is unchanged. So a file that was only touched is read
once more, and a file that was rewritten counts as changed even if its size and footer stayed the
same.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from gmm_dask.mixture.threads import available_cores
from gmm_dask.storage.input.digests import file_digests, read_digest
from gmm_dask.storage.input.plan import InputPlan

logger = logging.getLogger("gmm_dask")

FORMAT = 1


@dataclass(frozen=True)
class FileContent:
    """The content of a file when it was read.

    Attributes
    ----------
    size, footer
        Bytes of the file, and the digest of its footer.
    digest
        Digest of the values of the columns that were used. None if it was not taken: then the
        content is unknown, and the file counts as changed.
    hint
        What the file system said of the file before it was read (`gmm_dask.storage.input.hints`).
    """

    size: int
    footer: str
    digest: str | None = None
    hint: str | None = None

    def to_json(self) -> list[Any]:
        """Return the content as a JSON list; ``FileContent(*content)`` reads it back."""
        return [self.size, self.footer, self.digest, self.hint]


Contents = Mapping[str, FileContent]


def contents_of(
    plan: InputPlan, row_groups: Sequence[str], hints: Sequence[str | None] | None = None
) -> dict[str, FileContent]:
    """Return the contents of the files of a plan, by path.

    Parameters
    ----------
    row_groups
        Digests from the scan of these files (`Scanner.digests`); empty if none were taken.
    hints
        The hint of each file, if another run took them than the one that made the plan.
    """
    if hints is None:
        hints = [file.hint for file in plan.files]
    digests = file_digests(plan, row_groups)
    return {
        file.path: FileContent(file.size, file.footer, digest, hint)
        for file, digest, hint in zip(plan.files, digests, hints, strict=True)
    }


def unchanged_files(
    plan: InputPlan, known: Contents, key_columns: Sequence[str] = ()
) -> dict[str, FileContent]:
    """Return the files of a plan whose values have not changed, by path, with today's hints.

    Files whose hints differ, or that have none, are read again: one scan of each.

    Parameters
    ----------
    known
        Contents of the files, as read earlier with the same columns.
    key_columns
        Columns that were read in addition to the plan's.

    Raises
    ------
    InputError
        A file cannot be read again.
    """
    unchanged: dict[str, FileContent] = {}
    doubtful: list[int] = []
    for number, file in enumerate(plan.files):
        before = known.get(file.path)
        if before is None or before.digest is None:
            continue
        if (before.size, before.footer) != (file.size, file.footer):
            continue
        if before.hint is not None and before.hint == file.hint:
            unchanged[file.path] = before
        else:
            doubtful.append(number)
    if doubtful:
        logger.info(
            "%d of %d input file(s) may have been written since they were last read; reading "
            "them to see whether their values have changed",
            len(doubtful),
            len(plan.files),
        )
        with ThreadPoolExecutor(available_cores()) as pool:
            digests = pool.map(lambda number: read_digest(plan, number, key_columns), doubtful)
            for number, digest in zip(doubtful, digests, strict=True):
                file = plan.files[number]
                if digest == known[file.path].digest:
                    unchanged[file.path] = FileContent(file.size, file.footer, digest, file.hint)
    return unchanged


def encode_contents(contents: Contents) -> bytes:
    """Return contents as the bytes of a file; `decode_contents` reads them back."""
    files = {path: content.to_json() for path, content in contents.items()}
    return json.dumps({"format": FORMAT, "files": files}, separators=(",", ":")).encode()


def decode_contents(text: bytes) -> Contents:
    """Read what `encode_contents` wrote.

    Raises
    ------
    ValueError
        The text is something else.
    """
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r} is not known")
        return {path: FileContent(*content) for path, content in document["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not the contents of input files: {error!r}") from error
