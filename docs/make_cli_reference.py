"""Write docs/cli.md from the commands' own help: ``python docs/make_cli_reference.py``.

With ``--check`` nothing is written; the exit code says whether the page is current.
"""

import argparse
import sys
from pathlib import Path

import click

from edgetext.cli import group

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 100
HEAD = """# Command line

Written by `python docs/make_cli_reference.py` from `--help`; change the help, not this page.
"""


def reference() -> str:
    """Return the whole page."""
    top = click.Context(group, info_name="edgetext", terminal_width=WIDTH, **group.context_settings)
    sections = [HEAD, _section("edgetext", group.get_help(top))]
    for name in group.list_commands(top):
        command = group.get_command(top, name)
        if command is not None:
            settings = {**command.context_settings, "terminal_width": WIDTH}
            context = click.Context(command, info_name=name, parent=top, **settings)
            sections.append(_section(f"edgetext {name}", command.get_help(context)))
    return "\n".join(sections)


def _section(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


def is_current() -> bool:
    """Whether the page says what the help says; line breaks do not count, they change with click."""
    return PAGE.exists() and PAGE.read_text(encoding="utf-8").split() == reference().split()


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description="Write docs/cli.md from the commands' own help.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if the page is out of date"
    )
    if parser.parse_args().check:
        if is_current():
            return 0
        print("docs/cli.md is out of date: python docs/make_cli_reference.py", file=sys.stderr)
        return 1
    PAGE.write_text(reference(), encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
