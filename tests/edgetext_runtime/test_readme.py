"""The snippets of both READMEs run as printed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("readme", "bundle"), [("README.md", "my.etx"), ("runtime/README.md", "model.etx")])
def test_the_embed_snippet_runs(byte_path, tmp_path, readme, bundle):
    text = (ROOT / readme).read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 5
    shutil.copy(byte_path, tmp_path / bundle)
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.strip()
