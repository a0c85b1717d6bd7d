"""The verdict on a fit in one sentence, and the figures that one asks for first."""

from __future__ import annotations

from dataclasses import dataclass

from gmm_dask.printable import typeset
from gmm_dask.report.page.markup import Markup, element
from gmm_dask.report.page.plot import number
from gmm_dask.report.page.subject import Subject
from gmm_dask.storage.models.drift_history import DriftRecord


@dataclass(frozen=True)
class Verdict:
    """A judgement.

    Attributes
    ----------
    sound
        Whether there is nothing to look at.
    words
        One sentence, or several where there is something.
    """

    sound: bool
    words: str


def judge(subject: Subject) -> Verdict:
    """Say whether the fit ended well, its components hold rows, and newer rows are alike."""
    manifest = subject.model.manifest
    ids = subject.model.component_ids
    troubles = []
    if manifest.status == "max_iter" and manifest.refit is None:
        troubles.append(f"has not converged after {manifest.n_iter} iterations: raise fit.max_iter")
    elif manifest.status == "ill_conditioned":
        troubles.append("broke off because a covariance lost its rank")
    for word, components in (("collapsed", manifest.collapsed), ("starved", manifest.starved)):
        if components:
            named = _listed([str(ids[component]) for component in components])
            plural = "s" if len(components) > 1 else ""
            troubles.append(f"component{plural} {named} {word}")
    rejected = subject.model.run.rejected if subject.model.run else None
    if rejected:
        troubles.append(f"it was refused: {rejected}")
    drifted = bool(subject.drift) and not subject.drift[-1].passed
    if drifted:
        troubles.append("the last batch has drifted from the rows of the fit")
    if subject.nights and subject.nights[-1].drifted:
        troubles.append(_drift_words(subject.nights[-1]))
    if troubles:
        return Verdict(False, "Look at this: " + "; ".join(troubles) + ".")
    return Verdict(True, _praise(subject))


def _drift_words(night: DriftRecord) -> str:
    words = [finding.words for finding in night.findings] or [night.other_words]
    more = f", and {len(words) - 1} more" if len(words) > 1 else ""
    return f"the new rows differed from version {night.version}: {typeset(words[0])}{more}"


def _praise(subject: Subject) -> str:
    manifest = subject.model.manifest
    k = subject.model.parameters.n_components
    counted = "its one component holds rows" if k == 1 else f"all {k} components hold rows"
    times = "iteration" if manifest.n_iter == 1 else "iterations"
    sentence = f"Converged after {manifest.n_iter} {times}; {counted}"
    if manifest.refit is not None:
        sentence = f"Refitted to {manifest.refit.describe()}; {counted}"
    if subject.drift:
        batches = len(subject.drift)
        within = "the batch since is" if batches == 1 else f"the last of {batches} batches is"
        return f"{sentence}, and {within} within the limits of drift."
    return sentence + ", and none has collapsed." if k > 1 else sentence + "."


def headline(subject: Subject, level: str) -> Markup:
    """Show the verdict, warnings below it, and the figures."""
    verdict = judge(subject)
    warnings = subject.model.manifest.warnings
    return element(
        "header",
        element("p", subject.title, class_="eyebrow"),
        element(
            level, verdict.words, class_="verdict " + ("sound" if verdict.sound else "trouble")
        ),
        element("ul", *(element("li", sentence) for sentence in warnings), class_="warnings")
        if warnings
        else None,
        element(
            "dl",
            *(
                element("div", element("dt", name), element("dd", value))
                for name, value in _figures(subject)
            ),
            class_="figures",
        ),
    )


def _figures(subject: Subject) -> list[tuple[str, str]]:
    manifest, parameters = subject.model.manifest, subject.model.parameters
    figures = [
        ("rows", f"{manifest.rows:,}"),
        ("features", f"{parameters.n_features}"),
        ("components", f"{parameters.n_components}, {parameters.covariance_type}"),
        (
            "log-likelihood per row",
            f"{manifest.describe_log_likelihood(lambda value: number(value, 6))} nats",
        ),
        ("BIC", manifest.describe_bic(lambda value: typeset(f"{value:,.1f}"))),
        ("scans of the data", f"{manifest.scans}"),
    ]
    if manifest.refit is not None:
        figures[-1] = ("scans of the rows read", f"{manifest.refit.scans}")
    if manifest.rows_dropped:
        figures.insert(1, ("rows dropped for nulls", f"{manifest.rows_dropped:,}"))
    if manifest.rows_incomplete:
        figures.insert(1, ("of them with holes", f"{manifest.rows_incomplete:,}"))
    return figures


def _listed(words: list[str]) -> str:
    if len(words) > 5:
        words = [*words[:4], f"{len(words) - 4} more"]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
