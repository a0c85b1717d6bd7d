"""The merge tree: which components make one cluster, and what each merge costs in entropy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gmm_dask.report.page.markup import Markup, element, join
from gmm_dask.report.page.plot import BOTTOM, TOP, Plot, number, padded, percent
from gmm_dask.report.page.subject import Subject
from gmm_dask.report.page.tables import behind

HEIGHT = 260.0
MOST_LEAVES = 60  # beyond this the tree cannot be read


def merge_tree(subject: Subject) -> Markup | None:
    """Draw the merge tree and the entropies; None for a model without them, or of one component."""
    clusters = subject.section("clusters")
    ids = subject.model.component_ids
    if clusters is None or not clusters["merges"]:
        return None
    drawn: list[Markup] = []
    if len(ids) <= MOST_LEAVES:
        drawn.append(_tree(subject, clusters))
    drawn.append(_entropies(clusters))
    members: dict[int, list[int]] = {}
    for identity, cluster in zip(ids, clusters["cluster_ids"], strict=True):
        members.setdefault(cluster, []).append(identity)
    return join(
        element("p", _words(clusters, members), class_="lead"),
        element("div", *drawn, class_="beside"),
        _table(subject, clusters),
    )


def _words(clusters: Mapping[str, Any], members: Mapping[int, list[int]]) -> str:
    n = clusters["n_clusters"]
    joined = [
        " + ".join(map(str, sorted(components)))
        for components in members.values()
        if len(components) > 1
    ]
    made = "One cluster is" if n == 1 else f"{n} clusters are"
    if not joined:
        return f"{made} suggested: each component is one of its own."
    return f"{made} suggested. Components that belong together: {'; '.join(joined)}."


def heights_of(clusters: Mapping[str, Any]) -> list[float]:
    """Return the height of each merge: by how much entropy has fallen, nats per row, rising."""
    entropies = clusters["entropies"]
    heights: list[float] = []
    for entropy in entropies[1:]:
        heights.append(max(entropies[0] - entropy, heights[-1] if heights else 0.0))
    return heights


def leaves_of(merges: list[tuple[int, int]], ids: tuple[int, ...]) -> list[int]:
    """Order the components so that no branches of the tree cross."""
    branches = {identity: [identity] for identity in ids}
    for a, b in merges:
        branches[a] = branches[a] + branches.pop(b)
    return [leaf for branch in branches.values() for leaf in branch]


def _tree(subject: Subject, clusters: Mapping[str, Any]) -> Markup:
    merges = [(int(a), int(b)) for a, b in clusters["merges"]]
    leaves = leaves_of(merges, subject.model.component_ids)
    heights = heights_of(clusters)
    top = heights[-1] or 1.0
    width = max(320.0, 70.0 + 26.0 * len(leaves))
    plot = Plot(width, HEIGHT, (-0.6, len(leaves) - 0.4), (0.0, 1.06 * top))
    place = {leaf: (float(number_), 0.0) for number_, leaf in enumerate(leaves)}
    first_cut = len(leaves) - clusters["n_clusters"]  # merges below the cut
    branches = []
    for merge, ((a, b), height) in enumerate(zip(merges, heights, strict=True)):
        (left, left_height), (right, right_height) = sorted((place[a], place[b]))
        branches.append(
            element(
                "path",
                element("title", f"{b} joins {a} at {number(height, 3)} nats per row"),
                class_="branch" if merge < first_cut else "branch above",
                d=(
                    f"M{plot.x(left):.1f} {plot.y(left_height):.1f}V{plot.y(height):.1f}"
                    f"H{plot.x(right):.1f}V{plot.y(right_height):.1f}"
                ),
            )
        )
        place[a] = ((left + right) / 2.0, height)
    names = [
        element(
            "text", str(leaf), class_="leaf", data_id=leaf, x=plot.x(float(number_)),
            y=HEIGHT - BOTTOM + 15.0, text_anchor="middle",
        )
        for number_, leaf in enumerate(leaves)
    ]  # fmt: skip
    frame = plot.frame("component", "entropy lost, nats per row", x_first=float("inf"))
    label = f"Merge tree of {len(leaves)} components; solid branches lie within a cluster"
    return plot.picture(label, frame, *branches, *names, class_="chart tree")


def _entropies(clusters: Mapping[str, Any]) -> Markup:
    """Draw the entropy over the number of clusters, with the suggested number marked."""
    entropies = [float(entropy) for entropy in clusters["entropies"]]
    counts = list(range(len(entropies), 0, -1))
    plot = Plot(320.0, HEIGHT, padded(1.0, float(len(entropies))), padded(0.0, max(entropies)))
    n = clusters["n_clusters"]
    at = plot.x(n)
    points = [
        element("circle", class_="point", cx=plot.x(count), cy=plot.y(entropy), r="3")
        for count, entropy in zip(counts, entropies, strict=True)
    ]
    return plot.picture(
        f"Entropy of the assignment over the number of clusters; {n} are suggested",
        plot.frame("number of clusters", "entropy, nats per row", x_whole=True),
        element("line", class_="cut", x1=at, x2=at, y1=TOP, y2=HEIGHT - BOTTOM),
        element("path", class_="line", d=plot.path(counts, entropies)),
        *points,
    )


def _table(subject: Subject, clusters: Mapping[str, Any]) -> Markup:
    shares = clusters.get("shares") or [None] * len(clusters["merges"])
    count = len(subject.model.component_ids)
    rows = [
        (
            str(count - merge - 1),
            f"{b} joins {a}",
            f"{clusters['entropies'][merge + 1]:.5g}",
            "" if share is None else percent(share),
        )
        for merge, ((a, b), share) in enumerate(zip(clusters["merges"], shares, strict=True))
    ]
    header = ("clusters", "merge", "entropy, nats per row", "rows in the cluster made")
    return behind(header, rows, "All merges")
