"""Text for people: names from data made safe to print, numbers with the digits that matter."""

from __future__ import annotations

import math
import re

#: A number that is no part of a name, a date or an id.
_NUMBER = re.compile(r"""(?<![\w.'"/−-])[+-]?(?:\d[\d,]*)?\.?\d+(?:e[+-]?\d+)?(?![\w-])""")


def printable(text: str) -> str:
    r"""Return the text on one line, what cannot be seen as its escape: ``\x1b``, ``\u202e``.

    Written raw, such characters move a terminal's cursor, change what was printed before, or
    cannot be encoded at all (the bytes of a file name that are no text).
    """
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    if character in "\n\t":
        return " "
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def spread(mean: float, deviation: float) -> str:
    """Write mean ± deviation with two digits of the deviation: 0.524 ± 0.013, 12,500 ± 310."""
    if not deviation > 0 or not math.isfinite(deviation):
        return f"{mean:.6g} ± {deviation:.2g}"
    digits = 1 - math.floor(math.log10(deviation))
    mean = round(mean, digits) + 0.0 if digits <= 6 else mean  # not −0.00
    if -6 <= digits < 0:
        return f"{round(mean, digits):,.0f} ± {round(deviation, digits):,.0f}"
    if not 0 <= digits <= 6:
        return f"{mean:.6g} ± {deviation:.2g}"
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def typeset(text: str) -> str:
    """Write the minus of each number in a text as one, U+2212, and no other hyphen.

    For pages and pictures. Terminals, and whatever other programs read, keep the hyphen.
    """
    return _NUMBER.sub(lambda number: number[0].replace("-", "−"), text)
