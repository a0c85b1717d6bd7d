"""The gallery's lecture on EM against the digits that the tutorial printed.

The project began with a tutorial on expectation maximization (T. Schlagenhauf, 2022). The pages of
the gallery follow its steps; here they run as they stand, and what they compute is compared with
what it printed, to the last digit where the tutorial has no random start.
"""

from __future__ import annotations

import csv
import runpy
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PRINTED = Path(__file__).with_name("tutorial_responsibilities.csv")


def run_page(name: str) -> dict[str, Any]:
    """Run a page of the gallery and return its variables; they hold its animations, unplayed."""
    plt.switch_backend("agg")
    variables = runpy.run_path(str(EXAMPLES / name))
    variables.pop("replay")._draw_was_started = True
    plt.close("all")
    return variables


@pytest.fixture(scope="module")
def one_dimension() -> dict[str, Any]:
    return run_page("em_in_one_dimension.py")


@pytest.fixture(scope="module")
def two_dimensions() -> dict[str, Any]:
    return run_page("em_in_two_dimensions.py")


def test_the_responsibilities_are_the_printed_digits(one_dimension):
    with PRINTED.open() as file:
        _, *printed = csv.reader(file)
    computed = [[f"{share:.8e}" for share in row] for row in one_dimension["responsibilities"]]
    assert len(printed) == 60
    assert computed == printed


def test_the_first_step_has_the_textbook_s_weights_means_and_variances(one_dimension):
    mixture = one_dimension["after_one"]
    np.testing.assert_allclose(one_dimension["counts"], [28.1934, 20.1842, 11.6224], atol=5e-5)
    np.testing.assert_allclose(mixture.weights, one_dimension["counts"] / 60)
    np.testing.assert_allclose(mixture.means.ravel(), one_dimension["means"])
    np.testing.assert_allclose(mixture.matrices.ravel(), one_dimension["variances"])


def test_ten_iterations_starve_the_third_component(one_dimension):
    final = one_dimension["final"]
    assert len(one_dimension["mixtures"]) == 11
    assert final.means.ravel().round(2).tolist() == [-7.83, 14.96, 2.16]
    assert final.weights.round(3).tolist() == [0.643, 0.328, 0.029]
    assert (np.diff(one_dimension["log_likelihoods"]) > 0).all()


def test_with_its_deviations_held_each_component_ends_on_a_group(one_dimension):
    np.testing.assert_allclose(one_dimension["held"].means.ravel(), [-15, 15, 0], atol=0.35)
    deviations = np.sqrt(one_dimension["held"].matrices.ravel())
    np.testing.assert_allclose(deviations, [5, 3, 1])


def test_a_search_finds_the_three_groups(one_dimension):
    means = np.sort(one_dimension["gm"].means_.ravel())
    np.testing.assert_allclose(means, [-15, 0, 15], atol=0.1)


def test_membership_of_the_new_point_among_three(two_dimensions):
    # Printed after 50 iterations from a start that the tutorial does not say: two digits agree.
    printed = [3.58e-06, 1.318e-04, 0.99986]
    np.testing.assert_allclose(np.sort(two_dimensions["membership"].ravel()), printed, rtol=0.02)
    assert len(two_dimensions["mixtures"]) == 51


def test_membership_of_the_new_point_among_five(two_dimensions):
    *others, largest = np.sort(two_dimensions["five_memberships"])
    assert largest == 1.0
    assert f"{max(others):.0e}" == "4e-33"
    assert 1e-94 < min(others) < 1e-92
