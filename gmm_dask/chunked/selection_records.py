"""The options and the result of a selection, and its table of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from gmm_dask.chunked.evaluation import DensitySummary
from gmm_dask.chunked.fit_records import FitOptions, FitResult
from gmm_dask.mixture.spec import Cell


@dataclass(frozen=True, eq=False)
class SelectionOptions:
    """Which cells to compare, by what, and how each is fitted.

    Attributes
    ----------
    cells
        Of `gmm_dask.mixture.selection.make_cells`.
    criterion
        ``"bic"``, ``"icl"`` or ``"aic"``; lower is better.
    allow_collapsed
        Whether a cell with collapsed or starved components may be chosen.
    fit
        How each cell is fitted; number of components and covariance type are those of the cell.
    """

    cells: tuple[Cell, ...]
    criterion: str = "bic"
    allow_collapsed: bool = False
    fit: FitOptions = field(default_factory=FitOptions)


@dataclass(frozen=True, eq=False)
class CellFit:
    """What became of a cell, before it is evaluated.

    Attributes
    ----------
    result
        The fit of its best candidate; None if it broke down.
    problem
        Why it broke down; empty otherwise.
    too_few_rows
        Whether it has more components than there are rows.
    """

    cell: Cell
    result: FitResult | None = None
    problem: str = ""
    too_few_rows: bool = False


class CellStatus(StrEnum):
    """How a cell ended: the status of its fit, or the reason why it cannot be chosen."""

    CONVERGED = "converged"
    MAX_ITER = "max_iter"
    BEATEN = "beaten"
    COLLAPSED = "collapsed"
    STARVED = "starved"
    ILL_CONDITIONED = "ill_conditioned"
    TOO_FEW_ROWS = "too_few_rows"


#: Marks of a printed table, in the place of words.
MARKS: dict[str, str] = {
    CellStatus.MAX_ITER: "m",
    CellStatus.BEATEN: "b",
    CellStatus.COLLAPSED: "c",
    CellStatus.STARVED: "s",
    CellStatus.ILL_CONDITIONED: "i",
    CellStatus.TOO_FEW_ROWS: "t",
}


@dataclass(frozen=True)
class CellRow:
    """A row of the table of a selection.

    Attributes
    ----------
    n_components, covariance_type
        The cell.
    log_likelihood
        Mean of all rows, nats per row; None, like the criteria, where the cell broke down.
    bic, icl, aic
        Criteria; lower is better.
    status
        A `CellStatus`. ``beaten``: the cell was given up because it could no longer be among the
        best three; its log-likelihood is within 0.001 nats per row of where it would end.
    reason
        Why the cell collapsed, starved or broke down; empty otherwise.
    """

    n_components: int
    covariance_type: str
    log_likelihood: float | None
    bic: float | None
    icl: float | None
    aic: float | None
    status: str
    reason: str = ""

    @property
    def cell(self) -> Cell:
        """Number of components and covariance type."""
        return Cell(self.n_components, self.covariance_type)


@dataclass(frozen=True)
class SelectionTable:
    """The table of a selection and what was chosen from it.

    Attributes
    ----------
    criterion
        By which it was chosen.
    chosen
        The cell.
    cells
        A row for each cell.
    """

    criterion: str
    chosen: Cell
    cells: tuple[CellRow, ...]

    def best(self, count: int) -> tuple[CellRow, ...]:
        """Return the rows of lowest criterion among those that are sound, the chosen one first."""
        chosen = next(row for row in self.cells if row.cell == self.chosen)
        able = {CellStatus.CONVERGED, CellStatus.MAX_ITER, CellStatus.BEATEN}
        others = [row for row in self.cells if row is not chosen and row.status in able]
        others.sort(key=lambda row: getattr(row, self.criterion))
        return (chosen, *others)[:count]

    def grid(self) -> tuple[list[str], list[list[str]]]:
        """Return the criterion as text: a row for each k, a column for each covariance type.

        The best three are numbered. A letter stands for a status, as `legend` says.
        """
        kinds = list(dict.fromkeys(row.covariance_type for row in self.cells))
        ks = list(dict.fromkeys(row.n_components for row in self.cells))
        rows = {row.cell: row for row in self.cells}
        places = {row.cell: f"*{place}" for place, row in enumerate(self.best(3), start=1)}
        texts = []
        for k in ks:
            texts.append([str(k)])
            for kind in kinds:
                row = rows[Cell(k, kind)]
                value = getattr(row, self.criterion)
                mark = places.get(row.cell, MARKS.get(row.status, ""))
                text = "–" if value is None else f"{value:,.1f}"
                texts[-1].append(f"{text} {mark:<2}")
        return ["k", *(f"{kind}   " for kind in kinds)], texts

    @property
    def legend(self) -> str:
        """The marks of `grid` in words, as far as they occur."""
        statuses = {row.status for row in self.cells}
        marks = [f"{mark} {status}" for status, mark in MARKS.items() if status in statuses]
        return ", ".join([f"{self.criterion}, lower is better", "*1 *2 *3 the best", *marks])

    def to_json(self) -> dict[str, Any]:
        """Return the table as values that JSON can hold."""
        return {
            "criterion": self.criterion,
            "chosen": self.chosen._asdict(),
            "cells": [asdict(row) for row in self.cells],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> SelectionTable:
        """Read the table back; raises KeyError, TypeError or ValueError if it is none."""
        known = CellRow.__dataclass_fields__
        rows = (
            CellRow(**{name: value for name, value in row.items() if name in known})
            for row in content["cells"]
        )
        chosen = content["chosen"]
        cell = Cell(chosen["n_components"], chosen["covariance_type"])
        return cls(content["criterion"], cell, tuple(rows))


@dataclass(frozen=True, eq=False)
class SelectionResult:
    """Every cell, polished but not yet evaluated.

    Attributes
    ----------
    fits
        One for each cell, in the order of the options.
    rows
        Complete rows.
    scans
        Scans of the source so far.
    """

    fits: tuple[CellFit, ...]
    rows: int
    scans: int

    @property
    def results(self) -> tuple[FitResult, ...]:
        """The fits that did not break down, in their order."""
        return tuple(fit.result for fit in self.fits if fit.result is not None)


@dataclass(frozen=True, eq=False)
class Choice:
    """An evaluated selection: its table, and fit and densities of every cell that has them."""

    table: SelectionTable
    fits: Mapping[Cell, FitResult]
    densities: Mapping[Cell, DensitySummary]

    @property
    def best(self) -> FitResult:
        """The fit that was chosen."""
        return self.fits[self.table.chosen]
