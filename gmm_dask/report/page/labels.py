"""The labels of components: by how many labelled rows, and how sure."""

from __future__ import annotations

from gmm_dask.report.page.markup import Markup, element, join
from gmm_dask.report.page.plot import percent
from gmm_dask.report.page.subject import Subject
from gmm_dask.report.page.tables import mark, table

#: Labels that a component's cell of counts names.
MOST_NAMED = 4


def labels_table(subject: Subject) -> Markup | None:
    """Tabulate the label of each component; None for a model without labels."""
    labels, ids = subject.model.manifest.labels, subject.model.component_ids
    if labels is None:
        return None
    rows = []
    for identity, label, confidence, weight, counts in zip(
        ids, labels.labels, labels.confidences, labels.weights, labels.counts, strict=True
    ):
        ordered = sorted(zip(counts, labels.names, strict=True), key=lambda pair: -pair[0])
        named = [f"{name} {count:,.1f}" for count, name in ordered[:MOST_NAMED] if count >= 0.05]
        sure = "–" if confidence is None else percent(confidence)
        rows.append([mark(identity), label, sure, f"{weight:,.1f}", ", ".join(named) or "–"])
    header = ("component", "label", "confidence", "labelled rows", "of them")
    sentence = (
        "A component has the label of most of the labelled rows in it, and their share is its "
        f"confidence; with fewer than {labels.least_weight:g} of them its label is not known."
    )
    return join(
        element("p", sentence, class_="lead"),
        table(header, rows, "Labels of the components"),
    )
