"""A Hugging Face directory as the source of an export: its weights in our names and order, and its tokenizer.

Llama's family (Llama, Mistral, Qwen 2 and what is saved under their names) and GPT-2's go into the native
graph. Token ids become edgetext's: 0 ends a text and begins the next, 1 is padding, then the model's own
tokens in order, less its other special tokens. The rows of the embedding and of the output layer are put in
that order, so the graph needs no table of ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgetext.corpus import BUILTIN, CorpusConfig, iter_documents, split_documents
from edgetext.corpus.builtin import LICENCE
from edgetext.distill.byte_pairs import translate
from edgetext.distill.vocabulary import PAD_ID, VocabularyMap
from edgetext.errors import ConfigError, ExportError
from edgetext.models.base import GeneratorModel, Output, State
from edgetext.models.huggingface import (
    UNLIMITED,
    HuggingFaceGenerator,
    huggingface_sha256,
    load_huggingface,
    special_ids,
)
from edgetext_export.decoder import Activation, Decoder, Matrix
from edgetext_export.source import Source
from edgetext_export.static import TOKENS as CALIBRATION_TOKENS
from edgetext_runtime.tokenizer import Tokenizer
from edgetext_runtime.tokenizer_format import EOS, PAD

LLAMA_TYPES = ("llama", "mistral", "qwen2")
CONTEXT = 2048
"""Most tokens of context unless --context says otherwise: the cache is allocated whole."""
PAD_BIAS = -1000.0
"""Added to the logit of padding, which no model from elsewhere knows: exp(-1000) is nothing."""
_STATIC_ROTARY = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary scaling whose frequencies do not depend on the length of the text."""
_GELU: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True)
class _Converted:
    """A model in our names, still in its own order of ids."""

    shape: Decoder
    weights: dict[str, Tensor]


def read_huggingface(
    directory: Path, *, corpus: str | None = None, tokens: int = 20_000, context: int | None = None
) -> Source:
    """Read a model of Llama's or GPT-2's family from a local directory, with text to measure it on.

    Args:
        directory: what ``save_pretrained`` wrote, tokenizer.json included.
        corpus: text to measure the export on, as `edgetext distill --corpus` takes it; default: the test
            split of the embedded corpus.
        tokens: how many tokens of it are needed.
        context: most tokens the bundle's cache holds; default: the model's own limit, at most `CONTEXT`.

    Raises:
        CheckpointError: if the directory is incomplete or damaged.
        CorpusError: if the corpus cannot be read.
        DependencyError: without ``transformers``.
        ExportError: for another architecture, tokenizer or context than can be exported.
    """
    model = _load(directory)
    tokenizer_json, vocabulary = _tokenizer(directory, model.config.vocab_size)
    converted = _convert(directory, model, _context(model, context))
    tokenizer = Tokenizer.from_json(tokenizer_json)
    shape, weights = _reorder(converted, vocabulary)
    stream, record = _text(tokenizer, corpus, tokens)
    config, name = _config(model), directory.resolve().name
    provenance = {
        "source": {
            "format": "transformers",
            "architecture": config.model_type,
            "name": name,
        },
        "weights": {"sha256": huggingface_sha256(directory)},
        "corpus": {name: value for name, value in record.items() if name != "licence"},
    }
    return Source(
        name=name,
        model=Reordered(model, vocabulary),
        config=shape,
        weights={name: tensor.numpy() for name, tensor in weights.items()},
        tokenizer_json=tokenizer_json,
        tokenizer=tokenizer,
        stream=stream,
        licence="the model's own: see where it came from",
        provenance=provenance,
        windows="stream",
        suppressed=(),
        calibration=lambda: _text(tokenizer, corpus, CALIBRATION_TOKENS, after=record["documents"])[0],
    )


