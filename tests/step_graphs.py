"""Generators of every shape with random weights, their step graphs, and how both are asked."""

from dataclasses import replace

import numpy as np
import torch

from edgetext.checkpoint import model_tensors
from edgetext.models import ModelConfig, build_model
from edgetext_export import build_step_graph
from edgetext_runtime.manifest import Manifest
from edgetext_runtime.sampling import SamplingParams
from edgetext_runtime.session import StepSession

LSTM = ModelConfig("lstm", 67, 32, 48, 2, tied=True)
TRANSFORMER = ModelConfig("transformer", 67, 32, 32, 2, heads=4, kv_heads=2, ffn=48, context=24, tied=True)
GRU = replace(LSTM, kind="gru")
CONFIGS = {
    "lstm, tied, projected": LSTM,
    "lstm, untied": replace(LSTM, tied=False),
    "lstm, one layer, no projection": replace(LSTM, layers=1, hidden=32),
    "lstm, widths no block divides": replace(LSTM, embedding=21, hidden=35),
    "gru, tied, projected": GRU,
    "gru, untied, one layer, no projection": replace(GRU, layers=1, hidden=32, tied=False),
    "gru, widths no block divides": replace(GRU, embedding=21, hidden=35),
    "transformer, tied, grouped": TRANSFORMER,
    "transformer, untied, one key head": replace(TRANSFORMER, tied=False, kv_heads=1),
    "transformer, no groups, one layer": replace(TRANSFORMER, kv_heads=4, layers=1),
    "transformer, heads the kernel takes as they are": replace(TRANSFORMER, heads=2, kv_heads=1),
    "transformer, bottleneck": replace(TRANSFORMER, bottleneck=16, heads=2),
    "transformer, bottleneck with padded heads": replace(TRANSFORMER, bottleneck=12, heads=2, kv_heads=1),
    "transformer, widths no block divides": replace(TRANSFORMER, embedding=36, hidden=36, heads=2, ffn=41),
}
GREEDY = SamplingParams(temperature=0)


def make(config, precision):
    """A torch generator with lively weights, and a session of its step graph."""
    model = lively(config)
    graph = build_step_graph(config, weights_of(model), precision)
    return model, StepSession(graph.model, manifest_of(config, graph))


def lively(config):
    """A torch generator whose distributions are not flat."""
    torch.manual_seed(3)
    model = build_model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def weights_of(model):
    return {name: tensor.numpy() for name, tensor in model_tensors(model).items()}


def manifest_of(config, graph):
    return Manifest(
        name="test",
        created_by="test",
        architecture=config.kind,
        config=config.to_dict(),
        precision=graph.precision,
        quantisation=graph.quantisation,
        parameters=config.parameters(),
        vocab_size=config.vocab_size,
        context_length=config.context or None,
        special_tokens={"eos": 0, "pad": 1, "unk": None},
        opset=graph.opset,
        ort_floor="1.23",
        state=graph.state,
        provenance={},
        licence="none",
    )


def tokens_for(config, batch=1, time=11):
    return np.random.default_rng(5).integers(0, config.vocab_size, (batch, time))


def reference(model, tokens):
    with torch.no_grad():
        return model(torch.from_numpy(tokens)).logits.numpy()


def run(session, tokens, state, positions):
    uniform = np.zeros(len(tokens), np.float32)
    return session.run(
        tokens, state, sampling=GREEDY, uniform=uniform, positions=np.array(positions), want_logits=True
    )
