"""How sure the assignment of rows is, and where k-means would have assigned otherwise."""

from __future__ import annotations

from gmm_dask.report.page.markup import Markup, element, join
from gmm_dask.report.page.plot import percent
from gmm_dask.report.page.subject import Subject
from gmm_dask.report.page.tables import mark, table

#: Least share of all rows that is listed.
LEAST_FLOW = 0.0005
#: The bands of the largest responsibility, from torn to sure.
BANDS = ("below 0.5", "0.5 to 0.9", "0.9 to 0.99", "0.99 and above")


def certainty_table(subject: Subject) -> Markup | None:
    """Tabulate for each component how surely its rows belong to it, with a bar of the bands."""
    aggregates, ids = subject.aggregates, subject.model.component_ids
    if not aggregates.certainty or len(ids) == 1:
        return None
    rows = []
    for component in aggregates.components:
        bands = aggregates.certainty[component]
        partner, overlap = aggregates.confused_with[component]
        cells = [mark(ids[component])]
        if not sum(bands):
            rows.append([*cells, "no row is most probable here", "", "", ""])
            continue
        cells += [_bar(bands), Markup(percent(bands[3])), Markup(percent(bands[0] + bands[1]))]
        shared = join(mark(ids[partner]), f" {percent(overlap)}") if overlap >= 5e-4 else "–"
        rows.append([*cells, shared])
    header = ("component", "largest responsibility", "0.99 and above", "below 0.9", "shares with")
    key = [
        element("li", element("i", class_=f"band b{band}"), words)
        for band, words in enumerate(BANDS)
    ]
    return join(
        element("ul", *key, class_="key", aria_label="Bands of the largest responsibility"),
        table(header, rows, "How surely rows belong to the component they are assigned to"),
    )


def _bar(bands: tuple[float, ...]) -> Markup:
    words = ", ".join(
        f"{percent(share)} {name}" for share, name in zip(bands, BANDS, strict=True) if share
    )
    pieces = [
        element("i", class_=f"band b{band}", style=f"width:{100.0 * share:.1f}%")
        for band, share in enumerate(bands)
        if share
    ]
    return element("span", *pieces, class_="bar", role="img", aria_label=words, title=words)


def kmeans_table(subject: Subject) -> Markup | None:
    """Say how k-means differs from the mixture, and between which components."""
    kmeans, ids = subject.aggregates.kmeans, subject.model.component_ids
    if kmeans is None:
        return None
    sentence = (
        "k-means, started at these means on standardised features, would assign "
        f"{percent(kmeans['moved'])} of the rows to another component."
    )
    flows = [flow for flow in kmeans["flows"] if flow[2] >= LEAST_FLOW]
    if not flows:
        return element("p", sentence)
    rows = [
        (mark(ids[source]), mark(ids[target]), percent(share), percent(1 - kmeans["kept"][source]))
        for source, target, share in flows
    ]
    header = ("the mixture says", "k-means says", "share of all rows", "of the component in all")
    hint = " The background “where k-means differs” above shows where they lie."
    return join(
        element("p", sentence + (hint if subject.aggregates.pairs else "")),
        table(header, rows, "Where k-means differs most"),
    )
