"""Caches of teachers of other makes: seen through a vocabulary map, of Hugging Face, or both."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_models import SENTENCES, save_teacher

from edgetext.corpus.config import CorpusConfig
from edgetext.corpus.prepare import prepare_corpus
from edgetext.distill.cache import CacheSettings, TargetCache, teacher_fingerprints
from edgetext.distill.cache_targets import cache_targets
from edgetext.distill.model_files import load_any
from edgetext.distill.vocabulary import RestrictedGenerator, share_vocabulary
from edgetext.errors import CheckpointError, ConfigError
from edgetext.models.huggingface import load_huggingface
from edgetext.training.data import DocumentSampler, open_stream

pytest.importorskip("transformers")
SETTINGS = CacheSettings(top_k=5, windows="document", precision="fp32")


@pytest.fixture
def run(tmp_path) -> Path:
    """What a run with a Hugging Face teacher holds: the teacher with its map, and a shared tokenizer."""
    corpus, foreign, directory = tmp_path / "corpus.txt", tmp_path / "gpt2", tmp_path / "run"
    texts = [f"{text.strip()} {number}" for number in range(20) for text in SENTENCES]
    corpus.write_text("\n".join(texts) + "\n")
    save_teacher(foreign, "gpt2")
    tokenizer, vocabulary = share_vocabulary(foreign, texts, 300)
    prepare_corpus(CorpusConfig(str(corpus)), "bpe", 300, directory, tokenizer=tokenizer)
    RestrictedGenerator(load_huggingface(foreign), vocabulary).save(directory / "teacher")
    return directory


@pytest.mark.parametrize("place", ["", "teacher"])
def test_a_hugging_face_teacher_of_a_run_is_cached_in_the_ids_of_the_run(run, tmp_path, place):
    cache_targets([run / place], run, tmp_path / "c", SETTINGS)
    cache = TargetCache.open(tmp_path / "c")
    assert cache.manifest.vocab_size < load_huggingface(tmp_path / "gpt2").config.vocab_size
    batch = DocumentSampler(open_stream(run / "data" / "train.npy"), 32, 8, seed=0).batch(0)
    with torch.no_grad():
        live = load_any(run / "teacher")(batch.tokens[:, :-1]).logits.log_softmax(-1)
    sparse = cache.lookup(batch.starts, batch.mask.shape[1])
    torch.testing.assert_close(
        live.gather(-1, sparse.ids)[batch.mask], sparse.log_probs[batch.mask], rtol=2e-3, atol=2e-3
    )


@pytest.mark.parametrize(
    ("name", "key", "value"), [("vocabulary", "start", 7), ("config", "layer_norm_epsilon", 0.5)]
)
def test_a_cache_is_not_gone_on_with_over_another_map_or_configuration(run, tmp_path, name, key, value):
    cache_targets([run], run, tmp_path / "c", SETTINGS)
    before = teacher_fingerprints(run)
    path = run / "teacher" / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert teacher_fingerprints(run) != before
    with pytest.raises(CheckpointError, match="another origin"):
        cache_targets([run], run, tmp_path / "c", SETTINGS, resume=True)


def test_teachers_that_do_not_speak_in_the_ids_of_the_run_are_refused(run, tmp_path):
    whole, _ = share_vocabulary(tmp_path / "gpt2")
    for given, tokenizer, words in (
        (tmp_path / "gpt2", whole, "token ids"),
        (run, b"{}", "another tokenizer"),
        (run / "teacher", b"{}", "another tokenizer"),
    ):
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        for path in ("corpus.json", "data"):
            if not (other / path).exists():
                (other / path).symlink_to(run / path)
        (other / "tokenizer.json").write_bytes(tokenizer)
        with pytest.raises(ConfigError, match=words):
            cache_targets([given], other, tmp_path / "c", SETTINGS)
    assert not (tmp_path / "c").exists()


def test_a_hugging_face_directory_of_the_same_size_is_not_taken_for_the_same_ids(run, tmp_path):
    size = load_huggingface(tmp_path / "gpt2").config.vocab_size
    record = json.loads((run / "corpus.json").read_text())
    record["tokenizer"]["vocab_size"] = size
    (run / "corpus.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"token ids of its own.*the run that took it"):
        cache_targets([tmp_path / "gpt2"], run, tmp_path / "c", SETTINGS)


def test_a_teacher_that_hands_over_text_alone_is_refused(run, tmp_path):
    (run / "data" / "teacher").mkdir()
    with pytest.raises(ConfigError, match="hands over text alone"):
        cache_targets([run], run, tmp_path / "c", SETTINGS)
