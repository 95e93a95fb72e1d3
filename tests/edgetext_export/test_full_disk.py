"""Exports that cannot be written: a full disk, files that may not grow, folders that are read-only."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import pytest

from edgetext.errors import ExportError
from edgetext_export import export_run

resource = pytest.importorskip("resource")  # POSIX only

ENOUGH_FOR_NOTHING = 16_384
"""Bytes: less than any bundle or model."""


@contextmanager
def small_files(limit):
    """No file can grow beyond `limit` bytes, as where a quota or the disk ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def disk(tmp_path):
    """A file system of 512 kB of its own, and how to make it read-only."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        return subprocess.run(["mount", *options, str(place)], capture_output=True, check=False).returncode

    if not sys.platform.startswith("linux") or mount("-t", "tmpfs", "-o", "size=512k", "tmpfs"):
        pytest.skip("mounting takes Linux and its administrator")
    yield place, lambda: mount("-o", "remount,ro")
    subprocess.run(["umount", str(place)], check=True)


def fill(place, leave):
    """Write one file that leaves `leave` bytes of a file system free."""
    found = os.statvfs(place)
    (place / "ballast").write_bytes(bytes(found.f_bavail * found.f_bsize - leave))


def test_the_command_says_it_and_fails(spoilt):
    """The whole command as a process that may not write a file as large as a bundle."""
    before = sorted(spoilt.rglob("*"))
    command = [sys.executable, "-m", "edgetext", "export", str(spoilt), "--tokens", "50"]
    limit = f'ulimit -f {ENOUGH_FOR_NOTHING // 1024}; exec "$@"'
    done = subprocess.run(
        ["bash", "-c", limit, "bash", *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "student-int8.etx could not be written: File too large; nothing was. Make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(spoilt.rglob("*")) == before


def test_a_full_disk_leaves_nothing_of_an_export(spoilt, disk):
    place, _ = disk
    fill(place, leave=ENOUGH_FOR_NOTHING)
    with pytest.raises(ExportError, match="could not be written: No space left on device"):
        export_run(spoilt, place / "m.etx", quality_tokens=50)
    assert [path.name for path in place.iterdir()] == ["ballast"]


def test_the_bundle_fits_and_its_files_for_a_phone_do_not(spoilt, disk):
    place, _ = disk
    there = export_run(spoilt, place / "m.etx", quality_tokens=50)
    fill(place, leave=there.bundle_bytes + ENOUGH_FOR_NOTHING)
    before = {path: path.read_bytes() for path in place.iterdir()}
    with pytest.raises(ExportError, match="No space left on device; nothing was"):
        export_run(spoilt, place / "m.etx", quality_tokens=50, force=True, mobile=True)
    assert {path: path.read_bytes() for path in place.iterdir()} == before


def test_what_was_there_stays_where_its_successor_does_not_fit(spoilt, tmp_path):
    path = tmp_path / "m.etx"
    path.write_bytes(b"the bundle of yesterday")
    with small_files(ENOUGH_FOR_NOTHING), pytest.raises(ExportError, match="File too large"):
        export_run(spoilt, path, quality_tokens=50, force=True)
    assert [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()] == [
        b"the bundle of yesterday"
    ]


@pytest.mark.parametrize("asked", [{"mobile": True}, {"recipe": "int8-static"}], ids=["mobile", "static"])
def test_no_room_for_temporary_files(spoilt, disk, asked, monkeypatch):
    shutil.copy(spoilt / "data" / "test.npy", spoilt / "data" / "valid.npy")
    before = sorted(spoilt.rglob("*"))
    place, _ = disk
    fill(place, leave=ENOUGH_FOR_NOTHING)
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    with pytest.raises(ExportError, match=r"no room for temporary files: No space left on device.*TMPDIR"):
        export_run(spoilt, quality_tokens=50, **asked)
    assert sorted(spoilt.rglob("*")) == before
    assert [path.name for path in place.iterdir()] == ["ballast"]


@pytest.mark.parametrize("force", [False, True])
def test_a_read_only_disk_is_refused_before_anything_is_done(spoilt, disk, force):
    place, make_read_only = disk
    make_read_only()
    with pytest.raises(ExportError, match=f"{place} cannot be written to; choose another path"):
        export_run(spoilt, place / "m.etx", force=force)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the administrator may write anywhere")
def test_so_is_a_read_only_folder(spoilt, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    with pytest.raises(ExportError, match="cannot be written to"):
        export_run(spoilt, folder / "m.etx", mobile=True)
