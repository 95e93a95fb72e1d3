"""A run's discriminator: trained, resumed, refused, and what resampling by it does."""

import json
import shutil

import numpy as np
import pytest
import torch

from edgetext.adversarial.resample import load_rater
from edgetext.adversarial.train_rater import train_rater
from edgetext.checkpoint import save_model
from edgetext.corpus import CorpusConfig, prepare_corpus
from edgetext.errors import CheckpointError, ConfigError
from edgetext.evaluate.candidates import open_candidate
from edgetext.models import ModelConfig, build_model

OPTIONS = {"steps": 60, "batch_size": 16, "length": 12, "hidden": 12, "rate": 1e-2, "patience": 0}


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_corpus):
    """An untrained student and its trained discriminator, which has an easy task."""
    directory = tmp_path_factory.mktemp("rater") / "run"
    corpus = CorpusConfig(str(tiny_corpus), valid_fraction=0.1)
    record = prepare_corpus(corpus, "word", 100, directory)
    torch.manual_seed(0)
    vocab_size = record.tokenizer["vocab_size"]
    save_model(directory / "student", build_model(ModelConfig("lstm", vocab_size, 12, 16, 1)))
    train_rater(directory, **OPTIONS)
    return directory


def test_it_tells_real_text_from_written_and_says_how_well(run):
    record = json.loads((run / "discriminator" / "stage.json").read_text())
    assert record["told_apart"] > 0.9
    rater = load_rater(run / "discriminator")
    tokenizer = open_candidate(run).tokenizer
    real, wrong = (tokenizer.encode(t) for t in ("the red cat sits on the hill.", "hill hill the the cat on"))
    logits = rater([real, wrong], [True, True])
    assert logits[0] > logits[1]


def test_a_finished_one_is_kept_and_another_student_or_setting_is_refused(run):
    before = (run / "discriminator" / "model.safetensors").read_bytes()
    assert train_rater(run, **OPTIONS, resume=True)["steps"] == 60
    assert (run / "discriminator" / "model.safetensors").read_bytes() == before
    with pytest.raises(ConfigError, match="--force"):
        train_rater(run, **OPTIONS)
    with pytest.raises(CheckpointError, match="other settings"):
        train_rater(run, **{**OPTIONS, "hidden": 8}, resume=True)
    with pytest.raises(ConfigError, match="--length"):
        train_rater(run, **{**OPTIONS, "length": 2}, force=True)
    with pytest.raises(ConfigError, match="--batch-size"):
        train_rater(run, **{**OPTIONS, "batch_size": 4096}, force=True)
    assert (run / "discriminator" / "model.safetensors").read_bytes() == before


def test_one_of_another_student_is_refused(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    save_model(other / "student", build_model(open_candidate(run).model.config))
    with pytest.raises(CheckpointError, match="another student"):
        open_candidate(other, 4, "top")


def test_resampled_texts_look_more_real_and_the_top_rated_the_most(run):
    plain = open_candidate(run)
    rater = load_rater(run / "discriminator")

    def mean_logit(candidate):
        texts = [candidate.tokenizer.encode(" ".join(t.words)) for t in candidate.sample(60, 1.0, seed=1)]
        return float(np.mean(rater(texts, [True] * len(texts))))

    chosen = [open_candidate(run, 4, by) for by in ("resample", "top")]
    assert mean_logit(plain) < mean_logit(chosen[0]) < mean_logit(chosen[1])
    with pytest.raises(ConfigError, match="likelihood"):
        open_candidate(run, 4, "likelihood")
