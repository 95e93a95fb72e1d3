"""The progress line: drawn for the terminals it must fit, and seen through a real one."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from rich.console import Console

from edgetext.errors import EdgetextError
from edgetext.training.progress import TrainingProgress, fit_line

GAME = {"discriminator": 0.601, "generator": 0.643, "best": 14.211}
LIVE = """
from edgetext.training.progress import TrainingProgress
with TrainingProgress("refine", 20000, 0) as bar:
    for step in (1, 19_999, 20_000):
        bar.update(step, step * 100, {"discriminator": 0.601, "generator": 0.643, "best": 14.211})
"""


def drawn(width, step=19_999, total=20_000, figures=GAME):
    progress = TrainingProgress("refine", total, 0, write=print)
    progress.update(step, step * 700, figures)
    progress.started -= 5_000
    console = Console(file=io.StringIO(), width=width)
    console.print(progress.draw(width))
    return console.file.getvalue().rstrip("\n")


@pytest.mark.parametrize("width", [36, 50, 64, 80, 100, 120, 140, 200])
def test_steps_and_time_left_are_whole_at_every_width(width):
    line = drawn(width)
    assert "\n" not in line
    assert "…" not in line
    assert "refine    19999/20000" in line
    assert re.search(r"ETA \d+s", line)


def test_eighty_columns_hold_every_figure():
    line = drawn(80)
    for part in ("discr. 0.601", "gen. 0.643", "best valid 14.211"):
        assert part in line
    assert "━" not in line
    assert "tok/s" in drawn(80, figures={"loss": 3.5, "best": 3.6})


def test_a_wide_terminal_has_the_bar_the_rate_and_full_names():
    line = drawn(140)
    for part in ("━", "discriminator 0.601", "best validation 14.211", "tok/s"):
        assert part in line


def test_the_best_score_is_the_last_figure_to_go():
    text, bar = fit_line("refine 1/2", {"generator": 1.0, "best validation": 2.0}, "9 tok/s", "ETA 1s", 40)
    assert (text, bar) == ("best valid 2.000  ETA 1s", 0)


def test_plain_lines_where_there_is_no_terminal():
    lines = []
    with TrainingProgress("teacher", 2, 0, write=lines.append) as bar:
        bar.update(1, 10, {"loss": 2.0})
        bar.update(2, 20, {"loss": 1.5, "best": 1.25})
    (line,) = lines  # not one for every step
    assert line.startswith("teacher   step 2/2  loss 1.500  best validation 1.250  ")
    assert line.endswith("ETA 0s")


def test_a_real_terminal_of_eighty_columns():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    command = [sys.executable, "-c", LIVE]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, "TERM": "xterm"}
    ) as child:
        os.close(theirs)
        seen = b""
        try:
            while part := os.read(ours, 4096):
                seen += part
        except OSError:  # the other side is closed
            pass
    os.close(ours)
    assert child.returncode == 0, seen.decode()
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\r", seen.decode()).replace("\n", "\r").split("\r")
    (line,) = {line.strip() for line in last if "20000/20000" in line}
    assert line == "refine    20000/20000  discr. 0.601  gen. 0.643  best valid 14.211  ETA 0s"


def test_a_terminal_without_rich_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.live", None)
    progress = TrainingProgress("teacher", 2, 0)
    progress.is_live = True
    with pytest.raises(EdgetextError, match=r"pip install 'edgetext\[train\]'"), progress:
        pass
