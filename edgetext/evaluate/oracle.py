"""The synthetic oracle of SeqGAN (Yu et al. 2017): an LSTM with random weights whose text is the "real" text.

It knows the exact likelihood of whatever a student writes: NLL_oracle measures quality alone, so it stands
beside the student's own NLL of the oracle's text (diversity).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgetext.errors import CheckpointError

LENGTH = 20
"""Tokens of a text in the published tables (the other is 40)."""
START = 0
"""The token before the first."""
_GATES = {"input": "i", "forget": "f", "cell": "c", "output": "og"}  # torch's order → the files' letters


class Oracle(nn.Module):
    """Embedding, one LSTM layer, output layer; texts have a fixed length and no end."""

    def __init__(self, vocab_size: int, width: int, hidden: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, width)
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Linear(hidden, vocab_size)

    @torch.no_grad()
    def sample(self, count: int, seed: int, length: int = LENGTH) -> Tensor:
        """Draw texts [count, length] of ids."""
        random = torch.Generator().manual_seed(seed)
        token, state = torch.full((count, 1), START), None
        columns = []
        for _ in range(length):
            y, state = self.lstm(self.embedding(token), state)
            token = torch.multinomial(self.head(y[:, 0]).softmax(-1), 1, generator=random)
            columns.append(token)
        return torch.cat(columns, 1)

    @torch.no_grad()
    def nll(self, texts: Tensor) -> Tensor:
        """Nats per token of every text: [N,T] → [N]."""
        parts = []
        for start in range(0, len(texts), 512):
            part = texts[start : start + 512]
            inputs = torch.cat([torch.full((len(part), 1), START), part[:, :-1]], 1)
            logits = self.head(self.lstm(self.embedding(inputs))[0])  # [B,T,V]
            parts.append(nn.functional.cross_entropy(logits.transpose(1, 2), part, reduction="none").mean(1))
        return torch.cat(parts)


def load_oracle(directory: Path) -> Oracle:
    """Read the fifteen arrays (embedding, w·, u·, b· per gate, wo, bo). Raises CheckpointError."""

    def read(name: str) -> Tensor:
        path = directory / f"{name}.npz"
        try:
            array = np.load(path, allow_pickle=False)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise CheckpointError(f"{path} is not an array of the SeqGAN oracle: {error}") from error
        if not isinstance(array, np.ndarray):
            raise CheckpointError(f"{path} is an archive of arrays; the oracle's files hold one array each")
        return torch.from_numpy(np.asarray(array, np.float32))

    table, head = read("embedding"), read("wo")
    if table.ndim != 2 or head.ndim != 2:
        raise CheckpointError(f"the embedding and wo in {directory} must be matrices to be an oracle's")
    oracle = Oracle(table.shape[0], table.shape[1], head.shape[0])
    with torch.no_grad():
        try:
            oracle.embedding.weight.copy_(table)
            oracle.head.weight.copy_(head.T)
            oracle.head.bias.copy_(read("bo"))
            for target, letter in (("weight_ih", "w"), ("weight_hh", "u")):
                gates = [read(f"{letter}{gate}").T for gate in _GATES.values()]
                _parameter(oracle, target).copy_(torch.cat(gates))
            _parameter(oracle, "bias_ih").copy_(torch.cat([read(f"b{gate}") for gate in _GATES.values()]))
            _parameter(oracle, "bias_hh").zero_()
        except RuntimeError as error:
            raise CheckpointError(f"{directory}: its arrays do not fit each other: {error}") from error
    return oracle.eval()


def _parameter(oracle: Oracle, name: str) -> Tensor:
    """A parameter of the LSTM's only layer."""
    return oracle.lstm.get_parameter(f"{name}_l0")


def oracle_ids(words: Sequence[Sequence[str]], vocab_size: int, length: int = LENGTH) -> Tensor:
    """Texts of at least `length` numbers as ids [N, length]; others are left out."""
    kept = []
    for row in words:
        head = row[:length]
        if len(head) == length and all(w.isdecimal() and int(w) < vocab_size for w in head):
            kept.append([int(w) for w in head])
    return torch.tensor(kept, dtype=torch.int64).reshape(-1, length)
