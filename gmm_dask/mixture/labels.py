"""Labels: what a few rows are said to be, and which components a label owns.

A row with a label takes part in EM with the components of its label alone: its responsibilities
are those of the mixture of these components, and its likelihood is that of row and label
together, log Σ π_k N_k(x) over them. So the rows of a label are rows of a smaller mixture, which
the kernels take as it is; its statistics are scattered into those of the whole mixture.

A label goes by its *code*, a hash of its name, so that chunks that were never seen together agree
on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from gmm_dask.arrays import FloatArray, IndexArray, LabelsArray, MaskArray, RowsArray
from gmm_dask.errors import ConfigError, InputError
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.patterns import Patterns, find_patterns
from gmm_dask.mixture.statistics import (
    SufficientStatistics,
    empty_statistics,
    sum_statistics,
)

#: Code of a row without a label.
UNLABELLED = 0
#: What the label of a component is called that has too few labelled rows.
UNKNOWN = "unknown"
#: More labels than these are taken for a mistake: a column of ids, or of measurements.
MOST_LABELS = 1_000


Codes = npt.NDArray[np.int64]


def code_of(name: str) -> int:
    """Return the code of a label, a number of 64 bits; never that of a row without a label."""
    code = xxhash.xxh3_64_intdigest(name.encode()) - 2**63
    return code or 1


@dataclass(frozen=True, eq=False)
class RowLabels:
    """The labels of some rows.

    Attributes
    ----------
    codes
        Code of each row's label, (m,); `UNLABELLED` where it has none.
    names
        Name of each code, of at least those that occur.
    """

    codes: Codes
    names: Mapping[int, str] = field(default_factory=dict)

    def take(self, rows: LabelsArray | MaskArray | slice) -> RowLabels:
        """Return the labels of some of the rows."""
        return replace(self, codes=self.codes[rows])


def count_limited(names: Mapping[str, Any]) -> None:
    """Refuse more labels than `MOST_LABELS`, and one that is called "unknown".

    Raises
    ------
    InputError
        The message says what to try.
    """
    if len(names) > MOST_LABELS:
        some = ", ".join(map(repr, sorted(names)[:3]))
        raise InputError(
            f"there are more than {MOST_LABELS:,} different labels, {some} among them; labels are "
            "the names of a few classes: is this a column of ids or of measurements?"
        )
    if UNKNOWN in names:
        raise InputError(
            f"a row is labelled {UNKNOWN!r}, which is what a component without a label is called "
            "here; leave such rows without a label (null), or rename it"
        )


#: Labels that an error names.
_LISTED = 5


@dataclass(frozen=True)
class Ownership:
    """Which components a label owns.

    Attributes
    ----------
    names
        The labels, sorted.
    owners
        For each of k components, the number of the label that owns it; −1: it is free, and takes
        part in the rows without a label only.
    """

    names: tuple[str, ...]
    owners: tuple[int, ...]

    @classmethod
    def plan(cls, names: tuple[str, ...], n_components: int, each: int) -> Ownership:
        """Give each label ``each`` components, in their order; the last ones stay free.

        Raises
        ------
        ConfigError
            There are too few components.
        """
        if len(names) * each > n_components:
            what = f"{len(names)} label{'s' if len(names) > 1 else ''}"
            apiece = "one component each" if each == 1 else f"{each} components each"
            listed = ", ".join(map(repr, names[:_LISTED]))
            if len(names) > _LISTED:
                listed += f" and {len(names) - _LISTED} more"
            raise ConfigError(
                f"{what} need {apiece} ({listed}), and n_components = {n_components}; give at "
                f"least {len(names) * each}, or leave out the labels of a class"
            )
        owned = [number for number in range(len(names)) for _ in range(each)]
        return cls(tuple(names), (*owned, *[-1] * (n_components - len(owned))))

    @property
    def n_components(self) -> int:
        """The number k of components."""
        return len(self.owners)

    @property
    def free(self) -> IndexArray:
        """Components that no label owns, ascending."""
        return np.flatnonzero(np.array(self.owners) < 0)

    def components_of(self, number: int) -> IndexArray:
        """Return the components of the label with this number, ascending."""
        return np.flatnonzero(np.array(self.owners) == number)

    def by_code(self) -> dict[int, IndexArray]:
        """Return the components of each label by its code."""
        return {code_of(name): self.components_of(i) for i, name in enumerate(self.names)}

    def reordered(self, order: npt.NDArray[np.intp]) -> Ownership:
        """Return the same ownership with the components in another order."""
        return replace(self, owners=tuple(self.owners[place] for place in order.tolist()))


@dataclass(frozen=True, eq=False)
class Labelling:
    """The labels of rows in memory, and the components that they own.

    Attributes
    ----------
    codes
        As of `RowLabels`, (m,).
    ownership
        The same for every mixture that is fitted to the rows.
    """

    codes: Codes
    ownership: Ownership

    def take(self, rows: LabelsArray | slice) -> Labelling:
        """Return the labelling of some of the rows."""
        return replace(self, codes=self.codes[rows])

    def components(self, code: int) -> IndexArray | None:
        """Return the components of a label by its code; None for rows without a label."""
        return None if code == UNLABELLED else self.ownership.by_code()[code]


def group_rows_by_label(codes: Codes) -> Iterator[tuple[int, IndexArray]]:
    """Yield each code and the numbers of its rows, ascending; rows without a label come first.

    The order depends on the codes alone, so that sums over the groups have the same bits.
    """
    labelled = np.flatnonzero(codes != UNLABELLED)
    if len(labelled) < len(codes):
        yield UNLABELLED, np.flatnonzero(codes == UNLABELLED)
    order = labelled[np.argsort(codes[labelled], kind="stable")]
    ordered = codes[order]
    for run in np.split(order, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1):
        if len(run):
            yield int(codes[run[0]]), run


def take_rows(X: RowsArray, rows: IndexArray) -> RowsArray:
    """Copy some rows of X (n, d), feature-major."""
    if X.strides[0] == X.itemsize:
        taken: RowsArray = X.T.take(rows, axis=1).T
        return taken
    if X.flags.c_contiguous:
        return np.ascontiguousarray(X.take(rows, axis=0).T).T
    # Of rows that do not lie in one piece, `take` would copy all.
    return np.ascontiguousarray(X.T[:, rows]).T


def scatter(
    sums: SufficientStatistics, parameters: MixtureParameters, components: IndexArray
) -> SufficientStatistics:
    """Return statistics of some of the components as those of the whole mixture.

    Parameters
    ----------
    sums
        Of the mixture of ``components``.
    parameters
        Of the whole mixture.
    """
    whole = empty_statistics(parameters)
    whole.counts[components] = sums.counts
    whole.residual_sums[components] = sums.residual_sums
    if parameters.covariance.by_component:
        whole.residual_products[components] = sums.residual_products
    return replace(
        whole,
        residual_products=whole.residual_products
        if parameters.covariance.by_component
        else sums.residual_products,
        rows=sums.rows,
        weight=sums.weight,
        log_likelihood=sums.log_likelihood,
    )


def sum_labelled(
    parameters: MixtureParameters,
    X: RowsArray,
    sample_weight: FloatArray | None,
    patterns: Patterns,
    codes: Codes,
    ownership: Ownership,
) -> SufficientStatistics:
    """Take the statistics of an E-step in which the label of a row says which components it has.

    The log-likelihood is Σ w log p(x, label), and Σ w log p(x) of the rows without a label.

    Parameters
    ----------
    X, sample_weight, patterns
        As for `sum_statistics`.
    codes
        Labels of the rows, (n,).
    ownership
        Which components a label owns.

    Raises
    ------
    InputError
        A label owns no component.
    """
    components_by_code = ownership.by_code()
    total = empty_statistics(parameters)
    for code, rows in group_rows_by_label(codes):
        whole = len(rows) == len(codes)
        values = X if whole else take_rows(X, rows)
        weight = sample_weight if whole or sample_weight is None else sample_weight[rows]
        holes = patterns if whole or not patterns else find_patterns(values)
        if code == UNLABELLED:
            total = total + sum_statistics(parameters, values, weight, holes)
            continue
        if code not in components_by_code:
            raise InputError("a row has a label that no component was found for; start again")
        components = components_by_code[code]
        of_label = parameters.reordered(components)  # for these rows alone
        sums = sum_statistics(of_label, values, weight, holes, sharing=len(values))
        total = total + scatter(sums, parameters, components)
    return total


#: For each label by its name, the weight of its rows in each component, (k,).
LabelCounts = Mapping[str, FloatArray]


def count_labels(
    parameters: MixtureParameters,
    X: RowsArray,
    sample_weight: FloatArray | None,
    labels: RowLabels,
) -> LabelCounts:
    """Count the labelled rows in each component: Σ w r, as if the mixture knew no label."""
    counts = {}
    for code, rows in group_rows_by_label(labels.codes):
        if code != UNLABELLED:
            values = take_rows(X, rows)
            weight = None if sample_weight is None else sample_weight[rows]
            sums = sum_statistics(parameters, values, weight, find_patterns(values))
            counts[labels.names[code]] = sums.counts
    return counts


def add_counts(first: LabelCounts, second: LabelCounts) -> LabelCounts:
    """Add two tables of counts, label by label."""
    total = dict(first)
    for name, counts in second.items():
        total[name] = total[name] + counts if name in total else counts
    return total


@dataclass(frozen=True)
class ComponentLabels:
    """The label of each component, by the labelled rows that belong to it.

    Attributes
    ----------
    names
        The L labels, sorted.
    counts
        Weight of the labelled rows of each component, (k, L): Σ r, without regard to the label of
        a row.
    least_weight
        A component with less labelled weight has no label.
    owners
        For each component, the number of the label that owned it in the fit, −1: none, k numbers.
    """

    names: tuple[str, ...]
    counts: tuple[tuple[float, ...], ...]
    least_weight: float
    owners: tuple[int, ...]

    @classmethod
    def of(
        cls,
        counts: LabelCounts,
        n_components: int,
        least_weight: float,
        ownership: Ownership | None = None,
        scale: float = 1.0,
    ) -> ComponentLabels:
        """Make the labels of components from a table of counts.

        Parameters
        ----------
        ownership
            Of the fit; None where the labels took no part in it.
        scale
            Rows per unit of weight, so that counts are in rows.
        """
        names = tuple(sorted(counts))
        table = np.array([counts[name] for name in names]).reshape(len(names), n_components).T
        owners = [-1] * n_components
        if ownership is not None:
            places = {name: number for number, name in enumerate(names)}
            owners = [
                places.get(ownership.names[owner], -1) if owner >= 0 else -1
                for owner in ownership.owners
            ]
        rows = tuple(tuple(row) for row in (table * scale).tolist())
        return cls(names, rows, least_weight, tuple(owners))

    @property
    def weights(self) -> tuple[float, ...]:
        """Labelled weight of each component, k numbers, in rows."""
        return tuple(float(sum(row)) for row in self.counts)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label of each component, the one with most weight in it; "unknown" without."""
        return tuple(
            self.names[int(np.argmax(row))] if self._is_known(row) else UNKNOWN
            for row in self.counts
        )

    @property
    def confidences(self) -> tuple[float | None, ...]:
        """Share of its label in a component's labelled weight; None without a label."""
        return tuple(max(row) / sum(row) if self._is_known(row) else None for row in self.counts)

    def _is_known(self, row: tuple[float, ...]) -> bool:
        return sum(row) > 0.0 and sum(row) >= self.least_weight

    def to_json(self) -> dict[str, Any]:
        """Return the labels in JSON form; `from_json` reads them back."""
        return {
            "names": list(self.names),
            "counts": [list(row) for row in self.counts],
            "least_weight": self.least_weight,
            "owners": list(self.owners),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ComponentLabels:
        """Rebuild the labels that `to_json` wrote."""
        return cls(
            tuple(content["names"]),
            tuple(tuple(row) for row in content["counts"]),
            content["least_weight"],
            tuple(content["owners"]),
        )
