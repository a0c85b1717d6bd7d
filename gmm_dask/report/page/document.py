"""The report as one HTML file: sections of a version, several versions beside each other."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files

from gmm_dask.printable import typeset
from gmm_dask.report.aggregates import Json, is_of_search, point_of
from gmm_dask.report.differences import ModelComparison
from gmm_dask.report.page.assignment import certainty_table, kmeans_table
from gmm_dask.report.page.cards import cards
from gmm_dask.report.page.comparison import beside_each_other
from gmm_dask.report.page.curves import log_likelihood_chart
from gmm_dask.report.page.drift import drift_chart
from gmm_dask.report.page.labels import labels_table
from gmm_dask.report.page.markup import Markup, element, join
from gmm_dask.report.page.nights import nights_chart
from gmm_dask.report.page.plot import number as written
from gmm_dask.report.page.provenance import provenance
from gmm_dask.report.page.scatter import legend, marginal_panels, pair_panels
from gmm_dask.report.page.selection import selection_chart
from gmm_dask.report.page.subject import Subject
from gmm_dask.report.page.tree import merge_tree
from gmm_dask.report.page.verdict import headline
from gmm_dask.report.palette import color_codes


def report_page(subjects: Sequence[Subject], comparisons: Sequence[ModelComparison] = ()) -> bytes:
    """Write a report on one version of a model, or on several beside each other.

    The page needs no network and no other file: its policy forbids both. The same subjects give
    the same bytes.

    Parameters
    ----------
    subjects
        At least one.
    comparisons
        Of each subject with the next.
    """
    ids = sorted({number for subject in subjects for number in subject.drawn_ids})
    script, style = _resource("script.js"), _resource("style.css")
    title = f"{subjects[0].name}: " + ", ".join(subject.label for subject in subjects)
    page = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", title),
            element("style", Markup(style + _colors(ids))),
        ),
        element(
            "body",
            element("a", "Skip to the report", href="#report", class_="skip"),
            _choice(ids),
            element(
                "main",
                beside_each_other(subjects, comparisons) if len(subjects) > 1 else None,
                element(
                    "div",
                    *(
                        _version(number, subject, "h1" if len(subjects) == 1 else "h2")
                        for number, subject in enumerate(subjects)
                    ),
                    class_="several" if len(subjects) > 1 else None,
                ),
                id="report",
                class_="wide" if len(subjects) > 1 else None,
            ),
            element(
                "script",
                Markup(_json([_moves(subject) for subject in subjects])),
                type="application/json",
                id="frames",
            ),
            element("script", Markup(script)),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n".encode("utf-8", "surrogatepass")


def _resource(name: str) -> str:
    return (files("gmm_dask.report.page") / name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Allow this script, styles and pictures within the page, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _json(value: object) -> str:
    """Write JSON in which nothing can end the element that holds it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, sort_keys=True)
    return text.replace("<", "\\u003c")


def _colors(ids: Sequence[int]) -> str:
    rules = zip(ids, color_codes(ids), strict=True)
    return "\n" + "\n".join(f'[data-id="{number}"]{{--c:{code}}}' for number, code in rules)


def _moves(subject: Subject) -> Json:
    """Return what the script needs for the replay."""
    manifest, frames = subject.model.manifest, subject.aggregates.frames
    values = [*manifest.history[: manifest.n_iter], manifest.log_likelihood]
    if manifest.refit is not None:  # its steps climb a bound, which is no likelihood
        words = [f"{frame['iteration']} of {frames[-1]['iteration']}" for frame in frames]
        return {"frames": frames, "words": words, "points": [point_of(frame) for frame in frames]}
    searched = [frame["iteration"] for frame in frames if is_of_search(frame)]
    words = [
        f"search, {frame['iteration']} of {searched[-1]}: "
        f"{written(frame['sample_log_likelihood'], 6)} nats per row of the sample"
        if is_of_search(frame)
        else f"{frame['iteration']} of {frames[-1]['iteration']}: "
        f"{written(values[min(frame['iteration'], len(values) - 1)], 6)} nats per row"
        for frame in frames
    ]
    return {"frames": frames, "words": words, "points": [point_of(frame) for frame in frames]}


