"""What the processes that tests/edgetext/test_distributed.py launches do, and one alone for comparison."""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from edgetext.distill.losses import hard_cross_entropy
from edgetext.errors import EdgetextError
from edgetext.evaluate.likelihood import likelihood
from edgetext.models import build_model
from edgetext.models.presets import resolve_model
from edgetext.training.data import WindowSampler, consecutive_windows
from edgetext.training.loop import Interrupted, Turn, train
from edgetext.training.processes import by_main, open_accelerator
from edgetext.training.settings import LoopSettings, OptimizerSettings

VOCABULARY = 40
LSTM = "lstm,embedding=12,hidden=16,layers=2,dropout=0.2"
TRANSFORMER = (
    "transformer,hidden=16,layers=2,heads=2,kv_heads=1,ffn=24,context=32,tied=true,dropout=0.1,bottleneck=0"
)
STREAM = (np.cumsum(np.random.default_rng(0).integers(0, 3, 4000)) % VOCABULARY).astype(np.uint16)


class Reading:
    """Maximum likelihood; half of the steps from the layers' outputs alone, if `unreached`."""

    name = "reading"
    shardable = True

    def __init__(self, shape: str, parts: int, *, unreached: bool = False, raw: bool = False) -> None:
        torch.manual_seed(1)
        self.model = build_model(resolve_model(shape, VOCABULARY))
        self.players: Mapping[str, nn.Module] = {"generator": self.model}
        self.optimizers = {"generator": OptimizerSettings(5e-3)}
        self.sampler, self.parts = WindowSampler(STREAM, 16, 8, seed=2), parts
        self.validation = consecutive_windows(STREAM[-400:], 16, 8)
        self.unreached, self.raw = unreached, raw

    def prepare(self, players: Mapping[str, nn.Module], device: torch.device) -> None:
        self.generator = self.model if self.raw else players["generator"]
        self.held = {name: share_held(module) for name, module in players.items()}

    def turns(self, step: int) -> Iterable[Turn]:
        yield Turn("generator", lambda part: self.loss(step, part))

    def loss(self, step: int, part: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        batch = self.sampler.batch(step, part, self.parts)
        output = self.generator(batch.tokens[:, :-1])
        if self.unreached and step % 2:
            return output.hidden[-1].square().mean() * batch.weight, {}
        loss = hard_cross_entropy(output.logits, batch.tokens[:, 1:], batch.mask) * batch.weight
        return loss, {"hard": loss.detach()}

    def tokens(self) -> int:
        return 8 * 16

    def windows_per_pass(self) -> int:
        return self.sampler.windows

    def validate(self) -> Mapping[str, float]:
        return {"score": likelihood(self.generator, self.validation).nll}

    def save(self, directory: Path) -> None:
        save_file({n: p.detach().clone() for n, p in self.model.named_parameters()}, directory / "model")


def share_held(module: nn.Module) -> float:
    """Share of a module's weights that this process has in memory."""
    local = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in module.parameters())
    return local / sum(p.numel() for p in module.parameters())


