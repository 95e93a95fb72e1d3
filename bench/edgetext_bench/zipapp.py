"""Runtime, bench and bundles in one file that a device's own Python runs: ``python3 edgetext-bench.pyz``.

The file unpacks itself into a folder of its own and runs there, because modules imported from a zip are
compiled again in every process, which would be counted as the start of the runtime.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import edgetext_runtime

_MAIN = '''"""Unpacks itself and measures what it carries; the record goes to stdout."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

here = os.path.dirname(os.path.abspath(sys.argv[0]))
folder = tempfile.mkdtemp(prefix="edgetext-bench-", dir=here)
try:
    with zipfile.ZipFile(sys.argv[0]) as archive:
        archive.extractall(folder)
    environment = {**os.environ, "PYTHONPATH": folder, "ORT_DISABLE_TELEMETRY": "1", "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "edgetext_bench.device", os.path.join(folder, "job.json")]
    code = subprocess.run(command, env=environment, check=False).returncode
finally:
    shutil.rmtree(folder, ignore_errors=True)
sys.exit(code)
'''


def build_zipapp(target: Path, bundles: Sequence[Path], job: dict[str, Any]) -> Path:
    """Write the file; bundles may be .etx files or unpacked folders.

    Args:
        target: where to write.
        bundles: what it measures; with equal file names, each gets a folder of its own.
        job: what ``edgetext_bench.device`` is told; the bundles' names are put into it.
    """
    names = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__main__.py", _MAIN)
        for package in (Path(__file__).parent, Path(edgetext_runtime.__file__).parent):
            for file in sorted(package.rglob("*")):
                if file.suffix == ".py" or file.name == "py.typed":
                    archive.write(file, f"{package.name}/{file.relative_to(package).as_posix()}")
        for number, path in enumerate(bundles):
            name = f"bundles/{number}/{path.name}"
            names.append(name)
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in files:
                inside = f"/{file.relative_to(path).as_posix()}" if path.is_dir() else ""
                archive.write(file, name + inside)
        archive.writestr("job.json", json.dumps({**job, "bundles": names}))
    return target
