"""From a run directory to a bundle: what is in it, and what is refused."""

import json
import re

import numpy as np
import pytest

from edgetext.checkpoint import load_tensors, save_tensors
from edgetext.errors import CheckpointError, ExportError
from edgetext_export import export_run, replay
from edgetext_export.golden import SAMPLINGS
from edgetext_runtime import Generator, read_bundle
from edgetext_runtime.sampling import GenerationDefaults, SamplingParams


def test_the_bundle_says_what_it_is(run, exported):
    bundle = read_bundle(exported.path)
    manifest = bundle.manifest
    assert manifest.name == manifest.architecture == run.name
    assert manifest.precision == exported.precision
    assert manifest.parameters == exported.parameters
    assert manifest.licence == "CC0-1.0"
    assert manifest.provenance["teacher"]["parameters"] == exported.parameters
    assert bundle.members["tokenizer.json"] == (run / "tokenizer.json").read_bytes()
    assert json.loads(bundle.members["quality.json"]) == exported.quality.to_dict()
    assert exported.bundle_bytes == exported.path.stat().st_size
    assert exported.model_bytes == len(bundle.members["model.onnx"])


def test_the_bundle_does_not_tell_where_the_corpus_lay(exported):
    assert b"/home/someone" not in exported.path.read_bytes()
    assert read_bundle(exported.path).manifest.provenance["corpus"]["source"] == "animals.txt"


@pytest.mark.parametrize("threads", [1, 2])
def test_golden_tokens_come_again(exported, threads):
    generator = Generator.load(exported.path, threads=threads)
    results = replay(generator)
    assert generator.verify() == []
    assert all(result.equal and result.first_difference is None for result in results)
    assert [result.case.settings["temperature"] for result in results] == [
        s["temperature"] for s in SAMPLINGS
    ]
    assert all(result.case.prompt and result.tokens for result in results)


def test_the_card_is_true_and_its_snippet_runs(exported, tmp_path, monkeypatch, capsys):
    card = read_bundle(exported.path).members["CARD.md"].decode()
    assert f"{exported.parameters:,} parameters" in card
    assert f"{exported.quality.perplexity_exported:.3f}" in card
    assert "animals.txt" in card
    assert card.startswith("---\nlibrary_name: edgetext\npipeline_tag: text-generation\nlicense: cc0-1.0\n")
    snippet = re.search(r"```python\n(.*?)```", card, re.DOTALL).group(1)
    name = re.search(r'load\("(.*?)"\)', snippet).group(1)
    (tmp_path / name).write_bytes(exported.path.read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "CARD.md", "exec"), {})  # noqa: S102 - the text under test
    assert capsys.readouterr().out


def test_the_same_run_gives_the_same_bytes(run, exported, tmp_path):
    again = export_run(run, tmp_path / "again.etx", exported.precision)
    assert again.path.read_bytes() == exported.path.read_bytes()


def test_int8_is_less_than_half_of_fp32_even_when_tiny(run, tmp_path):
    sizes = {
        p: export_run(run, tmp_path / f"{p}.etx", p, quality_tokens=50).model_bytes for p in ("int8", "fp32")
    }
    assert sizes["int8"] < 0.5 * sizes["fp32"]


def test_the_default_output_lies_in_the_run_directory(spoilt):
    report = export_run(spoilt, quality_tokens=50)
    assert report.path == spoilt / "student-int8.etx"
    assert report.quality.tokens == 50
    with pytest.raises(ExportError, match="exists already; replace it with --force"):
        export_run(spoilt)
    assert export_run(spoilt, force=True, quality_tokens=50).path == report.path


def test_default_sampling_can_be_given(spoilt, tmp_path):
    defaults = GenerationDefaults(SamplingParams(temperature=0.7, top_k=12), 16)
    report = export_run(spoilt, tmp_path / "m.etx", quality_tokens=50, generation=defaults)
    assert Generator.load(report.path).defaults == defaults


class TestRefusals:
    """Every refusal names the thing and the way out, and leaves nothing behind."""

    def refused(self, run, error, message, **arguments):
        before = sorted(run.rglob("*"))
        with pytest.raises(error, match=message):
            export_run(run, **arguments)
        assert sorted(run.rglob("*")) == before

    def test_not_a_run_directory(self, tmp_path):
        with pytest.raises(ExportError, match="not a directory; give the run directory"):
            export_run(tmp_path / "nowhere")
        with pytest.raises(CheckpointError, match=r"no finished student \(student/config.json is missing\)"):
            export_run(tmp_path)

    def test_no_weights_yet(self, spoilt):
        (spoilt / "student" / "model.safetensors").unlink()
        self.refused(spoilt, CheckpointError, r"student/model.safetensors is missing")

    def test_half_written_weights(self, spoilt):
        path = spoilt / "student" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
        self.refused(spoilt, CheckpointError, "not a complete safetensors file")

    @pytest.mark.parametrize("content", ["{", "[]", "{}", '{"kind": "rnn"}'])
    def test_broken_configuration(self, spoilt, content):
        (spoilt / "student" / "config.json").write_text(content)
        self.refused(spoilt, CheckpointError, "config.json")

    def test_a_weight_that_is_not_finite(self, spoilt):
        path = spoilt / "student" / "model.safetensors"
        tensors, metadata = load_tensors(path)
        tensors["lstm.weight_hh_l0"][3, 5] = float("nan")
        save_tensors(path, tensors, metadata)
        self.refused(spoilt, ExportError, r"lstm.weight_hh_l0 has 1 values that are NaN or infinite")

    def test_a_tokenizer_of_another_run(self, spoilt):
        document = json.loads((spoilt / "tokenizer.json").read_text())
        vocabulary, merges = document["model"]["vocab"], document["model"]["merges"]
        del vocabulary[max(vocabulary, key=vocabulary.get)]
        merges.pop()
        (spoilt / "tokenizer.json").write_text(json.dumps(document))
        self.refused(spoilt, ExportError, "do not belong together")

    def test_a_tokenizer_of_the_same_size_but_another_run(self, spoilt):
        path = spoilt / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
        self.refused(spoilt, ExportError, "not the tokenizer that this run's corpus was coded with")

    def test_a_broken_tokenizer(self, spoilt):
        (spoilt / "tokenizer.json").write_text("{}")
        self.refused(spoilt, ExportError, "tokenizer.json")

    def test_a_test_split_of_another_run(self, spoilt):
        np.save(spoilt / "data" / "test.npy", np.full(100, 60_000, np.uint16))
        self.refused(spoilt, ExportError, "coded with another tokenizer")

    def test_a_broken_test_split(self, spoilt):
        path = spoilt / "data" / "test.npy"
        path.write_bytes(path.read_bytes()[:64])
        self.refused(spoilt, CheckpointError, "not a token stream")
        np.save(path, np.zeros((2, 2), np.uint16))
        self.refused(spoilt, CheckpointError, "expected a row of token ids")
        path.unlink()
        self.refused(spoilt, CheckpointError, "is missing")

    def test_outputs_that_cannot_be_written(self, spoilt, tmp_path):
        self.refused(spoilt, ExportError, "is a directory; give the path of a file", output=tmp_path)
        self.refused(
            spoilt, ExportError, "is not a directory; make it first", output=tmp_path / "no" / "m.etx"
        )

    def test_an_output_that_fails_while_it_is_written(self, spoilt):
        # A name of 250 characters is allowed, the longer one of its draft is not.
        self.refused(
            spoilt, ExportError, "could not be written", output=spoilt / f"{'m' * 246}.etx", quality_tokens=50
        )
