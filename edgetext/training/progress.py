"""What a person sees while something trains: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from edgetext_runtime.errors import DependencyError

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

PLAIN_INTERVAL_S = 10.0
"""Seconds between plain progress lines."""
BAR_WIDTH = 24
"""Columns of the bar, where there is room for one."""
SHORT_NAMES = {"discriminator": "discr.", "generator": "gen.", "best validation": "best valid"}
"""What figures are called on a narrow terminal."""


def format_duration(seconds: float) -> str:
    """Seconds as `4s`, `3m05s` or `2h07m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def fit_line(head: str, figures: Mapping[str, float], rate: str, eta: str, width: int) -> tuple[str, int]:
    """Choose what of a progress line fits in `width` columns; head and ETA always stay.

    What goes first is the bar, then long names, then the rate, then the figures from the first on: the best
    validation score stands last. Returns what follows the bar, and the bar's width (0: no bar).
    """
    long = [f"{name} {value:.3f}" for name, value in figures.items()]
    short = [f"{SHORT_NAMES.get(name, name)} {value:.3f}" for name, value in figures.items()]
    layouts = [
        ([*long, rate], BAR_WIDTH),
        ([*long, rate], 0),
        ([*short, rate], 0),
        *((short[dropped:], 0) for dropped in range(len(short) + 1)),
    ]
    for parts, bar in layouts:
        text = "  ".join([*parts, eta])
        if len(head) + 2 + (bar and bar + 2) + len(text) < width:
            return text, bar
    return eta, 0


class TrainingProgress:
    """Progress of one training: losses, best validation score, tokens/s, time left. Writes to stderr only."""

    def __init__(
        self, name: str, total: int, done: int, write: Callable[[str], object] | None = None
    ) -> None:
        self.name, self.total, self.first = name, total, done
        self.write = write or (lambda line: sys.stderr.write(line + "\n"))
        self.is_live = write is None and sys.stderr.isatty()
        self.started = self.last_line = time.monotonic()
        self.step, self.tokens = done, 0
        self.figures: Mapping[str, float] = {}
        self._live: Live | None = None

    def __enter__(self) -> Self:
        """Start the live line; raises DependencyError if a terminal has no rich to draw it."""
        if self.is_live:
            try:
                from rich.console import Console
                from rich.live import Live
            except ImportError as error:
                raise DependencyError("the progress bar needs rich: pip install 'edgetext[train]'") from error
            self._live = Live(
                get_renderable=lambda: self.draw(self._width()),
                console=Console(stderr=True),
                refresh_per_second=4,
            )
            self._live.start()
        return self

    def update(self, step: int, tokens: int, figures: Mapping[str, float]) -> None:
        """Report that `step` steps are done, and `tokens` tokens in this process, with these figures.

        The figure `best` is the best validation score so far (lower is better).
        """
        self.step, self.tokens = step, tokens
        self.figures = {
            "best validation" if name == "best" else name: value for name, value in figures.items()
        }
        now = time.monotonic()
        if self._live is None and (now - self.last_line >= PLAIN_INTERVAL_S or step == self.total):
            self.last_line = now
            text = [f"{name} {value:.3f}" for name, value in self.figures.items()]
            head = f"{self.name:<9} step {step}/{self.total}"
            self.write("  ".join([head, *text, self._rate(), self._eta()]))

    def draw(self, width: int) -> Table:
        """Lay the line out for a terminal of so many columns (anew each time: a window may change)."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        digits = len(str(self.total))
        head = f"{self.name:<9} {self.step:>{digits}}/{self.total}"
        # Padded, so that nothing moves sideways from one step to the next.
        text, bar = fit_line(head, self.figures, f"{self._rate():>12}", f"{self._eta():<10}", width)
        line = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        cells: list[Text | ProgressBar] = [Text(head, no_wrap=True)]
        if bar:
            cells.append(ProgressBar(total=self.total, completed=self.step, width=bar))
        line.add_row(*cells, Text(text, no_wrap=True))
        return line

    def _width(self) -> int:
        return self._live.console.width if self._live is not None else 0

    def _rate(self) -> str:
        """Tokens per second of this process."""
        return f"{self.tokens / max(time.monotonic() - self.started, 1e-9):,.0f} tok/s"

    def _eta(self) -> str:
        """Time left at the pace so far; unknown before the first step."""
        done = self.step - self.first
        if done == 0:
            return "ETA –"
        elapsed = time.monotonic() - self.started
        return f"ETA {format_duration((self.total - self.step) * elapsed / done)}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last line standing."""
        if self._live is not None:
            self._live.stop()
