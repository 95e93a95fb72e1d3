"""Batches are pure functions of seed and step; evaluation windows use every token once."""

import numpy as np
import pytest
import torch

from edgetext.errors import CorpusError
from edgetext.training.data import (
    DocumentSampler,
    WindowSampler,
    consecutive_windows,
    document_windows,
    evaluation_rows,
    open_stream,
)

STREAM = np.arange(1000, dtype=np.uint16)


def test_a_batch_depends_on_seed_and_step_only():
    first, second = (WindowSampler(STREAM, 20, 4, seed=3) for _ in range(2))
    for step in (7, 0, 30, 7):
        assert torch.equal(first.batch(step).tokens, second.batch(step).tokens)
    other = WindowSampler(STREAM, 20, 4, seed=4)
    assert not torch.equal(first.batch(0).tokens, other.batch(0).tokens)


def test_an_epoch_sees_every_window_once():
    sampler = WindowSampler(STREAM, 20, 4, seed=0)
    steps = int(sampler.windows / 4)
    starts = torch.cat([sampler.batch(step).starts for step in range(steps)])
    assert len(set(starts.tolist())) == 4 * steps
    assert len(set((starts % 20).tolist())) == 1


def test_windows_are_runs_of_the_stream():
    batch = WindowSampler(STREAM, 20, 4, seed=0).batch(5)
    assert batch.tokens.shape == (4, 21)
    assert batch.mask.all()
    assert torch.equal(batch.tokens, batch.starts[:, None] + torch.arange(21))


def test_parts_make_up_the_batch():
    sampler = WindowSampler(STREAM, 20, 6, seed=0)
    parts = [sampler.batch(3, part, 3) for part in range(3)]
    assert torch.equal(torch.cat([part.tokens for part in parts]), sampler.batch(3).tokens)


def test_a_stream_too_short_for_a_window_is_refused():
    with pytest.raises(CorpusError, match="too few"):
        WindowSampler(STREAM[:30], 20, 4, seed=0)


@pytest.mark.parametrize("limit", [None, 250])
def test_evaluation_predicts_every_token_once(limit):
    targets = []
    for tokens, mask, _ in consecutive_windows(STREAM, 64, 3, limit):
        assert tokens.shape[1] == mask.shape[1] + 1
        targets += tokens[:, 1:][mask].tolist()
    assert targets == list(range(1, 1000 if limit is None else limit + 1))


def test_a_damaged_stream_is_refused(tmp_path):
    (tmp_path / "train.npy").write_bytes(b"not numpy")
    with pytest.raises(CorpusError, match=r"train\.npy"):
        open_stream(tmp_path / "train.npy")
    np.save(tmp_path / "signed.npy", np.arange(4))
    with pytest.raises(CorpusError, match="int64"):
        open_stream(tmp_path / "signed.npy")


LENGTHS = [3, 1, 12, 5, 5, 9, 2, 7, 4, 6]
DOCUMENTS = np.concatenate([[0], *([*range(10, 10 + n), 0] for n in LENGTHS)]).astype(np.uint16)
"""Ten documents between boundaries."""


def test_documents_are_rows_from_boundary_to_boundary():
    sampler = DocumentSampler(DOCUMENTS, 20, 5, seed=1)
    seen = []
    for step in range(2):
        tokens, mask, starts, weight, _ = sampler.batch(step)
        assert weight == 1.0
        for row, real, start in zip(tokens.tolist(), mask.sum(1).tolist(), starts.tolist(), strict=True):
            assert row[: real + 1] == DOCUMENTS[start : start + real + 1].tolist()
            assert row[0] == row[real] == 0
            assert set(row[real + 1 :]) <= {1}
            seen.append(real - 1)
    assert sorted(seen) == sorted(LENGTHS)


def test_a_long_document_is_cut_into_rows_that_join():
    sampler = DocumentSampler(DOCUMENTS, 4, 1, seed=0)
    targets: list[int] = []
    rows = sorted((int(b.starts), b) for b in (sampler.batch(step) for step in range(sampler.windows)))
    for _, batch in rows:
        targets += batch.tokens[:, 1:][batch.mask].tolist()
    assert targets == DOCUMENTS[1:].tolist()


def test_shares_of_a_batch_of_documents_average_to_it():
    sampler = DocumentSampler(DOCUMENTS, 20, 10, seed=0)
    whole = sampler.batch(0)
    parts = [sampler.batch(0, part, 2) for part in range(2)]
    assert sorted(torch.cat([part.starts for part in parts]).tolist()) == sorted(whole.starts.tolist())
    means = [part.tokens[:, 1:][part.mask].float().mean() * part.weight for part in parts]
    assert torch.isclose(sum(means) / 2, whole.tokens[:, 1:][whole.mask].float().mean())


def test_fewer_documents_than_a_batch_are_refused():
    with pytest.raises(CorpusError, match="--batch-size"):
        DocumentSampler(DOCUMENTS, 20, 11, seed=0)


LONG = np.concatenate([[0, 7, 8, 0], np.full(50_000, 9), [0]]).astype(np.uint16)
"""A document of 3 targets and one of 50,001."""


@pytest.mark.parametrize(
    ("windows", "targets"), [("stream", 20_000), ("document", 3 + 156 * 128)], ids=["stream", "document"]
)
def test_a_limit_counts_targets_and_cuts_within_a_long_document(windows, targets):
    rows = evaluation_rows(LONG, 128, windows, 20_000)
    assert int(rows[:, 1].sum()) == targets
    cut = document_windows if windows == "document" else consecutive_windows
    assert sum(int(mask.sum()) for _, mask, _ in cut(LONG, 128, 32, 20_000)) == targets
    assert rows[1:, 0].tolist() == (rows[:-1, 0] + rows[:-1, 1]).tolist()


@pytest.mark.parametrize("windows", ["stream", "document"])
def test_evaluation_needs_a_target(windows):
    with pytest.raises(CorpusError, match="at least two tokens"):
        evaluation_rows(DOCUMENTS[:1], 8, windows)


def test_windows_of_a_stream_are_all_of_one_shape():
    shapes = {tokens.shape[1] for tokens, _, _ in consecutive_windows(STREAM, 64, 3, 1 + 3 * 64)}
    assert shapes == {65}


@pytest.mark.parametrize("limit", [None, 20])
def test_evaluation_by_document_predicts_every_token_once(limit):
    targets = []
    for tokens, mask, _ in document_windows(DOCUMENTS, 8, 3, limit):
        targets += tokens[:, 1:][mask].tolist()
    if limit is None:
        assert targets == DOCUMENTS[1:].tolist()
    else:
        assert 0 < len(targets) <= limit
        assert targets == DOCUMENTS[1 : 1 + len(targets)].tolist()
