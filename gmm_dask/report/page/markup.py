"""HTML and SVG as text in which whatever comes from data is escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from functools import cache

from gmm_dask.printable import printable


class Markup(str):
    """Text that is HTML already; any other text is escaped where it is put into an element."""

    __slots__ = ()


#: What an element may hold.
Child = str | float | None

#: Elements without a content and an end.
_EMPTY = {"meta", "input", "br", "hr"}

#: Characters that HTML takes for something else.
_SPECIAL = re.compile("[&<>\"']")


def element(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """Make an element.

    Parameters
    ----------
    name
        Of the element, such as ``svg``.
    children
        Its content. `Markup` is taken as it is, other text is escaped, None is left out.
    attributes
        Values are escaped. An underscore stands for a hyphen, one at the end is dropped:
        ``data_id``, ``class_``. True gives an attribute without a value; None and False none.
    """
    start = f"<{name}"
    for key, value in attributes.items():
        if value is True:
            start += f" {_key(key)}"
        elif value is not None and value is not False:
            start += f' {_key(key)}="{_written(value)}"'
    if name in _EMPTY:
        return Markup(f"{start}>")
    return Markup(f"{start}>{_joined(children)}</{name}>")


@cache
def _key(name: str) -> str:
    return name.rstrip("_").replace("_", "-")


def join(*children: Child) -> Markup:
    """Put pieces after each other."""
    return Markup(_joined(children))


def _joined(children: Iterable[Child]) -> str:
    # A page has thousands of elements: a list takes half as long as a generator.
    return "".join(
        [
            child if isinstance(child, Markup) else _written(child)
            for child in children
            if child is not None
        ]
    )


def escape(text: str) -> str:
    """Escape a text for HTML; what cannot be seen in it becomes visible."""
    text = printable(text)
    return html.escape(text) if _SPECIAL.search(text) else text


def _written(value: str | float) -> str:
    """Write a value, escaped; numbers as short as a picture needs them."""
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) < 1e6 else f"{value:.6g}"
    return escape(value) if isinstance(value, str) else str(value)
