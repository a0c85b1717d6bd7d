"""Ticks of an axis: round values, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Sequence


def ticks(
    limits: tuple[float, float], most: int, *, whole: bool = False
) -> list[tuple[float, str]]:
    """Choose round values between the limits, and write them all to the same digit."""
    low, high = limits
    width = high / most - low / most  # a difference of huge limits could overflow
    decade = 10.0 ** math.floor(math.log10(width))
    step = next(decade * size for size in (1, 2, 2.5, 5, 10) if decade * size >= width * (1 - 1e-9))
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [count * step for count in range(first, last + 1)]
    return list(zip(values, write_alike(values), strict=True))


def write_alike(values: Sequence[float]) -> list[str]:
    """Write numbers in full if they are short so, else with as many digits as tell them apart."""
    largest = max(map(abs, values), default=0.0)
    if largest == 0.0 or 1e-3 <= largest < 1e5:
        for digits in range(7):
            texts = [f"{value + 0.0:,.{digits}f}" for value in values]
            if all(
                abs(float(text.replace(",", "")) - value) <= 1e-6 * largest
                for text, value in zip(texts, values, strict=True)
            ):
                return [text.replace("-", "−") for text in texts]
    for digits in range(1, 17):
        texts = [f"{value:.{digits}g}" for value in values]
        if len(set(texts)) == len(texts):
            break
    return [text.replace("-", "−") for text in texts]
