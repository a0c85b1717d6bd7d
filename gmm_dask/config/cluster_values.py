"""The forms that values of a cluster file have, as types for its sections.

These values become lines of job scripts, arguments of commands, addresses and paths. There a space
or a line break begins something else, so each value matches its form as a whole or is refused.
"""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

#: Bytes that a worker needs before it holds any row: 322 MiB were measured for Python, numpy,
#: numba, pyarrow and Dask. Dask pauses a worker at 80 % of its limit; with rows in half of what is
#: left, a worker stays well below that.
WORKER_OVERHEAD = 352 << 20

_SIZE = re.compile(
    r"(?P<number>(\d+(\.\d*)?|\.\d+)(e[+-]?\d{1,2})?)(?: (?=[kmgtpb]))?"
    r"(?P<unit>[kmgtp]?)(?P<binary>(?<=[kmgtp])i)?b?",
    re.IGNORECASE | re.ASCII,
)
_PART = re.compile(r"1(\.0*)?|0?\.\d+|0\.\d*", re.ASCII)


def memory_problem(size: float) -> str:
    """Say why no worker can start in ``size`` bytes; nothing if one can."""
    if size >= WORKER_OVERHEAD:
        return ""
    return (
        f"a worker of {size / 2**20:.0f} MiB cannot start: it needs {WORKER_OVERHEAD >> 20} MiB "
        "before it holds any row; write '1GiB' or more"
    )


def _matching(pattern: str, write: str) -> AfterValidator:
    """Let a text pass that matches as a whole, and say for any other what to ``write``."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise PydanticCustomError("form", f"write {write}")
        return text

    return AfterValidator(check)


def _printable(text: str) -> str:
    if not text or not text.isprintable():
        raise PydanticCustomError("form", "write a path without line breaks and control characters")
    return text


def _check_size(text: str, write: str) -> str:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise PydanticCustomError("form", f"write {write}")
    power = ("", *"kmgtp").index(match["unit"].lower())
    problem = memory_problem(float(match["number"]) * (1024 if match["binary"] else 1000) ** power)
    if problem:
        raise PydanticCustomError("memory", problem)
    return text


def _check_job_memory(text: str) -> str:
    return _check_size(text, "a number and a unit, '32GB' for example")


def _check_limit(text: str) -> str:
    """Let dask's other words pass too: auto, 0 for no limit, a part of this machine's memory."""
    if text in ("auto", "0") or _PART.fullmatch(text):
        return text
    return _check_size(text, "'4GiB' or 'auto'")


Path: TypeAlias = Annotated[str, AfterValidator(_printable)]
JobMemory: TypeAlias = Annotated[str, AfterValidator(_check_job_memory)]
MemoryLimit: TypeAlias = Annotated[str, AfterValidator(_check_limit)]
Address: TypeAlias = Annotated[
    str,
    _matching(
        r"([a-z]+://)?(\[[0-9A-Fa-f:.]+(%[\w.-]+)?\]|\w[\w.-]*)(:\d{1,5})?",
        "tcp://host:port or tls://host:port",
    ),
]
Queue: TypeAlias = Annotated[
    str,
    _matching(r"\w[\w.-]*(,\w[\w.-]*)*", "the name of a partition, or several with commas between"),
]
Walltime: TypeAlias = Annotated[
    str,
    _matching(
        r"\d+(:\d{1,2}){0,2}|\d+-\d{1,2}(:\d{1,2}){0,2}",
        "hours:minutes:seconds or days-hours:minutes:seconds",
    ),
]
Interface: TypeAlias = Annotated[
    str, _matching(r"\w[\w.:@-]{0,14}", "the name of a network interface, 'ib0' for example")
]
