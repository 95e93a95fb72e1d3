"""Real step graphs of a few kilobytes, written node by node, and bundles around them.

They are independent of the exporter on purpose: the runtime is tested against the definition of the step
graph, not against the other implementation of it.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgetext.tokenization import tokenizer_document
from edgetext_runtime.manifest import Manifest, StateTensor
from edgetext_runtime.tokenizer_format import byte_alphabet

ALPHABET = "abcdefghijklmnopqrstuvwxyz .,\né—😀"
CONTEXT = 24
_SAMPLING = {"temperature": TensorProto.FLOAT, "top_p": TensorProto.FLOAT, "min_p": TensorProto.FLOAT}


def char_tokenizer() -> bytes:
    vocabulary = ["<eos>", "<pad>", "<unk>", *ALPHABET]
    model = {"type": "WordLevel", "vocab": {t: i for i, t in enumerate(vocabulary)}, "unk_token": "<unk>"}
    return json.dumps(tokenizer_document("char", model)).encode()


def byte_tokenizer() -> bytes:
    """Byte-level BPE without merges: every token is a byte, so characters arrive in parts."""
    vocabulary = ["<eos>", "<pad>", *byte_alphabet()]
    model = {"type": "BPE", "vocab": {t: i for i, t in enumerate(vocabulary)}, "merges": []}
    return json.dumps(tokenizer_document("bpe", model)).encode()


class _Graph:
    """Nodes and weights of a model under construction."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, *shape: int, scale: float = 1.0) -> str:
        return self.constant(name, (self.random.standard_normal(shape) * scale).astype(np.float32))

    def constant(self, name: str, value: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, inputs: list[str], *outputs: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, list(outputs), domain=domain, **attributes))
        return outputs[0]

    def head(self, hidden: str, width: int, vocab: int) -> None:
        """Logits at the positions: hidden [B,T,width] → logits [B,n,V]."""
        self.weight("head", width, vocab, scale=1.5)
        self.op("Gather", [hidden, "positions"], "wanted", axis=1)
        self.op("MatMul", ["wanted", "head"], "logits")

    def sample(self) -> None:
        """The next token after the last position: logits [B,n,V] → next_token [B,1]."""
        self.constant("minus_one", np.int64(-1))
        self.constant("one", np.array([1]))
        self.op("Gather", ["logits", "minus_one"], "last", axis=1)  # [B,V]
        self.op("TopK", ["last", "top_k"], "values", "ids", axis=1)
        self.op("Div", ["values", "temperature"], "scaled")
        self.op("Softmax", ["scaled"], "p", axis=1)
        self.op("CumSum", ["p", "one"], "c")
        self.op("Sub", ["c", "p"], "before")
        self.op("Less", ["before", "top_p"], "within")
        self.op("ReduceMax", ["p"], "p0", axes=[1], keepdims=1)
        self.op("Mul", ["p0", "min_p"], "floor")
        self.op("GreaterOrEqual", ["p", "floor"], "likely")
        self.op("And", ["within", "likely"], "keep")
        self.constant("none", np.float32(0))
        self.op("Where", ["keep", "c", "none"], "kept")
        self.op("ReduceMax", ["kept"], "total", axes=[1], keepdims=1)
        self.op("Unsqueeze", ["uniform", "one"], "u")
        self.op("Mul", ["u", "total"], "threshold")
        self.op("LessOrEqual", ["c", "threshold"], "passed")
        self.op("Cast", ["passed"], "counted", to=TensorProto.INT64)
        self.op("ReduceSum", ["counted", "one"], "index", keepdims=1)
        self.op("GatherElements", ["ids", "index"], "next_token", axis=1)

    def build(self, vocab: int, state: tuple[StateTensor, ...]) -> bytes:
        info = helper.make_tensor_value_info
        inputs = [
            info("tokens", TensorProto.INT64, ["batch", "time"]),
            info("positions", TensorProto.INT64, ["n"]),
            info("top_k", TensorProto.INT64, [1]),
            *(info(name, dtype, [1]) for name, dtype in _SAMPLING.items()),
            info("uniform", TensorProto.FLOAT, ["batch"]),
            *(info(s.input, TensorProto.FLOAT, s.shape) for s in state),
        ]
        if any(s.kind == "kv_cache" for s in state):
            inputs.append(info("past_length", TensorProto.INT64, [1]))
        outputs = [
            info("next_token", TensorProto.INT64, ["batch", 1]),
            info("logits", TensorProto.FLOAT, ["batch", "n", vocab]),
            *(info(s.output, TensorProto.FLOAT, s.shape) for s in state),
        ]
        graph = helper.make_graph(self.nodes, "tiny", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def lstm_model(vocab: int, hidden: int = 16, seed: int = 0) -> tuple[bytes, tuple[StateTensor, ...]]:
    """One LSTM layer as wide as its embedding."""
    g = _Graph(seed)
    g.op("Gather", [g.weight("embedding", vocab, hidden), "tokens"], "x")  # [B,T,H]
    g.op("Transpose", ["x"], "x_time_first", perm=[1, 0, 2])
    g.weight("w", 1, 4 * hidden, hidden)
    g.weight("r", 1, 4 * hidden, hidden, scale=0.5)
    zero = g.constant("zero", np.array([0]))
    g.op("Unsqueeze", ["past.h.0", zero], "h0")
    g.op("Unsqueeze", ["past.c.0", zero], "c0")
    lstm_inputs = ["x_time_first", "w", "r", "", "", "h0", "c0"]
    g.op("LSTM", lstm_inputs, "y", "h1", "c1", hidden_size=hidden)
    g.op("Squeeze", ["h1", zero], "present.h.0")
    g.op("Squeeze", ["c1", zero], "present.c.0")
    g.op("Squeeze", ["y", g.constant("direction", np.array([1]))], "y_time_first")
    g.head(g.op("Transpose", ["y_time_first"], "hidden", perm=[1, 0, 2]), hidden, vocab)
    g.sample()
    state = tuple(StateTensor(f"past.{s}.0", f"present.{s}.0", ("batch", hidden)) for s in "hc")
    return g.build(vocab, state), state


def attention_model(vocab: int, seed: int = 0) -> tuple[bytes, tuple[StateTensor, ...]]:
    """One attention layer (2 heads of 16) with a rotary embedding and KV caches written in place."""
    heads, size = 2, 16
    width = heads * size
    g = _Graph(seed)
    g.op("Gather", [g.weight("embedding", vocab, width), "tokens"], "x")  # [B,T,H]
    for name in "qkv":
        g.op("MatMul", ["x", g.weight(f"w{name}", width, width, scale=0.5)], name)
    g.op("Shape", ["tokens"], "time", start=1, end=2)
    g.op("Add", ["past_length", "time"], "length")
    g.constant("unit", np.array([1]))
    g.op("Sub", ["length", "unit"], "length_less_one")
    g.op("Shape", ["tokens"], "batch_size", start=0, end=1)
    g.op("Expand", ["length_less_one", "batch_size"], "lengths")
    g.op("Cast", ["lengths"], "seqlens_k", to=TensorProto.INT32)
    g.op("Cast", ["length"], "length32", to=TensorProto.INT32)
    scalar = g.constant("scalar", np.array([], np.int64))
    g.op("Reshape", ["length32", scalar], "total_sequence_length")
    angles = np.outer(np.arange(CONTEXT), 100.0 ** -np.linspace(0, 1, size // 2)).astype(np.float32)
    inputs = ["q", "k", "v", "past.key.0", "past.value.0", "seqlens_k", "total_sequence_length"]
    inputs += [g.constant("cos", np.cos(angles)), g.constant("sin", np.sin(angles))]
    g.op(
        "GroupQueryAttention",
        inputs,
        "attended",
        "present.key.0",
        "present.value.0",
        domain="com.microsoft",
        num_heads=heads,
        kv_num_heads=heads,
        do_rotary=1,
    )
    g.head(g.op("Add", ["x", "attended"], "hidden"), width, vocab)
    g.sample()
    shape = ("batch", heads, "context", size)
    state = tuple(
        StateTensor(f"past.{s}.0", f"present.{s}.0", shape, kind="kv_cache") for s in ("key", "value")
    )
    return g.build(vocab, state), state


def echo_model(vocab: int) -> tuple[bytes, tuple[StateTensor, ...]]:
    """Logits are the state, whatever the tokens: shows the sampling of any logits."""
    g = _Graph(0)
    g.op("Unsqueeze", ["past.h.0", g.constant("axis", np.array([1]))], "logits")
    g.op("Identity", ["past.h.0"], "present.h.0")
    g.sample()
    state = (StateTensor("past.h.0", "present.h.0", ("batch", vocab)),)
    return g.build(vocab, state), state


def manifest(vocab: int, state: tuple[StateTensor, ...], **changes: Any) -> Manifest:
    cached = any(s.kind == "kv_cache" for s in state)
    fields: dict[str, Any] = {
        "name": "tiny",
        "created_by": "edgetext tests",
        "architecture": "transformer" if cached else "lstm",
        "config": {"layers": 1},
        "precision": "fp32",
        "quantisation": {"recipe": "none"},
        "parameters": 1000,
        "vocab_size": vocab,
        "context_length": CONTEXT if cached else None,
        "special_tokens": {"eos": 0, "pad": 1, "unk": 2},
        "opset": 17,
        "ort_floor": "1.23",
        "state": state,
        "provenance": {},
        "licence": "Apache-2.0",
    }
    return Manifest(**{**fields, **changes})


def members(model: bytes, tokenizer: bytes, **changes: bytes) -> Mapping[str, bytes]:
    generation = {"temperature": 0.9, "top_k": 0, "top_p": 0.95, "min_p": 0.0, "max_new_tokens": 32}
    contents = {
        "model.onnx": model,
        "tokenizer.json": tokenizer,
        "generation.json": json.dumps(generation).encode(),
        "quality.json": b"{}",
        "golden.json": b'{"cases": []}',
        "CARD.md": b"# tiny\n",
    }
    return {**contents, **changes}
