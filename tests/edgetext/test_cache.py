"""Cached targets: what the live teacher says, in few bytes, killed, mended, refused and mapped."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetext.checkpoint import save_model
from edgetext.distill import cache_writer
from edgetext.distill.cache import CacheSettings, Origin, TargetCache, write_cache
from edgetext.distill.cache_format import Manifest, read_manifest, record_type, write_manifest
from edgetext.distill.cache_writer import plan_rows, top_targets
from edgetext.distill.losses import coarse_log_probs, forward_kl, sparse_log_probs
from edgetext.distill.targets import CachedTargets, LiveTargets
from edgetext.errors import CheckpointError, ConfigError, TrainingError
from edgetext.models import ModelConfig, build_model
from edgetext.models.ensemble import EnsembleGenerator
from edgetext.training.data import DocumentSampler, WindowSampler, document_rows, pad_rows

V = 50
TOKENIZER = b'{"kind": "of a test"}'
ORIGIN = Origin("runs/a", "c" * 64, hashlib.sha256(TOKENIZER).hexdigest(), ("runs/a",), ("w" * 64,))
LSTM = ModelConfig("lstm", V, 12, 16, 2)
TRANSFORMER = ModelConfig("transformer", V, 16, 16, 2, heads=2, kv_heads=1, ffn=24, context=24, tied=True)
SMALL_SHARDS = 0.004  # megabytes
LIMIT = 300  # bytes a token


def teacher(shape=LSTM, seed=0):
    torch.manual_seed(seed)
    model = build_model(shape)
    for parameter in model.parameters():  # far from uniform, so that a wrong context shows
        parameter.data.mul_(3.0)
    return model.eval()


def documents(count=60, seed=0, longest=20):
    """A stream of documents of ids 3 to V - 1, boundaries 0."""
    random = np.random.default_rng(seed)
    texts = [random.integers(3, V, random.integers(1, longest + 1)) for _ in range(count)]
    return np.concatenate([[0], *(np.append(text, 0) for text in texts)]).astype(np.uint16)


def write(directory, model=None, stream=None, **options):
    flags = {name: options.pop(name) for name in ("resume", "force", "progress") if name in options}
    chosen = CacheSettings(**{"top_k": 8, "precision": "fp32", "shard_mb": SMALL_SHARDS, **options})
    model, stream = model or teacher(), documents() if stream is None else stream
    write_cache(model, stream, directory, chosen, origin=ORIGIN, tokenizer=TOKENIZER, **flags)
    return directory


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def assert_same_distribution(sparse, logits, mask):
    """Stored targets are the top k of the live logits, within the rounding of float16."""
    ids, log_probs, log_tail = (part[mask] for part in sparse)  # [N,K], [N,K], [N]
    live = logits[mask].double().log_softmax(-1)
    K = ids.shape[-1]
    torch.testing.assert_close(live.gather(-1, ids), log_probs.double(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(live.topk(K).values, log_probs.double(), rtol=1e-3, atol=1e-4)
    rest = live.scatter(-1, ids, -torch.inf).logsumexp(-1)
    torch.testing.assert_close(rest, log_tail.double(), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A cache that nobody disturbed."""
    return write(tmp_path_factory.mktemp("cache") / "whole")


# --- what is stored ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [teacher(), teacher(TRANSFORMER), EnsembleGenerator([teacher(), teacher(TRANSFORMER, 1)]).eval()],
    ids=["lstm", "transformer", "ensemble"],
)
def test_documents_have_the_live_teachers_top_k(model, tmp_path):
    stream = documents()
    cache = TargetCache.open(write(tmp_path / "c", model, stream, windows="document"))
    assert cache.manifest.shards > 3  # so that rows cross from one shard to the next
    sampler = DocumentSampler(stream, 24, 16, seed=0)
    for step in range(3):
        batch = sampler.batch(step)
        with torch.no_grad():
            logits = model(batch.tokens[:, :-1]).logits
        assert_same_distribution(cache.lookup(batch.starts, batch.mask.shape[1]), logits, batch.mask)