class Game(Reading):
    """A second player judges outputs; the first is called several times in one move."""

    name = "game"
    shardable = False

    def __init__(self, shape: str, parts: int) -> None:
        super().__init__(shape, parts)
        self.critic: nn.Module = nn.Sequential(nn.Linear(16, 8), nn.Dropout(0.1), nn.Linear(8, 1))
        self.players = {"generator": self.model, "critic": self.critic}
        self.optimizers = {**self.optimizers, "critic": OptimizerSettings(1e-2)}

    def prepare(self, players: Mapping[str, nn.Module], device: torch.device) -> None:
        super().prepare(players, device)
        self.judge = players["critic"]

    def turns(self, step: int) -> Iterable[Turn]:
        yield Turn("critic", lambda part: self.verdict(step, part, -1.0))
        yield Turn("generator", lambda part: self.move(step, part))

    def verdict(self, step: int, part: int, sign: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        tokens = self.sampler.batch(step, part, self.parts).tokens
        with torch.set_grad_enabled(sign > 0):
            first = self.generator(tokens[:, :6])
            second = self.generator(tokens[:, 6:9], first.state)
        return sign * self.judge(second.hidden[-1]).tanh().mean(), {}

    def move(self, step: int, part: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        likelihood_loss, figures = self.loss(step, part)
        return likelihood_loss + self.verdict(step, part, 1.0)[0], figures


class Learning(Reading):
    """A frozen teacher is read as well."""

    name = "learning"

    def __init__(self, shape: str, parts: int) -> None:
        super().__init__(shape, parts)
        torch.manual_seed(9)
        self.frozen = {"teacher": build_model(resolve_model(TRANSFORMER, VOCABULARY))}

    def prepare(self, players: Mapping[str, nn.Module], device: torch.device) -> None:
        super().prepare(players, device)
        self.teacher = players["teacher"]

    def loss(self, step: int, part: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        loss, figures = super().loss(step, part)
        tokens = self.sampler.batch(step, part, self.parts).tokens[:, :-1]
        with torch.no_grad():
            target = self.teacher(tokens).logits.softmax(-1)
        return loss - (target * self.generator(tokens).logits.log_softmax(-1)).sum(-1).mean(), figures


CASES = {
    "plain": (Reading, LSTM, {}, {}),
    "accumulated": (Reading, TRANSFORMER, {}, {"accumulation": 2}),
    "unreached": (Reading, LSTM, {"unreached": True}, {}),
    "game": (Game, LSTM, {}, {"accumulation": 2}),
    "split": (Reading, TRANSFORMER, {}, {"shard": True}),
    "split-lstm": (Reading, LSTM, {"unreached": True}, {"shard": True, "accumulation": 2}),
    "split-teacher": (Learning, LSTM, {}, {"shard": True}),
    "drift": (Reading, LSTM, {"raw": True}, {}),
    "diverging": (Reading, LSTM, {}, {"rate": 1e30}),
    "stopped": (Reading, LSTM, {}, {"steps": 150}),
    "split-stopped": (Reading, TRANSFORMER, {}, {"steps": 150, "shard": True}),
}
"""What is trained, and with which settings."""


def run_case(case: str, directory: Path, processes: int) -> dict[str, object]:
    """Train a case on so many processes' worth of parts; returns what came of it, or the error."""
    return train_case(case, directory, processes)[0]


def train_case(case: str, directory: Path, processes: int) -> tuple[dict[str, object], Reading]:
    """Train a case as `run_case` does; returns the task as well."""
    kind, shape, options, given = CASES[case]
    accelerator = open_accelerator("fp32")
    settings = {"accumulation": 1, "steps": 8, **given}
    settings["accumulation"] *= processes // accelerator.num_processes
    rate = settings.pop("rate", None)
    loop = LoopSettings(
        **settings, batch_size=8, sequence_length=16, warmup_steps=2, validate_every=4, checkpoint_every=3
    )
    task = kind(shape, loop.parts(accelerator.num_processes), **options)
    if rate:
        task.optimizers = {"generator": OptimizerSettings(rate)}
    try:
        result = train(task, loop, directory / case, fingerprint=case, accelerator=accelerator)
    except (EdgetextError, Interrupted) as error:
        return {"error": f"{type(error).__name__}: {error}"}, task
    figures = {"steps": result.steps, "best_step": result.best_step, "best_score": result.best_score}
    return figures, task


def main() -> None:
    """Run the named cases in every launched process."""
    directory, *cases = sys.argv[1:]
    rank = os.environ["RANK"]
    out = Path(directory)
    (out / f"pid-{rank}").write_text(str(os.getpid()))
    results: dict[str, object] = {}
    for case in cases:
        results[case], task = train_case(case, out, processes=2)
        results[f"{case} held"] = task.held
    accelerator = open_accelerator("fp32")
    results["main"] = by_main(accelerator, lambda: f"done by {rank}")
    try:
        by_main(accelerator, lambda: LoopSettings(steps=int(rank)))
    except EdgetextError as error:
        results["refused"] = f"{type(error).__name__}: {error}"
    (out / f"results-{rank}.json").write_text(json.dumps(results))
    accelerator.end_training()


if __name__ == "__main__":
    main()
