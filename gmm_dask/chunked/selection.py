"""A selection: every number of components and covariance type fitted in the same scans.

One survey draws one sample. The search finds a start for each cell on it, and cells help each
other. The polish runs EM over all rows for the candidates of all cells together, and one more scan
evaluates them. So the table costs as many scans as its slowest cell alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gmm_dask.chunked.cell_turns import options_of, search_cells
from gmm_dask.chunked.conclusion import conclude
from gmm_dask.chunked.evaluation import DensitySummary
from gmm_dask.chunked.fit import begin
from gmm_dask.chunked.fit_records import FitState
from gmm_dask.chunked.polish import polish
from gmm_dask.chunked.scan import Scanner
from gmm_dask.chunked.selection_records import (
    CellFit,
    CellRow,
    CellStatus,
    Choice,
    SelectionOptions,
    SelectionResult,
    SelectionTable,
)
from gmm_dask.errors import NumericalError
from gmm_dask.mixture.criteria import aic, bic, icl, n_parameters
from gmm_dask.mixture.em import EMState
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.selection import Contest, cell_of
from gmm_dask.mixture.spec import Cell
from gmm_dask.mixture.threads import single_threaded

#: Criteria that differ by less are equal: a difference of 2 is already called weak evidence.
TIE = 0.01


def select(
    scanner: Scanner,
    options: SelectionOptions,
    *,
    start: Sequence[MixtureParameters] = (),
    rivals: Callable[[], Sequence[MixtureParameters]] = tuple,
    resume: FitState | None = None,
    save: Callable[[FitState], None] = lambda state: None,
) -> SelectionResult:
    """Fit every cell to all rows of a scanner's source, in shared scans.

    Costs one scan for the survey and one for each iteration of the slowest cell; none for the
    polish if the sample holds all complete rows.

    Parameters
    ----------
    start
        Parameters that are polished as well, each in its cell.
    rivals, resume, save
        As for `gmm_dask.chunked.fit.fit`.

    Raises
    ------
    NumericalError
        Every candidate of every cell broke down.
    TooFewRowsError, NonFiniteError, InputError, InputChangedError, ClusterError
        As `gmm_dask.chunked.fit.fit`; too few rows are fewer than the fewest components.
    """
    ks = [cell.n_components for cell in options.cells]
    largest = options_of(options, max(options.cells))
    with single_threaded():
        state = begin(scanner, largest, resume, save, least_rows=min(ks))
        if not state.starts:
            state = search_cells(scanner, state, options, save)
            state = _with_starts(state, options, tuple(start))
            save(state)
        compare = _comparison(state, options)
        state = polish(scanner, state, largest, save, compare=compare, rivals=rivals)
    fits = tuple(_conclude_cell(scanner, state, options, cell) for cell in options.cells)
    result = SelectionResult(fits, state.survey.rows, scanner.scans)
    if not result.results:
        raise NumericalError(f"every cell broke down: {fits[0].problem}")
    return result


def _comparison(state: FitState, options: SelectionOptions) -> Callable[[EMState], EMState]:
    """Return what stops beaten candidates; in memory no scan is saved, and all run to their end."""
    survey = state.survey
    if survey.in_memory:
        return lambda em: em
    reg_covar = options.fit.spec.reg_covar
    contest = Contest(
        options.criterion, survey.weight, survey.variances, reg_covar, options.allow_collapsed
    )
    return contest.stop_beaten


def _with_starts(
    state: FitState, options: SelectionOptions, start: tuple[MixtureParameters, ...]
) -> FitState:
    """Put the starts of all cells into one batch, with those that are given."""
    fresh = tuple(parameters for search in state.cells for parameters in search.starts)
    given = tuple(parameters for parameters in start if cell_of(parameters) in options.cells)
    if not fresh and not given:
        raise NumericalError(f"every cell broke down: {state.cells[0].problem}")
    return replace(
        state, starts=(*fresh, *given), fresh=(True,) * len(fresh) + (False,) * len(given)
    )


def _conclude_cell(
    scanner: Scanner, state: FitState, options: SelectionOptions, cell: Cell
) -> CellFit:
    """Choose the best candidate of a cell, as a fit of that cell alone would."""
    em, search = state.em, state.cells[options.cells.index(cell)]
    assert em is not None
    places = [place for place, start in enumerate(state.starts) if cell_of(start) == cell]
    if not places:
        few = cell.n_components > state.survey.rows
        return CellFit(cell, problem=search.problem, too_few_rows=few)
    alone = replace(
        state,
        starts=tuple(state.starts[place] for place in places),
        fresh=tuple(state.fresh[place] for place in places),
        search=search.summary,
        em=EMState(tuple(em.candidates[place] for place in places), em.iteration),
        frames=tuple(frame.of(places) for frame in state.frames),
    )
    try:
        return CellFit(cell, conclude(scanner, alone, options_of(options, cell)))
    except NumericalError as error:
        return CellFit(cell, problem=str(error))


def choose(
    result: SelectionResult, options: SelectionOptions, densities: Sequence[DensitySummary]
) -> Choice:
    """Compute the criteria of every cell and choose the best.

    Where cells tie, the one with the fewest parameters is chosen.

    Parameters
    ----------
    densities
        Of ``result.results``, over all rows.

    Raises
    ------
    NumericalError
        Every cell broke down, collapsed or starved.
    """
    fits = {cell_of(fit.parameters): fit for fit in result.results}
    by_cell = dict(zip(fits, densities, strict=True))
    rows = tuple(_row(fit, by_cell.get(fit.cell)) for fit in result.fits)
    able = {CellStatus.CONVERGED, CellStatus.MAX_ITER}
    if options.allow_collapsed:
        able |= {CellStatus.COLLAPSED, CellStatus.STARVED}
    eligible = [row for row in rows if row.status in able]
    if not eligible:
        raise NumericalError(
            "no cell can be chosen: all collapsed, starved or broke down "
            f"({rows[0].cell}: {rows[0].reason}); try fewer components or a larger reg_covar"
        )
    criterion = {row.cell: getattr(row, options.criterion) for row in eligible}
    lowest = min(criterion.values())
    tied = [cell for cell, value in criterion.items() if value - lowest <= TIE]
    chosen = min(tied, key=lambda cell: n_parameters(fits[cell].parameters))
    return Choice(SelectionTable(options.criterion, chosen, rows), fits, by_cell)


def _row(fit: CellFit, densities: DensitySummary | None) -> CellRow:
    if fit.result is None or densities is None:
        status = CellStatus.TOO_FEW_ROWS if fit.too_few_rows else CellStatus.ILL_CONDITIONED
        return CellRow(*fit.cell, None, None, None, None, status.value, fit.problem)
    health = fit.result.health
    status, reason = CellStatus(fit.result.best.status.value), ""
    for word, mask in (
        (CellStatus.STARVED, health.starved),
        (CellStatus.COLLAPSED, health.collapsed),
    ):
        if mask.any():
            status = word
            components = "component" if mask.sum() == 1 else "components"
            reason = f"{components} {', '.join(map(str, mask.nonzero()[0].tolist()))} {word}"
    values = criteria(fit.result.parameters, densities)
    return CellRow(
        *fit.cell,
        densities.mean_log_likelihood,
        values["bic"],
        values["icl"],
        values["aic"],
        status.value,
        reason,
    )


def criteria(parameters: MixtureParameters, densities: DensitySummary) -> dict[str, float]:
    """Return every criterion of a mixture by its name; lower is better."""
    log_likelihood, weight = densities.log_likelihood, densities.weight
    return {
        "bic": bic(parameters, log_likelihood, weight),
        "icl": icl(parameters, log_likelihood, weight, densities.uncertainty),
        "aic": aic(parameters, log_likelihood),
    }
