"""The start-up benchmark finds the commands by itself; how fast they are is not a test's business."""

import pytest

from edgetext_bench.startup import Startup, commands, parse_commands, startup_table
from edgetext_runtime.errors import InputError

HELP = """Usage: edgetext [OPTIONS] COMMAND [ARGS]...

  Some text.

Options:
  -h, --help  Show this message and exit.

Commands:
  distill    Corpus to student, in a line that is so long that it goes on
             in the next one.
  two-words  Another.
"""


def test_commands_are_read_from_the_help():
    assert parse_commands(HELP) == ["distill", "two-words"]
    assert parse_commands("Usage: x\n\nOptions:\n  --help  y\n") == []


def test_real_commands_are_found():
    assert "bench" in commands()


def test_table():
    table = startup_table([Startup("edgetext --help", (0.1, 0.3, 0.2))])
    assert table.splitlines()[-1] == "| `edgetext --help` | 200 | 300 |"


def test_no_repeats_are_refused():
    from edgetext_bench.startup import measure_startup

    with pytest.raises(InputError, match="repeats"):
        measure_startup(0)
