"""The report is one whole file that asks for nothing, whatever the names in it are."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from gmm_dask.printable import typeset
from gmm_dask.report.axes import ticks, write_alike
from gmm_dask.report.differences import compare
from gmm_dask.report.page.cards import contrast
from gmm_dask.report.page.document import _json, report_page
from gmm_dask.report.page.markup import Markup, element, join
from gmm_dask.report.page.plot import Plot
from gmm_dask.report.page.scatter import _tallest, heat_map
from gmm_dask.report.page.subject import Batch, Subject
from gmm_dask.report.page.tree import heights_of, leaves_of
from gmm_dask.report.page.verdict import judge
from gmm_dask.storage.models.estimates import Estimate
from tests.report.subjects import mixture_of, subject_of
from tests.storage.test_drift_history import FOUND, NIGHT

EMPTY = {"meta", "input", "br", "hr"}


class Page(HTMLParser):
    """What a browser sees: elements with their attributes, and the text of scripts."""

    def __init__(self, content):
        super().__init__()
        self.elements, self.open, self.texts, self.scripts = [], [], [], []
        self.feed(content.decode())
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.texts).append(data)

    def find(self, tag, **attributes):
        return [
            found
            for name, found in self.elements
            if name == tag and attributes.items() <= found.items()
        ]

    @property
    def text(self):
        return " ".join(self.texts)


def page_of(*subjects, by_ids=True):
    models = [subject.model for subject in subjects]
    comparisons = [compare(first, second, by_ids) for first, second in pairwise(models)]
    return Page(report_page(subjects, comparisons))


HOSTILE = [
    "</script><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "\x1b[31mred\x00\u202e",
    "n" * 300,
    "<!--",
    "&amp;{{x}}`${y}`",
    "\ud800",
]


def test_names_from_the_data_are_text_and_nothing_else():
    plain = page_of(subject_of(d=7))
    hostile = page_of(subject_of(d=7, columns=HOSTILE))
    shapes = [[(tag, set(found)) for tag, found in page.elements] for page in (plain, hostile)]
    assert shapes[0] == shapes[1]
    assert len(hostile.scripts) == 2
    assert hostile.scripts[1] == plain.scripts[1]
    assert "alert(1)" in hostile.text
    assert "\x1b" not in hostile.text
    assert r"\x1b[31mred" in hostile.text


def test_what_people_read_has_minus_signs_and_what_scripts_read_has_hyphens():
    """In cards, tables and sentences alike; names, dates and ids keep their hyphens."""
    columns = ["b-2", "x 1e-05-a"]
    page = page_of(*(subject_of(columns=columns, iterations=steps) for steps in (4, 5)))
    texts = [
        text for text in page.texts if text[0] != ":" and not any(name in text for name in columns)
    ]  # without the style sheet
    assert [text for text in texts if re.search(r"(^|[\s(×])-[.\d]|\de-\d", text)] == []
    assert re.search(r"−\d\S* ± \d", page.text)
    assert {text for text in page.texts if text in columns} == set(columns)
    assert "−" not in page.scripts[0]
    assert re.search(r"[\[,]-\d", page.scripts[0])
    assert typeset("-1,234.5 (-2e-05 to .5) on 2026-11-26 by 1e-4f-9 in b-2, 'x-1' and '-3'") == (
        "−1,234.5 (−2e−05 to .5) on 2026-11-26 by 1e-4f-9 in b-2, 'x-1' and '-3'"
    )


@pytest.mark.parametrize("d", [1, 2, 8])
def test_a_page_asks_for_nothing_and_runs_its_own_script_only(d):
    content = report_page([subject_of(d=d)])
    page = Page(content)
    (policy,) = page.find("meta", **{"http-equiv": "Content-Security-Policy"})
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert policy["content"] == (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    addresses = [
        value
        for _, found in page.elements
        for key, value in found.items()
        if key in {"src", "href", "action", "data"}
    ]
    assert all(re.match(r"(data:image/png;base64,|#)", value) for value in addresses)
    assert not [key for _, found in page.elements for key in found if key.startswith("on")]
    assert b"url(" not in content
    assert b"@import" not in content
    assert len(content) < 2_000_000


def test_the_same_subject_gives_the_same_bytes():
    assert report_page([subject_of()]) == report_page([subject_of()])


def test_the_frames_of_the_replay_are_in_one_element_of_json():
    subject = subject_of(iterations=4)
    page = page_of(subject)
    (moves,) = json.loads(page.scripts[0])
    assert [frame["iteration"] for frame in moves["frames"]] == [0, 1, 2, 3, 4]
    assert moves["points"] == ["0", "1", "2", "3", "4"]
    assert moves["words"][0] == "0 of 4: −9 nats per row"
    assert moves["words"][-1] == "4 of 4: −4.4 nats per row"
    (slider,) = page.find("input", type="range")
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "4", "4")


def test_the_replay_begins_at_the_start_of_the_search():
    page = page_of(subject_of(iterations=2, searched=3))
    (moves,) = json.loads(page.scripts[0])
    assert moves["points"] == ["search-0", "search-1", "search-2", "0", "1", "2"]
    assert moves["words"][1] == "search, 1 of 2: −4.9 nats per row of the sample"
    assert moves["words"][3].startswith("0 of 2: −9 nats per row")
    (slider,) = page.find("input", type="range")
    assert (slider["max"], slider["value"]) == ("5", "5")
    points = [point["data-iteration"] for _, point in page.elements if "data-iteration" in point]
    assert sorted(points) == sorted(moves["points"])
    assert "The replay begins where the search began" in page.text


def test_everything_drawn_has_a_name_for_those_who_do_not_see_it():
    page = page_of(subject_of(d=3))
    charts = page.find("svg", role="img")
    assert len(charts) >= 6
    assert all(chart["aria-label"] for chart in charts)
    assert all(found["id"] for found in page.find("input", type="range"))
    assert page.find("html")[0]["lang"] == "en"
    headings = [tag for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1


def test_a_version_of_an_older_gmm_dask_says_what_is_missing():
    page = page_of(subject_of(known=False, d=3))
    assert "holds no counts of its rows" in page.text
    assert not page.find("input", type="range")
    assert not page.find("image")
    assert len(page.find("g", **{"class": "ellipse"})) == 3 * 3


def test_several_versions_stand_beside_each_other_and_share_the_choice():
    page = page_of(subject_of(version=1, ids=(0, 1, 2)), subject_of(version=2, ids=(0, 2, 5)))
    assert len(page.find("article")) == 2
    assert "stars: 2 versions beside each other" in page.text
    assert len([tag for tag, _ in page.elements if tag == "h1"]) == 1
    layers = [(found["name"], found["value"]) for found in page.find("input", type="radio")]
    assert layers.count(("layer-0", "rows")) == layers.count(("layer-1", "rows")) == 1
    choices = [found["value"] for found in page.find("input", name="component")]
    assert choices == ["", "0", "1", "2", "5"]
    assert len({found["id"] for found in page.find("input", type="range")}) == 2


def test_several_versions_say_what_became_of_each_component():
    first, second, third = (
        subject_of(version=version, ids=ids)
        for version, ids in ((1, (0, 1, 2)), (2, (0, 2, 5)), (3, (0, 2, 5)))
    )
    settings = {"fit": {"tol": 0.5}, "input": {"path": "stars", "columns": ["größe", "b"]}}
    third = replace(
        third,
        model=replace(third.model, manifest=replace(third.model.manifest, configuration=settings)),
    )
    text = " ".join(page_of(first, second, third).text.split())
    assert "Components of version 1 and version 2, matched by their permanent ids" in text
    assert re.search(r" 2 \S+ % \S+ % \d+\.\d\d σ × \d\.\d{3} column \d [+−]\d", text)
    assert re.search(r" 5 – \S+ % new ", text)
    assert re.search(r" 1 \S+ % – gone ", text)
    assert "fit.tol – – 0.5 " in text
    text = " ".join(page_of(first, second, by_ids=False).text.split())
    assert "matched by their distance" in text
    assert re.search(r" 1 → 2 \S+ % \S+ % 0\.00 σ × 1\.000 ", text)
    other = replace(second, model=replace(second.model, columns=("x", "y")))
    text = page_of(first, other).text
    assert "No component is matched, for version 1 and version 2 have other columns: " in text


LIMITS = {"log-likelihood drop": (0.01, 0.1)}


@pytest.mark.parametrize(
    ("changes", "sound", "words"),
    [
        ({}, True, "Converged after 5 iterations; all 3 components hold rows, and none"),
        ({"k": 1}, True, "Converged after 5 iterations; its one component holds rows."),
        ({"iterations": 1}, True, "Converged after 1 iteration;"),
        ({"status": "max_iter"}, False, "not converged after 5 iterations: raise fit.max_iter"),
        ({"status": "ill_conditioned"}, False, "broke off because a covariance lost its rank"),
        ({"collapsed": (1,), "ids": (4, 8, 9)}, False, "component 8 collapsed"),
        ({"starved": (0, 2)}, False, "components 0 and 2 starved"),
        ({"drift": (Batch("2026", 5, LIMITS),)}, True, "the batch since is within the limits"),
        ({"drift": (Batch("2026", 5, {"a": (2.0, 1.0)}),)}, False, "the last batch has drifted"),
    ],
)
def test_the_verdict_is_one_sentence(changes, sound, words):
    verdict = judge(subject_of(**changes))
    assert verdict.sound is sound
    assert words in verdict.words
    assert verdict.words.endswith(".")


def test_a_card_says_what_sets_a_component_apart_and_how_its_share_went():
    before = [
        {"version": 5, "created": "2026", "rows": 9, "weights": {"0": 0.5, "1": 0.5}},
        {"version": 6, "created": "2026", "rows": 9, "weights": {"0": 0.25, "9": 0.75}},
    ]
    subject = subject_of(k=3, d=5, before=before)
    page = page_of(subject)
    weight = subject.model.parameters.weights[0]
    change = f"{'+' if weight > 0.25 else '−'}{100 * abs(weight - 0.25):.1f} points"
    assert f"{change} since version 6" in page.text
    assert page.text.count("new in this version") == 1  # component 2
    assert page.text.count("All 5 features") == 3


def test_contrasts_are_those_of_rows_weighted_by_hand():
    mixture = mixture_of(3, 4)
    variances = np.diagonal(mixture.matrices, axis1=1, axis2=2)
    for j, row in enumerate(contrast(mixture)):
        rest = [i for i in range(3) if i != j]
        shares = mixture.weights[rest] / mixture.weights[rest].sum()
        mean = shares @ mixture.means[rest]
        variance = shares @ (variances[rest] + mixture.means[rest] ** 2) - mean**2
        pooled = np.sqrt((variances[j] + variance) / 2)
        np.testing.assert_allclose(row, (mixture.means[j] - mean) / pooled)
    assert not contrast(mixture_of(1, 2)).any()


def test_the_log_likelihood_tells_search_and_polish_apart():
    page = page_of(subject_of())
    assert "search" in page.texts
    (curve,) = [
        found for found in page.find("svg") if found.get("aria-label", "").startswith("Mean log")
    ]
    assert "−9 nats per row at iteration 0, −4.4 at the last, iteration 5" in curve["aria-label"]
    assert len(page.find("circle", **{"class": "ring"})) == 2
    iterations = [
        point["data-iteration"] for _, point in page.elements if "data-iteration" in point
    ]
    assert iterations == ["0", "1", "2", "3", "4", "5"]
    assert "search" not in page_of(subject_of(search=None)).texts
    far = page_of(subject_of(history=(-1e6, -9.0, -8.0, -7.0, -6.0)))
    assert "Not drawn: the start, from −1,000,000 on." in far.text


def test_kmeans_and_certainty_are_told_per_component():
    page = page_of(subject_of(k=4, d=1))
    assert "of the rows to another component" in page.text
    assert len(page.find("span", **{"class": "bar"})) == 4
    single = page_of(subject_of(k=1))
    assert "How sure the assignment is" not in single.text
    assert "k-means" not in single.text


class Told(Subject):
    """A subject whose manifest says more."""

    def section(self, name):
        return SECTIONS.get(name)


def cell(n_components, covariance_type, bic, status="converged", **more):
    criteria = dict.fromkeys(("log_likelihood", "bic", "icl", "aic"), bic)
    return (
        {"n_components": n_components, "covariance_type": covariance_type, "status": status}
        | criteria
        | more
    )


SECTIONS = {
    "selection": {
        "criterion": "icl",
        "chosen": {"n_components": 2, "covariance_type": "tied"},
        "cells": [
            cell(1, "full", 50.0),
            cell(2, "full", 10.0, "collapsed", reason="component 1 fell onto <b>"),
            cell(3, "full", None, "ill_conditioned"),
            cell(1, "tied", 40.0),
            cell(2, "tied", 30.5),
            cell(3, "tied", 31.0, "beaten"),
        ],
    },
    "clusters": {
        "merges": [[0, 2], [0, 1]],
        "entropies": [0.5, 0.25, 0.0],
        "n_clusters": 2,
        "cluster_ids": [0, 1, 0],
    },
}


def told(**changes):
    subject = subject_of(**changes)
    return Told(subject.name, subject.model, subject.known, subject.drift)


def test_the_selection_is_drawn_with_its_best_three():
    page = page_of(told())
    assert "ICL chose 2 tied components among 6 mixtures; lower is better." in page.text
    ranks = [text for text in page.texts if text in {"1", "2", "3"}]
    assert {"1", "2", "3"} <= set(ranks)
    assert len(page.find("circle", **{"class": "halo"})) == 3
    assert "a component collapsed: component 1 fell onto <b>" in page.text
    assert "given up early" in page.text
    (chart,) = [svg for svg in page.find("svg") if svg.get("aria-label", "").startswith("ICL over")]
    assert chart["aria-label"].endswith("the lowest is 2 tied components")


def test_the_merge_tree_joins_what_belongs_together():
    page = page_of(told())
    assert "2 clusters are suggested. Components that belong together: 0 + 2." in page.text
    branches = [path["class"] for path in page.find("path") if "branch" in path.get("class", "")]
    assert branches == ["branch", "branch above"]
    leaves = [found["data-id"] for found in page.find("text", **{"class": "leaf"})]
    assert leaves == ["0", "2", "1"]
    assert "2 joins 0" in page.text


def test_branches_of_a_tree_never_cross():
    merges = [(4, 9), (1, 4), (0, 7), (0, 1)]
    leaves = leaves_of(merges, (9, 7, 4, 1, 0))
    assert leaves == [0, 7, 1, 4, 9]
    assert heights_of({"entropies": [1.0, 0.6, 0.7, 0.0]}) == [0.4, 0.4, 1.0]


def test_drift_is_drawn_in_multiples_of_its_limits():
    batches = tuple(
        Batch(f"2026-01-0{day}T00:00:00", 100 * day, {"a <b>": (0.05 * day, 0.1), "b": (-1.0, 0.0)})
        for day in (1, 2, 3)
    )
    page = page_of(subject_of(drift=batches))
    assert "3 batches predicted with this model, 1 of them beyond a limit." in page.text
    assert "0.15 of 0.1" in page.text
    assert "a <b>" in page.text
    assert "Drift since" not in page_of(subject_of()).text


def test_the_history_of_drift_says_which_feature_in_which_component_since_when():
    quiet = replace(
        NIGHT, run_id="run-1", created="2026-01-02T03:00:00", checks={}, findings=(),
        means=(Estimate(2, "height", 0.1, 0.05), Estimate(1, "<b>", 0.0, 0.04)),
    )  # fmt: skip
    nights = (quiet, replace(NIGHT, created="2026-01-03"), replace(NIGHT, created="2026-01-04"))
    page = page_of(replace(subject_of(), nights=nights))
    assert "3 nights, 2 with drift" in page.text
    assert f"{FOUND.words}: seen 2 nights in a row, since 2026-01-03." in page.text
    assert "the new rows differed from version 3" in page.text
    assert "height in component 2" in page.text
    alone = page_of(replace(subject_of(), nights=(quiet,)))
    assert "1 night, none with drift" in alone.text
    assert "<b> in component 1" in alone.text  # what moved most is drawn where nothing was found
    assert "night by night" not in page_of(subject_of()).text


def test_a_version_without_selection_clusters_or_batches_has_no_such_sections():
    assert "Clusters made of" in page_of(subject_of()).text
    text = page_of(subject_of(clusters=None)).text
    assert "Which mixture" not in text
    assert "Clusters made of" not in text


def test_a_heat_map_has_the_opacities_of_its_cells():
    cells, strengths = np.array([0, 5, 7]), np.array([0.2, 1.0, 0.6])  # of three by three
    head, _, content = heat_map(cells, strengths, 3, (196, 110, 0)).partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        points = np.asarray(picture.convert("RGBA"))
    assert points[..., 3].tolist() == [[0, 255, 0], [0, 0, 153], [51, 0, 0]]
    assert (points[..., :3] == (196, 110, 0)).all()


def test_markup_escapes_all_but_markup():
    made = element("a", "<b>", Markup("<i>"), None, 1.50, href='"x"&', hidden=True, class_=None)
    assert made == '<a href="&quot;x&quot;&amp;" hidden>&lt;b&gt;<i>1.5</a>'
    assert join("a", "\x1b", 3) == "a\\x1b3"


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0, 0.5, 1.0], ["0.0", "0.5", "1.0"]),
        ([-1000.0, 0.0, 2500.0], ["−1,000", "0", "2,500"]),
        ([1e-9, 2e-9], ["1e−09", "2e−09"]),
        ([1e8, 1.0000001e8], ["1e+08", "1.0000001e+08"]),
        ([], []),
    ],
)
def test_ticks_are_written_alike(values, texts):
    assert write_alike(values) == texts


@pytest.mark.parametrize("limits", [(0.0, 1.0), (-1e-12, 1e-12), (1e9, 1e9 + 1e-3), (5.0, 5e300)])
def test_ticks_lie_between_the_limits_and_differ(limits):
    chosen = ticks(limits, 5)
    assert 1 <= len(chosen) <= 7
    assert len({text for _, text in chosen}) == len(chosen)


@pytest.mark.parametrize("limits", [(1e8, 1e8 + 5), (-2e140, 3e140), (0.0, 1.0), (0.0, 12.0)])
def test_ticks_of_the_x_axis_have_room_beside_each_other(limits):
    plot = Plot(320.0, 200.0, limits, (0.0, 1.0), y_ticks=0)
    drawn = Page(plot.picture("a chart", plot.frame("x", "y")).encode())
    marks = [text for text in drawn.texts if re.match(r"[−0-9]", text)]
    assert marks
    assert sum(8 * len(text) + 8 for text in marks) <= plot.inner[0]


def test_json_in_the_page_cannot_end_its_element():
    value = {"</script>": ["<!--", 1.5]}
    text = _json(value)
    assert "<" not in text
    assert json.loads(text) == value


def test_a_panel_in_which_nothing_is_seen_has_a_height():
    nothing = np.zeros(5)
    assert _tallest(nothing, nothing) == _tallest(nothing[:0], nothing) == 1.0
    assert _tallest(nothing, nothing + 2.0) == 1.0  # a curve far above bars of 0 is cut off
    assert _tallest(nothing + 1.0, nothing) == pytest.approx(1.08)