class Reordered(GeneratorModel):
    """The torch model as the bundle reads and writes it: ids through a map, padding out of the way."""

    def __init__(self, model: HuggingFaceGenerator, vocabulary: VocabularyMap) -> None:
        super().__init__()
        self.model, self.config = model, model.config.with_vocab(len(vocabulary.ids))
        self._outputs = torch.from_numpy(vocabulary.array)
        self._inputs = _input_ids(vocabulary)

    @property
    def embedding(self) -> torch.nn.Embedding:  # type: ignore[override]
        """The model's own input embedding [V_t,E]."""
        return self.model.embedding

    def forward(
        self,
        tokens: Tensor | None,
        state: State | None = None,
        *,
        embeddings: Tensor | None = None,
        condition: Tensor | None = None,
        internals: bool = False,
    ) -> Output:
        """See `GeneratorModel.forward`; ids and logits are the bundle's."""
        ids = None if tokens is None else self._inputs[tokens]
        output: Output = self.model(ids, state, embeddings=embeddings, condition=condition)
        logits = output.logits.index_select(-1, self._outputs)
        shifted = output.logits[..., self._pad_row, None] + PAD_BIAS
        return output._replace(logits=logits.index_copy(-1, torch.tensor([PAD_ID]), shifted))

    @property
    def _pad_row(self) -> int:
        """Id of the model's whose row padding has in the output layer: see `_reorder`."""
        tied = bool(_config(self.model).tie_word_embeddings)
        return int((self._inputs if tied else self._outputs)[PAD_ID])


def _input_ids(vocabulary: VocabularyMap) -> Tensor:
    """Id of the model's for every id of ours when it is read: 0 and padding begin a text."""
    ids = torch.from_numpy(vocabulary.array).clone()
    ids[0] = ids[PAD_ID] = vocabulary.start
    return ids


def _tokenizer(directory: Path, vocab_size: int) -> tuple[bytes, VocabularyMap]:
    """The bundle's tokenizer.json, and which of the model's ids each of its ids is."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ExportError(
            f"{directory} has no tokenizer.json; write one with transformers: "
            f"AutoTokenizer.from_pretrained('{directory}').save_pretrained('{directory}')"
        )
    end, begin = special_ids(directory)
    try:
        document, ids = translate(path.read_bytes(), (EOS, PAD), without={end, begin})
    except ValueError as error:
        raise ExportError(
            f"{path} cannot become the tokenizer of a bundle: {error}. Byte-level BPE with GPT-2's or "
            f"Llama 3's splitting can; any other model can teach a student: edgetext distill --teacher "
            f"{directory}"
        ) from error
    data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    try:
        return data, VocabularyMap((end, end, *ids), vocab_size, begin)
    except ConfigError as error:
        raise ExportError(
            f"{path} has ids beyond the model's vocabulary of {vocab_size}: they do not belong together"
        ) from error


def _load(directory: Path) -> HuggingFaceGenerator:
    try:
        return load_huggingface(directory)
    except ConfigError as error:
        raise ExportError(f"{directory}: {error}") from error


def _config(model: HuggingFaceGenerator) -> Any:
    """The configuration of the wrapped model."""
    return model.model.config


def _context(model: HuggingFaceGenerator, asked: int | None) -> int:
    """Tokens that the cache holds: a window beyond which a model does not look ends the context."""
    config = _config(model)
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    limit = min(model.config.context, window or UNLIMITED)
    context = min(limit, CONTEXT) if asked is None else asked
    if not 2 <= context <= limit:
        raise ExportError(f"--context is {context}; this model takes 2 to {limit} tokens")
    return context


def _convert(directory: Path, model: HuggingFaceGenerator, context: int) -> _Converted:
    config = _config(model)
    convert: Callable[[Any, Mapping[str, Tensor], int], _Converted] | None = None
    if config.model_type in LLAMA_TYPES:
        convert = _llama
    elif config.model_type == "gpt2":
        convert = _gpt2
    if convert is None:
        raise ExportError(
            f"{directory} is a {config.model_type} model; those exported straight from their directory are "
            f"{', '.join(LLAMA_TYPES)} and gpt2. Any decoder can teach a student instead: edgetext distill "
            f"--teacher {directory}"
        )
    tensors = {name: tensor.detach().float() for name, tensor in model.model.state_dict().items()}
    try:
        return convert(model.model, tensors, context)
    except _UnsupportedError as error:
        raise ExportError(f"{directory} cannot go into the native graph: {error}") from error


class _UnsupportedError(Exception):
    """What a configuration asks for that the graph does not have."""


def _llama(model: Any, tensors: Mapping[str, Tensor], context: int) -> _Converted:
    """Llama's family: RMSNorm, rotary grouped-query attention, SwiGLU; biases where there are any."""
    config, rotary = model.config, model.model.rotary_emb
    if config.hidden_act not in ("silu", "swish"):
        raise _UnsupportedError(f"its feed-forward has the activation {config.hidden_act}, not SiLU")
    kind = getattr(rotary, "rope_type", "default")
    if kind not in _STATIC_ROTARY:
        raise _UnsupportedError(f"its rotary frequencies ({kind}) change with the length of the text")
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    frequencies = tuple(rotary.inv_freq.double().tolist())
    if 2 * len(frequencies) != head_dim:
        raise _UnsupportedError("it turns only a part of every head (partial_rotary_factor)")
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
    return _Converted(shape, weights)


