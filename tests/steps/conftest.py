"""What the tests of the steps share."""

import pytest

from gmm_dask.report import pictures


@pytest.fixture
def drawn() -> None:
    """Asked for by tests that want the pictures of their fits."""


@pytest.fixture(autouse=True)
def _few_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is most of a small fit's time: only tests that ask for `drawn` do it."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(pictures, "fit_pictures", lambda *arguments: {"none.png": b"-"})
