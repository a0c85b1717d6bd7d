"""How long versions are kept, and what a prune has removed: values, without a disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_DAY = 24 * 3600.0  # seconds


@dataclass(frozen=True)
class Keep:
    """The rule by which versions grow old: only what breaks every given limit is old.

    Attributes
    ----------
    versions
        So many of the last versions are kept; None: no limit by number.
    days
        Versions younger than this are kept; None: no limit by age.

    Raises
    ------
    ValueError
        Neither is given, or one is not above 0.
    """

    versions: int | None = None
    days: float | None = None

    def __post_init__(self) -> None:
        if self.versions is None and self.days is None:
            raise ValueError("say how many versions to keep, for how many days, or both")
        for name, limit in vars(self).items():
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} to keep = {limit}: give a number above 0")

    def old(self, sealed: Sequence[float], now: float) -> tuple[bool, ...]:
        """Say of each version whether it is old.

        Parameters
        ----------
        sealed
            When each was sealed, in seconds since 1970, in the order of the versions: the last
            is the newest.
        now
            The present, in the same seconds.
        """
        late = len(sealed) if self.versions is None else max(len(sealed) - self.versions, 0)
        return tuple(
            number < late and (self.days is None or now - time >= self.days * _DAY)
            for number, time in enumerate(sealed)
        )


@dataclass(frozen=True)
class Pruned:
    """What a prune has removed, or would remove.

    Attributes
    ----------
    paths
        The versions.
    bytes
        What that frees: files that other versions share are not counted.
    read
        Old versions that stay because somebody reads them.
    in_grace
        Old versions on a store that stay because somebody may still read them: the next one was
        sealed less than a day ago.
    """

    paths: tuple[str, ...] = ()
    bytes: int = 0
    read: tuple[str, ...] = ()
    in_grace: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{len(self.paths)} old version{'s' * (len(self.paths) != 1)}, {self.bytes:,} bytes"

    def __add__(self, other: Pruned) -> Pruned:
        return Pruned(
            self.paths + other.paths,
            self.bytes + other.bytes,
            self.read + other.read,
            self.in_grace + other.in_grace,
        )