def _gpt2(model: Any, tensors: Mapping[str, Tensor], context: int) -> _Converted:
    """GPT-2's family: LayerNorm, learned positions, a plain feed-forward, biases everywhere."""
    config = model.config
    activation = _GELU.get(config.activation_function)
    if activation is None:
        raise _UnsupportedError(f"its feed-forward has the activation {config.activation_function}")
    if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
        raise _UnsupportedError("its attention is scaled by the layer, or not at all")
    if config.n_embd // config.n_head % 2:
        raise _UnsupportedError("its heads have an odd width")
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
    return _Converted(shape, weights)


def _reorder(converted: _Converted, vocabulary: VocabularyMap) -> tuple[Decoder, dict[str, Tensor]]:
    """Put the rows of embedding and output layer in our order of ids; padding gets `PAD_BIAS`.

    Where they are one matrix and a text begins with another token than it ends with, row 0 ends it, row 1
    (padding, which is never written) begins it, and the graph reads row 1 for id 0.
    """
    shape, weights = converted.shape, dict(converted.weights)
    inputs, outputs = _input_ids(vocabulary), torch.from_numpy(vocabulary.array)
    table = weights["embedding.weight"]
    shared = shape.tied and vocabulary.start != int(outputs[0])
    rows = inputs.clone()
    if shape.tied:
        rows[0] = outputs[0]
    weights["embedding.weight"] = table[rows]
    if not shape.tied:
        weights["head.weight"] = weights["head.weight"][outputs]
    bias = torch.zeros(len(outputs))
    bias[PAD_ID] = PAD_BIAS
    weights["head.bias"] = bias
    changed = replace(shape, vocab_size=len(outputs), head_bias=True, start_row=int(shared))
    return changed, weights


def _text(
    tokenizer: Tokenizer, corpus: str | None, tokens: int, *, after: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """A token stream of the corpus, and what the manifest says of it.

    With `after`, text for another purpose than a stream of that many documents: what follows them, or of the
    embedded corpus the validation split.
    """
    config = CorpusConfig(source=corpus or BUILTIN)
    documents = iter_documents(config)
    if corpus is None:
        wanted = "test" if after is None else "valid"
        documents = (text for split, text in split_documents(documents, config) if split == wanted)
    else:
        documents = islice(documents, after or 0, None)
    ids, count = [tokenizer.eos_id], 0
    for text in documents:
        ids += [*tokenizer.encode(text), tokenizer.eos_id]
        count += 1
        if len(ids) > tokens:
            break
    record = {
        "source": Path(config.source).name,
        "documents": count,
        "tokens": len(ids),
        "use": "measured on, not trained on",
        "licence": LICENCE if corpus is None else "unspecified",
    }
    return np.array(ids, np.uint32), record
