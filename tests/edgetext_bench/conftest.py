"""Two real bundles of one small model, and one short measurement of them."""

from pathlib import Path

import pytest
import tiny_bundle as tiny

from edgetext_bench import Record, Settings, bench
from edgetext_export.writer import write_bundle

VOCAB = 3 + len(tiny.ALPHABET)
QUALITY = (
    b'{"perplexity": {"fp32": 4.0, "exported": 4.02}, "perplexity_increase": 0.005, '
    b'"flip_rate": {"step": 0.01}}'
)


def write_tiny(path: Path, model=tiny.lstm_model, **changes) -> Path:
    graph, state = model(VOCAB)
    members = tiny.members(graph, tiny.char_tokenizer(), **{"quality.json": QUALITY})
    return write_bundle(path, tiny.manifest(VOCAB, state, **changes), members)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory) -> tuple[Path, Path]:
    """A bundle that says fp32 and one that says int8 (of the same graph: nothing here looks at speed)."""
    folder = tmp_path_factory.mktemp("bench")
    int8 = {"precision": "int8", "quantisation": {"recipe": "test"}}
    return write_tiny(folder / "fp32.etx"), write_tiny(folder / "int8.etx", **int8)


@pytest.fixture(scope="session")
def record(bundles) -> Record:
    """Both bundles, measured once for all tests."""
    return bench(bundles, Settings(threads=(1,), tokens=50, repeats=2, prompt="once", warmup_rounds=2))
