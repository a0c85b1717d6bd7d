"""One thread inside BLAS and OpenMP, until the last user leaves."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import sklearn.cluster  # noqa: F401
from threadpoolctl import threadpool_info, threadpool_limits

from gmm_dask.mixture.threads import single_threaded


def threads(api):
    libraries = threadpool_info()
    return {library["num_threads"] for library in libraries if library["user_api"] == api}


@pytest.fixture(autouse=True)
def _three():
    """Set three threads, as on a machine with three cores."""
    with threadpool_limits(3):
        yield


@pytest.mark.parametrize("api", ["blas", "openmp"])
def test_one_thread_inside_and_afterwards_as_many_as_before(api):
    with single_threaded():
        assert threads(api) == {1}
        with single_threaded():
            assert threads(api) == {1}
        assert threads(api) == {1}
    assert threads(api) == {3}


def test_the_last_of_two_overlapping_users_lifts_the_limit():
    """If each user restored the state before it, the second would run on three threads, and the
    number would then stay at one.
    """
    inside, leave = Event(), Event()

    def first():
        with single_threaded():
            inside.set()
            assert leave.wait(60)

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(first)
        assert inside.wait(60)
        with single_threaded():
            leave.set()
            ended.result()
            assert threads("blas") == threads("openmp") == {1}
    assert threads("blas") == threads("openmp") == {3}


def test_an_error_lifts_the_limit():
    with pytest.raises(ZeroDivisionError), single_threaded():
        1 / 0  # noqa: B018
    assert threads("blas") == threads("openmp") == {3}
