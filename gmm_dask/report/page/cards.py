"""A card for each component: its share, what sets it apart from the rest, and its history."""

from __future__ import annotations

import numpy as np

from gmm_dask.arrays import FloatArray
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.printable import typeset
from gmm_dask.report.page.markup import Markup, element
from gmm_dask.report.page.plot import number, percent
from gmm_dask.report.page.subject import Subject
from gmm_dask.report.page.tables import behind, mark

SET_APART = 3  # features on the face of a card
MOST_LISTED = 40  # features behind it


def cards(subject: Subject) -> Markup:
    """Make the cards of the components drawn, the heaviest first."""
    contrasts = contrast(subject.model.parameters)
    return element(
        "ul",
        *(_card(subject, component, contrasts) for component in subject.aggregates.components),
        class_="cards",
    )


def contrast(mixture: MixtureParameters) -> FloatArray:
    """Return how far each component lies from all others together, (k, d), in deviations.

    (μ_j − m) / √((σ_j² + v)/2), with m and v the mean and variance of the rest of the mixture:
    Cohen's d of the two. Zeros for a single component.
    """
    weights, means = mixture.weights[:, None], mixture.means
    if len(means) == 1:
        return np.zeros_like(means)
    variances = np.diagonal(mixture.matrices, axis1=1, axis2=2)  # (k, d)
    middle = (weights * means).sum(axis=0)
    centred = means - middle  # no digits are lost far from the origin
    rest = np.maximum(1.0 - weights, np.finfo(float).tiny)
    rest_mean = -weights * centred / rest
    squares = weights * (variances + centred**2)
    rest_variance = (squares.sum(axis=0) - squares) / rest - rest_mean**2
    pooled = np.sqrt(0.5 * (variances + np.maximum(rest_variance, 0.0)))
    return (centred - rest_mean) / np.maximum(pooled, np.finfo(float).tiny)


def _card(subject: Subject, component: int, contrasts: FloatArray) -> Markup:
    model, manifest = subject.model, subject.model.manifest
    identity = model.component_ids[component]
    share = float(model.parameters.weights[component])
    lost = [
        word
        for word, components in (("collapsed", manifest.collapsed), ("starved", manifest.starved))
        if component in components
    ]
    return element(
        "li",
        element(
            "div",
            mark(identity),
            element("h3", f"Component {identity}"),
            element("span", percent(share), class_="share"),
            class_="head",
        ),
        element("p", ", ".join(lost), class_="lost") if lost else None,
        _apart(subject, component, contrasts[component]),
        _history(subject, identity, share),
        class_="card",
        data_id=identity,
    )


def _apart(subject: Subject, component: int, contrasts: FloatArray) -> Markup:
    """List the features in which the component differs most, and all others behind them."""
    model = subject.model
    order = np.argsort(-np.abs(contrasts), kind="stable")[:MOST_LISTED].tolist()
    texts = {
        feature: (
            model.columns[feature],
            typeset(model.spread(component, feature)),
            _words(float(contrasts[feature])) if len(model.component_ids) > 1 else "",
        )
        for feature in order
    }
    face = [
        element(
            "div",
            element("dt", texts[feature][0], title=texts[feature][0]),
            element("dd", texts[feature][1], element("small", texts[feature][2])),
        )
        for feature in order[:SET_APART]
    ]
    listed = element("dl", *face, class_="apart")
    if len(order) <= SET_APART:
        return listed
    left_out = len(contrasts) - len(order)
    title = f"The {len(order)} of {len(contrasts)} features that differ most"
    where = "mean ± σ" if model.transforms is None else "mean ± σ, or median (−σ to +σ)"
    header = ("feature", where, "against the rest")
    folded = behind(header, texts.values(), title if left_out else f"All {len(order)} features")
    return element("div", listed, folded)


def _words(contrast: float) -> str:
    if abs(contrast) < 0.2:
        return "as the rest"
    return f"{number(abs(contrast), 2)} σ {'above' if contrast > 0 else 'below'} the rest"


def _history(subject: Subject, identity: int, share: float) -> Markup | None:
    """Draw the component's share over the versions, as far as they had it."""
    before = [
        (version["version"], version["weights"][str(identity)])
        for version in subject.aggregates.before
        if str(identity) in version["weights"]
    ]
    if not before:
        is_new = subject.aggregates.before and subject.known is not None
        return element("p", "new in this version", class_="history") if is_new else None
    shares = [value for _, value in before] + [share]
    top = max(shares) or 1.0
    step = 118.0 / (len(shares) - 1)
    points = [
        f"{1.0 + place * step:.1f} {25.0 - 22.0 * value / top:.1f}"
        for place, value in enumerate(shares)
    ]
    last_x, last_y = points[-1].split()
    change = share - shares[-2]
    sign = "+" if change >= 0.0 else "−"
    moved = f"{sign}{100.0 * abs(change):.1f} points" if abs(change) >= 5e-4 else "unchanged"
    words = f"share since version {before[0][0]}: from {percent(shares[0])} to {percent(share)}"
    return element(
        "p",
        element(
            "svg",
            element("path", class_="curve", d="M" + "L".join(points)),
            element("circle", class_="point", cx=last_x, cy=last_y, r="2.5"),
            role="img", viewBox="0 0 122 27", aria_label=words,
        ),
        element("span", f"{moved} since version {before[-1][0]}"),
        class_="history",
        title=words,
    )  # fmt: skip
