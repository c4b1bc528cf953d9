"""A download's progress: bars on a terminal, one line per step elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from typing_extensions import Self

__all__ = ["PullProgress"]

_ROOM_FOR_BARS = 64
"""Columns that a bar needs next to its numbers; a narrower terminal gets only the numbers."""
_DOWNLOADING = ("pulling", "pushing", "downloading", "uploading")


class PullProgress(contextlib.ExitStack):
    """Shows a download's progress: a bar for each of a model's layers, in any order."""

    def __enter__(self) -> Self:
        from rich.console import Console  # imported here: the other commands start faster without it
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            ProgressColumn,
            TaskID,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._layers: dict[str, TaskID] = {}
        self._seen: set[str] = set()
        columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), DownloadColumn()]
        if self._console.width >= _ROOM_FOR_BARS:
            columns.insert(1, BarColumn(bar_width=min(40, self._console.width - 54)))
            columns += [TransferSpeedColumn(), TimeRemainingColumn()]
        self._bars = Progress(*columns, console=self._console)
        if self._console.is_terminal:
            self.enter_context(self._bars)
        return super().__enter__()

    def show(self, update: Mapping[str, Any]) -> None:
        """Show one progress update."""
        status = str(update.get("status", ""))
        layer, total = update.get("digest"), update.get("total")
        # Verifying or writing a layer after its download reports other numbers, which do not belong to its bar.
        if layer and status.startswith(_DOWNLOADING) and self._console.is_terminal:
            if layer not in self._layers:
                self._layers[layer] = self._bars.add_task(status, total=total)
            self._bars.update(self._layers[layer], total=total, completed=update.get("completed") or 0)
        elif status not in self._seen:
            self._seen.add(status)
            if status == "success":
                self._fill()
            self._console.print(status)

    def _fill(self) -> None:
        """Fill the bars: a server may report success before it has counted the last bytes."""
        for task in self._bars.tasks:
            if task.total is not None:
                self._bars.update(task.id, completed=task.total)
