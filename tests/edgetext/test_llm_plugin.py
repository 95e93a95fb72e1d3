"""The plugin in the real ``llm`` command."""

import subprocess
import sys

import pytest
import tiny_bundle as tiny
from click.testing import CliRunner

from edgetext_export.writer import write_bundle
from edgetext_runtime import Generator

VOCAB = 3 + len(tiny.ALPHABET)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    model, state = tiny.lstm_model(VOCAB)
    path = tmp_path_factory.mktemp("plugin") / "tiny.etx"
    return write_bundle(path, tiny.manifest(VOCAB, state), tiny.members(model, tiny.char_tokenizer()))


@pytest.fixture
def llm(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    from llm.cli import cli  # loads the plugins that are installed, this one by its entry point

    def run(*arguments):
        done = CliRunner().invoke(cli, [*map(str, arguments)])
        return done.exit_code, done.stdout, done.stderr

    return run


def test_bundle_becomes_a_model(llm, bundle):
    assert llm("edgetext", "add", bundle)[:2] == (0, 'edgetext/tiny is there: llm -m edgetext/tiny "The"\n')
    expected = Generator.load(bundle).generate("ab", seed=3, max_new_tokens=9).text
    options = ["-o", "seed", 3, "-o", "max_tokens", 9]
    for stream in ([], ["--no-stream"]):
        code, text, error = llm("-m", "edgetext/tiny", "ab", *options, *stream)
        assert (code, text) == (0, expected + "\n"), error
    code, _, error = llm("-m", "edgetext/tiny", "ab", "-o", "top_p", 3)
    assert code != 0
    assert "top_p is 3.0" in error
    assert llm("edgetext", "remove", "tiny")[0] == 0
    assert llm("edgetext", "list")[1] == ""


def test_what_is_no_bundle_is_refused(llm, tmp_path):
    wrong = tmp_path / "wrong.etx"
    wrong.write_bytes(b"x")
    code, _, error = llm("edgetext", "add", wrong)
    assert code == 1
    assert "not a bundle" in error


def test_plugin_loads_no_model_runner():
    code = "import sys, edgetext.llm_plugin; print({'onnxruntime', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
