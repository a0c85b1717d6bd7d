"""Versions beside each other: how each ended, and what became of the components."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence

from gmm_dask.printable import typeset
from gmm_dask.report.differences import ComponentChange, ModelComparison, settings_of
from gmm_dask.report.page.markup import Markup, element
from gmm_dask.report.page.plot import number, percent
from gmm_dask.report.page.subject import Subject
from gmm_dask.report.page.tables import mark, table
from gmm_dask.report.page.verdict import judge


def beside_each_other(
    subjects: Sequence[Subject], comparisons: Sequence[ModelComparison]
) -> Markup:
    """Tabulate the versions, a column for each, and what became of every component.

    Parameters
    ----------
    subjects
        The versions.
    comparisons
        Of each with the next.
    """
    header = ["", *(subject.label for subject in subjects)]
    manifests = [subject.model.manifest for subject in subjects]
    runs = [subject.model.run for subject in subjects]
    rows: list[Sequence[Markup | str]] = [
        ["created", *(run.created[:10] if run else "" for run in runs)],
        ["sound", *("yes" if judge(subject).sound else "NO" for subject in subjects)],
        ["rows", *(f"{manifest.rows:,}" for manifest in manifests)],
        [
            "components",
            *(
                f"{subject.model.parameters.n_components}, "
                f"{subject.model.parameters.covariance_type}"
                for subject in subjects
            ),
        ],
        ["iterations", *(f"{manifest.n_iter}" for manifest in manifests)],
        [
            "nats per row",
            *(
                manifest.describe_log_likelihood(lambda value: number(value, 6))
                for manifest in manifests
            ),
        ],
        [
            "BIC",
            *(
                manifest.describe_bic(lambda value: typeset(f"{value:,.1f}"))
                for manifest in manifests
            ),
        ],
    ]
    names = dict.fromkeys(
        setting.name for comparison in comparisons for setting in comparison.settings
    )
    rows += [[name, *(_setting(subject, name) for subject in subjects)] for name in names]
    drawn = {identity for subject in subjects for identity in subject.drawn_ids}
    return element(
        "section",
        element("h1", f"{subjects[0].name}: {len(subjects)} versions beside each other"),
        table(header, rows, "How each version ended, and what was set otherwise"),
        *(
            _changes(comparison, (before.label, after.label), drawn)
            for comparison, before, after in zip(
                comparisons, subjects[:-1], subjects[1:], strict=True
            )
        ),
        class_="comparison",
    )


def _setting(subject: Subject, name: str) -> str:
    value = dict(settings_of(subject.model)).get(name)
    return "–" if value is None else json.dumps(value, ensure_ascii=False)


def _changes(comparison: ModelComparison, labels: tuple[str, str], drawn: Container[int]) -> Markup:
    """Tabulate what became of every component from one version to the next."""
    before, after = labels
    if not comparison.comparable:
        return element(
            "p", f"No component is matched, for {before} and {after} have {comparison.obstacle}."
        )
    how = "their permanent ids" if comparison.by_ids else "their distance"
    columns = comparison.after.columns
    return table(
        ["component", f"share, {before}", f"share, {after}", "moved", "spread", "shifted most"],
        [_change(change, columns, drawn) for change in comparison.components],
        f"Components of {before} and {after}, matched by {how}; σ is that of {before}",
    )


def _change(
    change: ComponentChange, columns: Sequence[str], drawn: Container[int]
) -> list[Markup | str]:
    ids = [identity for identity in (change.before, change.after) if identity is not None]
    name = Markup(
        " → ".join(
            mark(identity) if identity in drawn else str(identity)
            for identity in dict.fromkeys(ids)
        )
    )
    shares = [
        "–" if share is None else percent(share)
        for share in (change.weight_before, change.weight_after)
    ]
    if change.match is None:
        return [name, *shares, "gone" if change.after is None else "new", "", ""]
    return [
        name,
        *shares,
        f"{change.match.moved:.2f} σ",
        f"× {change.match.spread:.3f}",
        typeset(change.largest_shift(columns)),
    ]
