"""`edgetext cache-targets` on a prepared corpus: what it writes, says, refuses and goes on with."""

import hashlib
import json
import shutil

import pytest
import torch
from click.testing import CliRunner

from edgetext.checkpoint import load_model, save_model
from edgetext.cli.cache_targets import command
from edgetext.corpus.config import CorpusConfig
from edgetext.corpus.prepare import prepare_corpus
from edgetext.distill.cache import TargetCache, stream_fingerprint, teacher_fingerprints
from edgetext.errors import CheckpointError, ConfigError
from edgetext.models import ModelConfig, build_model
from edgetext.models.ensemble import EnsembleGenerator
from edgetext.training.data import DocumentSampler, open_stream

QUICK = ("--precision", "fp32", "--top-k", "5")


def model(vocab_size, seed, kind="lstm"):
    torch.manual_seed(seed)
    if kind == "lstm":
        return build_model(ModelConfig("lstm", vocab_size, 8, 12, 1))
    shape = ModelConfig("transformer", vocab_size, 8, 8, 1, heads=2, kv_heads=2, ffn=12, context=64)
    return build_model(shape)


@pytest.fixture(scope="module")
def run(tiny_corpus, tmp_path_factory):
    """What a run holds once its corpus is prepared and its teacher trained (here: not trained)."""
    directory = tmp_path_factory.mktemp("runs") / "animals"
    record = prepare_corpus(CorpusConfig(str(tiny_corpus)), "word", 100, directory)
    save_model(directory / "teacher", model(record.tokenizer["vocab_size"], 0))
    (directory / "config.json").write_text(json.dumps({"versions": {"edgetext": "1"}, "sequence_length": 16}))
    return directory


def cache(*options, code=0):
    result = CliRunner().invoke(command, [str(option) for option in options])
    if code == 0:
        assert result.exit_code == 0, result.exception
    return result


def refused(*options):
    """The error that the command ends with."""
    result = cache(*options, code=1)
    assert isinstance(result.exception, CheckpointError | ConfigError), result
    return str(result.exception)


def test_a_run_becomes_a_cache(run, tmp_path):
    result = cache(run, "--run", run, "-o", tmp_path / "c", *QUICK, "--windows", "document", "--json")
    figures = json.loads(result.stdout.splitlines()[-1])
    found = TargetCache.open(tmp_path / "c")
    found.check(
        corpus=run / "data" / "train.npy",
        tokenizer=hashlib.sha256((run / "tokenizer.json").read_bytes()).hexdigest(),
        windows="document",
        run=str(run),
    )
    assert list(found.manifest.origin.weights) == teacher_fingerprints(run)
    assert found.tokenizer == (run / "tokenizer.json").read_bytes()
    stream = open_stream(run / "data" / "train.npy")
    assert figures["positions"] == found.positions == len(stream) - 1
    assert figures["bytes"] == sum(path.stat().st_size for path in (tmp_path / "c").iterdir())
    assert figures["top_k"] == 5
    assert "5, " in result.stdout
    assert "targets: 1 teacher" in result.stderr
    batch = DocumentSampler(stream, 32, 8, seed=0).batch(0)
    with torch.no_grad():
        logits = load_model(run / "teacher")(batch.tokens[:, :-1]).logits
    best = logits.log_softmax(-1).max(-1).values
    stored = found.lookup(batch.starts, batch.mask.shape[1]).log_probs[..., 0]
    torch.testing.assert_close(stored[batch.mask], best[batch.mask], rtol=1e-3, atol=1e-4)


def test_several_teachers_give_the_mean_of_their_probabilities(run, tmp_path):
    other = tmp_path / "other"
    size = load_model(run / "teacher").config.vocab_size
    save_model(other / "teacher-1", model(size, 1))
    save_model(other / "teacher-2", model(size, 2))
    shutil.copy(run / "tokenizer.json", other)
    cache(run, other, "--run", run, "-o", tmp_path / "c", *QUICK, "--windows", "document")
    found = TargetCache.open(tmp_path / "c")
    assert list(found.manifest.origin.weights) == [*teacher_fingerprints(run), *teacher_fingerprints(other)]
    three = [run / "teacher", other / "teacher-1", other / "teacher-2"]
    ensemble = EnsembleGenerator([load_model(path) for path in three])
    batch = DocumentSampler(open_stream(run / "data" / "train.npy"), 32, 8, seed=0).batch(0)
    with torch.no_grad():
        live = ensemble(batch.tokens[:, :-1]).logits.log_softmax(-1)
    sparse = found.lookup(batch.starts, batch.mask.shape[1])
    torch.testing.assert_close(
        sparse.log_probs[batch.mask], live.topk(5).values[batch.mask], rtol=1e-3, atol=1e-4
    )


def test_a_transformer_is_read_in_windows_it_was_trained_on(run, tmp_path):
    other = tmp_path / "other"
    save_model(other / "teacher", model(load_model(run / "teacher").config.vocab_size, 3, "transformer"))
    shutil.copy(run / "tokenizer.json", other)
    cache(other, "--run", run, "-o", tmp_path / "all", *QUICK)
    assert TargetCache.open(tmp_path / "all").manifest.context == 64
    shutil.copy(run / "config.json", other)
    result = cache(other, "--run", run, "-o", tmp_path / "trained", *QUICK)
    assert TargetCache.open(tmp_path / "trained").manifest.context == 16
    assert "windows of 16" in result.stdout
    cache(other, "--run", run, "-o", tmp_path / "asked", *QUICK, "--context", 20)
    assert TargetCache.open(tmp_path / "asked").manifest.context == 20


def test_hidden_states_are_kept_on_request(run, tmp_path):
    result = cache(run, "--run", run, "-o", tmp_path / "c", *QUICK, "--hidden")
    assert TargetCache.open(tmp_path / "c").manifest.hidden == (8, 12)
    assert "8 12" in result.stdout


def test_an_interrupted_cache_is_gone_on_with(run, tmp_path):
    options = (run, "--run", run, *QUICK, "--shard-mb", "0.01")
    cache(*options, "-o", tmp_path / "whole")
    cache(*options, "-o", tmp_path / "c")
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert len(manifest["files"]) > 3
    del manifest["files"]["targets-00002.npy"]
    (tmp_path / "c" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "c" / "targets-00002.npy").unlink()
    assert "--resume" in refused(*options, "-o", tmp_path / "c")
    cache(*options, "-o", tmp_path / "c", "--resume")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "c" / path.name).read_bytes()
    cache(*options, "-o", tmp_path / "c", "--force", "--top-k", 7)
    assert TargetCache.open(tmp_path / "c").top_k == 7


def test_what_does_not_go_together_is_refused_before_anything_is_written(run, tmp_path):
    target = tmp_path / "c"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no prepared corpus" in refused(run, "--run", empty, "-o", target)
    assert "holds no model" in refused(empty, "--run", run, "-o", target)
    strange = tmp_path / "strange"
    save_model(strange / "teacher", model(load_model(run / "teacher").config.vocab_size + 1, 0))
    shutil.copy(run / "tokenizer.json", strange)
    assert "token ids" in refused(strange, "--run", run, "-o", target)
    save_model(strange / "teacher", load_model(run / "teacher"))
    (strange / "tokenizer.json").write_bytes(b"{}")
    assert "another tokenizer" in refused(strange, "--run", run, "-o", target)
    assert "lies in" in refused(run, "--run", run, "-o", run.parent, "--force")
    assert "--top-k" in refused(run, "--run", run, "-o", target, "--top-k", 10_000)
    assert not target.exists()
    assert stream_fingerprint(run)
