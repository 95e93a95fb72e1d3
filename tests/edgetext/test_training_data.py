"""Batches are pure functions of seed and step; evaluation windows use every token once."""

import numpy as np
import pytest
import torch

from edgetext.errors import CorpusError
from edgetext.training.data import WindowSampler, consecutive_windows, open_stream

STREAM = np.arange(1000, dtype=np.uint16)


def test_a_batch_depends_on_seed_and_step_only():
    first, second = (WindowSampler(STREAM, 20, 4, seed=3) for _ in range(2))
    for step in (7, 0, 30, 7):
        assert torch.equal(first.batch(step), second.batch(step))
    assert not torch.equal(first.batch(0), WindowSampler(STREAM, 20, 4, seed=4).batch(0))


def test_an_epoch_sees_every_window_once():
    sampler = WindowSampler(STREAM, 20, 4, seed=0)
    steps = int(sampler.windows / 4)
    starts = torch.cat([sampler.batch(step)[:, 0] for step in range(steps)])
    assert len(set(starts.tolist())) == 4 * steps
    assert len(set((starts % 20).tolist())) == 1


def test_windows_are_runs_of_the_stream():
    batch = WindowSampler(STREAM, 20, 4, seed=0).batch(5)
    assert batch.shape == (4, 21)
    assert torch.equal(batch - batch[:, :1], torch.arange(21).expand(4, 21))


def test_parts_make_up_the_batch():
    sampler = WindowSampler(STREAM, 20, 6, seed=0)
    parts = [sampler.batch(3, part, 3) for part in range(3)]
    assert torch.equal(torch.cat(parts), sampler.batch(3))


def test_a_stream_too_short_for_a_window_is_refused():
    with pytest.raises(CorpusError, match="too few"):
        WindowSampler(STREAM[:30], 20, 4, seed=0)


@pytest.mark.parametrize("limit", [None, 250])
def test_evaluation_predicts_every_token_once(limit):
    targets = []
    for tokens, mask in consecutive_windows(STREAM, 64, 3, limit):
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
