"""What a person sees while something trains: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PLAIN_INTERVAL_S = 10.0
"""Seconds between plain progress lines."""


def format_duration(seconds: float) -> str:
    """Seconds as `4s`, `3m05s` or `2h07m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class TrainingProgress:
    """Progress of one training: loss, tokens per second, time left. Writes to stderr only."""

    def __init__(
        self, name: str, total: int, done: int, write: Callable[[str], object] | None = None
    ) -> None:
        self.name, self.total, self.first = name, total, done
        self.write = write or (lambda line: sys.stderr.write(line + "\n"))
        self.live = write is None and sys.stderr.isatty()
        self.started = self.last_line = time.monotonic()
        self._rich: RichProgress | None = None

    def __enter__(self) -> Self:
        """Start the bar."""
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._rich = Progress(
                TextColumn("{task.description:<9}"),
                BarColumn(bar_width=28),
                TextColumn("{task.completed:>5.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[figures]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
            )
            self._rich.start()
            self._task = self._rich.add_task(self.name, total=self.total, completed=self.first, figures="")
        return self

    def update(self, step: int, tokens: int, figures: Mapping[str, float]) -> None:
        """Report that `step` steps are done, `tokens` of them tokens in this process, with these figures."""
        now = time.monotonic()
        rate = tokens / max(now - self.started, 1e-9)
        text = "  ".join([*(f"{k} {v:.3f}" for k, v in figures.items()), f"{rate:,.0f} tok/s"])
        if self._rich is not None:
            self._rich.update(self._task, completed=step, figures=text)
        elif now - self.last_line >= PLAIN_INTERVAL_S or step == self.total:
            self.last_line = now
            left = (self.total - step) * (now - self.started) / max(step - self.first, 1)
            self.write(f"{self.name:<9} step {step}/{self.total}  {text}  ETA {format_duration(left)}")

    def note(self, line: str) -> None:
        """Print a line beside the bar."""
        if self._rich is not None:
            self._rich.console.print(line, highlight=False, markup=False)
        else:
            self.write(line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the bar."""
        if self._rich is not None:
            self._rich.stop()
