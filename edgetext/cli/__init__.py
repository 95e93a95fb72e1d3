"""The ``edgetext`` command: one file per command, loaded only when it is asked for."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

COMMANDS: dict[str, str] = {
    "distill": "Corpus to student: train a teacher, distil it, refine the student.",
    "recipes": "List the distillation recipes, or explain one.",
    "refinements": "List the adversarial refinements, or explain one.",
    "cache-targets": "Write a teacher's likeliest tokens to disk, to distil without it.",
    "sweep": "Make many runs from a plan, stop and go on at any moment.",
    "compare": "Set finished runs side by side: mean and spread over seeds.",
    "eval": "Judge checkpoints and bundles: likelihood, BLEU, diversity, referees, frontiers.",
    "oracle": "Write text of SeqGAN's synthetic oracle as a corpus.",
    "discriminator": "Train what rates a student's texts, for best_of on the device.",
    "explain": "Explain a text token by token, as one HTML page.",
    "export": "Write a student as a checked, quantised ONNX bundle (.etx).",
    "generate": "Generate text from a bundle, streaming to the terminal.",
    "serve": "Serve a bundle: OpenAI's completions API, on this machine only by default.",
    "bench": "Measure a bundle: load, time to first token, per-token latency, memory.",
    "bench compare": "Say what changed between two measurements, and whether it is beyond noise.",
    "bench report": "Show bench records: Markdown, one HTML page, a plot.",
    "inspect": "Show what is inside a bundle.",
    "push": "Put a bundle on the Hugging Face Hub.",
    "pull": "Get a bundle from the Hugging Face Hub, checked.",
    "verify": "Replay a bundle's golden tokens on this machine.",
    "report": "Rebuild report.md and its plots from a run's records.",
    "presets": "List the model presets with their parameters and sizes.",
}
"""Name, of one word or two, → one-line help. Kept here so that ``edgetext --help`` imports no command."""


class LazyGroup(click.Group):
    """A click group that imports ``edgetext.cli.NAME`` only when NAME is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of the work, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None if there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"edgetext.cli.{cmd_name.replace('-', '_').replace(' ', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Two words that are a command together are one: ``bench compare``, beside ``bench MODEL.etx``."""
        pair = " ".join(args[:2])
        if pair in COMMANDS:
            return pair, self.get_command(ctx, pair), args[2:]
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command list from COMMANDS, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an edgetext error becomes one clear message and exit code 1."""
        from edgetext_runtime.errors import EdgetextError

        try:
            return super().invoke(ctx)
        except EdgetextError as error:
            raise click.ClickException(str(error)) from error


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="edgetext", prog_name="edgetext")
def group() -> None:
    """Distil a large text generator into a small one and run it on a device.

    \b
    edgetext distill --corpus my.txt          train, distil, refine a student
    edgetext export runs/my --int8 -o my.etx  write it as a quantised bundle
    edgetext generate my.etx --prompt "The"   run it, here or on the device
    edgetext bench my.etx                     measure it
    """  # noqa: D301 - click's marker for lines to be left as they are


def main() -> None:
    """Entry point of the ``edgetext`` command."""
    try:
        group(standalone_mode=True)
    except BrokenPipeError:  # `edgetext … | head`: the reader has gone, which is not an error
        sys.stderr.close()
        sys.exit(0)
