"""Energy, where the machine says: Intel's and AMD's RAPL, a battery, a Raspberry Pi 5's PMIC.

All of them count the package, the whole board or the whole device, not the process: a figure is what the
machine used while it decoded.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from edgetext_bench.environment import read_text

_RAPL = Path("/sys/class/powercap")
_SUPPLIES = Path("/sys/class/power_supply")


class EnergyMeter:
    """Sums up energy between its making and `joules`; call `sample` often where only power can be read.

    Args:
        rapl: where the kernel shows its energy counters.
        supplies: where it shows its batteries.
    """

    def __init__(self, rapl: Path = _RAPL, supplies: Path = _SUPPLIES) -> None:
        self._counters = [
            folder
            for folder in sorted(rapl.glob("*-rapl:[0-9]*"))
            if folder.name.count(":") == 1 and _number(folder / "energy_uj") is not None
        ]
        self._last = [_number(folder / "energy_uj") or 0 for folder in self._counters]
        self._joules = 0.0
        self._watts: Callable[[], float | None] | None = None
        if not self._counters:
            ways: list[Callable[[], float | None]] = [
                partial(_battery_watts, folder) for folder in sorted(supplies.glob("*"))
            ]
            ways += [_pmic_watts] if shutil.which("vcgencmd") else []
            self._watts = next((way for way in ways if way() is not None), None)
        self._at: float | None = None

    @property
    def source(self) -> str | None:
        """``"rapl"``, ``"battery or pmic"``, or None where nothing can be read."""
        return "rapl" if self._counters else "battery or pmic" if self._watts else None

    def sample(self, now_s: float) -> None:
        """Take what has been used until now; times are of one clock, in seconds."""
        if self._watts is not None and self._at is not None:
            self._joules += (self._watts() or 0.0) * (now_s - self._at)
        self._at = now_s
        for at, folder in enumerate(self._counters):
            value = _number(folder / "energy_uj") or 0
            used = value - self._last[at]
            if used < 0:  # the counter has begun anew
                used += _number(folder / "max_energy_range_uj") or 0
            self._joules, self._last[at] = self._joules + used * 1e-6, value

    def joules(self) -> float | None:
        """What has been used between the samples, in joules; None where nothing can be read."""
        return self._joules if self.source else None


def _number(path: Path) -> int | None:
    text = read_text(path)
    return int(text) if text and text.lstrip("-").isdigit() else None


def _battery_watts(folder: Path) -> float | None:
    """A battery's power while it is discharged, in watts."""
    if read_text(folder / "type") != "Battery" or read_text(folder / "status") != "Discharging":
        return None
    power = _number(folder / "power_now")
    if power is not None:
        return abs(power) * 1e-6
    current, voltage = _number(folder / "current_now"), _number(folder / "voltage_now")
    return None if current is None or voltage is None else abs(current) * 1e-6 * voltage * 1e-6


def _pmic_watts() -> float | None:
    """Sum of current times voltage over a Raspberry Pi 5's rails."""
    done = subprocess.run(["vcgencmd", "pmic_read_adc"], capture_output=True, text=True, check=False)
    found = re.findall(r"(\S+)_([AV]) \w+\(\d+\)=([\d.]+)", done.stdout)
    rails: dict[str, dict[str, float]] = {}
    for name, unit, value in found:
        rails.setdefault(name, {})[unit] = float(value)
    watts = [rail["A"] * rail["V"] for rail in rails.values() if len(rail) == len("AV")]
    return sum(watts) if watts else None
