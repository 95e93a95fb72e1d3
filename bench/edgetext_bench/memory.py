"""Memory of this process: the peak that was resident, and its share of what it shares with others."""

from __future__ import annotations

import sys
from contextlib import suppress


def memory() -> dict[str, int | None]:
    """``peak_rss_bytes`` so far and ``pss_bytes`` now; None where it is not known.

    ``VmHWM`` begins anew with a program; ``ru_maxrss`` (the way elsewhere) may still count the parent's. PSS
    counts a page that n processes share as 1/n of a page; Linux keeps no peak of it.
    """
    peak = _kilobytes("/proc/self/status", "VmHWM:")
    return {
        "peak_rss_bytes": _peak_of_all() if peak is None else peak,
        "pss_bytes": _kilobytes("/proc/self/smaps_rollup", "Pss:"),
    }


def _kilobytes(path: str, name: str) -> int | None:
    with suppress(OSError), open(path, encoding="ascii", errors="replace") as lines:  # noqa: PTH123 - no pathlib
        for line in lines:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return None


def _peak_of_all() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
