"""The log of a run while it goes on: a line for each stage and iteration."""

from __future__ import annotations

import logging

from gmm_dask.events import Stage, StageAdvanced, StageFinished, StageStarted
from gmm_dask.pipelines.watching.standing import Standing

log = logging.getLogger("gmm_dask.run")


class Narrator:
    """Logs each stage and iteration as one line, and how far a long stage is now and then.

    Parameters
    ----------
    every
        Seconds between two lines about how far a stage is.
    """

    def __init__(self, every: float = 30.0) -> None:
        self._every = every
        self._announced: set[Stage] = set()
        self._last = 0.0

    def __call__(self, standing: Standing) -> None:
        """Log where the run stands, if that is worth a line."""
        match standing.event:
            case StageStarted(stage):
                self._last = standing.now
                if stage in self._announced:
                    return
                self._announced.add(stage)
            case StageAdvanced():
                if standing.now - self._last < self._every:
                    return
                self._last = standing.now
            case StageFinished(Stage.POLISH):
                return  # the iteration, which follows, says more
        log.info("%s", standing.sentence())
