"""Waiting for something that another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def until(
    ask: Callable[[], Answer], otherwise: str, seconds: float = 60.0, pause: float = 0.005
) -> Answer:
    """Ask until the answer is true, and return it; fail with ``otherwise`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, otherwise
        time.sleep(pause)
    return answer
