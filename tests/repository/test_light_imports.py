"""Importing and asking for help loads nothing heavy: looked up in fresh processes."""

import json
import subprocess
import sys

import pytest

from edgetext.cli import COMMANDS

HEAVY = {
    "torch",
    "onnxruntime",
    "numpy",
    "datasets",
    "transformers",
    "tokenizers",
    "matplotlib",
    "accelerate",
}
HELP = """
import sys
from edgetext.cli import main
sys.argv = ["edgetext", *{arguments!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""


def loaded_by(code):
    """Return the top-level packages in ``sys.modules`` after the code has run in a fresh interpreter."""
    tail = "\nimport json, sys; print('\\n' + json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_probe_sees_heavy_packages():
    assert "numpy" in loaded_by("import numpy")


@pytest.mark.parametrize("package", ["edgetext", "edgetext.cli", "edgetext.errors", "edgetext_bench"])
def test_importing_the_workstation_packages_is_light(package):
    assert loaded_by(f"import {package}") & HEAVY == set()


def test_importing_the_runtime_is_light():
    assert loaded_by("import edgetext_runtime") & (HEAVY - {"numpy"}) == set()


def test_reading_a_bundle_needs_no_onnxruntime():
    code = "import edgetext_runtime; edgetext_runtime.read_bundle, edgetext_runtime.Tokenizer"
    assert loaded_by(code) & (HEAVY - {"numpy"}) == set()


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_light(command):
    arguments = ["--help"] if command is None else [command, "--help"]
    assert loaded_by(HELP.format(arguments=arguments)) & HEAVY == set()
