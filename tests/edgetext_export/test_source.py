"""What a bundle states of the teacher, wherever the run had it from."""

import hashlib
import json
import shutil

import pytest

from edgetext.checkpoint import write_json
from edgetext.distill.cache_format import Manifest, Origin, write_manifest
from edgetext_export.source import read_source

LSTM = {"kind": "lstm", "vocab_size": 320, "embedding": 32, "hidden": 48, "layers": 2}


def teacher_of(run):
    return read_source(run).provenance["teacher"]


def write_cache_manifest(directory, run, models=1):
    tokenizer = hashlib.sha256((run / "tokenizer.json").read_bytes()).hexdigest()
    origin = Origin("run", "c" * 64, tokenizer, ("run",), ("w" * 64,) * models)
    manifest = Manifest(
        origin=origin,
        teacher=LSTM,
        vocab_size=320,
        positions=10,
        top_k=8,
        tail_samples=0,
        windows="stream",
        context=0,
        precision="fp32",
        hidden=(),
        shard_positions=10,
    )
    write_manifest(directory, manifest)
    return manifest


@pytest.fixture
def without(spoilt):
    """A run that keeps no teacher."""
    shutil.rmtree(spoilt / "teacher")
    return spoilt


def test_own_teachers_are_stated_with_their_parameters(spoilt):
    one = teacher_of(spoilt)
    assert one["architecture"] == "lstm"
    assert one["parameters"] > 0
    for number in (1, 2):
        shutil.copytree(spoilt / "teacher", spoilt / f"teacher-{number}")
    both = teacher_of(spoilt)
    assert both == {"architecture": "ensemble", "parameters": 2 * one["parameters"], "members": [one, one]}


def test_a_run_without_a_teacher_states_none(without):
    assert teacher_of(without) == {}


@pytest.mark.parametrize("models", [1, 3])
def test_the_teacher_of_a_cache_is_stated_while_the_cache_is_there(without, tmp_path, models):
    cache = tmp_path / "cache"
    manifest = write_cache_manifest(cache, without, models)
    write_json(without / "config.json", {"seed": 1, "cache": str(cache), "teachers": []})
    stated = teacher_of(without)
    assert stated == manifest.teacher_record()
    assert stated["architecture"] == ("lstm" if models == 1 else "ensemble")
    assert stated.get("models", 1) == models
    shutil.rmtree(cache)
    assert teacher_of(without) == {}


def test_what_the_run_recorded_of_its_cache_outlives_the_cache(without, tmp_path):
    record = write_cache_manifest(tmp_path / "cache", without).teacher_record()
    write_json(without / "config.json", {"seed": 1, "cache": str(tmp_path / "gone")})
    write_json(without / "result.json", {"cached_teacher": record})
    assert teacher_of(without) == record


def test_a_cache_of_another_tokenizer_is_not_this_runs(without, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tokenizer.json").write_bytes(b"{}")
    write_cache_manifest(tmp_path / "cache", tmp_path / "other")
    write_json(without / "config.json", {"seed": 1, "cache": str(tmp_path / "cache")})
    assert teacher_of(without) == {}


def test_a_hugging_face_teacher_is_stated_by_its_model_type(without):
    pytest.importorskip("transformers")
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    stated = {
        "architecture": "gpt2",
        "parameters": model.num_parameters(),
        "config": {"vocab_size": 400, "hidden": 32, "layers": 2, "heads": 4, "context": 64},
    }
    foreign = without.parent / "foreign"
    model.save_pretrained(foreign)
    write_json(without / "config.json", {"seed": 1, "teachers": [str(foreign)]})
    assert teacher_of(without) == stated  # it gave text only, and lies where it was
    foreign.rename(without / "teacher")
    assert teacher_of(without) == stated
    (without / "teacher" / "model.safetensors").unlink()
    assert teacher_of(without) == {name: stated[name] for name in ("architecture", "config")}
    assert json.dumps(teacher_of(without))
