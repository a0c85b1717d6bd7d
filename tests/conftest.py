"""What every test starts from."""

import os

# Read by scipy when it is first imported; one of scikit-learn's checks runs only with it.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import multiprocessing
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from hypothesis import settings

# A deadline would judge the machine: what runs beside a test makes it late.
settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")


@pytest.fixture(scope="session")
def measure() -> Iterator[Callable[..., Any]]:
    """Call a function of a module in a process where nothing else runs, and return its result.

    The process of the tests has threads of Dask's and Prefect's clients: what they allocate and
    compute counts there too.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        yield lambda function, *arguments: process.submit(function, *arguments).result()


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of SeaweedFS, an S3 server that checks keys and heeds conditions in races."""
    from tests import object_stores

    with object_stores.seaweed(tmp_path_factory.mktemp("seaweed")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of moto, which starts in a second and has the answers of AWS."""
    from tests import object_stores

    with object_stores.moto(tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint


@pytest.fixture
def bucket(moto: str) -> Iterator[str]:
    """An address of its own on moto, for which this process has credentials."""
    from tests.object_stores import credentials, environment

    with environment(**credentials(moto)):
        yield f"s3://bucket/{secrets.token_hex(4)}"


@pytest.fixture
def weeds(seaweed: str) -> Iterator[str]:
    """An address of its own on SeaweedFS, for which this process has credentials."""
    from tests.object_stores import credentials, environment

    with environment(**credentials(seaweed)):
        yield f"s3://bucket/{secrets.token_hex(4)}"
