"""A Llama-shaped Hugging Face directory as a GGUF file, for llama.cpp: names, order of heads, quantisation.

The format and its names are those of the ``gguf`` package. Only random or trained weights of plain Llama
models are written (no biases, no scaled rotary frequencies), which is what the comparison is about.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgetext_runtime.errors import InputError

_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(directory: Path, path: Path, kind: str) -> Path:
    """Write a model with matrices of one kind (``Q8_0``, ``Q4_0`` or ``F32``); returns `path`.

    Raises InputError if the directory is no plain Llama model.
    """
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((directory / "config.json").read_bytes())
    if config.get("model_type") != "llama":
        raise InputError(
            f"{directory} is a {config.get('model_type')} model; llama.cpp is compared on llama only"
        )
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base((config.get("rope_parameters") or config).get("rope_theta", 10000.0))
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    _add_tokenizer(writer, directory, config)
    quantised = getattr(gguf.GGMLQuantizationType, kind)
    plain = gguf.GGMLQuantizationType.F32
    tensors: dict[str, NDArray[np.float32]] = {}
    for file in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(file)
    for name, tensor in tensors.items():
        ours = _name(name)
        value = np.asarray(tensor, np.float32)
        if ours.endswith(("attn_q.weight", "attn_k.weight")):
            value = _interleave(value, heads if "attn_q" in ours else kv_heads)
        chosen = quantised if value.ndim == 2 else plain
        writer.add_tensor(ours, gguf.quants.quantize(value, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, directory: Path, config: dict[str, Any]) -> None:
    """The vocabulary of a byte-level BPE; special tokens as control tokens."""
    import gguf

    document = json.loads((directory / "tokenizer.json").read_bytes())
    vocab: dict[str, int] = document["model"]["vocab"]
    special = {token["content"] for token in document.get("added_tokens") or []}
    tokens = sorted(vocab, key=vocab.__getitem__)
    tokens += [f"<unused{i}>" for i in range(len(tokens), config["vocab_size"])]
    kinds = [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens]
    merges = [m if isinstance(m, str) else " ".join(m) for m in document["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


def _name(name: str) -> str:
    """A tensor's name in GGUF."""
    whole = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in whole:
        return whole[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    if not layer.isdigit() or rest.removesuffix(".weight") not in _LAYER:
        raise InputError(f"weight {name} is not of a plain Llama model, which alone is written for llama.cpp")
    return f"blk.{layer}.{_LAYER[rest.removesuffix('.weight')]}.weight"


def _interleave(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder the rows of a head from halves to pairs, as llama.cpp's rotary embedding of Llama has them."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)
