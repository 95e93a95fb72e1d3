"""Small teachers, streams and caches of their targets."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from edgetext.distill.cache import CacheSettings, Origin, write_cache
from edgetext.models import ModelConfig, build_model

V = 50
TOKENIZER = b'{"kind": "of a test"}'
ORIGIN = Origin("runs/a", "c" * 64, hashlib.sha256(TOKENIZER).hexdigest(), ("runs/a",), ("w" * 64,))
LSTM = ModelConfig("lstm", V, 12, 16, 2)
TRANSFORMER = ModelConfig("transformer", V, 16, 16, 2, heads=2, kv_heads=1, ffn=24, context=24, tied=True)
SMALL_SHARDS = 0.004  # megabytes


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
    ids, log_probs, log_tail = (part[mask] for part in sparse[:3])  # [N,K], [N,K], [N]
    live = logits[mask].double().log_softmax(-1)
    K = ids.shape[-1]
    torch.testing.assert_close(live.gather(-1, ids), log_probs.double(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(live.topk(K).values, log_probs.double(), rtol=1e-3, atol=1e-4)
    rest = live.scatter(-1, ids, -torch.inf).logsumexp(-1)
    torch.testing.assert_close(rest, log_tail.double(), rtol=1e-3, atol=1e-4)
