"""Stop strings in a stream of text, such that no part of one is ever shown."""

from collections.abc import Iterable, Sequence

from .sampling import check_number


def check_stops(stop: str | Sequence[str]) -> tuple[str, ...]:
    """The stop strings as a tuple.

    Raises:
        InputError: if one is empty or not a string.
    """
    stops = tuple(stop) if isinstance(stop, Iterable) and not isinstance(stop, str) else (stop,)
    for text in stops:
        ok = isinstance(text, str) and text != ""
        check_number("stop", text, ok, "strings of at least one character")
    return stops


class StopFilter:
    """Passes text on until a stop string is complete, holding back what may be the beginning of one.

    The stop string that is complete first ends the text, and the text ends where it began; so the result does
    not depend on how the text was cut into pieces.

    Args:
        stops: the stop strings; with none, all text passes at once.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        """Whether a stop string has been seen; all text from its beginning on is dropped."""

    def push(self, piece: str) -> str:
        """Take the next piece of text; return what can be shown now."""
        if not self._stops or self.stopped:
            return "" if self.stopped else piece
        text = self._held + piece
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """At the end of the text: what was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a beginning of ``stop`` and not the whole of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
