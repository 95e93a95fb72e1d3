"""Bundles to the Hub and back: through huggingface_hub itself, against a small Hub on this machine."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

pytest.importorskip("huggingface_hub")
from hub_server import serve_hub

from edgetext.errors import HubError
from edgetext_export.card import write_card
from edgetext_export.hub import fetch_bundle, pull_bundle, push_bundle
from edgetext_runtime import BundleError, Generator, read_bundle
from edgetext_runtime.errors import InputError

pytestmark = pytest.mark.parametrize(("run", "exported"), [("lstm", "int8")], indirect=True)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    for name in ("HF_HUB_CACHE", "HF_ASSETS_CACHE"):  # nothing of the user's own
        monkeypatch.setattr(constants, name, str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a service of its own, which is not here
    with serve_hub() as served:
        yield served


def edgetext(hub, folder, *arguments):
    """The command as a user calls it, with a home of its own and the Hub's address from the environment."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))
    }
    environment |= {"HF_HOME": str(folder / "home"), "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_" + "a" * 34}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-m", "edgetext", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def test_a_bundle_goes_to_the_hub_and_comes_back(exported, hub, tmp_path):
    pushed = edgetext(hub, tmp_path, "push", exported.path, "someone/animals", "--json")
    assert pushed.returncode == 0, pushed.stderr
    assert json.loads(pushed.stdout.splitlines()[-1])["file"] == "model.etx"
    files = hub.repositories["someone/animals"]
    assert files["model.etx"] == exported.path.read_bytes()
    assert files["README.md"].startswith(read_bundle(exported.path).members["CARD.md"])
    assert b"edgetext pull someone/animals --file model.etx" in files["README.md"]
    pulled = edgetext(hub, tmp_path, "pull", "someone/animals", "-o", "mine.etx")
    assert pulled.returncode == 0, pulled.stderr
    assert (tmp_path / "mine.etx").read_bytes() == exported.path.read_bytes()
    assert read_bundle(tmp_path / "mine.etx").sha256 in pulled.stdout
    again = edgetext(hub, tmp_path, "push", exported.path, "someone/animals")
    assert again.returncode == 1
    assert again.stderr == (
        "Error: someone/animals has a model.etx already; replace it with --force, or rename yours\n"
    )


def test_what_is_fetched_is_checked(exported, hub):
    content = exported.path.read_bytes()
    hub.repositories["a/b"] = {"m.etx": content, "notes.txt": b""}
    path = fetch_bundle("a/b", endpoint=hub.url)
    assert Generator.load(path).verify() == []
    hub.repositories["a/broken"] = {"m.etx": content[:-50] + b"x" * 50}
    with pytest.raises(BundleError):
        fetch_bundle("a/broken", endpoint=hub.url)


def test_one_of_several_must_be_chosen(exported, hub):
    hub.repositories["a/b"] = {"x.etx": exported.path.read_bytes(), "y.etx": b""}
    with pytest.raises(InputError, match=r"several bundles; choose one with --file: x\.etx, y\.etx"):
        fetch_bundle("a/b", endpoint=hub.url)
    assert fetch_bundle("a/b", file="x.etx", endpoint=hub.url).name == "x.etx"
    hub.repositories["a/none"] = {"config.json": b"{}"}
    with pytest.raises(InputError, match="has no bundle"):
        fetch_bundle("a/none", endpoint=hub.url)


def test_what_the_hub_does_not_have_or_cannot_do_is_one_message(exported, hub, tmp_path, monkeypatch):
    with pytest.raises(HubError, match="no such thing in a/nothing"):
        fetch_bundle("a/nothing", endpoint=hub.url)
    hub.repositories["a/b"] = {}
    with pytest.raises(HubError, match="no such thing in a/b"):
        fetch_bundle("a/b", file="m.etx", endpoint=hub.url)
    for name in ("a/b/c", "a", "a/"):
        with pytest.raises(InputError, match="no name of a repository; give owner/name"):
            push_bundle(exported.path, name, endpoint=hub.url)
    with pytest.raises(BundleError):
        push_bundle(tmp_path, "a/b", endpoint=hub.url)
    with pytest.raises(HubError, match="cannot be reached"):
        push_bundle(exported.path, "a/b", endpoint="http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'edgetext\[hub\]'"):
        push_bundle(exported.path, "a/b")


def test_pulling_refuses_what_is_there(exported, hub, tmp_path):
    hub.repositories["a/b"] = {"m.etx": exported.path.read_bytes()}
    (tmp_path / "m.etx").write_bytes(b"mine")
    with pytest.raises(InputError, match="exists already"):  # before the Hub is asked, which is not there
        pull_bundle("a/b", tmp_path / "m.etx", endpoint="http://127.0.0.1:9")
    assert (tmp_path / "m.etx").read_bytes() == b"mine"
    assert (
        pull_bundle("a/b", tmp_path / "m.etx", force=True, endpoint=hub.url)[1]
        == read_bundle(exported.path).sha256
    )


def test_an_unpacked_folder_works_and_packs_to_the_same_bytes(exported, hub, tmp_path):
    with zipfile.ZipFile(exported.path) as archive:
        archive.extractall(tmp_path / "model")
    generator = Generator.load(tmp_path / "model")
    assert generator.verify() == []
    pushed = push_bundle(tmp_path / "model", "a/b", endpoint=hub.url)
    assert (pushed.file, pushed.page) == ("model.etx", True)
    assert hub.repositories["a/b"]["model.etx"] == exported.path.read_bytes()


def test_a_page_that_is_there_stays_unless_forced(exported, hub):
    hub.repositories["a/b"] = {"README.md": b"by hand", "model.etx": b"an older one"}
    with pytest.raises(InputError, match=r"has a model\.etx already"):
        push_bundle(exported.path, "a/b", endpoint=hub.url)
    del hub.repositories["a/b"]["model.etx"]
    assert not push_bundle(exported.path, "a/b", endpoint=hub.url).page
    assert hub.repositories["a/b"]["README.md"] == b"by hand"
    assert push_bundle(exported.path, "a/b", force=True, endpoint=hub.url).page
    assert hub.repositories["a/b"]["README.md"].startswith(b"---\nlibrary_name: edgetext")


@pytest.mark.parametrize(
    "licence", ["MIT", "PSF-2.0", "the model's own: see where it came from", "not stated"]
)
def test_the_card_has_front_matter_that_the_library_reads(exported, licence):
    from dataclasses import replace

    from huggingface_hub import ModelCard

    manifest = replace(read_bundle(exported.path).manifest, licence=licence)
    text = write_card(manifest, exported.quality.to_dict(), exported.model_bytes, "The")
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert (data.library_name, data.pipeline_tag) == ("edgetext", "text-generation")
    assert {"onnx", manifest.architecture, manifest.precision} <= set(data.tags)
    known = data.license == "mit"
    assert known == (licence == "MIT")
    assert known or data["license_name"] == data["license_name"].lower().replace(" ", "-")
