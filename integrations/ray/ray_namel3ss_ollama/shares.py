"""Divides the hosts among actors: every host belongs to one actor, so that its slots are never exceeded.

A small Ray actor assigns the shares. An actor that Ray restarts keeps its id, and so its share. An actor with a new id
(in the next run of the same dataset) gets the share that was assigned longest ago.
"""

from __future__ import annotations

from collections.abc import Sequence

from namel3ss_ollama import Host

__all__ = ["Shares", "hosts_of"]


def hosts_of(hosts: Sequence[Host], share: int, shares: int) -> list[Host]:
    """The hosts of a share: every n-th one, so that consecutive hosts of one kind are spread over the shares."""
    return list(hosts[share::shares])


class Shares:
    """The assignment of shares to actors.

    Args:
        count: The number of shares.
    """

    def __init__(self, count: int) -> None:
        self._takers: dict[int, str | None] = dict.fromkeys(range(count))

    def take(self, actor: str) -> int:
        """Assign a share to an actor, or return the one it has.

        Args:
            actor: Its id.
        """
        for share, taker in self._takers.items():
            if taker == actor:
                return share
        share = next(iter(self._takers))
        del self._takers[share]
        self._takers[share] = actor  # at the end: the dictionary is in the order of assignment
        return share
