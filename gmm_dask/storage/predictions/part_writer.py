"""Writing one part of a prediction dataset from the rows of a chunk, and the columns it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gmm_dask.arrays import FloatArray, MaskArray, RowsArray
from gmm_dask.errors import ConfigError
from gmm_dask.mixture.assignment import Assignment
from gmm_dask.mixture.labels import ComponentLabels
from gmm_dask.mixture.patterns import count_observed
from gmm_dask.mixture.prediction_columns import LABEL, LABEL_CONFIDENCE, prediction_columns
from gmm_dask.nulls import NullPolicy
from gmm_dask.storage.files.choice import AnyStage
from gmm_dask.storage.input.parquet_rows import ParquetRows
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.predictions.keeping import KeptRows, merge, version_column
from gmm_dask.storage.predictions.part_files import (
    CLUSTER,
    IMPUTED,
    MODEL_VERSION,
    OBSERVED,
    PROBABILITY,
    write_part_file,
)
from gmm_dask.storage.predictions.parts import Part, part_name

_PLACE = ("row", "input_file")
_RESERVED = (*_PLACE, "component", "log_density", "outlier", MODEL_VERSION)


def check_key_columns(
    plan: InputPlan,
    key_columns: Sequence[str],
    clusters: bool = False,
    impute: bool = False,
    labels: bool = False,
) -> None:
    """Refuse key columns that the input does not have, or whose names predictions use.

    Parameters
    ----------
    clusters, impute, labels
        Whether clusters, imputed values and labels are written.

    Raises
    ------
    ConfigError
        A key column is refused; the message names it, and what to do.
    """
    # These are likely names of keys, and so reserved only where they are written.
    reserved = {*_RESERVED}
    reserved |= {CLUSTER} if clusters else set()
    reserved |= {LABEL, LABEL_CONFIDENCE} if labels else set()
    reserved |= {OBSERVED} if plan.nulls is NullPolicy.MARGINALIZE else set()
    reserved |= {name + IMPUTED for name in plan.names} if impute else set()
    for name in key_columns:
        if name in reserved or name.startswith(PROBABILITY):
            raise ConfigError(
                f"predict.key_columns: {name!r} is the name of a column of the predictions; "
                "rename it in the input, or leave it out"
            )
        if name not in plan.types:
            raise ConfigError(
                f"predict.key_columns: {name!r} is not a column that all input files have with "
                f"one type; there are {', '.join(plan.types)}"
            )
        if list(key_columns).count(name) > 1:
            raise ConfigError(f"predict.key_columns names {name!r} twice; name each column once")


@dataclass(frozen=True, eq=False)
class PartWriter:
    """Writes parts into a staged dataset, in any process; picklable.

    Attributes
    ----------
    stage
        The version being written: at an absolute path that the workers can see, or on a store
        for which they have credentials.
    run_id
        Id of the run; part of each name.
    plan
        The input that the chunks come from.
    numbers
        For each file of ``plan``, the number that goes into the names of its parts.
    component_ids
        The value of ``component`` for each label.
    threshold
        The log-density below which a complete row is an outlier, nats; None: that is not known.
    probabilities
        Whether responsibilities are written.
    cluster_ids
        Id of the cluster of each component, (k,), if clusters are written.
    impute
        Whether conditional means of missing features are written.
    model_version
        Version of the model.
    kept
        Rows of the current version that stay beside the new ones; None: there are none.
    labels
        Labels of the components, to write them; None: not to.
    """

    stage: AnyStage
    run_id: str
    plan: InputPlan
    numbers: tuple[int, ...]
    component_ids: tuple[int, ...]
    threshold: float | None
    probabilities: bool
    cluster_ids: tuple[int, ...] | None = None
    impute: bool = False
    model_version: int | None = None
    kept: KeptRows | None = None
    labels: ComponentLabels | None = None

    def columns(self, key_columns: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the columns of each part, in their order."""
        cluster = () if self.cluster_ids is None else (CLUSTER,)
        observed = (OBSERVED,) if self.plan.nulls is NullPolicy.MARGINALIZE else ()
        numbers = self.component_ids if self.probabilities else ()
        probabilities = (f"{PROBABILITY}{number}" for number in numbers)
        imputed = (name + IMPUTED for name in self.plan.names if self.impute)
        labels = () if self.labels is None else (LABEL, LABEL_CONFIDENCE)
        assigned = ("component", *labels, *cluster)
        findings = (*assigned, "log_density", *observed, "outlier", MODEL_VERSION)
        return (*_PLACE, *key_columns, *findings, *probabilities, *imputed)

    @property
    def needs_responsibilities(self) -> bool:
        """Whether responsibilities must be given to `write`."""
        return self.probabilities or self.cluster_ids is not None

    def write(
        self,
        rows: ParquetRows,
        labels: npt.NDArray[np.int32],
        log_densities: FloatArray,
        responsibilities: FloatArray | None = None,
        filled: RowsArray | None = None,
    ) -> Part:
        """Write the part of one chunk; writing it again replaces it with the same content.

        Kept rows of the chunk are in it too, in the order of their numbers. The part is certain to
        be on the disk only after the dataset is published.

        Parameters
        ----------
        rows
            The chunk, read with ``split_files=True``: source rows, of which those outside the
            filter are left out (``rows.inside``), and some of the m others may have been dropped
            (``rows.used``). Dropped rows have nulls in all columns but ``row``, ``input_file``,
            ``model_version`` and the keys.
        labels
            Most probable component of each used row, 0 … k−1.
        log_densities
            log p(x) of each used row, nats.
        responsibilities
            (used rows, k); required if `needs_responsibilities`.
        filled
            The used rows without holes, (used rows, d); required if `impute`.

        Raises
        ------
        StorageError
            The disk refuses; the message names the part.
        """
        if rows.file is None or rows.first_in_file is None:
            raise ValueError("predictions are written from chunks that were split by file")
        if self.needs_responsibilities and responsibilities is None:
            raise ValueError("clusters or probabilities need responsibilities, but none were given")
        path = self.plan.files[rows.file].path
        name = part_name(self.run_id, self.numbers[rows.file], rows.first_in_file)
        assigned = Assignment(labels, log_densities, responsibilities)
        table = self._table(rows, path, rows.first_in_file, assigned, filled)
        kept, origins = None, tuple[int, ...]()
        if self.kept is not None and rows.inside is not None:
            kept, origins = self.kept.outside(path, rows.first_in_file, rows.inside)
        if kept is not None:
            table = merge(table, kept, self.stage.directory / name)
        written = write_part_file(self.stage, name, table)
        return Part(
            name,
            path,
            rows.first_in_file,
            table.num_rows,
            *written,
            outside=rows.source_rows - table.num_rows,
            origins=(0, *origins),
        )

    def _table(
        self,
        rows: ParquetRows,
        path: str,
        first: int,
        assigned: Assignment,
        filled: RowsArray | None,
    ) -> pa.Table:
        numbers = np.arange(first, first + rows.source_rows)
        used = None if rows.used is rows.inside else rows.used
        if rows.inside is not None:
            numbers = numbers[rows.inside]
            used = None if used is None else used[rows.inside]
        m = len(numbers)
        file = pa.DictionaryArray.from_arrays(np.zeros(m, np.int32), [path])
        columns: dict[str, Any] = {"row": numbers, "input_file": file}
        if rows.keys is not None:
            columns |= dict(zip(rows.keys.column_names, rows.keys.columns, strict=True))
        for name, values, unknown in self._predicted(rows, assigned, filled):
            columns[name] = _spread(values, unknown, used)
            if name == "outlier":
                columns[MODEL_VERSION] = version_column(self.model_version, m)
        return pa.table(columns)

    def _predicted(
        self, rows: ParquetRows, assigned: Assignment, filled: RowsArray | None
    ) -> Iterator[tuple[str, npt.NDArray[Any], MaskArray | None]]:
        """Yield name, values and unknown values of each column that says something of used rows."""
        holes = self.plan.nulls is NullPolicy.MARGINALIZE
        observed = count_observed(rows.values) if holes else None
        ids = self.component_ids, self.cluster_ids
        predicted = prediction_columns(assigned, *ids, observed, self.labels)
        for name, values in predicted.items():
            yield name, values, np.isnan(values) if name == LABEL_CONFIDENCE else None
        unknown = None if observed is None else observed < len(self.plan.names)
        threshold = self.threshold
        if threshold is None:
            threshold, unknown = 0.0, np.ones(len(assigned.labels), dtype=np.bool_)
        yield "outlier", assigned.log_densities < threshold, unknown
        if self.probabilities:
            assert assigned.responsibilities is not None
            for j, number in enumerate(self.component_ids):
                yield f"{PROBABILITY}{number}", assigned.responsibilities[:, j], None
        if self.impute:
            assert filled is not None
            for name, values, given in zip(self.plan.names, filled.T, rows.values.T, strict=True):
                yield name + IMPUTED, values.astype(np.float64), ~np.isnan(given)


def _spread(
    values: npt.NDArray[Any], unknown: MaskArray | None, used: MaskArray | None
) -> pa.Array:
    """Spread the values of used rows over the rows inside; what is unknown or not used is null."""
    text = pa.string() if values.dtype == object else None
    if used is None:
        return pa.array(values, text, mask=unknown)
    spread_values = np.zeros(len(used), values.dtype)
    spread_values[used] = values
    missing = ~used
    if unknown is not None:
        missing[used] = unknown
    return pa.array(spread_values, text, mask=missing)
