"""Axes of transformed features: their ticks are round numbers of the data's own units."""

import numpy as np
import pytest

from gmm_dask.mixture.transforms import Transform, Transforms
from gmm_dask.report.axes import FeatureAxis, axes_of, ticks

SCALES = [
    (Transform("log"), (-3.0, 7.0), ["0.1", "1", "10", "100", "1,000"]),
    (Transform("log"), (2.0, 2.4), ["8", "9", "10", "11"]),
    (Transform("log1p"), (-0.5, 9.0), ["0", "10", "100", "1,000", "5,000"]),
    (Transform("asinh"), (-8.0, 8.0), ["−1,000", "−10", "0", "10", "1,000"]),
    (Transform("sqrt"), (-0.3, 30.0), ["10", "100", "500"]),
    (Transform("logit"), (-6.0, 6.0), ["0.01", "0.1", "0.5", "0.9", "0.99"]),
    (Transform("standardise", 170.0, 12.0), (-3.0, 3.5), ["140", "160", "180", "200"]),
]


@pytest.mark.parametrize(("transform", "limits", "texts"), SCALES)
def test_ticks_are_round_in_natural_units_and_stand_where_their_values_are(
    transform: Transform, limits: tuple[float, float], texts: list[str]
) -> None:
    marks = FeatureAxis("price", transform).ticks(limits, 6)
    assert [text for _, text in marks] == texts
    places = [place for place, _ in marks]
    assert places == sorted(places)
    assert limits[0] <= places[0] < places[-1] <= limits[1]
    values = [float(text.replace(",", "").replace("−", "-")) for text in texts]
    np.testing.assert_allclose(transform.inverse(places), values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["log", "log1p", "asinh", "sqrt", "logit"])
@pytest.mark.parametrize("limits", [(-700.0, 900.0), (0.0, 1e-7), (3.0, 3.0001), (-9.0, 0.1)])
def test_any_limits_have_ticks_between_them_or_none(name: str, limits: tuple[float, float]) -> None:
    marks = FeatureAxis("x", Transform(name)).ticks(limits, 5)
    assert len(marks) <= 12
    assert all(limits[0] <= place <= limits[1] for place, _ in marks)


def test_an_axis_names_the_scale_where_it_is_not_even() -> None:
    transforms = Transforms((Transform("log1p"), None, Transform("standardise", 1.0, 2.0)))
    axes = axes_of(("price", "rooms", "weight"), transforms)
    assert [axis.label for axis in axes] == ["price (log1p scale)", "rooms", "weight"]
    assert axes[1].ticks((0.0, 10.0), 5) == ticks((0.0, 10.0), 5)
    assert axes_of(("a",), None) == (FeatureAxis("a"),)
