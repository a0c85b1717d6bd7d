"""Fixtures of the tests of the steps."""

import pytest

from gmm_dask.report import pictures
from gmm_dask.steps import evaluating


@pytest.fixture
def drawn() -> None:
    """A test that asks for this gets the pictures and reports of its fits."""


@pytest.fixture(autouse=True)
def _few_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing unless a test asks for `drawn`: drawing takes most of a small fit's time."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(pictures, "fit_pictures", lambda *arguments: {"none.png": b"-"})
        monkeypatch.setattr(evaluating, "count_for_report", lambda *arguments: None)
