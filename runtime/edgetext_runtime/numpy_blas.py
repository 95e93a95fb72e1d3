"""One thread for numpy's matrix products while a model runs.

OpenBLAS, which numpy's wheels bring, spreads even small products over all cores: for those of one token that
is no faster on an idle machine and several times slower on a busy one, and the threads go on spinning for a
while. Their number belongs to the process, so it is changed only while a call runs, and put back.
"""

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from threading import Lock

_NAMES = ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}")
"""OpenBLAS's functions as its builds name them."""
_CORES = ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath")

_Controls = tuple[Callable[[], int], Callable[[int], None]]


class OneThread:
    """A context in which matrix products stay on the calling thread, where numpy uses OpenBLAS.

    One object is shared by all who want it: the first to enter changes the setting, the last to leave puts it
    back. Without OpenBLAS it does nothing.
    """

    def __init__(self) -> None:
        self._controls = _find_controls()
        self._lock = Lock()
        self._inside = 0
        self._before = 1

    def __enter__(self) -> None:
        """Change the setting, unless somebody is inside already."""
        if self._controls is None:
            return
        with self._lock:
            if self._inside == 0:
                self._before = self._controls[0]()
                if self._before != 1:
                    self._controls[1](1)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        """Put the setting back, unless somebody else is still inside."""
        if self._controls is None:
            return
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._before != 1:
                self._controls[1](self._before)

    @property
    def threads(self) -> int | None:
        """Threads that products may use now; ``None`` where it is not known."""
        return None if self._controls is None else self._controls[0]()


@cache
def one_thread() -> OneThread:
    """The context that all sessions of this process share."""
    return OneThread()


def _find_controls() -> _Controls | None:
    """OpenBLAS's functions that get and set the number of threads; ``None`` if numpy has another BLAS."""
    try:
        import ctypes
    except ImportError:  # a Python built without it
        return None
    for path in _libraries():
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for name in _NAMES:
            if hasattr(library, name.format("set_num_threads")):
                return library[name.format("get_num_threads")], library[name.format("set_num_threads")]
    return None


def _libraries() -> Iterator[str]:
    """Where to look: numpy's core, which finds what it is linked with, and beside numpy (Windows)."""
    for name in _CORES:
        core = getattr(sys.modules.get(name), "__file__", None)
        if core:
            yield core
            beside = os.path.join(os.path.dirname(core), "..", "..", "numpy.libs")
            if os.path.isdir(beside):
                names = sorted(name for name in os.listdir(beside) if "openblas" in name)
                yield from (os.path.join(beside, name) for name in names)
            return
