"""The command's defaults are the library's."""

from dataclasses import fields

from edgetext.cli._config import distill_config
from edgetext.cli.distill import command
from edgetext.config import DistillConfig

OUTSIDE = {"directory", "resume", "force", "as_json"}
"""Options of the command itself."""


def test_defaults_of_the_command_are_the_defaults_of_the_configuration():
    given = command.make_context("distill", []).params
    assert (
        distill_config({name: value for name, value in given.items() if name not in OUTSIDE})
        == DistillConfig()
    )


def test_every_option_reaches_the_configuration():
    config = DistillConfig()
    known = {f.name for part in (config, config.corpus, config.soft) for f in fields(part)}
    assert {p.name for p in command.params} <= known | OUTSIDE
