"""The history of drift beside a model: what the new rows of each night were like.

``drift.json`` is beside every version, and each version carries the nights before it forward, the
last `MOST_NIGHTS`, so that the history outlives versions that are pruned. Components are named by
their ids and features by their names, so that nights under different versions can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.errors import ModelError
from gmm_dask.storage.files.choice import version_at
from gmm_dask.storage.files.sealed import plain
from gmm_dask.storage.models.estimates import Estimate, StoredEstimates
from gmm_dask.storage.models.lineage import share_ids
from gmm_dask.storage.models.model import StoredModel, read_file, read_model
from gmm_dask.storage.models.pruning import rejected_runs
from gmm_dask.storage.models.registry import REJECTED, Registry

#: File beside a model.
DRIFT = "drift.json"
FORMAT = 1
#: Nights that are carried forward.
MOST_NIGHTS = 60
_NIGHTS = ',"nights":['  # between what is said of the fit and the records
#: Estimates of a kind in the record of a night: those farthest from no change.
MOST_ESTIMATES = 512

T = TypeVar("T")
Kind = Literal["mean", "spread", "share"]
_ESTIMATES = ("means", "spreads", "shares")  # fields of a record
#: The check that a finding of each kind belongs to.
_CHECKS = {"mean": "mean shift", "spread": "spread change", "share": "occupancy change"}


class Finding(NamedTuple):
    """A value beyond its limit that chance does not explain; ``words`` says it in a clause."""

    kind: Kind
    component: int | None
    feature: str | None
    value: float
    error: float
    words: str

    @property
    def subject(self) -> tuple[str, int | None, str | None, bool]:
        """What it is a finding of, and which way: equal on two nights if it was seen again."""
        nothing = 1.0 if self.kind == "spread" else 0.0
        return self.kind, self.component, self.feature, self.value > nothing

    @property
    def subject_words(self) -> str:
        """What it is a finding of: the mean of height in component 2."""
        feature = "" if self.feature is None else f" of {self.feature}"
        which = "all components" if self.component is None else f"component {self.component}"
        return f"the {self.kind}{feature} {'of' if self.kind == 'share' else 'in'} {which}"


@dataclass(frozen=True, kw_only=True)
class DriftRecord:
    """What the new rows of a run were like, under the model that was in use before them.

    Attributes
    ----------
    run_id, created, by
        The run, its time (ISO 8601 in UTC), and its kind: ``retrain`` or ``predict``.
    version
        Of the model that they are compared with.
    files, rows, effective_rows
        New and changed files, their used rows, and rows of equal weight that would say as much.
    checks
        Measured value, limit, and whether the value is allowed, by the name of the check.
    findings
        What is beyond a limit and where, the strongest of a kind first.
    means, spreads, shares
        Estimates by component and feature, as `gmm_dask.mixture.shifts.Shifts` has them; at most
        `MOST_ESTIMATES` of a kind.
    text
        The record as it was read; empty for one that was not.
    """

    run_id: str
    created: str
    by: str
    version: int | None
    files: int
    rows: int
    effective_rows: float
    checks: Mapping[str, tuple[float, float, bool]]
    findings: tuple[Finding, ...] = ()
    means: Sequence[Estimate] = ()
    spreads: Sequence[Estimate] = ()
    shares: Sequence[Estimate] = ()
    text: str = field(default="", init=False, compare=False, repr=False)

    @property
    def other_words(self) -> str:
        """What is beyond its limit besides the findings, in clauses; may be empty."""
        of_findings = {_CHECKS[finding.kind] for finding in self.findings}
        return "; ".join(
            f"{name} {value:.3g}, where {limit:g} is allowed"
            for name, (value, limit, passed) in self.checks.items()
            if not passed and name not in of_findings
        )

    @property
    def drifted(self) -> bool:
        """Whether a value is beyond its limit, and not by chance."""
        return not all(passed for _, _, passed in self.checks.values())

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON; `from_json` reads it back."""
        content = {
            **vars(self),
            "checks": {name: list(check) for name, check in self.checks.items()},
            "findings": [finding._asdict() for finding in self.findings],
        }
        content.pop("text", None)
        # Most of a record, and finite numbers already.
        estimates = {name: [*map(list, content.pop(name))] for name in _ESTIMATES}
        return plain(content) | estimates

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> DriftRecord:
        """Read a record back; keys of a later gmm-dask are ignored.

        Raises
        ------
        KeyError, TypeError, ValueError, AttributeError
            The content is no record.
        """
        estimates = {name: StoredEstimates(content[name]) for name in _ESTIMATES}
        findings = tuple(
            Finding(*(finding[name] for name in Finding._fields)) for finding in content["findings"]
        )
        if not all(finding.kind in get_args(Kind) for finding in findings):
            raise ValueError("a finding is of a kind that is not known")
        return cls(
            run_id=str(content["run_id"]),
            created=str(content["created"]),
            by=str(content["by"]),
            version=content["version"],
            files=int(content["files"]),
            rows=int(content["rows"]),
            effective_rows=float(content["effective_rows"]),
            checks={
                name: (float(value), float(limit), bool(passed))
                for name, (value, limit, passed) in content["checks"].items()
            },
            findings=findings,
            **estimates,
        )


