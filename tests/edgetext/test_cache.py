"""Cached targets: what the live teacher says, in windows, documents and with its state carried."""

import numpy as np
import pytest
import torch
from cache_cases import LSTM, TRANSFORMER, V, assert_same_distribution, documents, teacher, write
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetext.distill import cache_writer
from edgetext.distill.cache import TargetCache
from edgetext.distill.cache_writer import plan_rows
from edgetext.distill.losses import coarse_log_probs, forward_kl, sparse_log_probs
from edgetext.distill.targets import CachedTargets, LiveTargets
from edgetext.models import build_model
from edgetext.models.ensemble import EnsembleGenerator
from edgetext.training.data import DocumentSampler, WindowSampler, document_rows, pad_rows


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


def test_windows_of_a_stream_can_all_be_looked_up(tmp_path):
    cache = TargetCache.open(write(tmp_path / "c"))
    batch = WindowSampler(documents(), 30, 8, seed=3).batch(0)
    ids, log_probs, log_tail, _ = cache.lookup(batch.starts, 30)
    assert ids.shape == (8, 30, 8)
    assert ids.dtype == torch.int64
    mass = log_probs.exp().sum(-1) + log_tail.exp()
    torch.testing.assert_close(mass, torch.ones(8, 30), rtol=0, atol=2e-3)
    assert cache.tail_mass() == pytest.approx(float(everything_tail(cache)), rel=1e-3)


def everything_tail(cache):
    return cache.lookup(torch.tensor([0]), cache.positions).log_tail.exp().mean()


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
