"""What docs/stores.md says, done on a real S3 server as it stands there."""

import sys
from pathlib import Path

import pytest

from gmm_dask.addresses import place_of
from gmm_dask.storage.files.stores import delete_all, entries_under
from tests.docs.blocks import ROOT, blocks_of, run
from tests.docs.test_site import clone, expected_of, program_of  # noqa: F401 - a fixture


@pytest.mark.slow
def test_the_page_on_stores(weeds: str, clone: Path) -> None:  # noqa: F811
    blocks = blocks_of(ROOT / "docs" / "stores.md")
    places = [place_of(f"s3://bucket/{name}") for name in ("models", "predictions", "input")]
    try:
        for block in blocks:
            if block.language == "sh":
                run(clone, ["bash", "-euc", block.text])
        printed = run(clone, [sys.executable, "-c", program_of(blocks)])
        assert printed.split("\f\n") == expected_of(blocks)
    finally:
        for place in places:
            delete_all(place, entries_under(place))
