"""The files of cached targets: few bytes, killed, mended, refused and mapped."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_cases import (
    LSTM,
    ORIGIN,
    SMALL_SHARDS,
    TOKENIZER,
    TRANSFORMER,
    V,
    assert_same_distribution,
    contents,
    documents,
    teacher,
    write,
)

from edgetext.checkpoint import save_model
from edgetext.distill.cache import CacheSettings, TargetCache, write_cache
from edgetext.distill.cache_format import Manifest, read_manifest, record_type, write_manifest
from edgetext.distill.top_targets import tail_samples
from edgetext.errors import CheckpointError, ConfigError, TrainingError
from edgetext.models import ModelConfig
from edgetext.models.ensemble import EnsembleGenerator

LIMIT = 300  # bytes a token


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A cache that nobody disturbed."""
    return write(tmp_path_factory.mktemp("cache") / "whole")


# --- how it is stored --------------------------------------------------------------------------------------


def test_a_token_takes_less_than_three_hundred_bytes(tmp_path):
    stream = documents(3000)
    cache = TargetCache.open(write(tmp_path / "c", None, stream, top_k=32, shard_mb=1.0))
    assert cache.size == sum(len(data) for data in contents(tmp_path / "c").values())
    assert cache.size / cache.positions < LIMIT
    for vocab_size in (50_000, 200_000):
        samples = tail_samples(CacheSettings(top_k=32), vocab_size)
        assert samples > 20
        assert record_type(32, samples, vocab_size).itemsize <= LIMIT
    assert tail_samples(CacheSettings(top_k=49), 50) == 0  # nothing is left to draw from


def test_a_vocabulary_of_more_than_two_bytes(tmp_path):
    shape = ModelConfig("lstm", 70_000, 4, 4, 1, tied=True)
    stream = np.array([0, 69_999, 65_537, 5, 0], dtype=np.uint32)
    cache = TargetCache.open(write(tmp_path / "c", teacher(shape), stream))
    with torch.no_grad():
        logits = teacher(shape)(torch.from_numpy(stream[None, :-1].astype(np.int64))).logits
    assert_same_distribution(cache.lookup(torch.tensor([0]), 4), logits, torch.ones(1, 4, dtype=torch.bool))


def test_nothing_is_loaded_but_what_is_looked_up(tmp_path, whole):
    """A cache of five gigabytes (a file with holes) takes a few megabytes of memory."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs /proc to read the memory in use")
    many = 40_000_000
    manifest = replace(read_manifest(whole), positions=many, shard_positions=many, top_k=32)
    np.lib.format.open_memmap(
        tmp_path / "targets-00000.npy", mode="w+", dtype=manifest.record, shape=(many,)
    ).flush()
    (tmp_path / "tokenizer.json").write_bytes(TOKENIZER)
    write_manifest(tmp_path, replace(manifest, files={"targets-00000.npy": "0" * 64}))
    before = int(statm.read_text().split()[1])
    cache = TargetCache.open(tmp_path)
    assert cache.size > 5e9
    starts = torch.arange(0, many, many // 64)
    assert cache.lookup(starts, 96).ids.shape == (len(starts), 96, 32)
    grown = (int(statm.read_text().split()[1]) - before) * os.sysconf("SC_PAGESIZE")
    assert grown < 64e6


KILLED = """
import os, signal, sys
from pathlib import Path
from test_cache import documents, write
from edgetext.checkpoint import load_model

def progress(done, total):
    if done > total // 2:
        os.kill(os.getpid(), signal.SIGKILL)

