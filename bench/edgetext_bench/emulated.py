"""Another instruction set without another machine: Python and the runtime under qemu's user-mode emulation.

Needs Debian 12 or a relative of it on x86-64, with network once; nothing of the system is changed. It is made
from names of packages only: qemu-user-static of this system, the other architecture's Python with its
libraries (by ``apt`` from this system's own mirror, with a state directory of its own) unpacked into a
folder, and wheels for that architecture (by ``pip``) beside them. What runs there gives the same tokens or
does not; how long it takes says nothing about a real device.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgetext_runtime.errors import DependencyError, EdgetextError, InputError

PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6")
SUITE = "bookworm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
WHEELS = ("onnxruntime==1.26.*", "numpy<3")
"""onnxruntime 1.28 and later crash under this emulator while they are imported."""
TARGETS = {"emulated:aarch64": ("arm64", "aarch64")}
"""Name → Debian's name of the architecture, and qemu's and pip's."""
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux2014")


@dataclass(frozen=True)
class Emulated:
    """An emulated system, ready to run Python."""

    root: Path
    """Its folder: ``qemu``, ``system`` and ``site``."""
    name: str
    """Its name in ``TARGETS``."""

    @classmethod
    def open(cls, name: str, root: Path | None = None) -> Emulated:
        """Take the system in a folder, or make it there.

        Raises:
            DependencyError: if ``apt-get`` or ``dpkg`` is missing, or something cannot be downloaded.
            InputError: if the name is not known.
        """
        if name not in TARGETS:
            raise InputError(f"on is {name!r}; allowed is {', '.join(TARGETS)}")
        debian, machine = TARGETS[name]
        root = (root or Path.home() / ".cache" / "edgetext" / f"emulated-{machine}").absolute()
        system = cls(root, name)
        if not (root / "ready").exists():
            for tool in ("apt-get", "dpkg"):
                if shutil.which(tool) is None:
                    raise DependencyError(f"{tool} is missing: emulation needs Debian or a relative of it")
            system._install_qemu()
            system._install_system(debian)
            system._install_wheels(machine)
            (root / "ready").touch()
        return system

    def python(
        self,
        arguments: Sequence[str],
        files: Sequence[Path] = (),
        *,
        cpu: str = "max",
        emulator: Sequence[str] = (),
    ) -> str:
        """Run Python there; return what it prints.

        Args:
            arguments: of the interpreter, followed by ``files``.
            files: paths of this machine.
            cpu: qemu's name of the processor, such as ``max`` or ``cortex-a72``.
            emulator: another qemu, with options of its own.

        Raises:
            EdgetextError: if it fails.
        """
        machine = TARGETS[self.name][1]
        here = Path(__file__).parents[1]
        import edgetext_runtime

        places = [self.root / "site", here, Path(edgetext_runtime.__file__).parents[1]]
        command: list[str | Path] = [*emulator]
        command = command or [self.root / f"qemu/usr/bin/qemu-{machine}-static"]
        command += ["-cpu", cpu, "-L", self.root / "system"]
        command += [self.root / "system/usr/bin/python3.11", *arguments, *(path.absolute() for path in files)]
        environment = {
            "PYTHONPATH": os.pathsep.join(map(str, places)),
            "PYTHONHOME": str(self.root / "system/usr"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ORT_DISABLE_TELEMETRY": "1",
            "EDGETEXT_TUNING": "off",
            "PATH": "",
        }
        done = subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise EdgetextError(
                f"{self.name} ({cpu}): exit code {done.returncode}: {done.stderr.strip()[-800:]}"
            )
        return done.stdout

    def describe(self) -> dict[str, str]:
        """What it is made of."""
        qemu = self.root / f"qemu/usr/bin/qemu-{TARGETS[self.name][1]}-static"
        version = subprocess.run([str(qemu), "--version"], capture_output=True, text=True, check=True).stdout
        return {"emulator": version.splitlines()[0]}

    def _install_qemu(self) -> None:
        folder = self.root / "debs"
        folder.mkdir(parents=True, exist_ok=True)
        _run(["apt-get", "download", "-o", "APT::Sandbox::User=root", "qemu-user-static"], folder)
        for package in folder.glob("qemu-user-static_*.deb"):
            _run(["dpkg", "-x", package.name, str(self.root / "qemu")], folder)

    def _install_system(self, debian: str) -> None:
        apt = self.root / "apt"
        for folder in ("state/lists/partial", "cache/archives/partial"):
            (apt / folder).mkdir(parents=True, exist_ok=True)
        (apt / "status").touch()
        (apt / "sources.list").write_text(
            f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n", encoding="ascii"
        )
        settings = {
            "APT::Architecture": debian,
            "APT::Architectures::": debian,
            "APT::Sandbox::User": "root",
            "Dir::State": f"{apt}/state",
            "Dir::State::status": f"{apt}/status",
            "Dir::Cache": f"{apt}/cache",
            "Dir::Etc::sourcelist": f"{apt}/sources.list",
            "Dir::Etc::sourceparts": "-",
            "Debug::NoLocking": "1",
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        _run(["apt-get", *options, "update"], apt)
        get = ["install", "-y", "--no-install-recommends", "--download-only", *PACKAGES]
        _run(["apt-get", *options, *get], apt)
        for package in sorted((apt / "cache/archives").glob("*.deb")):
            _run(["dpkg", "-x", str(package), str(self.root / "system")], apt)

    def _install_wheels(self, machine: str) -> None:
        platforms = [word for name in _PLATFORMS for word in ("--platform", f"{name}_{machine}")]
        target = ["--target", str(self.root / "site"), "--only-binary=:all:", "--upgrade"]
        version = ["--python-version", "3.11", "--implementation", "cp"]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, *target, *platforms, *version, *WHEELS], self.root)


def _mirror() -> str:
    """Where this system gets its packages from."""
    policy = subprocess.run(["apt-cache", "policy"], capture_output=True, text=True, check=False).stdout
    found = re.search(rf"(\S+://\S+) {SUITE}/main ", policy)
    if found is None:
        raise DependencyError(
            f"apt knows no source for {SUITE}: emulation needs Debian 12 or a relative of it"
        )
    return found[1]


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DependencyError(f"`{' '.join(command[:3])} …` failed: {done.stderr.strip()[-600:]}")
