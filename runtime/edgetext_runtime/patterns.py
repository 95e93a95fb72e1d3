r"""Regular expressions: the subset that a constraint may use, parsed into a tree.

A pattern must match the whole text. It may use

- characters; ``.``, which is any but ``\n``; ``\`` before punctuation, for the character itself;
- ``\n \t \r \f \v \0``, ``\xHH``, ``\uHHHH``; ``\d \w \s \D \W \S``, of ASCII as with ``re.ASCII``;
- classes ``[a-z_]``, ``[^"]``, with the escapes above;
- groups ``(…)`` and ``(?:…)``, alternatives ``|``;
- ``? * + {m} {m,} {,n} {m,n}``, counts up to 1,000;
- ``^`` as its first and ``$`` as its last character, which change nothing.

It means what Python's ``re.fullmatch`` with ``re.ASCII`` means. Look-around, back-references, flags, lazy and
possessive quantifiers, ``\b`` and named groups are refused.
"""

import re

from .automaton import Chars, Choice, Node, Ranges, Repeat, Sequence, complement
from .errors import InputError

_MOST_COUNT = 1000
_MOST_NESTED = 50
_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Ranges = ((0x09, 0x0D), (0x20, 0x20))
_CLASSES: dict[str, Ranges] = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CLASSES |= {name.upper(): complement(ranges) for name, ranges in _CLASSES.items()}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "0": "\0"}
_HEX = {"x": 2, "u": 4}
_QUANTIFIERS: dict[str, tuple[int, int | None]] = {"?": (0, 1), "*": (0, None), "+": (1, None)}


def parse_pattern(pattern: str) -> Node:
    """Parse a pattern.

    Raises:
        InputError: saying what at which place is not understood.
    """
    return _Parser(pattern).parse()


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0

    def parse(self) -> Node:
        self._take("^")
        node = self._alternatives()
        if self._at < len(self._text):
            raise self._refusal("an unmatched ')'")
        return node

    def _refusal(self, what: str) -> InputError:
        return InputError(
            f"regex is {self._text!r}; at character {self._at} it has {what}; allowed is the subset "
            "described in edgetext_runtime.patterns"
        )

    def _peek(self, ahead: int = 0) -> str:
        return self._text[self._at + ahead : self._at + ahead + 1]

    def _take(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _alternatives(self) -> Node:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            if self._peek() == "$" and self._at == len(self._text) - 1:
                self._at += 1
                break
            parts.append(self._quantified(self._atom()))
        return Sequence(tuple(parts))

    def _atom(self) -> Node:
        c = self._peek()
        if c == "(":
            return self._group()
        if c == "[":
            return Chars(self._class())
        if c == "\\":
            return Chars(self._escape())
        if c in "^$?*+{":
            raise self._refusal(f"{c!r} where it means nothing (write \\{c} for the character)")
        self._at += 1
        return Chars(complement([(0x0A, 0x0A)]) if c == "." else self._one(c))

    def _one(self, character: str) -> Ranges:
        if 0xD800 <= ord(character) <= 0xDFFF:
            raise self._refusal("a lone surrogate, which is no character")
        return ((ord(character), ord(character)),)

    def _group(self) -> Node:
        self._at += 1
        if self._peek() == "?" and not self._take("?:"):
            raise self._refusal(f"a group that starts with '(?{self._peek(1)}'")
        self._depth += 1
        if self._depth > _MOST_NESTED:
            raise self._refusal(f"more than {_MOST_NESTED} groups in each other")
        node = self._alternatives()
        self._depth -= 1
        if not self._take(")"):
            raise self._refusal("a group that is not closed")
        return node

    def _quantified(self, node: Node) -> Node:
        c = self._peek()
        if c in _QUANTIFIERS:
            self._at += 1
            least, most = _QUANTIFIERS[c]
        elif c == "{":
            least, most = self._counts()
        else:
            return node
        following = self._peek()
        if following != "" and following in "?*+{":
            raise self._refusal(f"a second quantifier, {following!r}")
        return Repeat(node, least, most)

    def _counts(self) -> tuple[int, int | None]:
        inside, closed, _ = self._text[self._at + 1 :].partition("}")
        low, comma, high = inside.partition(",")
        if not closed or not low + high or not re.fullmatch(r"[0-9]{0,4},?[0-9]{0,4}", inside):
            raise self._refusal("a '{' that begins no count (write \\{ for the character)")
        least = int(low or 0)
        most = int(high) if high else (None if comma else least)
        if max(least, most or 0) > _MOST_COUNT or (most is not None and most < least):
            raise self._refusal(f"the count {{{inside}}}; counts go up to {_MOST_COUNT}, the lower one first")
        self._at += len(inside) + 2
        return least, most

    def _escape(self) -> Ranges:
        self._at += 1
        c = self._peek()
        self._at += 1
        if c in _CLASSES:
            return _CLASSES[c]
        if c in _CONTROLS:
            return self._one(_CONTROLS[c])
        if c in _HEX:
            code = self._text[self._at : self._at + _HEX[c]]
            if len(code) == _HEX[c] and re.fullmatch("[0-9a-fA-F]+", code):
                self._at += len(code)
                return self._one(chr(int(code, 16)))
        if c == "" or c.isalnum() or c == "_" or not c.isascii():
            self._at -= 2
            raise self._refusal(f"the escape '\\{c}'")
        return self._one(c)

    def _class(self) -> Ranges:
        self._at += 1
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        first = True
        while first or self._peek() != "]":
            first = False
            low = self._member()
            if self._peek() == "-" and self._peek(1) not in ("]", ""):
                self._at += 1
                high = self._member()
                if len(low) != 1 or len(high) != 1 or low[0][0] != low[0][1] or high[0][0] != high[0][1]:
                    raise self._refusal("a range between what are not single characters")
                low = ((low[0][0], high[0][0]),)
                if low[0][0] > low[0][1]:
                    raise self._refusal("a range whose end lies before its beginning")
            ranges += low
        self._at += 1
        result = complement(ranges) if negated else complement(complement(ranges))
        if not result:
            raise self._refusal("a class that no character is in")
        return result

    def _member(self) -> Ranges:
        c = self._peek()
        if c == "":
            raise self._refusal("a class that is not closed")
        if c == "\\":
            return self._escape()
        self._at += 1
        return self._one(c)
