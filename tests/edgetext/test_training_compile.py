"""Training with torch.compile: the same weights, saved under their own names."""

import shutil
from collections.abc import Mapping

import pytest
import torch
from accelerate import Accelerator
from distributed_worker import LSTM, STREAM, VOCABULARY, Reading
from safetensors.torch import load_file
from torch import nn

from edgetext.models import build_model
from edgetext.models.presets import resolve_model
from edgetext.training.data import consecutive_windows
from edgetext.training.loop import train
from edgetext.training.players import compiled
from edgetext.training.settings import LoopSettings

SHAPE = "transformer,hidden=8,layers=1,heads=1,kv_heads=1,ffn=8,context=16,tied=true"


class Compiled(Reading):
    """Remembers what it was given to train with."""

    def prepare(self, players: Mapping[str, nn.Module], device: torch.device) -> None:
        super().prepare(players, device)
        self.given = players["generator"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_training_ends_with_the_same_weights(tmp_path):
    results = {}
    for compile_it in (False, True):
        task = Compiled(SHAPE, 1)
        task.validation = consecutive_windows(STREAM[:129], 16, 8)  # of one shape with the batches
        loop = LoopSettings(steps=3, batch_size=8, sequence_length=16, compile=compile_it, warmup_steps=1)
        directory = tmp_path / str(compile_it)
        results[compile_it] = train(task, loop, directory, fingerprint="x", accelerator=Accelerator())
        assert hasattr(task.given, "_orig_mod") == compile_it
    plain, fast = (load_file(tmp_path / str(flag) / "model") for flag in (False, True))
    assert plain.keys() == fast.keys()
    for name, weight in plain.items():
        assert torch.allclose(weight, fast[name], atol=1e-5)
    assert results[True].best_score == pytest.approx(results[False].best_score, rel=1e-5)


def test_recurrent_models_are_left_to_their_fused_kernels():
    model = build_model(resolve_model(LSTM, VOCABULARY))
    assert compiled({"generator": model})["generator"] is model
