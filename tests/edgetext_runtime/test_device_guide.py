"""The snippets of docs/device.md run as printed, one after the other in one program."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs/device.md"


def test_snippets_run(byte_path, tmp_path):
    snippets = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(snippets) >= 6
    shutil.copy(byte_path, tmp_path / "my.etx")
    checks = """
assert len(texts) == 3 and again.tokens == state.tokens
assert "not a bundle" in message
assert stream.result.finish_reason in ("cancelled", "eos")
"""
    command = [sys.executable, "-W", "error", "-c", "\n".join([*snippets, checks])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
