"""Which hosts each actor asks: every host belongs to one actor, so that its slots are never exceeded.

A small Ray actor hands the shares out. An actor that Ray restarts keeps its id, and so its share. One with a new id (of
the next run of the same dataset) gets the share that was taken longest ago.
"""

from __future__ import annotations

from collections.abc import Sequence

from namel3ss_ollama import Host

__all__ = ["Shares", "hosts_of"]


def hosts_of(hosts: Sequence[Host], share: int, shares: int) -> list[Host]:
    """The hosts of a share: every so many-th, so that those of one kind, named in a row, spread."""
    return list(hosts[share::shares])


class Shares:
    """Who has which share.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int) -> None:
        self._takers: dict[int, str | None] = dict.fromkeys(range(count))

    def take(self, actor: str) -> int:
        """The share of an actor, which may have one already.

        Args:
            actor: Its id.
        """
        for share, taker in self._takers.items():
            if taker == actor:
                return share
        share = next(iter(self._takers))
        del self._takers[share]
        self._takers[share] = actor  # at the end: the dictionary is in the order in which shares were taken
        return share
