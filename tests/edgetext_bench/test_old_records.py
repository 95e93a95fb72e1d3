"""Records of format 1 that are kept under docs/results can still be read and shown."""

import json
from pathlib import Path

import pytest

from edgetext_bench import Record, markdown_table
from edgetext_bench.summary import summarise
from edgetext_runtime.errors import InputError

OLD = sorted((Path(__file__).parents[2] / "docs" / "results").glob("*/bench.json"))


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.parent.name)
def test_a_kept_record_is_read_shown_and_kept_again(path):
    record = Record.from_json(path.read_bytes())
    kept = json.loads(path.read_text(encoding="utf-8"))
    for run, old in zip(record.runs, kept["runs"], strict=True):
        assert run.rounds[0].step_ns == tuple(old["rounds"][0]["step_ns"])
        assert run.rounds[0].ttft_s[1] == tuple(old["rounds"][0]["ttft_long_s"])
        assert summarise(run).roofline is None
    assert f"| {record.bundles[0].file}" in markdown_table(record)
    assert Record.from_json(record.to_json()) == record


def test_a_damaged_old_record_is_refused():
    document = json.loads(OLD[0].read_text(encoding="utf-8"))
    del document["runs"][0]["long_prompt_tokens"]
    with pytest.raises(InputError, match="damaged"):
        Record.from_json(json.dumps(document))
