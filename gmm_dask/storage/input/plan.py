"""The input plan: the files and rows of an input, taken once from the footers of its files.

The plan is the snapshot that a fit is held to. Files added later do not belong to it. A file that
is changed, shortened or gone is noticed when it is read (`gmm_dask.storage.input.decode`). Making
a plan reads no rows.

A filter leaves out what it can without reading: files by the keys of their partitions, before
they are opened, and row groups by the statistics in the footers (`gmm_dask.storage.input.filters`).
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any

from gmm_dask.config import InputSection
from gmm_dask.errors import ConfigError, TooFewRowsError
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.nulls import NullPolicy
from gmm_dask.storage.input.bad_files import BadFile
from gmm_dask.storage.input.columns import Column
from gmm_dask.storage.input.decay import Decay
from gmm_dask.storage.input.filters.input_filter import InputFilter
from gmm_dask.storage.input.filters.predicate import Constant, Predicate
from gmm_dask.storage.input.input_file import InputFile
from gmm_dask.storage.input.location import did_you_mean, find_files
from gmm_dask.storage.input.pruning import Draft, left_by, nothing_left
from gmm_dask.storage.input.schemas import Schemas
from gmm_dask.storage.input.usable_files import usable_files


@dataclass(frozen=True)
class InputPlan:
    """A snapshot of an input: small, picklable, and equal wherever the same files lie.

    Attributes
    ----------
    root
        Absolute address of the directory above all files; never holds credentials.
    files
        The files, in the order in which they are read.
    columns
        The d features.
    sample_weight
        The column of weights, or None.
    nulls
        What happens to rows that hold a null or NaN.
    convert
        Columns whose type is not a number, and the form they are converted to.
    types
        Arrow type of every column that all files have with the same type, partition keys
        included. These may be key columns.
    filter
        Which rows are used; None: all.
    decay
        How the weights of the rows decay with their age; None: they do not.
    transform
        Columns that are transformed for a fit, and the names of their transforms. Reading gives
        values in natural units.
    skipped
        Files that cannot be used and were left out, as ``input.bad_files`` allows. They describe
        the snapshot, but its digest is of the files that are read.
    labels
        The column of labels; None: none is read.
    listing, unsettled
        Paths of all files at the address, before the filter, in the order in which they would be
        read; and the files of them that are not at rest (``input.settled_for``). They do not belong
        to the snapshot, and are empty in a plan that was stored or sent.
    """

    root: str
    files: tuple[InputFile, ...] = field(repr=False)
    columns: tuple[Column, ...]
    sample_weight: Column | None
    nulls: NullPolicy
    convert: Mapping[str, str]
    types: Mapping[str, str] = field(repr=False)
    filter: InputFilter | None = None
    decay: Decay | None = None
    transform: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[BadFile, ...] = ()
    labels: str | None = None
    listing: tuple[str, ...] = field(default=(), compare=False, repr=False)
    unsettled: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def rows(self) -> int:
        """Rows that are read of all files, before any is masked or dropped."""
        return sum(file.rows for file in self.files)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the d features."""
        return tuple(column.name for column in self.columns)

    @property
    def transforms(self) -> Transforms | None:
        """The transforms of the features, pending until a survey where they need one."""
        return Transforms.of(self.names, self.transform)

    @property
    def weighted(self) -> bool:
        """Whether the rows have weights: a column of them, or by their age."""
        return self.sample_weight is not None or self.decay is not None

    @property
    def as_of(self) -> datetime | None:
        """The present that was put in; None if nothing asks for it, or in a stored plan."""
        if self.filter is not None and self.filter.as_of is not None:
            return self.filter.as_of
        return None if self.decay is None else self.decay.as_of

    def residual(self, file: InputFile) -> Predicate | None:
        """Return what the filter still asks of each row of a file; None: nothing."""
        if self.filter is None or file.inside:
            return None
        residual = self.filter.residual(file.partitions)
        return None if residual == Constant(True) else residual

    @cached_property
    def masked(self) -> bool:
        """Whether rows must be read to know whether they are inside the filter."""
        return any(self.residual(file) is not None for file in self.files)

    @property
    def listed(self) -> int:
        """Files at the address, before the filter."""
        return len(self.listing)

    @cached_property
    def outside(self) -> tuple[str, ...]:
        """Paths of the files at the address of which the filter leaves no row.

        Files that were skipped or are not at rest are not among them: nobody knows what they hold.
        """
        skipped = (file.path for file in self.skipped)
        left = {*(file.path for file in self.files), *skipped, *self.unsettled}
        return tuple(path for path in self.listing if path not in left)

    @property
    def partial(self) -> bool:
        """Whether the filter may leave out a row of the input."""
        return bool(self.outside) or self.masked or any(file.left for file in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @cached_property
    def digest(self) -> str:
        """Digest of the snapshot: names, sizes and footers of the files, columns, types, policies.

        It does not depend on where the files lie or when they were touched.
        """
        content = self.to_json()
        del content["root"], content["types"]
        content.pop("skipped", None)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the plan in JSON form; `from_json` reads it back."""
        content: dict[str, Any] = {
            "root": self.root,
            "files": [
                [file.path, file.size, list(file.row_groups), file.footer] for file in self.files
            ],
            "columns": [asdict(column) for column in self.columns],
            "sample_weight": self.sample_weight and asdict(self.sample_weight),
            "nulls": self.nulls,
            "convert": dict(self.convert),
            "types": dict(self.types),
        }
        if self.skipped:
            content["skipped"] = [[file.path, file.reason] for file in self.skipped]
        # Left out of a plan without a filter, which keeps the digest that it always had.
        if self.filter is not None:
            content["filter"] = {
                "text": self.filter.text,
                "families": dict(self.filter.families),
                "left": [file.left and list(file.left) for file in self.files],
                "inside": [file.inside for file in self.files],
            }
        if self.decay is not None:
            content["decay"] = self.decay.to_json()
        if self.labels is not None:
            content["labels"] = self.labels
        if self.transform:
            content["transform"] = dict(self.transform)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> InputPlan:
        """Rebuild the plan that `to_json` wrote.

        Raises
        ------
        ValueError
            The content is not what `to_json` writes.
        """
        try:
            weight, filtering = content["sample_weight"], content.get("filter")
            decay = content.get("decay")
            files = tuple(
                InputFile(path, size, tuple(groups), footer)
                for path, size, groups, footer in content["files"]
            )
            if filtering is not None:
                files = tuple(
                    replace(file, left=left and tuple(left), inside=inside)
                    for file, left, inside in zip(
                        files, filtering["left"], filtering["inside"], strict=True
                    )
                )
            return cls(
                content["root"],
                files,
                tuple(Column(**column) for column in content["columns"]),
                None if weight is None else Column(**weight),
                NullPolicy(content["nulls"]),
                dict(content["convert"]),
                dict(content["types"]),
                None if filtering is None else InputFilter.from_json(filtering),
                None if decay is None else Decay.from_json(decay),
                dict(content.get("transform", {})),
                tuple(BadFile(path, why) for path, why in content.get("skipped", ())),
                content.get("labels"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not an input plan: {error!r}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        # Compressed: ten thousand files take a few hundred kB. A process keeps one copy of the
        # plan for all its tasks.
        return _restore, (zlib.compress(json.dumps(self.to_json()).encode(), 1),)


@lru_cache(maxsize=4)
def _restore(compressed: bytes) -> InputPlan:
    return InputPlan.from_json(json.loads(zlib.decompress(compressed)))


def plan_input(
    section: InputSection,
    as_of: datetime | None = None,
    known: Sequence[BadFile] = (),
    keys: Sequence[str] = (),
    labels: str | None = None,
) -> InputPlan:
    """Make the input plan of an ``[input]`` section: reads footers, no rows.

    Parameters
    ----------
    section
        Path, columns and policies. `gmm_dask.storage.input.location` says which files belong to
        a path. Keys of Hive partitions (``day=3/``) are columns like those in the files. If a
        file stores a column of the same name, the stored column is used, except by the filter.
    as_of
        What ``current_timestamp`` means in the filter, and whose day age is counted from, with a
        time zone; by default now.
    known
        Files of which a scan has found that they cannot be used.
    keys
        Key columns of predictions: a file that lacks one of them cannot be used.
    labels
        The column of labels, for a fit with labels: a file that lacks it cannot be used.

    Raises
    ------
    ConfigError
        A column is named twice, ``convert`` or ``transform`` name a column that is not read, or the
        filter is not one, or compares what cannot be compared.
    InputError
        A path, file or footer cannot be used.
    SchemaError
        A column is missing, differs in type between files, or is not a number.
    TooFewRowsError
        The files hold no rows, or the filter can leave none.
    """
    wanted = [*section.columns, *([section.sample_weight] if section.sample_weight else [])]
    _check_names(section, wanted)
    as_of = as_of or datetime.now(UTC)
    draft = None if section.filter is None else Draft.of(section.filter, as_of)
    root, listed = find_files(section.path)
    paths = listed if draft is None else draft.possible_paths(section.path, listed)
    filtered = () if draft is None else draft.names
    usable = usable_files(section, root, paths, filtered, keys, known, labels)
    file_schemas, schemas = usable.file_schemas, usable.schemas
    files = tuple(file_schema.file for file_schema in file_schemas)
    columns = {name: schemas.column(name, section.convert.get(name)) for name in wanted}
    if labels is not None:
        schemas.check_labels(labels)
    decay = _check_decay(section, as_of, schemas, files)
    input_filter = None if draft is None else draft.bind(schemas)
    plan = InputPlan(
        root=root,
        files=files if input_filter is None else left_by(input_filter, file_schemas),
        columns=tuple(columns[name] for name in section.columns),
        sample_weight=columns[section.sample_weight] if section.sample_weight else None,
        nulls=section.nulls,
        convert=dict(section.convert),
        types=schemas.common(),
        filter=input_filter,
        decay=decay,
        transform=dict(section.transform),
        skipped=usable.skipped,
        labels=labels,
        listing=tuple(listed),
        unsettled=usable.unsettled,
    )
    if not plan.rows:
        raise _without_rows(section, plan, files)
    return plan


def _check_decay(
    section: InputSection, as_of: datetime, schemas: Schemas, files: Sequence[InputFile]
) -> Decay | None:
    """Return how the weights of rows decay, by a column that every file has; None: they do not."""
    if section.weight_halflife is None:
        return None
    decay = Decay.of(section.weight_halflife, as_of)
    decay.check(schemas, tuple(file.path for file in files))
    return decay


def _without_rows(
    section: InputSection, plan: InputPlan, files: Sequence[InputFile]
) -> TooFewRowsError:
    """Make the error for files that hold no row, or of which the filter leaves none."""
    if plan.filter is not None and any(sum(file.row_groups) for file in files):
        return nothing_left(section.path, plan.listed, plan.filter.text)
    return TooFewRowsError(
        f"{section.path}: {len(files):,} file(s), but not one row; is the writer finished?"
    )


def _check_names(section: InputSection, wanted: Sequence[str]) -> None:
    for name, times in Counter(section.columns).items():
        if times > 1:
            raise ConfigError(f"input.columns names {name!r} twice; name each column once")
    known = frozenset(wanted)
    for name in section.convert:
        if name not in known:
            raise ConfigError(
                f"input.convert names {name!r}, which is not among input.columns"
                f"{did_you_mean(name, wanted)}"
            )
    for name in section.transform:
        if name not in section.columns:
            raise ConfigError(
                f"input.transform names {name!r}, which is not among input.columns"
                f"{did_you_mean(name, section.columns)}"
            )
