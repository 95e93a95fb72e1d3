"""The builtin corpus: Python's own documentation, as prose."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgetext.corpus import CorpusConfig, iter_documents


@pytest.fixture(scope="module")
def documents():
    return list(iter_documents(CorpusConfig()))


def test_there_is_a_megabyte_of_it(documents):
    assert sum(len(document.encode()) for document in documents) >= 1_000_000
    assert len(documents) >= 4_000


def test_it_reads_like_english(documents):
    words = " ".join(documents).split()
    plain = [word for word in words if re.fullmatch(r"[(\"'`*]*[A-Za-z][A-Za-z'’-]*[\"'`*).,;:!?]*", word)]
    assert len(plain) / len(words) > 0.9
    share = {word: words.count(word) / len(words) for word in ("the", "of", "is")}
    assert share["the"] > 0.04
    assert share["of"] > 0.015
    assert share["is"] > 0.012
    assert not any(">>>" in document or "::=" in document for document in documents)


def test_no_paragraph_comes_twice(documents):
    paragraphs = [paragraph for document in documents for paragraph in document.split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs))


def test_reading_imports_nothing_and_gives_the_same_elsewhere(documents):
    program = (
        "import sys, hashlib; from edgetext.corpus import CorpusConfig, iter_documents\n"
        "digest = hashlib.sha256('\\0'.join(iter_documents(CorpusConfig())).encode()).hexdigest()\n"
        "print(digest, [name for name in ('turtle', 'smtplib', 'this', 'torch') if name in sys.modules])"
    )
    root = Path(__file__).parents[2]
    again = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True, cwd=root
    )
    digest = hashlib.sha256("\0".join(documents).encode()).hexdigest()
    assert again.stdout.split(maxsplit=1) == [digest, "[]\n"]
