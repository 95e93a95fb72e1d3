"""A neural referee: a small LSTM over words, trained to a fixed recipe, for final tables.

The Kneser–Ney referee sees three words at a time; this one sees whole sentences. It takes the place of
`KneserNey`: fit on real text it scores samples, fit on samples it scores held-out text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgetext.errors import ConfigError
from edgetext.models import ModelConfig, build_model
from edgetext.models.base import GeneratorModel

SHAPE = {"embedding": 96, "hidden": 192, "layers": 1, "tied": False, "dropout": 0.3}
EPOCHS, BATCH, RATE = 8, 32, 4e-3
"""The fixed recipe; a tenth of the texts chooses among the epochs."""


class NeuralReferee:
    """A trained word model; made by `fit`."""

    def __init__(self, model: GeneratorModel, start: int) -> None:
        self.model, self.start = model, start

    @classmethod
    def fit(cls, texts: Sequence[Sequence[int]], vocab_size: int, seed: int = 0) -> NeuralReferee:
        """Train on rows of word ids, ends included; the same rows and seed give the same model.

        Raises ConfigError for fewer than 20 texts.
        """
        rows = [list(row) for row in texts if len(row)]
        if len(rows) < 20:
            raise ConfigError(f"the neural referee needs 20 texts, there are {len(rows)}; raise --samples")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(ModelConfig("lstm", vocab_size + 1, **SHAPE))  # type: ignore[arg-type]
            referee = cls(model, vocab_size)
            referee._train(rows, np.random.default_rng(seed))
        return referee

    def _train(self, rows: list[list[int]], random: np.random.Generator) -> None:
        order = random.permutation(len(rows))
        held = [rows[i] for i in order[: len(rows) // 10]]
        kept = [rows[i] for i in order[len(rows) // 10 :]]
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=0.05)
        total = EPOCHS * -(-len(kept) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=total)
        best, weights = float("inf"), {k: v.clone() for k, v in self.model.state_dict().items()}
        for _ in range(EPOCHS):
            self.model.train()
            for start in range(0, len(kept), BATCH):
                chosen = [kept[i] for i in random.integers(len(kept), size=min(BATCH, len(kept) - start))]
                loss, mask = self._losses(chosen)
                optimizer.zero_grad()
                (loss.sum() / mask.sum()).backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            score = float(np.concatenate(self.token_nll(held)).mean())
            if score < best:
                best, weights = score, {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(weights)
        self.model.eval()

    @torch.no_grad()
    def token_nll(self, texts: Sequence[Sequence[int]]) -> list[NDArray[np.float64]]:
        """Nats of every token of every text."""
        self.model.eval()
        found: list[NDArray[np.float64]] = []
        for start in range(0, len(texts), 256):
            rows = [list(row) for row in texts[start : start + 256]]
            losses, _ = self._losses(rows)
            found += [losses[i, : len(row)].double().numpy() for i, row in enumerate(rows)]
        return found

    def _losses(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Cross-entropy [B,T] of rows padded at their end, zero there, and the mask."""
        width = max(1, *(len(row) for row in rows))
        tokens = torch.full((len(rows), width + 1), self.start)
        mask = torch.zeros(len(rows), width)
        for i, row in enumerate(rows):
            tokens[i, 1 : len(row) + 1] = torch.tensor(row, dtype=torch.int64)
            mask[i, : len(row)] = 1
        logits = self.model(tokens[:, :-1]).logits  # [B,T,V]
        return F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none") * mask, mask
