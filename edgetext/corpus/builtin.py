"""``builtin:python-docs``: real English text that is on every machine with Python.

The standard library's own documentation: the language reference that ``help()`` shows (``pydoc_data.topics``)
and the docstrings of the standard modules. Files are parsed, never imported, so nothing of them runs. What is
not prose (signatures, grammar, tables, code, doctests, option lists) is left out, line breaks inside a
paragraph become spaces, and a paragraph that has been seen before is dropped: the topics repeat one another
at length, and a repeated paragraph could otherwise be trained on and tested on.

The text differs a little between Python versions; `corpus.json` records the version and a hash.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from edgetext.errors import CorpusError

__all__ = ["LICENCE", "python_docs"]

LICENCE = "PSF-2.0"

_SKIPPED_FOLDERS = frozenset(
    {
        "test",
        "tests",
        "idle_test",
        "site-packages",
        "dist-packages",
        "lib-dynload",
        "pydoc_data",
        "__pycache__",
    }
)
_TOPIC_DOCUMENT = 1500  # characters after which a new document begins inside a long topic
_SHORTEST_DOCUMENT = 40  # characters
_WRAP_COLUMN = (
    58  # a line that breaks although the next word would have ended before this column was meant to
)
_FEWEST_WORDS = 5
_FEWEST_WORDS_BEFORE_COLON = 12
_MOST_COMMAS = 0.4  # commas per word
_LEAST_PLAIN = 0.72  # share of a line's words that are plain words

_ROLE = re.compile(r":[a-z]+(?::[a-z]+)?:`~?([^`]+)`")  # :class:`x`, :py:func:`~x.y`
_LITERAL = re.compile(r"``([^`]+)``")
_BULLET = re.compile(r"(?:[*+-]|\(?[0-9a-z][.)]) +(?=\S)")
_TWO_SPACES = re.compile(r"(?<=\S)  (?=\S)")
_PLAIN_WORD = re.compile(r"[(\"'`*]{0,2}[A-Za-z][a-z]*(?:['’-][A-Za-z]+)*[\"'`*]{0,2}[)]?[.,;:!?]*[\"')]?")
_FIRST = re.compile(r"[\"'`*(]{0,2}[A-Z]|[\"`*]\w")
_NOT_PROSE = re.compile(r">>>|::=|\+--|--\+|={3}|\.\. [a-z]|\|$|@\w+\{|[;{}]\s*$|\s{3}")


def python_docs() -> list[str]:
    """Returns the documents, in a fixed order: topics first, then docstrings by file.

    Raises:
        CorpusError: if this Python comes without the source of its standard library.
    """
    return list(_documents(Path(sysconfig.get_path("stdlib"))))


@lru_cache(maxsize=1)
def _documents(root: Path) -> tuple[str, ...]:
    """Returns the documents of one standard library; cached, as parsing it takes seconds."""
    seen: set[str] = set()
    documents: list[str] = []
    for topic in _topics(root / "pydoc_data" / "topics.py"):
        documents += _grouped(_fresh(_prose(topic), seen))
    for path in _modules(root):
        for docstring in _docstrings(path):
            documents += _joined(list(_fresh(_prose(docstring), seen)))
    if not documents:
        raise CorpusError(
            f"builtin:python-docs: no Python source files under {root}; this Python comes without the "
            "source of its standard library. Give a file of your own with --corpus"
        )
    return tuple(documents)


def _modules(root: Path) -> list[Path]:
    found = []
    for path in root.rglob("*.py"):
        folders = path.relative_to(root).parts[:-1]
        if not any(name in _SKIPPED_FOLDERS or name.startswith("config-") for name in folders):
            found.append(path)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _parse(path: Path) -> ast.Module | None:
    """Returns the syntax tree, or None for a file that this Python cannot parse (a template, say)."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        return None


def _topics(path: Path) -> list[str]:
    tree = _parse(path)
    for node in tree.body if tree else []:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            return [topics[name] for name in sorted(topics)]
    return []


def _docstrings(path: Path) -> Iterator[str]:
    """Yields the docstrings of one file in the order of its lines."""
    tree = _parse(path)
    pending: list[ast.AST] = [tree] if tree else []
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield inspect.cleandoc(docstring)
        pending += reversed(list(ast.iter_child_nodes(node)))


def _prose(text: str) -> Iterator[str]:
    """Yields the paragraphs of ``text`` that are English prose."""
    text = _LITERAL.sub(r"`\1`", _ROLE.sub(r"`\1`", text.expandtabs()))
    for block in re.split(r"\n[ ]*\n", text):
        if ">>>" in block:
            continue
        lines = [line for line in _unwrapped(block.splitlines()) if _is_prose(line)]
        if lines:
            yield "\n".join(lines)


def _unwrapped(lines: list[str]) -> list[str]:
    """Joins lines that were broken because they were full; a bullet or a short line ends the one before."""
    joined: list[str] = []
    column = 0
    for raw in lines:
        line = raw.strip()
        if not line:
            continue
        bullet = _BULLET.match(line)
        if joined and not bullet and column + 1 + len(line.split(" ", 1)[0]) > _WRAP_COLUMN:
            joined[-1] += " " + line
        else:
            joined.append(line[bullet.end() :] if bullet else line)
        column = len(raw.rstrip())
    return [_TWO_SPACES.sub(" ", line) for line in joined]


def _is_prose(line: str) -> bool:
    if not _FIRST.match(line) or _NOT_PROSE.search(line):
        return False
    words = line.split()
    if line.endswith(":") and len(words) < _FEWEST_WORDS_BEFORE_COLON:
        return False  # it announced something that was left out
    if line.count(",") > _MOST_COMMAS * len(words):
        return False  # a list of names
    plain = sum(1 for word in words if _PLAIN_WORD.fullmatch(word))
    return len(words) >= _FEWEST_WORDS and plain >= _LEAST_PLAIN * len(words)


def _fresh(paragraphs: Iterable[str], seen: set[str]) -> Iterator[str]:
    """Yields the paragraphs that are not in ``seen``, ignoring case and quotes, and adds them."""
    for paragraph in paragraphs:
        key = re.sub(r"[^a-z0-9]+", " ", paragraph.lower()).strip()
        if key not in seen:
            seen.add(key)
            yield paragraph


def _grouped(paragraphs: Iterable[str]) -> Iterator[str]:
    """Yields documents of whole paragraphs, each of about `_TOPIC_DOCUMENT` characters."""
    group: list[str] = []
    for paragraph in paragraphs:
        group.append(paragraph)
        if sum(map(len, group)) >= _TOPIC_DOCUMENT:
            yield from _joined(group)
            group = []
    yield from _joined(group)


def _joined(paragraphs: list[str]) -> Iterator[str]:
    document = "\n\n".join(paragraphs)
    if len(document) >= _SHORTEST_DOCUMENT:
        yield document
