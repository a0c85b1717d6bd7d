"""Where a model comes from: data, settings, software, run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gmm_dask.printable import typeset
from gmm_dask.report.page.markup import Markup, element
from gmm_dask.report.page.plot import number
from gmm_dask.report.page.subject import Subject
from gmm_dask.storage.models.manifest import RefitRecord


def provenance(subject: Subject) -> Markup:
    """Tabulate what would be needed to make the same model again."""
    rows = [
        element("tr", element("th", name, scope="row"), element("td", value))
        for name, value in _facts(subject)
    ]
    return element("div", element("table", *rows, class_="facts"), class_="scroll")


def _refit_facts(refit: RefitRecord) -> list[tuple[str, str]]:
    """Say what an incremental fit read, and of which rows the counts of the report are."""
    words = f"{refit.describe()}, {refit.scans} scans of these"
    return [
        ("read", f"{words}; night {refit.nights} since the last full fit"),
        (
            "bound",
            f"the log-likelihood of all rows is at least {number(refit.bound, 6)} nats per row, "
            f"before the night at least {number(refit.bound_before, 6)}",
        ),
        (
            "sample",
            f"{refit.sample_rows:,} rows; outliers, clusters and all counts of this report are of "
            "them",
        ),
    ]


def _facts(subject: Subject) -> list[tuple[str, str]]:
    model, manifest = subject.model, subject.model.manifest
    configuration = manifest.configuration
    facts = [
        ("input", str(configuration["input"]["path"])),
        ("files", f"{manifest.files:,}"),
        *_skipped(manifest.files_skipped or {}),
        ("snapshot of the input", manifest.snapshot),
        ("columns", ", ".join(model.columns)),
    ]
    if model.transforms is not None:
        facts.append(("transforms", typeset(model.transforms.words(model.columns))))
    facts += [
        (f"[{section}]", _settings(configuration[section]))
        for section in ("model", "fit")
        if section in configuration
    ]
    if manifest.search is not None:
        search = manifest.search
        facts.append(
            (
                "search",
                f"{search.starts} starts on a sample of {search.rows:,} rows, "
                f"{search.iterations:,} iterations in all, {search.failed} broke down",
            )
        )
    if manifest.refit is None:
        facts.append(("scans", f"{manifest.scans} of all rows"))
    else:
        facts += _refit_facts(manifest.refit)
    seconds = subject.aggregates.seconds or {}
    if seconds:
        spent = ", ".join(f"{name} {number(value, 3)} s" for name, value in seconds.items())
        facts.append(("time", spent))
    if manifest.mixed:
        facts.append(("workers that differ", ", ".join(manifest.mixed)))
    packages = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    facts += [
        ("software", f"Python {manifest.python} on {manifest.machine}: {packages}"),
        ("fit key", manifest.fit_key),
        ("sha256 of the model", model.sha256),
    ]
    if model.run is not None:
        based_on = "" if model.run.based_on is None else f", based on version {model.run.based_on}"
        facts.append(("run", f"{model.run.run_id}, {model.run.created}{based_on}"))
    promises = (
        "the same input and settings give the same model, bit for bit, on any number of threads "
        "and workers"
    )
    if manifest.mixed:
        promises += "; not certain here, because workers differed"
    facts.append(("promise", promises))
    return facts


def _settings(section: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in section.items() if value is not None)


def _skipped(files: Mapping[str, str]) -> list[tuple[str, str]]:
    """Say which input files the model was fitted without."""
    if not files:
        return []
    named = "; ".join(f"{path} {reason.partition('; ')[0]}" for path, reason in files.items())
    return [("files skipped", f"{len(files):,}: {named}")]
