"""Llama's and GPT-2's families in our names: weights and shape of what the native graph is written for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgetext_export.decoder import Activation, Decoder, Matrix

LLAMA_TYPES = ("llama", "mistral", "qwen2")
_GELU: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True)
class Converted:
    """A model in our names, still in its own order of ids."""

    shape: Decoder
    weights: dict[str, Tensor]


def convert(model: Any, context: int) -> Converted | None:
    """Return a ``transformers`` model in our names; None if the native graph is not written for it.

    Args:
        model: the model itself.
        context: most tokens the cache holds.
    """
    config = model.config
    families: dict[str, Callable[[Any, Mapping[str, Tensor], int], Converted | None]] = {
        **dict.fromkeys(LLAMA_TYPES, _llama),
        "gpt2": _gpt2,
    }
    family = families.get(config.model_type)
    if family is None:
        return None
    tensors = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
    return family(model, tensors, context)


def _llama(model: Any, tensors: Mapping[str, Tensor], context: int) -> Converted | None:
    """Llama's family: RMSNorm, rotary grouped-query attention, SwiGLU; biases where there are any."""
    config, rotary = model.config, model.model.rotary_emb
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    frequencies = tuple(rotary.inv_freq.double().tolist())
    if 2 * len(frequencies) != head_dim or config.hidden_act not in ("silu", "swish"):
        return None  # turns only a part of every head, or has another feed-forward
    parts = {
        "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.output": ("self_attn.o_proj",),
        "ffn.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "ffn.down": ("mlp.down_proj",),
    }
    named: tuple[Matrix, ...] = ("qkv", "output", "up", "down")
    biases = tuple(
        matrix
        for matrix, theirs in zip(named, parts.values(), strict=True)
        if f"model.layers.0.{theirs[0]}.bias" in tensors
    )
    weights = {
        "embedding.weight": tensors["model.embed_tokens.weight"],
        "norm.weight": tensors["model.norm.weight"],
    }
    for layer in range(config.num_hidden_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        weights[f"{ours}.attention_norm.weight"] = tensors[f"{theirs}.input_layernorm.weight"]
        weights[f"{ours}.ffn_norm.weight"] = tensors[f"{theirs}.post_attention_layernorm.weight"]
        for (name, pieces), matrix in zip(parts.items(), named, strict=True):
            for kind_of in ("weight", "bias") if matrix in biases else ("weight",):
                stacked = [tensors[f"{theirs}.{piece}.{kind_of}"] for piece in pieces]
                weights[f"{ours}.{name}.{kind_of}"] = torch.cat(stacked)
    tied = bool(config.tie_word_embeddings)
    if not tied:
        weights["head.weight"] = tensors["lm_head.weight"]
    shape = Decoder(
        vocab_size=config.vocab_size,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        ffn=config.intermediate_size,
        context=context,
        tied=tied,
        norm_eps=config.rms_norm_eps,
        frequencies=frequencies,
        rotary_scale=float(getattr(rotary, "attention_scaling", 1.0)),
        biases=biases,
    )
    return Converted(shape, weights)


def _gpt2(model: Any, tensors: Mapping[str, Tensor], context: int) -> Converted | None:
    """GPT-2's family: LayerNorm, learned positions, a plain feed-forward, biases everywhere."""
    config = model.config
    activation = _GELU.get(config.activation_function)
    scaled = config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx
    if activation is None or not scaled or config.n_embd // config.n_head % 2:
        return None
    weights = {
        "embedding.weight": tensors["transformer.wte.weight"],
        "positions.weight": tensors["transformer.wpe.weight"][:context],
        "norm.weight": tensors["transformer.ln_f.weight"],
        "norm.bias": tensors["transformer.ln_f.bias"],
    }
    norms = {"attention_norm": "ln_1", "ffn_norm": "ln_2"}
    matrices = {
        "attention.qkv": "attn.c_attn",
        "attention.output": "attn.c_proj",
        "ffn.up": "mlp.c_fc",
        "ffn.down": "mlp.c_proj",
    }
    for layer in range(config.n_layer):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        for part in ("weight", "bias"):
            for name, other in norms.items():
                weights[f"{ours}.{name}.{part}"] = tensors[f"{theirs}.{other}.{part}"]
            for name, other in matrices.items():
                tensor = tensors[f"{theirs}.{other}.{part}"]
                weights[f"{ours}.{name}.{part}"] = tensor if tensor.dim() == 1 else tensor.T  # [in, out]
    tied = bool(config.tie_word_embeddings)
    if not tied:
        weights["head.weight"] = tensors["lm_head.weight"]
    shape = Decoder(
        vocab_size=config.vocab_size,
        hidden=config.n_embd,
        layers=config.n_layer,
        heads=config.n_head,
        kv_heads=config.n_head,
        head_dim=config.n_embd // config.n_head,
        ffn=config.n_inner or 4 * config.n_embd,
        context=context,
        tied=tied,
        norm_eps=config.layer_norm_epsilon,
        norm="layer",
        activation=activation,
        biases=("qkv", "output", "up", "down"),
    )
    return Converted(shape, weights)
