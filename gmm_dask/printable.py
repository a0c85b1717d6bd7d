"""Text that comes from data, made safe to print: names of columns and files can hold anything."""

from __future__ import annotations


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
