"""What a device relies on: cheap import, no telemetry, no network, nothing said that was not asked for."""

import json
import os
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import edgetext_runtime
from edgetext_runtime.console import _visible, generate_to

GENERATE = """
import sys
from edgetext_runtime import Generator
generator = Generator.load(sys.argv[1])
generator.generate("ab", seed=1)
generator.score("ab")
"""


def run(code, *arguments, module=False, **environment):
    """Run Python in a process of its own, without the telemetry switch this test run has set."""
    inherited = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, "-m" if module else "-c", code, *map(str, arguments)]
    return subprocess.run(
        command,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )


def test_import_is_light():
    done = run("import edgetext_runtime, sys; print(*sys.modules)")
    assert {"numpy", "onnxruntime", "torch", "tokenizers", "zipfile"}.isdisjoint(done.stdout.split())


def test_generator_module_does_not_load_onnxruntime():
    done = run("import edgetext_runtime as e, sys; e.Generator; print(*sys.modules)")
    assert {"onnxruntime", "torch", "tokenizers"}.isdisjoint(done.stdout.split())


def test_it_works_inside_another_package_under_another_name(lstm_path, tmp_path):
    source = Path(edgetext_runtime.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, tmp_path / "app" / "vendored", ignore=ignored)
    code = """
import sys
from app.vendored import Generator
for provider in ("cpu", "numpy"):
    Generator.load(sys.argv[1], provider=provider).generate("ab", seed=1, best_of=2, regex="[a-z ]*")
assert "edgetext_runtime" not in sys.modules
"""
    done = run(code, lstm_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_every_public_name_exists():
    done = run(
        "import edgetext_runtime as e; [getattr(e, n) for n in e.__all__]; assert 'Generator' in dir(e)"
    )
    assert done.returncode == 0, done.stderr


def test_telemetry_is_off_before_onnxruntime_is_imported(lstm_path):
    watch = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            print("telemetry", os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Watch())
"""
    done = run(watch + GENERATE, lstm_path)
    assert done.stdout.split() == ["telemetry", "1"], done.stderr


def test_generating_opens_no_socket_starts_no_process_and_says_nothing(lstm_path):
    forbid = """
import sys
def forbid(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "pickle.", "urllib.")):
        raise SystemExit(f"{event} {arguments}")
import numpy  # looks at the processor by its own means
sys.addaudithook(forbid)
"""
    done = run(forbid + GENERATE, lstm_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


HIDE = "import sys; sys.modules['onnxruntime'] = None\n"


def test_missing_onnxruntime_is_replaced_by_numpy(lstm, lstm_path):
    show = "print(generator.session.provider, *generator.generate('ab', temperature=0).tokens)"
    done = run(HIDE + GENERATE + show, lstm_path)
    provider, *tokens = done.stdout.split()
    assert provider == "numpy", done.stderr
    assert tuple(map(int, tokens)) == lstm.generate("ab", temperature=0).tokens


def test_missing_onnxruntime_asked_for_by_name_names_the_command(lstm_path):
    by_name = GENERATE.replace("sys.argv[1]", "sys.argv[1], provider='cpu'")
    done = run(HIDE + by_name, lstm_path)
    assert "DependencyError" in done.stderr
    assert "pip install 'onnxruntime" in done.stderr


def command(*arguments, **options):
    return run("edgetext_runtime", *arguments, module=True, **options)


def test_command_streams_the_text(lstm, lstm_path):
    expected = lstm.generate("ab", seed=3, max_new_tokens=20, temperature=0.7).text
    done = command(lstm_path, "ab", "--seed", 3, "--max-new-tokens", 20, "--temperature", 0.7)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected + "\n", "")


def test_terminal_is_not_given_control_characters():
    assert _visible("a\x1b[2J\x07b\n\tc\x9bd é 日") == "a\ufffd[2J\ufffdb\n\tc\ufffdd é 日"


def test_command_ends_with_one_json_line(lstm, lstm_path):
    done = command(lstm_path, "ab", "--seed", 3, "--json", "--stop", "x", "--threads", 1)
    result = json.loads(done.stdout.splitlines()[-1])
    expected = lstm.generate("ab", seed=3, stop="x")
    assert (result["text"], result["tokens"]) == (expected.text, list(expected.tokens))
    assert result["seed"] == 3


def test_command_takes_the_options_of_the_host(lstm, lstm_path, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["ab"]}')
    for arguments, options in [
        (["--choice", "cab", "--choice", "dad"], {"choices": ["cab", "dad"]}),
        (["--regex", "[a-e]{3}"], {"regex": "[a-e]{3}"}),
        (["--repetition-penalty", 1.5, "--bad-word", "a"], {"repetition_penalty": 1.5, "bad_words": ["a"]}),
        (["--num-beams", 3, "--length-penalty", 0.5], {"num_beams": 3, "length_penalty": 0.5}),
        (["--best-of", 2, "--min-new-tokens", 4], {"best_of": 2, "min_new_tokens": 4}),
    ]:
        done = command(lstm_path, "ab", "--seed", 3, "--max-new-tokens", 9, *arguments)
        expected = lstm.generate("ab", seed=3, max_new_tokens=9, **options).text
        assert (done.stdout, done.stderr) == (expected + "\n", "")
    done = command(lstm_path, "ab", "--json-schema", schema)
    assert "json_schema cannot be written in the model's vocabulary" in done.stderr
    done = command(lstm_path, "ab", "--json", "--logprobs", "--provider", "numpy")
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(result["logprobs"]) == len(result["tokens"])


def test_command_names_what_is_wrong(lstm_path, tmp_path):
    for arguments, message in [
        ([tmp_path / "none.etx"], "no bundle at"),
        ([lstm_path, "--top-p", 3], "top_p is 3.0"),
        ([lstm_path, "--threads", 0], "threads is 0"),
        ([lstm_path, "--json-schema", tmp_path / "none.json"], "json_schema: cannot read"),
    ]:
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("Error: ")
        assert message in done.stderr


def test_edgetext_generate_is_the_same_command(lstm, lstm_path):
    expected = lstm.generate("ab", seed=3).text
    arguments = ["generate", lstm_path, "--prompt", "ab", "--seed", 3]
    done = run("from edgetext.cli import main; main()", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected + "\n", "")


def test_terminal_that_cannot_show_a_character_shows_a_replacement(byte_path):
    done = command(byte_path, "é", "--seed", 0, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr


def test_prompt_may_come_from_stdin_and_the_reader_may_leave(lstm, lstm_path):
    shell = f'printf "ab" | "{sys.executable}" -m edgetext_runtime "{lstm_path}" - --seed 3'
    whole = subprocess.run(shell, shell=True, capture_output=True, text=True, encoding="utf-8", timeout=60)
    assert whole.stdout == lstm.generate("ab", seed=3).text + "\n"
    left = subprocess.run(shell + " | true", shell=True, capture_output=True, text=True, timeout=60)
    assert left.stderr == ""


def test_terminal_gets_a_line_on_speed_and_seed(lstm_path, capsys):
    class Terminal(StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    generate_to(terminal, lstm_path, "ab", seed=3)
    assert "seed 3" in capsys.readouterr().err
    assert "seed 3" not in terminal.getvalue()
