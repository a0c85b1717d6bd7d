"""What is wrong with a run file or cluster file, in words that name its keys only."""

from __future__ import annotations

from typing import Any


def describe_problem(detail: Any, tables: dict[str, Any]) -> str:
    """Describe one of pydantic's errors: the dotted key, its value, and what is wrong with it."""
    key = ".".join(_keys(detail["loc"], tables))
    if not key:  # a check of the whole file
        return str(detail["ctx"]["error"])
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key}"
    if detail["type"] == "missing":
        return f"key {key} is missing"
    if detail["type"] in ("model_type", "dict_type"):
        return f"{key} = {detail['input']!r}: is a table of keys, not a value"
    if detail["type"] == "value_error":  # a check of ours, which names the value
        return f"{key} = {detail['ctx']['error']}"
    return f"{key} = {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _keys(place: tuple[int | str, ...], tables: dict[str, Any]) -> list[str]:
    """Leave out of a place what is no key of the file: the alternatives of a union, by pydantic."""
    if place[:1] == ("cluster",) and len(place) > 2:
        place = (place[0], *place[2:])  # the second is the kind of the cluster
    keys = []
    value: Any = tables
    for part in place:
        inside = part in value if isinstance(value, dict) else isinstance(part, int)
        if inside and isinstance(value, dict | list):
            value = value[part]  # type: ignore[index]
        elif not isinstance(value, dict) or part != place[-1]:  # else a key that is missing
            continue
        keys.append(str(part))
    return keys
