"""Two versions of a model on a terminal: beside each other, component by component."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gmm_dask.pipelines.tables import print_table
from gmm_dask.printable import printable
from gmm_dask.report.differences import ComponentChange, ModelComparison
from gmm_dask.storage.models.model import StoredModel


def print_comparison(comparison: ModelComparison) -> None:
    """Write what differs: how each ended, what moved, what was set otherwise."""
    before, after = comparison.before, comparison.after
    print_table(
        ["", _title(before), _title(after)],
        [
            ["stored", _stored(before), _stored(after)],
            ["rows", f"{before.manifest.rows:,}", f"{after.manifest.rows:,}"],
            ["components", _shape(before), _shape(after)],
            ["nats per row, on its own rows", _nats(before), _nats(after)],
            *_on_rows_of_the_other(comparison),
            ["BIC", _bic(before), _bic(after)],
        ],
        texts=("",),
    )
    print()
    if comparison.comparable:
        how = "their permanent ids" if comparison.by_ids else "their distance"
        print(f"components, matched by {how}; σ is that of the component before")
        print_table(
            ["component", "weight", "moved", "spread", "shifted most"],
            [component_cells(change, after.columns) for change in comparison.components],
            texts=("component", "shifted most"),
        )
    else:
        print(f"no component is matched, for the versions have {printable(comparison.obstacle)}")
    print()
    if comparison.settings:
        rows = [
            [setting.name, _value(setting.before), _value(setting.after)]
            for setting in comparison.settings
        ]
        print_table(
            ["set otherwise", _title(before), _title(after)], rows, texts=("set otherwise",)
        )
    else:
        print("nothing was set otherwise")


def component_cells(change: ComponentChange, columns: Sequence[str]) -> list[str]:
    """Write a component: its ids, its weights, how far its mean moved, how its spread changed."""
    if change.match is None:
        weight = f"{change.weight_before or change.weight_after or 0.0:.1%}"
        name = f"{change.before} gone" if change.after is None else f"{change.after} new"
        return [name, weight, "", "", ""]
    name = str(change.before)
    if change.after != change.before:
        name = f"{change.before} → {change.after}"
    return [
        name,
        f"{change.weight_before:.1%} → {change.weight_after:.1%}",
        f"{change.match.moved:.2f} σ",
        f"× {change.match.spread:.3f}",
        change.largest_shift(columns),
    ]


def _on_rows_of_the_other(comparison: ModelComparison) -> list[list[str]]:
    """Write the likelihoods on the same rows, as far as a gate has measured them."""
    before, after = comparison.before, comparison.after
    rows = []
    if comparison.before_on_rows_after is not None:
        label = f"nats per row, on the rows of {_title(after)}"
        rows.append([label, f"{comparison.before_on_rows_after:.6g}", _nats(after)])
    if comparison.after_on_rows_before is not None:
        label = f"nats per row, on the rows of {_title(before)}"
        rows.append([label, _nats(before), f"{comparison.after_on_rows_before:.6g}"])
    return rows


def _title(model: StoredModel) -> str:
    return f"version {model.version}"


def _stored(model: StoredModel) -> str:
    return "" if model.run is None else model.run.created[:16].replace("T", " ")


def _shape(model: StoredModel) -> str:
    return f"{model.parameters.n_components} {model.parameters.covariance_type}"


def _nats(model: StoredModel) -> str:
    return model.manifest.describe_log_likelihood(lambda value: f"{value:.6g}")


def _bic(model: StoredModel) -> str:
    return model.manifest.describe_bic(lambda value: f"{value:,.1f}")


def _value(value: Any) -> str:
    return "–" if value is None else json.dumps(value, ensure_ascii=False)
