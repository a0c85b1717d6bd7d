"""Versions beside each other: how each ended, and how the components' shares went."""

from __future__ import annotations

from collections.abc import Sequence

from gmm_dask.report.page.markup import Markup, element
from gmm_dask.report.page.plot import number, percent
from gmm_dask.report.page.subject import Subject
from gmm_dask.report.page.tables import mark, table
from gmm_dask.report.page.verdict import judge


def comparison(subjects: Sequence[Subject]) -> Markup:
    """Tabulate the versions, a column for each, and the share of every component in each."""
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
        ["nats per row", *(number(manifest.log_likelihood, 6) for manifest in manifests)],
        ["BIC", *(f"{manifest.bic:,.1f}".replace("-", "−") for manifest in manifests)],
    ]
    shares = [
        dict(
            zip(subject.model.component_ids, subject.model.parameters.weights.tolist(), strict=True)
        )
        for subject in subjects
    ]
    drawn = sorted({identity for subject in subjects for identity in subject.drawn_ids})
    rows += [
        [mark(identity), *(percent(held[identity]) if identity in held else "–" for held in shares)]
        for identity in drawn
    ]
    return element(
        "section",
        element("h1", f"{subjects[0].name}: {len(subjects)} versions beside each other"),
        table(header, rows, "How each version ended, and the share of each component in it"),
        class_="comparison",
    )
