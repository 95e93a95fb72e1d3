"""Reaching another machine: ``ssh`` and ``adb``, by their own clients, behind one small interface."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from edgetext_runtime.errors import DependencyError, EdgetextError, InputError

_SSH_FAILED = 255
"""What ssh itself exits with; anything else is the remote command's."""


class Transport(Protocol):
    """A way to another machine."""

    @property
    def kind(self) -> str:
        """``ssh`` or ``adb``."""

    @property
    def name(self) -> str:
        """What to call the machine in errors."""

    @property
    def python(self) -> str:
        """Its interpreter."""

    @property
    def folder(self) -> str:
        """Where files may be written."""

    def command(self, words: Sequence[str]) -> list[str]:
        """The local command line that runs a remote one."""

    def send(self, file: Path, target: str) -> None:
        """Copy a file there.

        Raises:
            EdgetextError: if that fails.
        """

    def failure(self, code: int, stderr: str) -> EdgetextError | None:
        """What an exit status means if the machine was not reached; None if it was."""


@dataclass(frozen=True)
class Ssh:
    """``ssh://user@host:port?python=PATH&config=FILE``: keys, jumps and names are ssh's own configuration."""

    name: str
    port: int | None = None
    python: str = "python3"
    config: str | None = None
    folder: str = "/tmp"
    kind: str = "ssh"

    def command(self, words: Sequence[str]) -> list[str]:
        """No password prompt; a connection that is dead for 15 seconds ends."""
        options = ["BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3"]
        line = ["ssh", *(word for option in options for word in ("-o", option))]
        line += ["-p", str(self.port)] if self.port else []
        line += ["-F", self.config] if self.config else []
        # a shell that stays tells a signal from a connection that broke off: 128 and its number
        kept = shlex.join(["sh", "-c", f"{shlex.join(words)}; exit $?"])
        return [*line, "--", self.name, kept]

    def send(self, file: Path, target: str) -> None:
        """Through ``cat``: small devices' servers have no file transfer."""
        with file.open("rb") as content:
            done = subprocess.run(
                self.command(["sh", "-c", f"cat > {shlex.quote(target)}"]),
                stdin=content, capture_output=True, text=True, check=False,
            )  # fmt: skip
        if done.returncode:
            raise self.failure(done.returncode, done.stderr) or EdgetextError(
                f"{self.name}: cannot write {target} there: {done.stderr.strip()[-300:]}"
            )

    def failure(self, code: int, stderr: str) -> EdgetextError | None:
        """Ssh's own failures."""
        if code != _SSH_FAILED:
            return None
        return EdgetextError(
            f"{self.name} is not reached by ssh: {stderr.strip()[-300:] or 'the connection broke off'}\n"
            f"Try it by hand: ssh {self.name} true (a key, not a password, must open it)"
        )


@dataclass(frozen=True)
class Adb:
    """``adb://serial?python=PATH``: a phone with USB debugging, and a Python such as Termux's."""

    name: str
    python: str = "python3"
    folder: str = "/data/local/tmp"
    kind: str = "adb"

    def command(self, words: Sequence[str]) -> list[str]:
        """Adb gives back the exit status of the remote command."""
        return ["adb", "-s", self.name, "shell", shlex.join(words)]

    def send(self, file: Path, target: str) -> None:
        """By ``adb push``."""
        push = ["adb", "-s", self.name, "push", str(file), target]
        done = subprocess.run(push, capture_output=True, text=True, check=False)
        if done.returncode:
            said = f"{done.stdout}{done.stderr}"
            raise self.failure(done.returncode, said) or EdgetextError(
                f"{self.name}: adb cannot write {target} there: {said.strip()[-300:]}"
            )

    def failure(self, code: int, stderr: str) -> EdgetextError | None:
        """Adb's own failures have no status of their own, but words."""
        lines = [line.strip() for line in stderr.splitlines()]
        marks = ("adb:", "error:", "* daemon")
        said = [line for line in lines if line.startswith(marks) and not line.startswith("* daemon")]
        if not code or not said:
            return None
        return EdgetextError(
            f"{self.name} is not reached by adb: {said[-1]}\nSee `adb devices`: the phone must be listed as "
            "device, with USB debugging allowed"
        )


def transport(on: str) -> Transport:
    """Read ``ssh://…`` or ``adb://…``.

    Raises:
        DependencyError: if the client is not installed here.
        InputError: if it is not such a target.
    """
    try:
        url = urlsplit(on)
        port = url.port
    except ValueError as error:
        raise InputError(f"on is {on!r}: {error}") from error
    asked = {name: values[-1] for name, values in parse_qs(url.query).items()}
    known = {"python", "config"} if url.scheme == "ssh" else {"python"}
    host = url.netloc.rpartition(":")[0] if port else url.netloc
    if url.scheme not in ("ssh", "adb") or not host or host.startswith("-") or url.path.strip("/"):
        raise InputError(f"on is {on!r}; allowed are ssh://user@host:port and adb://serial")
    if not set(asked) <= known:
        raise InputError(f"on: unknown {sorted(set(asked) - known)}; allowed are {sorted(known)} after '?'")
    if shutil.which(url.scheme) is None:
        package = {"ssh": "openssh-client", "adb": "adb"}[url.scheme]
        raise DependencyError(f"{url.scheme} is not installed here: apt-get install {package}")
    if url.scheme == "adb":
        return Adb(url.netloc, **asked)
    return Ssh(host, port, **asked)
