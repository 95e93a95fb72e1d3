"""A Hugging Face directory as the source of an export: its weights in our names and order, and its tokenizer.

Llama's family (Llama, Mistral, Qwen 2 and what is saved under their names) and GPT-2's go into the native
graph (`families`), any other decoder is traced (`traced`). Token ids become edgetext's: 0 ends a text and
begins the next, 1 is padding, then the model's own tokens in order, less its other special ones (`reorder`).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from edgetext.corpus import BUILTIN, CorpusConfig, iter_documents, split_documents
from edgetext.corpus.builtin import LICENCE
from edgetext.distill.vocabulary import VocabularyMap, share_vocabulary
from edgetext.errors import ConfigError, ExportError
from edgetext.models.huggingface import (
    UNLIMITED,
    HuggingFaceGenerator,
    huggingface_sha256,
    load_huggingface,
)
from edgetext_export.decoder import Decoder
from edgetext_export.families import convert
from edgetext_export.reorder import Reordered, rows
from edgetext_export.source import Source
from edgetext_export.static import TOKENS as CALIBRATION_TOKENS
from edgetext_export.traced import check_rotary, trace
from edgetext_runtime.tokenizer import Tokenizer

CONTEXT = 2048
"""Most tokens of context unless --context says otherwise: the cache is allocated whole."""


def read_huggingface(
    directory: Path, *, corpus: str | None = None, tokens: int = 20_000, context: int | None = None
) -> Source:
    """Read a decoder from a local directory, with text to measure it on.

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
        ExportError: for an architecture, tokenizer or context that cannot be exported.
    """
    model = _load(directory)
    library_model: Any = model.model
    tokenizer_json, vocabulary = _tokenizer(directory)
    tokenizer, held = Tokenizer.from_json(tokenizer_json), _context(model, context)
    check_rotary(directory, library_model)
    native = _native(library_model, vocabulary, held)
    shape, weights = (trace(directory, model, vocabulary, held), {}) if native is None else native
    stream, record = _text(tokenizer, corpus, tokens)
    name = directory.resolve().name
    provenance = {
        "source": {
            "format": "transformers",
            "architecture": library_model.config.model_type,
            "name": name,
        },
        "weights": {"sha256": huggingface_sha256(directory)},
        "corpus": {name: value for name, value in record.items() if name != "licence"},
    }
    return Source(
        name=name,
        model=Reordered(model, vocabulary, tied=shape.tied).eval(),
        config=shape,
        weights={name: tensor.numpy() for name, tensor in weights.items()},
        tokenizer_json=tokenizer_json,
        tokenizer=tokenizer,
        stream=stream,
        licence="the model's own: see where it came from",
        provenance=provenance,
        windows="stream",
        labels=None,
        suppressed=(),
        calibration=lambda: _text(tokenizer, corpus, CALIBRATION_TOKENS, after=record["documents"])[0],
    )


def _native(model: Any, vocabulary: VocabularyMap, context: int) -> tuple[Decoder, dict[str, Tensor]] | None:
    """Shape and weights for the native graph, in the bundle's order of ids; None for another model."""
    converted = convert(model, context)
    if converted is None:
        return None
    shape, weights = converted.shape, dict(converted.weights)
    order = rows(vocabulary, tied=shape.tied)
    weights["embedding.weight"] = weights["embedding.weight"][order.embedding]
    if not shape.tied:
        weights["head.weight"] = weights["head.weight"][order.head]
    weights["head.bias"] = order.padding()
    size = len(vocabulary.ids)
    return replace(shape, vocab_size=size, head_bias=True, start_row=int(order.shared_start)), weights


def _tokenizer(directory: Path) -> tuple[bytes, VocabularyMap]:
    """The bundle's tokenizer.json, and which of the model's ids each of its ids is."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise ExportError(
            f"{directory} has no tokenizer.json; write one with transformers: "
            f"AutoTokenizer.from_pretrained('{directory}').save_pretrained('{directory}')"
        )
    try:
        return share_vocabulary(directory)
    except ConfigError as error:
        if error.__cause__ is None:  # the ids, not the kind of tokenizer
            raise ExportError(
                f"{path} has ids beyond the model's vocabulary: they do not belong together"
            ) from error
        raise ExportError(
            f"{path} cannot become the tokenizer of a bundle: {error.__cause__}. Byte-level BPE with GPT-2's "
            f"or Llama 3's splitting can; any other model can teach a student: edgetext distill --teacher "
            f"{directory}"
        ) from error


def _load(directory: Path) -> HuggingFaceGenerator:
    try:
        return load_huggingface(directory)
    except ConfigError as error:
        raise ExportError(f"{directory}: {error}") from error


def _context(model: HuggingFaceGenerator, asked: int | None) -> int:
    """Tokens that the cache holds: a window beyond which a model does not look ends the context."""
    config: Any = model.model.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    limit = min(model.config.context, window or UNLIMITED)
    context = min(limit, CONTEXT) if asked is None else asked
    if not 2 <= context <= limit:
        raise ExportError(f"--context is {context}; this model takes 2 to {limit} tokens")
    return context


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
