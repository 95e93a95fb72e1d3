"""The command's defaults are the library's, and a run's options can be had back from its configuration."""

from dataclasses import fields

import pytest

from edgetext.cli._config import RENAMED, distill_config, options_of
from edgetext.cli.distill import command
from edgetext.config import DistillConfig
from edgetext.errors import ConfigError

OUTSIDE = {"directory", "resume", "force", "as_json"}
"""Options of the command itself."""


def given(*arguments: str) -> dict:
    params = command.make_context("distill", list(arguments)).params
    return {name: value for name, value in params.items() if name not in OUTSIDE}


def test_defaults_of_the_command_are_the_defaults_of_the_configuration():
    assert distill_config(given()) == DistillConfig()


def test_every_option_reaches_the_configuration():
    config = DistillConfig()
    known = {f.name for part in (config, config.corpus) for f in fields(part)}
    recipe = {"temperature", "soft_weight"}
    plural = {"teacher": "teachers", "assistant": "assistants", "refinement": "refine", **RENAMED}
    names = {p.name for p in command.params} - OUTSIDE - recipe
    assert {plural.get(name, name) for name in names} <= known


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--recipe", "jsd", "--teacher", "a", "--teacher", "b", "--assistant", "c"),
        ("--windows", "document", "--refine-steps", "0"),
        ("--recipe", "no-teacher", "--refine-steps", "0", "--valid-corpus", "v.txt"),
        (
            "--temperature",
            "2",
            "--soft-weight",
            "0.5",
            "--corpus",
            "x.txt",
            "--no-frontier",
            "--budget-mb",
            "1",
        ),
    ],
)
def test_a_configuration_survives_its_file_and_its_options(arguments):
    options = given(*arguments)
    config = distill_config(options)
    assert DistillConfig.from_dict(config.to_dict()) == config
    again = dict.fromkeys(("temperature", "soft_weight"))
    assert distill_config({**again, **options_of(config, options)}) == config


def test_a_teacher_is_trained_only_where_one_is_needed():
    assert distill_config(given()).teachers == ("lstm-teacher",)
    assert distill_config(given("--recipe", "no-teacher", "--refine-steps", "0")).teachers == ()
    assert distill_config(given("--cache", "c", "--refine-steps", "0")).teachers == ()


def test_soft_targets_cannot_be_changed_where_there_are_none():
    with pytest.raises(ConfigError, match="--recipe hinton"):
        distill_config(given("--recipe", "jsd", "--temperature", "2"))