write(Path(sys.argv[2]), load_model(sys.argv[1]), documents(), progress=progress)
"""


def test_a_killed_writer_leaves_what_can_be_gone_on_with(tmp_path, whole):
    save_model(tmp_path / "teacher", teacher())
    target = tmp_path / "c"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "teacher"), str(target)]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr.decode()
    left = read_manifest(target)
    assert 0 < len(left.missing()) < left.shards
    with pytest.raises(CheckpointError, match=r"not complete.*cache-targets.*--resume"):
        TargetCache.open(target)
    (target / ".targets-00009.npy.abc.partial").write_bytes(b"half")
    places = []
    write(target, resume=True, progress=lambda done, total: places.append(done))
    assert places[0] == left.positions - sum(high - low for low, high in map(left.span, left.missing()))
    assert contents(target) == contents(whole)


def test_damage_is_found_and_mended(tmp_path, whole):
    target = write(tmp_path / "c")
    before = contents(target)
    path = target / "targets-00001.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 0xFF
    path.write_bytes(data)
    write(target, resume=True)  # content is read where a cache is gone on with
    assert contents(target) == before
    path.write_bytes(data[:-40])
    with pytest.raises(CheckpointError, match=r"targets-00001.npy is damaged.*--resume"):
        TargetCache.open(target)
    (target / "targets-00000.npy").unlink()
    with pytest.raises(CheckpointError, match=r"targets-00000.npy is damaged.*--resume"):
        TargetCache.open(target)
    write(target, resume=True)
    assert contents(target) == before
    TargetCache.open(target)
    (target / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"tokenizer.json is missing or damaged.*--resume"):
        TargetCache.open(target)


# --- what is refused ---------------------------------------------------------------------------------------


def test_targets_of_something_else_are_refused(whole):
    cache = TargetCache.open(whole)
    right = {"corpus": ORIGIN.corpus, "tokenizer": ORIGIN.tokenizer}
    cache.check(**right)
    cache.check(**right, windows="stream")
    wrong = {
        "another tokenizer": {**right, "tokenizer": "x"},
        "the training split of runs/a, not": {**right, "corpus": "x"},
        "--windows stream, but the student reads --windows document": {**right, "windows": "document"},
    }
    for message, given_ in wrong.items():
        with pytest.raises(ConfigError) as caught:
            cache.check(**given_, run="runs/mine")
        assert message in str(caught.value)
        assert f"edgetext cache-targets runs/a --run runs/mine -o {whole} --top-k 8" in str(caught.value)
        assert str(caught.value).endswith("--force")


def test_the_fingerprint_follows_the_content(tmp_path, whole):
    first = TargetCache.open(whole)
    assert TargetCache.open(write(tmp_path / "same")).fingerprint == first.fingerprint
    other = TargetCache.open(write(tmp_path / "other", teacher(LSTM, 1)))
    assert other.fingerprint != first.fingerprint
    assert first.teacher == LSTM
    assert first.tokenizer == TOKENIZER


def test_directories_are_not_overwritten(tmp_path):
    target = write(tmp_path / "c")
    before = contents(target)
    with pytest.raises(CheckpointError, match=r"--resume.*--force"):
        write(target)
    with pytest.raises(ConfigError, match="give one of them"):
        write(target, resume=True, force=True)
    for options in ({"top_k": 4}, {"windows": "document"}, {"precision": "bf16"}, {"hidden": True}):
        with pytest.raises(CheckpointError, match="was started with another"):
            write(target, resume=True, **options)
    write(target, resume=True, shard_mb=1.0)  # files have the size they were begun with
    assert contents(target) == before
    write(target, force=True, top_k=4)
    assert TargetCache.open(target).top_k == 4
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letters.txt").write_text("mine")
    for flags in ({}, {"resume": True}, {"force": True}):
        with pytest.raises(CheckpointError, match="not a target cache"):
            write(foreign, **flags)
    assert contents(foreign) == {"letters.txt": b"mine"}


def test_another_teachers_targets_are_not_gone_on_with(tmp_path):
    target = write(tmp_path / "c")
    other = replace(ORIGIN, weights=("x" * 64,), run="elsewhere")
    chosen = CacheSettings(top_k=8, precision="fp32", shard_mb=SMALL_SHARDS)
    with pytest.raises(CheckpointError, match="another origin"):
        write_cache(teacher(), documents(), target, chosen, origin=other, tokenizer=TOKENIZER, resume=True)


def test_settings_that_cannot_work_name_their_flag(tmp_path):
    for options, message in (
        ({"top_k": V + 1}, f"--top-k {V}"),
        ({"top_k": 0}, "--top-k"),
        ({"windows": "pages"}, "--windows"),
        ({"context": 1}, "--context"),
        ({"model": teacher(TRANSFORMER), "context": 25}, "--context 24"),
        ({"shard_mb": 0}, "--shard-mb"),
        ({"model": EnsembleGenerator([teacher(), teacher()]), "hidden": True}, "--hidden"),
    ):
        with pytest.raises(ConfigError, match=message):
            write(tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


def test_a_cache_that_does_not_fit_the_disk_is_not_begun(tmp_path):
    endless = np.broadcast_to(np.uint16(3), (10**14,))
    with pytest.raises(ConfigError, match=r"GB free.*--top-k"):
        write(tmp_path / "c", None, endless, shard_mb=1e8)
    assert not (tmp_path / "c").exists()


def test_a_teacher_out_of_its_numbers_is_an_error(tmp_path):
    model = teacher()
    model.head.bias.data[4] = torch.nan
    with pytest.raises(TrainingError, match="not finite"):
        write(tmp_path / "c", model)


def test_manifests_that_are_none(tmp_path, whole):
    with pytest.raises(CheckpointError, match=r"not a target cache.*edgetext cache-targets"):
        TargetCache.open(tmp_path)
    good = read_manifest(whole).to_dict()
    for change, message in (
        ({"format_version": 99}, "format version 99"),
        ({"format": "other"}, "not the manifest"),
        ({"positions": 0}, "damaged"),
        ({"origin": {}}, "damaged"),
        ({"files": []}, "damaged"),
    ):
        with pytest.raises(CheckpointError, match=message):
            Manifest.from_dict({**good, **change}, tmp_path)