def test_a_carried_state_sees_the_whole_stream_before(tmp_path, monkeypatch):
    model, stream = teacher(), documents()
    cache = TargetCache.open(write(tmp_path / "c", model, stream, shard_mb=1))
    with torch.no_grad():
        logits = model(torch.from_numpy(stream[None, :-1].astype(np.int64))).logits
    assert cache.manifest.context == 0
    everything = cache.lookup(torch.tensor([0]), len(stream) - 1)
    assert_same_distribution(everything, logits, torch.ones(1, len(stream) - 1, dtype=torch.bool))
    # In small chunks, side by side, the state is carried from one forward pass to the next.
    monkeypatch.setattr(cache_writer, "TOKENS_PER_FORWARD", 32)
    chunked = TargetCache.open(write(tmp_path / "d", model, stream, shard_mb=1))
    again = chunked.lookup(torch.tensor([0]), len(stream) - 1)
    assert_same_distribution(again, logits, torch.ones(1, len(stream) - 1, dtype=torch.bool))


def test_a_transformer_reads_overlapping_windows(tmp_path):
    model, stream = teacher(TRANSFORMER), documents()
    cache = TargetCache.open(write(tmp_path / "c", model, stream, shard_mb=1))
    C = TRANSFORMER.context
    assert cache.manifest.context == C
    tokens = torch.from_numpy(stream.astype(np.int64))
    with torch.no_grad():
        logits = model(tokens[C // 2 : C // 2 + C][None]).logits[:, C // 2 :]
    sparse = cache.lookup(torch.tensor([C]), C // 2)
    assert_same_distribution(sparse, logits, torch.ones(1, C // 2, dtype=torch.bool))


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    context=st.integers(2, 30),
    cut=st.integers(1, 50),
)
@settings(max_examples=60, deadline=None)
def test_every_position_is_read_once_with_half_a_window_before_it(lengths, context, cut):
    bounds = np.cumsum([0, *lengths])
    rows = [
        row
        for low in range(0, int(bounds[-1]), cut)
        for row in plan_rows(low, min(low + cut, int(bounds[-1])), bounds, context)
    ]
    kept = [place for row in rows for place in range(row.first, row.stop)]
    assert kept == list(range(int(bounds[-1])))
    for row in rows:
        bound = bounds[np.searchsorted(bounds, row.first, side="right") - 1]
        assert bound <= row.start <= row.first < row.stop <= row.start + context
        assert row.start == bound or row.first - row.start >= context // 2
        assert not np.any((bounds > row.start) & (bounds < row.stop))


def test_hidden_states_are_the_live_ones(tmp_path):
    model, stream = teacher(), documents()
    directory = write(tmp_path / "c", model, stream, windows="document", hidden=True)
    cache = TargetCache.open(directory)
    assert cache.has_hidden
    assert cache.manifest.hidden == (12, 16, 16)
    batch = DocumentSampler(stream, 24, 16, seed=0).batch(0)
    with torch.no_grad():
        live = model(batch.tokens[:, :-1]).hidden
    stored = cache.lookup_hidden(batch.starts, batch.mask.shape[1])
    assert len(stored) == 3
    for ours, theirs in zip(stored, live, strict=True):
        torch.testing.assert_close(ours[batch.mask], theirs[batch.mask], rtol=1e-3, atol=1e-4)


def test_top_targets_against_numpy():
    logits = np.random.default_rng(0).normal(0, 4, (20, V))
    ids, log_probs, log_tail = top_targets(torch.from_numpy(logits), 5)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    order = np.argsort(-p, axis=-1)
    np.testing.assert_array_equal(ids.numpy(), order[:, :5])
    np.testing.assert_allclose(np.exp(log_probs.numpy()), np.take_along_axis(p, order[:, :5], -1), rtol=1e-5)
    tail = np.take_along_axis(p, order[:, 5:], -1).sum(-1)
    np.testing.assert_allclose(np.exp(log_tail.numpy()), tail, rtol=1e-5)


def test_a_student_learns_the_same_from_the_cache(tmp_path):
    model, stream = teacher(), documents()
    student = teacher(LSTM, 5)
    batch = DocumentSampler(stream, 24, 16, seed=0).batch(0)
    logits = student(batch.tokens[:, :-1]).logits
    live = LiveTargets(model)(batch, internals=False).log_probs(logits)
    for top_k in (V, V - 1):
        cache = TargetCache.open(write(tmp_path / f"{top_k}", model, stream, windows="document", top_k=top_k))
        cached = CachedTargets(cache)(batch, internals=False).log_probs(logits)
        torch.testing.assert_close(
            forward_kl(*cached, batch.mask), forward_kl(*live, batch.mask), rtol=1e-3, atol=1e-4
        )


def test_rows_past_the_end_are_finite(tmp_path):
    stream = documents()
    cache = TargetCache.open(write(tmp_path / "c", None, stream, hidden=True))
    last = torch.tensor([len(stream) - 2])
    sparse = cache.lookup(last, 6)
    assert all(bool(torch.isfinite(part.float()).all()) for part in sparse)
    student = coarse_log_probs(torch.randn(1, 6, V), sparse.ids)
    assert torch.isfinite(sparse_log_probs(sparse, V) - student).all()
    assert torch.isfinite(torch.cat(cache.lookup_hidden(last, 6), dim=-1)).all()
    for start in (-1, len(stream) - 1):
        with pytest.raises(ValueError, match="starts at"):
            cache.lookup(torch.tensor([start]), 1)


def test_windows_of_a_stream_can_all_be_looked_up(whole):
    cache = TargetCache.open(whole)
    batch = WindowSampler(documents(), 30, 8, seed=3).batch(0)
    ids, log_probs, log_tail = cache.lookup(batch.starts, 30)
    assert ids.shape == (8, 30, 8)
    assert ids.dtype == torch.int64
    mass = log_probs.exp().sum(-1) + log_tail.exp()
    torch.testing.assert_close(mass, torch.ones(8, 30), rtol=0, atol=2e-3)
    assert cache.tail_mass() == pytest.approx(float(everything_tail(cache)), rel=1e-3)


def everything_tail(cache):
    return cache.lookup(torch.tensor([0]), cache.positions).log_tail.exp().mean()


# --- how it is stored --------------------------------------------------------------------------------------


def test_a_token_takes_less_than_three_hundred_bytes(tmp_path):
    stream = documents(3000)
    cache = TargetCache.open(write(tmp_path / "c", None, stream, top_k=32, shard_mb=1.0))
    assert cache.size == sum(len(data) for data in contents(tmp_path / "c").values())
    assert cache.size / cache.positions < 140
    assert record_type(32, 200_000).itemsize < LIMIT


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
        "another training split": {**right, "corpus": "x"},
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


def test_padding_of_a_batch_is_not_looked_at_outside_its_document(tmp_path):
    """Rows of different length: what lies behind a short one's end does not change its real targets."""
    model, stream = teacher(), documents()
    cache = TargetCache.open(write(tmp_path / "c", model, stream, windows="document"))
    rows = document_rows(stream, 24)[[3, 8, 11]]
    tokens, mask = pad_rows(stream, rows)
    with torch.no_grad():
        logits = model(tokens[:, :-1]).logits
    sparse = cache.lookup(torch.from_numpy(rows[:, 0].copy()), mask.shape[1])
    assert_same_distribution(sparse, logits, mask)


@pytest.mark.parametrize("shape", [LSTM, TRANSFORMER], ids=["lstm", "transformer"])
def test_half_precision_is_the_live_teachers_and_recorded(shape, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_writer, "TOKENS_PER_FORWARD", 32)  # an LSTM's state is carried in bf16 as well
    torch.manual_seed(0)
    model, stream = build_model(shape).eval(), documents()[: TRANSFORMER.context + 1]
    cache = TargetCache.open(write(tmp_path / "c", model, stream, precision="bf16"))
    assert cache.manifest.precision == "bf16"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.from_numpy(stream[None, :-1].astype(np.int64))).logits
    assert logits.dtype == torch.bfloat16
    live = logits.double().log_softmax(-1)
    sparse = cache.lookup(torch.tensor([0]), len(stream) - 1)
    torch.testing.assert_close(live.gather(-1, sparse.ids), sparse.log_probs.double(), rtol=0, atol=2e-2)
