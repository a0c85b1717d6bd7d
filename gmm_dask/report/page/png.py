"""Pictures of one colour as PNG, a byte for each point, written by zlib.

A picture library takes five times as long, and a report has three pictures for each pair of
features. The format: https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import base64
import struct
import zlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

#: Of zlib: a higher one takes twice as long for a fiftieth of the bytes.
_LEVEL = 5


def picture_address(levels: npt.NDArray[np.uint8], color: tuple[int, int, int]) -> str:
    """Make a picture of one colour, as the address of its own content.

    Parameters
    ----------
    levels
        Opacity of each point, (height, width), from 0 to 255.
    color
        Red, green and blue, from 0 to 255.
    """
    height, width = levels.shape
    lines = np.zeros((height, width + 1), dtype=np.uint8)  # each begins with its filter: none
    lines[:, 1:] = levels
    points = _chunk(b"IDAT", zlib.compress(lines.tobytes(), _LEVEL))
    content = _head(width, height, color) + points + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(content).decode()


@lru_cache(maxsize=64)
def _head(width: int, height: int, color: tuple[int, int, int]) -> bytes:
    """Return what precedes the points: a palette of one colour in 256 opacities."""
    size = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)  # 8 bits, numbers in a palette
    palette, opacities = bytes(256 * color), bytes(range(256))
    chunks = _chunk(b"IHDR", size) + _chunk(b"PLTE", palette) + _chunk(b"tRNS", opacities)
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
