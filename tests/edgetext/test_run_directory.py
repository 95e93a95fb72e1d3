"""A run that is gone on with must be the one that was started."""

import json

import pytest

from edgetext.config import DistillConfig
from edgetext.corpus import CorpusConfig
from edgetext.distill.directory import open_run
from edgetext.errors import CheckpointError


def config(**options):
    return DistillConfig(CorpusConfig("builtin:python-docs"), **options)


def started(directory, options, change=lambda document: None):
    """A run directory as the options left it, its configuration edited."""
    open_run(config(**options), directory, resume=False, force=False)
    path = directory / "config.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return directory


def test_an_option_that_differs_is_named_by_its_flag(tmp_path):
    run = started(tmp_path / "run", {"distill_steps": 20, "refine_steps": 10})
    with pytest.raises(CheckpointError, match=r"--distill-steps 20, not 30; .*--force"):
        open_run(config(distill_steps=30, refine_steps=10), run, resume=True, force=False)


def test_what_one_option_gives_as_a_whole_is_named_as_a_whole(tmp_path):
    def other(document):
        document["refine"]["discriminator"]["hidden"] += 1

    run = started(tmp_path / "run", {"refine_steps": 10}, other)
    with pytest.raises(CheckpointError, match="--refinement another refinement;"):
        open_run(config(refine_steps=10), run, resume=True, force=False)


def test_settings_of_a_refinement_that_is_left_out_do_not_count(tmp_path):
    """An earlier version did not know all of them."""
    run = started(tmp_path / "run", {"refine_steps": 0}, lambda document: document["refine"].pop("name"))
    open_run(config(refine_steps=0), run, resume=True, force=False)
