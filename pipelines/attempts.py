"""A run that begins again by itself: its input changed under it, or a scan met a bad file.

Each attempt makes a new plan. What the last one saved for a resume is used if it is of the same
rows, and otherwise not.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TypeVar

from gmm_dask.config import RunConfig
from gmm_dask.errors import BadFileError, ConfigError, InputChangedError
from gmm_dask.storage.input.bad_files import BadFile

logger = logging.getLogger("gmm_dask")

R = TypeVar("R")

#: Attempts after the first, where the environment does not say.
RETRIES = 3
#: Seconds before each of them, for whoever writes to the input; the last for all that follow.
WAITS = (10.0, 60.0, 300.0)


def attempt(run: RunConfig, once: Callable[[tuple[BadFile, ...]], R]) -> R:
    """Do a run, and again from its beginning where that can help.

    It helps where the input changed while it was read: ``GMM_DASK_RETRIES`` times, after a while.
    With ``input.bad_files = "skip"`` it helps where a scan met a file that cannot be decoded: at
    once, without this file, until there are more than ``input.max_bad_files``.

    Parameters
    ----------
    once
        Does the run without the files that a scan has found bad so far.

    Raises
    ------
    ConfigError
        ``GMM_DASK_RETRIES`` is not a number.
    """
    retries, made = _retries(), 0
    bad: tuple[BadFile, ...] = ()
    while True:
        try:
            return once(bad)
        except BadFileError as error:
            if run.input.bad_files == "error" or len(bad) > run.input.max_bad_files:
                raise
            bad = (*bad, BadFile(error.path, error.reason))
            logger.warning("%s; the run begins again without this file", error)
        except InputChangedError as error:
            if made == retries:
                raise
            seconds = WAITS[min(made, len(WAITS) - 1)]
            made += 1
            logger.warning(
                "%s; the run begins again in %g seconds (%d of %d by GMM_DASK_RETRIES)",
                error,
                seconds,
                made,
                retries,
            )
            time.sleep(seconds)


def _retries() -> int:
    written = os.environ.get("GMM_DASK_RETRIES", "")
    if not written:
        return RETRIES
    if not (written.isascii() and written.isdigit()):
        raise ConfigError(f"GMM_DASK_RETRIES = {written}: give a whole number, 0 for no retry")
    return int(written)