def join_nights(*histories: Iterable[DriftRecord]) -> tuple[DriftRecord, ...]:
    """Join histories in the order of time, each run once; the last `MOST_NIGHTS` stay."""
    by_run = {record.run_id: record for records in histories for record in records}
    nights = sorted(by_run.values(), key=lambda record: record.created)
    return tuple(nights[-MOST_NIGHTS:])


@dataclass(frozen=True)
class Since:
    """A finding of the last night, since when it has been seen every night, and how often."""

    finding: Finding
    created: str
    nights: int


def seen_since(nights: Sequence[DriftRecord]) -> tuple[Since, ...]:
    """Return since when each finding of the last night has been seen on consecutive nights."""
    if not nights:
        return ()
    *before, last = nights
    since = []
    for finding in last.findings:
        first, counted = last, 1
        for record in reversed(before):
            same = {earlier.subject for earlier in record.findings}
            if finding.subject not in same:
                break
            first, counted = record, counted + 1
        since.append(Since(finding, first.created, counted))
    return tuple(since)


def encode_drift(noise: FloatArray | None, nights: Sequence[DriftRecord] = ()) -> bytes:
    """Return the bytes of ``drift.json``.

    Parameters
    ----------
    noise
        How the squares of the rows of the fit scatter (`gmm_dask.mixture.shifts.measure_noise`).
    nights
        The history, the oldest first.
    """
    head = {"format": FORMAT, "noise": None if noise is None else np.round(noise, 3).tolist()}
    records = ",".join(record.text or _write(record.to_json()) for record in nights)
    return f"{_write(head)[:-1]}{_NIGHTS}{records}]}}".encode()


def _write(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def decode_drift(text: bytes) -> tuple[FloatArray | None, tuple[DriftRecord, ...]]:
    """Read what `encode_drift` wrote: the noise, and the history.

    Raises
    ------
    ValueError
        The text is something else.
    """
    noise, records = _begin(text)
    try:
        return noise, tuple(_records(records))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not a history of drift: {error!r}") from error


def decode_noise(text: bytes) -> FloatArray | None:
    """Read the noise alone, as `decode_drift`: the records of many nights take longer."""
    return _begin(text)[0]


def _begin(text: bytes) -> tuple[FloatArray | None, str]:
    """Return the noise, and the text of the records with the end of the document."""
    head, nights, records = text.decode().partition(_NIGHTS)
    if not nights:
        raise ValueError("not a history of drift: it has no nights")
    try:
        document = json.loads(head + "}")
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']!r} is not known")
        noise = document["noise"]
        return None if noise is None else np.asarray(noise, dtype=np.float64), records
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a history of drift: {error!r}") from error


def _records(text: str) -> Iterator[DriftRecord]:
    """Read records one by one, each with its text: most are written again as they are."""
    decoder, place = json.JSONDecoder(), 0
    while text[place] != "]":
        content, end = decoder.raw_decode(text, place)
        record = DriftRecord.from_json(content)
        object.__setattr__(record, "text", text[place:end])
        yield record
        place = end + 1 if text[end] == "," else end
    if text[place:] != "]}":
        raise ValueError("not a history of drift: something follows it")


def read_drift(model: StoredModel) -> tuple[FloatArray | None, tuple[DriftRecord, ...]]:
    """Read noise and history beside a model; nothing where an older gmm-dask stored it.

    Raises
    ------
    ModelError
        The file is damaged.
    """
    return _read(model, decode_drift) or (None, ())


def read_noise(model: StoredModel) -> FloatArray | None:
    """Read the noise beside a model, as `read_drift`."""
    return _read(model, decode_noise)


def _read(model: StoredModel, decode: Callable[[bytes], T]) -> T | None:
    if model.path is None:
        return None
    version = version_at(model.path)
    if not version.holds(DRIFT):
        return None
    try:
        return decode(read_file(version, DRIFT))
    except ValueError as error:
        raise ModelError(f"{version.path / DRIFT}: {error}; restore it from a backup") from error


def nights_of(registry: Registry, model: StoredModel) -> tuple[DriftRecord, ...]:
    """Return the history up to now: that of a version, and of what was measured since.

    That are candidates refused since, and where an earlier version was put into use again, the
    newest version, if its component ids mean the same.

    Raises
    ------
    ModelError
        The history of the version is damaged.
    """
    _, nights = read_drift(model)
    since = "" if model.run is None else model.run.created
    later: tuple[DriftRecord, ...] = ()
    newest = registry.versions()[-1]
    if newest != model.version:
        try:
            last = registry.load(newest)
            later = read_drift(last)[1] if share_ids(registry, model, last) else ()
        except ModelError:  # damaged, which may be why it was rolled back
            pass
    refused: list[DriftRecord] = []
    for run_id in rejected_runs(registry):
        try:
            candidate = read_model(registry.store.version(f"{REJECTED}/{run_id}"))
            _, of_candidate = read_drift(candidate)
        except ModelError:  # damaged, or pruned meanwhile
            continue
        refused += [record for record in of_candidate if record.created >= since]
    return join_nights(nights, later, refused)
