"""`select`: every number of components and covariance type compared in shared scans."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import clone

from gmm_dask.chunked.evaluation import evaluate
from gmm_dask.chunked.selection import choose
from gmm_dask.chunked.selection import select as select_rows
from gmm_dask.chunked.selection_records import Choice, SelectionOptions
from gmm_dask.errors import ConfigError
from gmm_dask.estimator import GaussianMixture
from gmm_dask.mixture.spec import COVARIANCE_NAMES, Cell, check_criterion, make_cells
from gmm_dask.storage.models.selection_table import arrow_table

#: Keywords of `GaussianMixture` that have no meaning where k and the covariance type vary.
_OF_ONE_CELL = ("weights_init", "means_init", "precisions_init", "warm_start")


class Selection:
    """Mixtures of every number of components and covariance type, and the best of them.

    Made by `select`. Printed, it shows the criterion of every cell with the best three marked.

    Attributes
    ----------
    best_
        The chosen mixture, a fitted `GaussianMixture`.
    criterion
        ``"bic"``, ``"icl"`` or ``"aic"``, by which it was chosen; lower is better.
    scans_
        How many times all rows were read, for all cells together.
    """

    def __init__(self, choice: Choice, prototype: GaussianMixture, scans: int) -> None:
        self._choice = choice
        self._prototype = prototype
        self.criterion = choice.table.criterion
        self.scans_ = scans
        self.best_ = self.model(*choice.table.chosen)

    @property
    def table(self) -> Any:
        """A row for each cell, a pyarrow Table.

        Its columns are n_components, covariance_type, log_likelihood (mean, nats per row), bic,
        icl, aic (lower is better), status, and reason, which says why a cell cannot be chosen.
        Status is ``converged`` or ``max_iter``; ``beaten`` where a cell was given up because it
        could no longer be among the best three, its log-likelihood within 0.001 of its end;
        ``collapsed`` or ``starved`` where components are; or ``ill_conditioned`` or
        ``too_few_rows``, and then there are no values.
        """
        return arrow_table(self._choice.table)

    def model(self, n_components: int, covariance_type: str) -> GaussianMixture:
        """Return the mixture of a cell, a fitted `GaussianMixture`.

        Raises
        ------
        ConfigError
            The cell was not compared, or it broke down; the message says why.
        """
        cell = Cell(n_components, covariance_type)
        if cell not in self._choice.fits:
            reasons = {row.cell: row.reason for row in self._choice.table.cells}
            if cell in reasons:
                raise ConfigError(f"{cell} components could not be fitted: {reasons[cell]}")
            raise ConfigError(f"{cell} components were not compared; `table` lists what was")
        model: GaussianMixture = clone(self._prototype)
        model.set_params(n_components=n_components, covariance_type=covariance_type)
        model._take_features(self._prototype)
        model._take_result(self._choice.fits[cell], self._choice.densities[cell], self.scans_)
        return model

    def __repr__(self) -> str:
        header, rows = self._choice.table.grid()
        widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
        lines = [
            "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in (header, *rows)
        ]
        return "\n".join([self._title, "", *lines, "", self._choice.table.legend])

    def _repr_html_(self) -> str:
        header, rows = self._choice.table.grid()
        head = "".join(f"<th>{escape(text)}</th>" for text in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        legend = escape(self._choice.table.legend)
        return f"<p>{escape(self._title)}</p>{table}<p>{legend}</p>"

    @property
    def _title(self) -> str:
        table = self._choice.table
        return (
            f"Selection by {self.criterion} from {len(table.cells)} cells in {self.scans_} "
            f"scan{'s' * (self.scans_ != 1)}: {table.chosen} components"
        )


def select(
    X: Any,
    n_components: int | Iterable[int] = range(1, 13),
    covariance_types: str | Iterable[str] = COVARIANCE_NAMES,
    criterion: str = "bic",
    *,
    sample_weight: Any = None,
    client: Any = None,
    allow_collapsed: bool = False,
    **keywords: Any,
) -> Selection:
    """Fit mixtures of every number of components and covariance type, and choose the best.

    All cells of the table share every scan of the rows: one for the survey, one for each iteration
    of the slowest cell (usually 2 to 4), one for the evaluation. Up to ``search_rows`` rows are
    read once and held in memory.

    Parameters
    ----------
    X
        (n, d): whatever `GaussianMixture.fit` takes.
    n_components
        The numbers of components to compare.
    covariance_types
        The covariance types to compare: ``"full"``, ``"tied"``, ``"diag"``, ``"spherical"``.
    criterion
        ``"bic"`` (Schwarz, 1978), ``"icl"``, which adds twice the uncertainty of the assignment
        (Biernacki, Celeux and Govaert, 2000) and prefers components that are apart, or ``"aic"``
        (Akaike, 1973). Lower is better. Where cells tie, the one with the fewest parameters wins.
    sample_weight, client
        As for `GaussianMixture.fit`.
    allow_collapsed
        Whether a cell with collapsed or starved components may be chosen.
    **keywords
        Of `GaussianMixture`, for every cell: ``tol``, ``reg_covar``, ``max_iter``, ``n_init``,
        ``init_params``, ``random_state``, ``search_rows``, ``verbose``, ``verbose_interval``.

    Raises
    ------
    ConfigError
        There is nothing to compare, or a name is unknown.
    TooFewRowsError
        Fewer rows than the fewest components.
    NonFiniteError
        X holds NaN or infinity.
    NumericalError
        No cell can be chosen.

    Examples
    --------
    >>> import numpy as np
    >>> from gmm_dask import select
    >>> random = np.random.default_rng(0)
    >>> X = random.normal(size=(500, 2)) + 5 * random.integers(3, size=500)[:, None]
    >>> select(X, range(1, 6), random_state=0).best_.n_components
    3
    """
    cells = make_cells(_numbers(n_components), _listed(covariance_types))
    check_criterion(criterion)
    for name in _OF_ONE_CELL:
        if name in keywords:
            raise ConfigError(f"{name} belongs to one number of components; leave it out of select")
    prototype = GaussianMixture(**keywords)
    prototype._validate_params()
    options = SelectionOptions(cells, criterion, allow_collapsed, prototype._options())
    with prototype._scanner(X, sample_weight, client) as scanner:
        result = select_rows(scanner, options)
        mixtures = [fit.parameters for fit in result.results]
        first = result.results[0]
        densities = evaluate(scanner, mixtures, first.survey, known=first.evaluated)
    return Selection(choose(result, options, densities), prototype, scanner.scans)


def _listed(values: str | Iterable[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)


def _numbers(values: int | Iterable[int]) -> tuple[int, ...]:
    if isinstance(values, str):
        known = values in COVARIANCE_NAMES
        advice = f"; a covariance type is covariance_types={values!r}" if known else ""
        raise ConfigError(f"n_components = {values!r}: give whole numbers, range(1, 13){advice}")
    numbers = (values,) if isinstance(values, Integral) else tuple(values)  # type: ignore[arg-type]
    for number in numbers:
        if not isinstance(number, Integral) or isinstance(number, bool | np.bool_):
            raise ConfigError(f"n_components holds {number!r}; give whole numbers, range(1, 13)")
    return tuple(int(number) for number in numbers)
