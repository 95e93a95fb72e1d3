"""Documents with a label: the value of another column of their row."""

from __future__ import annotations

from typing import Self

from edgetext.errors import CorpusError

__all__ = ["LabelledText", "label_of", "with_label"]


class LabelledText(str):
    """A text, which is a string, and the label of its document.

    Attributes:
        label: its name.
    """

    label: str

    def __new__(cls, text: str, label: str) -> Self:
        """Make a labelled text."""
        self = super().__new__(cls, text)
        self.label = label
        return self


def label_of(value: object, column: str, where: str) -> str:
    """Returns the label that a value of a label column is: a string, a whole number or a truth value.

    Raises:
        CorpusError: if it is another kind of value, or empty.
    """
    if isinstance(value, str | int) and (name := str(value).strip()):
        return name
    raise CorpusError(
        f"{where}: column {column!r} holds {value!r}, which is no label; every row needs one (--label-column)"
    )


def with_label(text: str, source: str) -> str:
    """Returns ``text`` with the label of ``source``, the text as it was read, if that has one."""
    return LabelledText(text, source.label) if isinstance(source, LabelledText) else text
