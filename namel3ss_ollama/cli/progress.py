"""A download's progress: bars on a terminal, a line for each new step elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from typing_extensions import Self

__all__ = ["PullProgress"]


class PullProgress(contextlib.ExitStack):
    """Shows what the server tells of a download: a bar for each of a model's layers, whatever their order."""

    def __enter__(self) -> Self:
        from rich.console import Console  # only now: the other commands start faster without
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TaskID,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._layers: dict[str, TaskID] = {}
        self._told: set[str] = set()
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        if self._console.is_terminal:
            self.enter_context(self._bars)
        return super().__enter__()

    def show(self, update: Mapping[str, Any]) -> None:
        """Take in one line of progress."""
        status = str(update.get("status", ""))
        layer, total = update.get("digest"), update.get("total")
        if layer and self._console.is_terminal:
            if layer not in self._layers:
                self._layers[layer] = self._bars.add_task(status, total=total)
            self._bars.update(self._layers[layer], total=total, completed=update.get("completed") or 0)
        elif status not in self._told:
            self._told.add(status)
            self._console.print(status)
