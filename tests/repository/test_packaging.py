"""What is published: two distributions with one version, typed, licensed, in files of a readable size."""

import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "edgetext": ROOT / "edgetext",
    "edgetext_export": ROOT / "export/edgetext_export",
    "edgetext_bench": ROOT / "bench/edgetext_bench",
    "edgetext_runtime": ROOT / "runtime/edgetext_runtime",
}
LONGEST_FILE = 400
LARGEST_RUNTIME = 300_000
"""Bytes of the package that a device installs, without its metadata and licence."""


def project(path):
    return tomllib.loads((ROOT / path).read_text(encoding="utf-8"))


@pytest.fixture
def workstation():
    return project("pyproject.toml")


@pytest.fixture
def device():
    return project("runtime/pyproject.toml")


def test_versions_agree(workstation, device):
    version = workstation["project"]["version"]
    assert device["project"]["version"] == version
    assert f"edgetext-runtime=={version}" in workstation["project"]["dependencies"]
    code = "import edgetext, edgetext_runtime; print(edgetext.__version__, edgetext_runtime.__version__)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == [version, version]


def test_installed_versions_are_these(workstation):
    for name in ("edgetext", "edgetext-runtime"):
        assert importlib.metadata.version(name) == workstation["project"]["version"], (
            "run `make install` again"
        )


def test_a_device_installs_nothing_else(device):
    names = {re.split(r"[<>=!~ ]", requirement)[0] for requirement in device["project"]["dependencies"]}
    assert names == {"numpy", "onnxruntime"}
    assert "optional-dependencies" not in device["project"]


def test_the_bare_workstation_install_is_light(workstation):
    names = {re.split(r"[<>=!~ ]", requirement)[0] for requirement in workstation["project"]["dependencies"]}
    assert names == {"click", "edgetext-runtime"}


def test_wheels_hold_the_packages(workstation, device):
    built = workstation["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert [Path(path).name for path in built] == ["edgetext", "edgetext_export", "edgetext_bench"]
    assert device["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["edgetext_runtime"]


def test_packages_on_disk_are_the_intended_ones():
    assert {path.parent for path in ROOT.glob("*/__init__.py")} == {ROOT / "edgetext"}
    for folder in ("export", "bench", "runtime"):
        assert not (ROOT / folder / "__init__.py").exists(), f"{folder} must not become a package"
        found = {path.parent.name for path in (ROOT / folder).glob("*/__init__.py")}
        assert found == {f"edgetext_{folder}"}


@pytest.mark.parametrize("name", PACKAGES)
def test_package_is_typed_and_whole(name):
    folder = PACKAGES[name]
    assert (folder / "py.typed").exists()
    for source in folder.rglob("*.py"):
        assert (source.parent / "__init__.py").exists(), f"{source.parent} has no __init__.py"


@pytest.mark.parametrize("name", PACKAGES)
def test_files_are_of_a_readable_size(name):
    lengths = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGES[name].rglob("*.py")
    }
    long = {str(path.relative_to(ROOT)): count for path, count in lengths.items() if count > LONGEST_FILE}
    assert long == {}, f"cut files of more than {LONGEST_FILE} lines"


def test_runtime_stays_small():
    size = sum(path.stat().st_size for path in PACKAGES["edgetext_runtime"].rglob("*.py"))
    assert size <= LARGEST_RUNTIME, f"the runtime's sources have {size:,} bytes"


def test_readmes_exist_and_say_something():
    for path in ("README.md", "runtime/README.md"):
        assert len((ROOT / path).read_text(encoding="utf-8")) > 200, path


def test_licence_is_apache_everywhere(workstation, device):
    texts = [(ROOT / folder / "LICENSE").read_text(encoding="utf-8") for folder in (".", "runtime")]
    assert texts[0] == texts[1]
    assert "Apache License" in texts[0]
    assert "Version 2.0, January 2004" in texts[0]
    for document in (workstation, device):
        assert document["project"]["license"] == "Apache-2.0"
        assert document["project"]["license-files"] == ["LICENSE"]


def test_entry_point_exists(workstation):
    module, _, function = workstation["project"]["scripts"]["edgetext"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