def _choice(ids: Sequence[int]) -> Markup:
    """Let the reader choose a component, which is then followed everywhere."""
    choices = [("all", "", None), *((str(number), str(number), number) for number in ids)]
    return element(
        "nav",
        element(
            "fieldset",
            element("legend", "Component"),
            *(
                element(
                    "label",
                    element(
                        "input", type="radio", name="component", value=value, checked=value == ""
                    ),
                    element("span", words),
                    data_id=number,
                )
                for words, value, number in choices
            ),
            class_="components",
        ),
        aria_label="Choice of a component",
    )


def _version(number: int, subject: Subject, level: str) -> Markup:
    """Lay out the sections of one version; its headline is of this level."""
    parts = [
        headline(subject, level),
        _section("Where the components lie", _features(number, subject)),
        _section("The components", cards(subject)),
        _section("How the log-likelihood rose", log_likelihood_chart(subject)),
        _section("Which mixture", selection_chart(subject)),
        _section("Clusters made of components", merge_tree(subject)),
        _section("Labels", labels_table(subject)),
        _section("How sure the assignment is", certainty_table(subject)),
        _section("k-means beside the mixture", kmeans_table(subject)),
        _section("Drift since", drift_chart(subject)),
        _section("Drift of new rows, night by night", nights_chart(subject)),
        _section("Where this model comes from", provenance(subject)),
    ]
    return element(
        "article", *parts, class_="version", data_version=number, aria_label=subject.title
    )


def _section(title: str, *content: Markup | None, lead: str | None = None) -> Markup | None:
    """Make a section, or nothing where it has no content."""
    if not any(content):
        return None
    return element(
        "section",
        element("h2", title),
        element("p", lead, class_="lead") if lead else None,
        *content,
    )


def _features(number: int, subject: Subject) -> Markup:
    aggregates, axes = subject.aggregates, subject.axes
    ids = subject.model.component_ids
    single = len(aggregates.features) <= 2
    pairs = pair_panels(aggregates, axes, ids, wide=single)
    marginals = marginal_panels(aggregates, axes, ids, wide=len(aggregates.features) == 1)
    return join(
        _slider(number, subject),
        legend(number, bool(aggregates.pairs) and bool(pairs), aggregates.kmeans is not None),
        element(
            "div",
            element("div", *pairs, class_="pairs" + (" single" if single else ""))
            if pairs
            else None,
            element("div", *marginals, class_="marginals"),
            class_=f"features of{len(aggregates.features)}",
        ),
        _notes(subject),
    )


def _slider(number: int, subject: Subject) -> Markup | None:
    frames = subject.aggregates.frames
    if len(frames) < 2:
        return None
    last = len(frames) - 1
    return element(
        "div",
        element("button", "Replay EM", type="button", class_="play", aria_pressed="false"),
        element("label", "iteration", for_=f"iteration-{number}"),
        element(
            "input", type="range", id=f"iteration-{number}", class_="iteration",
            min="0", max=str(last), value=str(last), autocomplete="off",
        ),
        element("output", "", for_=f"iteration-{number}"),
        class_="replay",
    )  # fmt: skip


def _notes(subject: Subject) -> Markup:
    """Say what the panels leave out."""
    aggregates, model = subject.aggregates, subject.model
    d, k = model.parameters.n_features, model.parameters.n_components
    notes = []
    if aggregates.sample_rows:
        notes.append(f"Counted over {aggregates.sample_rows:,} rows; outliers may lie outside.")
        if aggregates.pairs:
            notes.append("Pairs: the stronger, the more rows (logarithmic), and 1, 2 and 3 σ.")
        if any(map(is_of_search, aggregates.frames)):
            notes.append(
                "The replay begins where the search began that found this mixture, with EM run "
                "again on rows of the sample. The search itself went on with more rows, and could "
                "move components. Then follow the iterations over all rows."
            )
    else:
        notes.append(
            "This version holds no counts of its rows, because an older gmm-dask wrote it: there "
            "is nothing behind the ellipses, and no replay."
        )
    if model.transforms is not None:
        words = typeset(model.transforms.words(model.columns))
        notes.append(
            f"Features are drawn on the scale on which the mixture sees them: {words}. All values "
            "are in the data's own units."
        )
    if d > len(aggregates.features):
        notes.append(
            f"Drawn are the {len(aggregates.features)} of {d} features in which the components "
            "differ most."
        )
    if k > len(aggregates.components):
        notes.append(f"Drawn are the {len(aggregates.components)} heaviest of {k} components.")
    return element("p", " ".join(notes), class_="note")
