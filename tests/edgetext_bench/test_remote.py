"""Another machine: over a real sshd on the loopback, through the real adb client, and all that goes wrong."""

import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import SSHD, ssh_server

from edgetext_bench import Settings
from edgetext_bench.remote import bench_remote
from edgetext_bench.targets import bench_on, without_host
from edgetext_bench.transport import transport
from edgetext_runtime.errors import BundleError, DependencyError, EdgetextError, InputError, ProviderError

FAST = Settings(threads=(1,), tokens=50, repeats=2, prompt="once", prompt_lengths=(), depths=(), batches=(1,))
needs_sshd = pytest.mark.skipif(SSHD is None, reason="sshd is missing: apt-get install openssh-server")
needs_adb = pytest.mark.skipif(shutil.which("adb") is None, reason="adb is missing: apt-get install adb")


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    with ssh_server(tmp_path_factory.mktemp("sshd")) as (url, _):
        yield url


def with_python(target: str, path: Path, script: str) -> str:
    """The target with an interpreter that is a shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return f"{target.rpartition('&')[0]}&python={path}"


@needs_sshd
def test_a_record_comes_back_over_ssh_and_leaves_nothing_there(target, bundles, tmp_path):
    lines = []
    there = replace(transport(target), folder=str(tmp_path))
    record = bench_remote(there, bundles, FAST, progress=lines.append, command="edgetext bench")
    assert (record.label, record.on) == ("measured", "ssh")
    assert [bundle.file for bundle in record.bundles] == ["fp32.etx", "int8.etx"]
    assert [len(run.rounds) for run in record.runs] == [2, 2]
    assert "round 2/2" in lines
    assert "127.0.0.1" not in record.to_json()
    assert list(tmp_path.iterdir()) == []


@needs_sshd
def test_a_machine_that_lacks_something_is_a_clear_error(target, bundles, tmp_path):
    nowhere = f"{target.rpartition('&')[0]}&python=/no/such/python"
    with pytest.raises(DependencyError, match=r"has no Python at '/no/such/python'.*\?python=PATH"):
        bench_on(nowhere, bundles, FAST)
    bare = with_python(
        target, tmp_path / "bare", f'exec {shutil.which("python3", path="/usr/bin")} -S -I "$@"'
    )
    with pytest.raises(DependencyError, match=r"cannot import numpy .*-m pip install numpy"):
        bench_on(bare, bundles, FAST)
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("from . import state")
    # a library of another word size, which is what the loader says of one for another processor
    (tmp_path / "onnxruntime" / "state.abi3.so").write_bytes(b"\x7fELF\x01\x01\x01" + bytes(57))
    python = target.rpartition("python=")[2]
    wrong = with_python(target, tmp_path / "wrong", f'PYTHONPATH={tmp_path} exec {python} "$@"')
    with pytest.raises(DependencyError, match=r"cannot import onnxruntime .*ELF.*--provider numpy"):
        bench_on(wrong, bundles, FAST)
    illegal = with_python(target, tmp_path / "illegal", "kill -ILL $$")
    with pytest.raises(DependencyError, match=r"ended with 4 .*another processor"):
        bench_on(illegal, bundles, FAST)


@needs_sshd
def test_without_onnxruntime_the_numpy_backend_can_be_asked_for(target, bundles, tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('not here')")
    python = target.rpartition("python=")[2]
    lacking = with_python(target, tmp_path / "lacking", f'PYTHONPATH={tmp_path} exec {python} "$@"')
    record = bench_on(lacking, bundles[:1], replace(FAST, providers=("numpy",)))
    assert [run.provider for run in record.runs] == ["numpy"]


@needs_sshd
def test_errors_over_there_are_errors_here(target, tmp_path, bundles):
    with pytest.raises(ProviderError, match="provider 'cuda' is not in this onnxruntime"):
        bench_on(target, bundles, replace(FAST, providers=("cuda",)))
    (tmp_path / "text.etx").write_text("not a bundle")
    with pytest.raises(BundleError, match=r"text.etx"):
        bench_on(target, [tmp_path / "text.etx"], FAST)


@needs_sshd
def test_a_device_that_is_removed_meanwhile_gives_no_record(tmp_path, bundles):
    with ssh_server(tmp_path) as (url, server):

        def remove(line: str) -> None:
            if line.startswith("round 1/"):
                found = subprocess.run(
                    ["pgrep", "-P", str(server.pid)], capture_output=True, text=True, check=True
                )
                server.kill()
                for child in found.stdout.split():
                    os.kill(int(child), signal.SIGKILL)

        with pytest.raises(EdgetextError, match="is not reached by ssh"):
            bench_on(url, bundles, replace(FAST, repeats=50), progress=remove)


def test_an_unreachable_host_is_a_clear_error(bundles):
    with pytest.raises(EdgetextError, match=r"nobody@127\.0\.0\.1 is not reached by ssh: .* refused"):
        bench_on("ssh://nobody@127.0.0.1:1", bundles, FAST)


@needs_adb
def test_a_phone_that_is_not_there_is_a_clear_error(bundles, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "5099")
    try:
        with pytest.raises(EdgetextError, match=r"no-such-phone is not reached by adb: .*not found"):
            bench_on("adb://no-such-phone", bundles, FAST)
    finally:
        subprocess.run(["adb", "kill-server"], check=False, capture_output=True)


@pytest.mark.parametrize(
    ("on", "message"),
    [
        ("ssh://", "allowed are ssh://user@host"),
        ("ssh://-oProxyCommand=x", "allowed are ssh://user@host"),
        ("ssh://host/path", "allowed are ssh://user@host"),
        ("ssh://host:port", "port"),
        ("ssh://host?pyhton=x", "unknown .'pyhton'."),
    ],
)
def test_targets_that_are_none_are_refused(on, message):
    with pytest.raises(InputError, match=message):
        transport(on)


def test_records_name_no_host():
    assert without_host("ssh://someone@host.example:2222?python=x") == "ssh://…"
    assert without_host("limited:cores=1") == "limited:cores=1"
