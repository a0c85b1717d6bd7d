"""What the scan of a prediction does to each chunk: assign its rows and write them as a part."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import cast

import numpy as np

from gmm_dask.chunked.batches import BatchSums
from gmm_dask.chunked.defects import (
    bad_weights,
    find_bad_weights,
    missing_weights,
    require_usable,
)
from gmm_dask.chunked.evaluation import DensitySummary, density_ceiling, summarize_densities
from gmm_dask.chunked.rows import Rows
from gmm_dask.chunked.transforming import transform_values
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.deviations import sum_deviations
from gmm_dask.mixture.imputation import fill_holes
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import complete_rows
from gmm_dask.mixture.transforms import Transforms
from gmm_dask.nulls import NullPolicy
from gmm_dask.storage.input.plan import InputPlan
from gmm_dask.storage.input.reader import ParquetRows
from gmm_dask.storage.predictions.part_writer import PartWriter
from gmm_dask.storage.predictions.parts import Part


@dataclass(frozen=True, eq=False)
class PredictRequest:
    """What a scan needs to predict; it is sent to the workers.

    Attributes
    ----------
    new_files
        Indices of the files whose rows are compared with the training rows, component by component.
    """

    parameters: MixtureParameters
    writer: PartWriter
    transforms: Transforms | None = None
    new_files: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class PredictedRows:
    """What the scan of a prediction gives; rows that are kept beside these are not among them.

    Attributes
    ----------
    parts
        Parts written.
    densities, squared_weight
        Of the used rows.
    inside
        Rows inside the filter.
    new
        Sums over the used rows of new files; None without any.
    """

    parts: tuple[Part, ...]
    densities: DensitySummary
    inside: int
    squared_weight: float
    new: BatchSums | None = None

    def __add__(self, other: PredictedRows) -> PredictedRows:
        news = [sums for sums in (self.new, other.new) if sums is not None]
        return PredictedRows(
            self.parts + other.parts,
            self.densities + other.densities,
            self.inside + other.inside,
            self.squared_weight + other.squared_weight,
            reduce(add, news) if news else None,
        )


def predict_rows(rows: Rows, request: PredictRequest) -> PredictedRows:
    """Assign the rows of a chunk to components and write them as a part.

    Raises
    ------
    NonFiniteError
        A value is infinite, or null where nulls are errors; names file, row and column.
    InputError
        A sample weight is negative or not finite, or a value is outside of the domain of its
        transform; names file and row.
    """
    chunk = cast(ParquetRows, rows)
    parameters, plan = request.parameters, request.writer.plan
    patterns, transforms = chunk.patterns or (), request.transforms

    def place(row: int) -> str:
        return _place(chunk, row, plan)

    # Here, not by the scanner: what is written has the values as they were.
    values = transform_values(chunk.values, transforms, plan.names, place)
    assigned = assign(
        parameters,
        values,
        responsibilities=request.writer.needs_responsibilities,
        certainties=True,
        patterns=patterns,
        transforms=transforms,
    )
    if not assigned.finite:
        # Rows with nulls have been dropped by now, or they have patterns.
        nulls = NullPolicy.MARGINALIZE if patterns else NullPolicy.ERROR
        require_usable(chunk.values, plan.names, nulls, place)
    _refuse_bad_weights(chunk, plan)
    filled = None
    if request.writer.impute:
        filled = fill_holes(parameters, chunk.values, transforms, values)
    part = request.writer.write(
        chunk, assigned.labels, assigned.log_densities, assigned.responsibilities, filled
    )
    densities = summarize_densities(
        assigned,
        chunk.sample_weight,
        parameters.n_components,
        density_ceiling(parameters, transforms),
        complete_rows(patterns, len(chunk.values)),
    )
    new, weight = None, chunk.sample_weight
    if chunk.file in request.new_files:
        new = BatchSums(densities, sum_deviations(parameters, values, weight, patterns))
    squared = float(len(values)) if weight is None else float(weight @ weight)
    return PredictedRows((part,), densities, chunk.source_rows - chunk.outside, squared, new)


def _refuse_bad_weights(rows: ParquetRows, plan: InputPlan) -> None:
    weights = rows.sample_weight
    if weights is None:
        return
    for find, refuse in ((find_bad_weights, bad_weights), (np.isnan, missing_weights)):
        refused = find(weights)  # (m,)
        if refused.any():
            raise refuse(int(refused.sum()), _place(rows, int(refused.argmax()), plan))


def _place(rows: ParquetRows, row: int, plan: InputPlan) -> str:
    """Return the file of a used row and its number in that file, for a message."""
    assert rows.file is not None  # chunks of a prediction are split by file
    assert rows.first_in_file is not None
    return f"{plan.files[rows.file].path} row {rows.first_in_file + rows.source_row(row):,}"
