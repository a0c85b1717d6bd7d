"""Transforms against their definitions: values, inverses, slopes and domains."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gmm_dask.chunked.evaluation import density_ceiling
from gmm_dask.mixture.assignment import assign
from gmm_dask.mixture.parameters import MixtureParameters
from gmm_dask.mixture.spec import TRANSFORM_NAMES
from gmm_dask.mixture.transforms import Transform, Transforms, convert_units

#: Values of x on which each transform is tried, its definition, and its slope.
TRIED = {
    "log": (1e-6, 1e6, np.log, lambda x: 1 / x),
    "log1p": (-1 + 1e-6, 1e6, np.log1p, lambda x: 1 / (1 + x)),
    "asinh": (-1e6, 1e6, np.arcsinh, lambda x: 1 / np.sqrt(1 + x * x)),
    "sqrt": (1e-6, 1e6, np.sqrt, lambda x: 0.5 / np.sqrt(x)),
    "logit": (1e-6, 1 - 1e-6, lambda x: np.log(x / (1 - x)), lambda x: 1 / (x * (1 - x))),
    "standardise": (-1e6, 1e6, lambda x: (x - 3.0) / 7.0, lambda x: np.full_like(x, 1 / 7)),
}


def transform_of(name):
    return Transform(name, 3.0, 7.0) if name == "standardise" else Transform(name)


@pytest.mark.parametrize("name", TRANSFORM_NAMES)
@settings(max_examples=50)
@given(share=hnp.arrays(np.float64, 10, elements=st.floats(0.0, 1.0)))
def test_a_transform_is_its_definition_and_comes_back(name, share):
    low, high, definition, slope = TRIED[name]
    x = low + share * (high - low)
    transform = transform_of(name)
    y = transform.forward(x)
    np.testing.assert_allclose(y, definition(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(transform.inverse(y), x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(transform.log_slope(y), np.log(slope(x)), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", TRANSFORM_NAMES)
def test_slopes_and_inverses_stay_finite_far_out(name):
    transform = transform_of(name)
    y = np.array([-700.0, -40.0, 40.0, 700.0])
    y = y[y > 0] if name == "sqrt" else y
    assert np.isfinite(transform.log_slope(y)).all()
    assert np.isfinite(transform.inverse(y)).all()


@settings(max_examples=50)
@given(
    values=hnp.arrays(np.float32, (5, 3), elements=st.floats(0.125, 0.875, width=32)),
    names=st.lists(st.sampled_from([None, *TRANSFORM_NAMES]), min_size=3, max_size=3).filter(any),
)
def test_transforms_by_feature_add_their_slopes_and_keep_the_type(values, names):
    asked = {column: name for column, name in zip("abc", names, strict=True) if name}
    pending = Transforms.of("abc", asked)
    assert pending.pending == ("standardise" in names)
    transforms = pending.settled(np.full(3, 3.0), np.full(3, 7.0))
    assert Transforms.from_json(transforms.to_json()) == transforms
    assert Transforms.from_json(pending.to_json()) == pending
    result = transforms.apply(values)
    assert result.dtype == np.float32
    assert result.T.flags.c_contiguous
    slopes = np.zeros(5)
    for feature, name in enumerate(names):
        if name is None:
            np.testing.assert_array_equal(result[:, feature], values[:, feature])
            continue
        expected = transform_of(name).forward(values[:, feature]).astype(np.float32)
        np.testing.assert_array_equal(result[:, feature], expected)
        slopes += transform_of(name).log_slope(result[:, feature])
    np.testing.assert_array_equal(transforms.log_slopes(result), slopes)
    # In two steps, as a survey does it.
    first = pending.apply(values)
    assert transforms.extends(pending)
    np.testing.assert_array_equal(transforms.apply(first, pending), result)
    assert not pending.extends(transforms) or pending == transforms
    np.testing.assert_allclose(transforms.inverse(result), values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "bad"),
    [("log", 0.0), ("log", -np.inf), ("log1p", -1.0), ("sqrt", 0.0), ("logit", 0.0),
     ("logit", 1.0), ("logit", np.inf)],
)  # fmt: skip
def test_values_outside_of_a_domain_are_found_and_nulls_are_not(name, bad):
    transforms = Transforms.of(["x", "y"], {"y": name})
    values = np.array([[bad, 0.5], [0.5, np.nan], [0.5, bad]])
    feature, mask = transforms.outside(values)
    assert feature == 1
    assert mask.tolist() == [False, False, True]
    assert transforms.outside(values[:2]) is None


@pytest.mark.parametrize("name", ["log", "log1p", "asinh"])
def test_infinity_at_the_open_end_is_left_to_the_survey(name):
    transforms = Transforms.of(["x"], {"x": name})
    assert transforms.outside(np.array([[np.inf]])) is None
    assert np.isinf(transforms.apply(np.array([[np.inf]]))).all()


def test_a_constant_is_only_centred():
    transforms = Transforms.of(["x"], {"x": "standardise"})
    settled = transforms.settled(np.array([5.0]), np.array([0.0]))
    assert settled.apply(np.array([[5.0], [6.0]])).tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_a_mixture_in_other_units_has_the_same_densities(kind):
    random = np.random.default_rng(0)
    shape = {"full": (3, 2, 2), "tied": (2, 2), "diag": (3, 2), "spherical": (3,)}[kind]
    covariances = random.uniform(0.5, 2.0, shape)
    if kind in ("full", "tied"):
        covariances = covariances @ np.swapaxes(covariances, -1, -2) + np.eye(2)
    parameters = MixtureParameters.from_covariances(
        kind, np.array([0.5, 0.3, 0.2]), random.normal(size=(3, 2)), covariances
    )
    before = Transforms((Transform("log"), Transform("standardise", 3.0, 7.0)))
    after = Transforms((Transform("log"), Transform("standardise", -2.0, 0.5)))
    x = np.exp(random.normal(size=(50, 2)))
    natural = [
        assign(mixture, transforms.apply(x), transforms=transforms).log_densities
        for mixture, transforms in (
            (parameters, before), (convert_units(parameters, before, after), after)
        )
    ]  # fmt: skip
    np.testing.assert_allclose(*natural, rtol=1e-10)
    plain = Transforms((Transform("log"), None))
    back = convert_units(convert_units(parameters, before, plain), plain, before)
    np.testing.assert_allclose(back.means, parameters.means, rtol=1e-10)
    assert convert_units(parameters, before, None) is None
    assert convert_units(parameters, None, before) is None


@pytest.mark.parametrize("name", TRANSFORM_NAMES)
def test_the_ceiling_is_above_all_but_few_densities_and_not_far(name):
    parameters = MixtureParameters.from_covariances(
        "full", np.array([0.7, 0.3]), np.array([[2.0], [6.0]]), np.array([[[1.0]], [[0.5]]])
    )
    transforms = Transforms((transform_of(name),))
    random = np.random.default_rng(0)
    y = np.concatenate([random.normal(2, 1, 7000), random.normal(6, 0.7, 3000)])[:, None]
    y = y[y > 0][:, None]
    densities = assign(parameters, y, transforms=transforms).log_densities
    ceiling = density_ceiling(parameters, transforms)
    assert (densities <= ceiling).mean() > 0.999
    assert ceiling - np.quantile(densities, 0.001) < 40.0


@settings(max_examples=50)
@given(st.sampled_from(TRANSFORM_NAMES), st.floats(0.5, 3.0), st.floats(0.01, 0.3))
def test_a_spread_is_written_in_natural_units(name, mean, deviation):
    words = transform_of(name).spread(mean, deviation)
    middle = float(transform_of(name).inverse(mean))
    assert float(words.split()[0].replace(",", "")) == pytest.approx(middle, rel=0.3, abs=0.51)
    assert ("±" in words) == (name == "standardise")


def test_thousands_are_written_in_full():
    assert Transform("log").spread(np.log(1_810), 0.5) == "1,810 (1,100 to 2,980)"
