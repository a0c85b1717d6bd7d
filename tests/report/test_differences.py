"""What differs between two versions: matched components, settings, and the rows of each."""

import json
from dataclasses import replace

import numpy as np
import pytest

from gmm_dask.mixture.transforms import Transforms, convert_units
from gmm_dask.report.differences import SettingChange, compare
from tests.storage.stored import some_model

SETTINGS = {"input": {"path": "stars", "columns": ["a", "b"]}, "fit": {"tol": 0.5}}


def changed(model, **manifest):
    return replace(model, manifest=replace(model.manifest, **manifest))


def test_components_are_matched_by_id_or_by_distance():
    before = some_model()  # ids 4, 0, 7
    moved = before.parameters.reordered([1, 2, 0])
    after = replace(
        before,
        parameters=moved,
        component_ids=(0, 9, 4),
        manifest=replace(before.manifest, clusters=None),
    )
    by_ids = compare(before, after, by_ids=True)
    assert [(change.before, change.after) for change in by_ids.components] == [
        (0, 0), (4, 4), (None, 9), (7, None),
    ]  # fmt: skip
    assert [change.match is None for change in by_ids.components] == [False, False, True, True]
    assert by_ids.components[0].match.moved == pytest.approx(0.0, abs=1e-9)
    by_distance = compare(before, after, by_ids=False)
    assert [(change.before, change.after) for change in by_distance.components] == [
        (0, 0), (4, 4), (7, 9),
    ]  # fmt: skip
    weights = {change.after: change.weight_after for change in by_distance.components}
    assert weights == dict(zip(after.component_ids, moved.weights.tolist(), strict=True))


def test_settings_differ_key_by_key():
    before = some_model()
    after = changed(before, configuration=SETTINGS, versions={"numpy": "2.5"}, filter="a > 1")
    assert compare(before, after, True).settings == (
        SettingChange("input.columns", ["größe", "b"], ["a", "b"]),
        SettingChange("filter, resolved", None, "a > 1"),
        SettingChange("version of gmm-dask", "0.1.0", None),
        SettingChange("version of numpy", "2.4.6", "2.5"),
        SettingChange("fit.tol", None, 0.5),
    )
    filled, emptied = (
        changed(before, configuration={"input": {"transform": table}})
        for table in ({"a": "log"}, {})
    )
    assert compare(filled, emptied, True).settings == (
        SettingChange("input.transform.a", "log", None),
    )
    assert compare(before, before, True).settings == ()


def test_versions_of_other_columns_are_not_matched():
    before = some_model()
    comparison = compare(before, replace(before, columns=("x", "y")), True)
    assert not comparison.comparable
    assert comparison.obstacle == "other columns: größe, b; then x, y"
    assert comparison.components == ()
    assert json.loads(json.dumps(comparison.to_json()))["components"] == []


@pytest.mark.parametrize("by_ids", [True, False])
def test_versions_are_compared_in_the_units_of_the_later(by_ids):
    """A retrain from scratch takes center and scale anew; where none moves, the text says so."""
    standardise = Transforms.of(("größe", "b"), {"größe": "standardise"})
    settled = [
        standardise.settled(np.array([center, 0.0]), np.array([scale, 1.0]))
        for center, scale in ((100.0, 10.0), (120.0, 20.0))
    ]
    before, after = (
        changed(some_model(), transforms=transforms.to_json()) for transforms in settled
    )
    after = replace(after, parameters=convert_units(before.parameters, *settled))
    for version in (after, replace(before, parameters=before.parameters)):
        for change in compare(before, version, by_ids).components:
            assert (change.match.moved, change.match.distance) == pytest.approx((0, 0), abs=1e-6)
            assert change.match.spread == pytest.approx(1.0)


def test_versions_of_other_transforms_are_not_matched():
    before = some_model()
    logs = Transforms.of(before.columns, {"b": "log1p"})
    comparison = compare(before, changed(before, transforms=logs.to_json()), False)
    assert not comparison.comparable
    assert comparison.obstacle == "other transforms: none; then b = log1p"
    assert comparison.components == ()
    document = json.loads(json.dumps(comparison.to_json()))
    assert (document["comparable"], document["obstacle"]) == (False, comparison.obstacle)


def test_the_rows_of_the_other_are_known_where_a_gate_has_compared():
    before = some_model(version=1)
    after = some_model(seed=1, version=2, based_on=1, based_on_log_likelihood=-2.5)
    later = some_model(seed=2, version=3, based_on=2, based_on_log_likelihood=-2.75)
    forth, back = compare(before, after, True), compare(after, before, True)
    assert (forth.before_on_rows_after, forth.after_on_rows_before) == (-2.5, None)
    assert (back.before_on_rows_after, back.after_on_rows_before) == (None, -2.5)
    assert compare(before, later, True).before_on_rows_after is None
    document = json.loads(json.dumps(back.to_json()))
    assert document["before"]["log_likelihood_of_the_other_on_these_rows"] == -2.5
    assert document["before"]["version"] == 2
    assert document["matched_by"] == "ids"
    assert document["components"][0]["shifts"].keys() == {"größe", "b"}
