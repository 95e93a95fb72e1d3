"""Any other decoder of ``transformers``: traced by torch's exporter, then rewritten as a step graph.

`optimum` would do the first half, but its newest exporter (optimum-onnx 0.1) wants transformers below 4.58
and this project runs with 5, so torch's own exporter is asked. What it gives is the model as its authors
wrote it, keys and values of the past as inputs; `traced_graph` makes of it what the runtime expects.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from edgetext.distill.vocabulary import VocabularyMap
from edgetext.errors import ExportError
from edgetext.models.huggingface import HuggingFaceGenerator
from edgetext_export.builder import OPSET
from edgetext_export.quantize import FloatArray, check_finite
from edgetext_export.reorder import Rows, rows
from edgetext_runtime.errors import DependencyError

STATIC_ROTARY = ("default", "linear", "llama3", "yarn", "proportional")
"""Kinds of rotary scaling whose frequencies do not depend on the length of the text."""


@dataclass(frozen=True)
class Traced:
    """A traced decoder: what a manifest says of it, and its graph over past keys and values."""

    model: onnx.ModelProto = field(repr=False)
    """Inputs ``tokens`` [B,T], ``positions`` [n], ``past.0`` … [B,K,P,D]; outputs ``logits`` [B,n,V] and
    ``new.0`` … [B,K,T,D], the rows that this call adds."""
    names: dict[str, str] = field(repr=False)
    """Names of the parameters by their SHA-256 as the graph stores them, turned or not."""
    architecture: str
    """As ``transformers`` names it."""
    vocab_size: int
    layers: int
    hidden: int
    caches: tuple[tuple[int, int], ...]
    """(K, D) of every key and value cache, two a layer."""
    context: int
    """Most tokens the cache holds."""
    tied: bool
    """Whether the output layer shares the embedding matrix."""
    count: int
    """Parameters."""

    kind = "transformer"

    def parameters(self) -> int:
        """Number of parameters of the weights."""
        return self.count

    def to_dict(self) -> dict[str, Any]:
        """Return what a manifest says of the shape."""
        return {
            "kind": self.kind,
            "traced": self.architecture,
            "vocab_size": self.vocab_size,
            "hidden": self.hidden,
            "layers": self.layers,
            "kv_heads": self.caches[0][0],
            "head_dim": self.caches[0][1],
            "context": self.context,
            "tied": self.tied,
        }


class _Step(nn.Module):
    """A model as the graph has it: logits where they are wanted, and what a call adds to the caches."""

    padding: Tensor

    def __init__(self, generator: HuggingFaceGenerator, order: Rows) -> None:
        super().__init__()
        self.generator, self.shared_start = generator, order.shared_start
        self.register_buffer("padding", order.padding())  # after the head: some models cap what it gives

    def forward(self, tokens: Tensor, positions: Tensor, past: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """See `Traced.model`."""
        model: Any = self.generator.model

        def choose(head: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (arguments[0].index_select(1, positions), *arguments[1:])

        ids = tokens.clamp(min=1) if self.shared_start else tokens
        hook = model.get_output_embeddings().register_forward_pre_hook(choose)
        try:
            output = self.generator.compute(ids, tuple(past))
        finally:
            hook.remove()
        time = tokens.shape[1]
        return output.logits + self.padding, [tensor[:, :, -time:] for tensor in output.state]


def trace(
    directory: Path, generator: HuggingFaceGenerator, vocabulary: VocabularyMap, context: int
) -> Traced:
    """Trace a decoder over the bundle's token ids.

    Raises:
        DependencyError: without ``onnxscript``, which torch's exporter is made of.
        ExportError: if it cannot be traced, or its weights are not finite.
    """
    if importlib.util.find_spec("onnxscript") is None:
        raise DependencyError("tracing a model needs onnxscript: pip install 'edgetext[hf]'")
    changed = copy.deepcopy(generator)
    library_model: Any = changed.model
    kind = library_model.config.model_type
    for name, parameter in changed.model.named_parameters():
        check_finite(name, parameter.detach().numpy())
    try:
        with torch.no_grad(), _quiet():
            _spell_out_experts(library_model)
            step = _Step(changed, _reorder(library_model, vocabulary)).eval()
            state = changed.compute(torch.zeros(2, 5, dtype=torch.int64), None).state
            model = _export(step, [tensor.clone() for tensor in state])
    except ExportError:
        raise
    except Exception as error:  # whatever a model makes torch or transformers raise
        raise ExportError(
            f"{directory}: torch cannot trace this {kind} model ({_reason(error)}). Any decoder can teach a "
            f"student instead: edgetext distill --teacher {directory}"
        ) from error
    embedding, head = library_model.get_input_embeddings(), library_model.get_output_embeddings()
    return Traced(
        model=model,
        names=_names(library_model, embedding, head),
        architecture=kind,
        vocab_size=len(vocabulary.ids),
        layers=len(state) // 2,
        hidden=int(embedding.weight.shape[1]),
        caches=tuple((int(tensor.shape[1]), int(tensor.shape[3])) for tensor in state),
        context=context,
        tied=head.weight is embedding.weight,
        count=sum(parameter.numel() for parameter in library_model.parameters()),
    )


def _export(step: nn.Module, past: list[Tensor]) -> onnx.ModelProto:
    """Run torch's exporter; returns the graph with inputs and outputs named as `Traced.model` says."""
    batch, time, seen, n = (torch.export.Dim(name) for name in ("batch", "time", "seen", "n"))
    example = (torch.zeros(2, 4, dtype=torch.int64), torch.tensor([1, 2, 3]), past)
    shapes = ({0: batch, 1: time}, {0: n}, [{0: batch, 2: seen} for _ in past])
    program = torch.onnx.export(
        step,
        example,
        input_names=["tokens", "positions", *(f"past.{index}" for index in range(len(past)))],
        output_names=["logits", *(f"new.{index}" for index in range(len(past)))],
        dynamic_shapes=shapes,
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise ExportError("torch's exporter gave nothing")
    model: onnx.ModelProto = program.model_proto
    known = {(entry.domain, entry.version) for entry in model.opset_import}
    if known - {("", OPSET)} or model.functions:
        raise ExportError(f"the traced graph needs operators beyond opset {OPSET}: {sorted(known)}")
    return model


def _reorder(model: Any, vocabulary: VocabularyMap) -> Rows:
    """Put embedding and output layer in the bundle's order of ids."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head.weight is embedding.weight
    order = rows(vocabulary, tied=tied)
    table = nn.Parameter(embedding.weight.detach()[order.embedding], requires_grad=False)
    head.weight = table if tied else nn.Parameter(head.weight.detach()[order.head], requires_grad=False)
    embedding.weight = table
    if getattr(head, "bias", None) is not None:
        head.bias = nn.Parameter(head.bias.detach()[order.head], requires_grad=False)
    return order


def _spell_out_experts(model: Any) -> None:
    """Let a mixture of experts multiply by batches of matrices: ONNX knows no grouped product."""
    if hasattr(model, "set_experts_implementation") and any(p.ndim == 3 for p in model.parameters()):
        model.set_experts_implementation("batched_mm")


def check_rotary(directory: Path, model: nn.Module) -> None:
    """Refuse rotary frequencies that a graph would freeze at one length.

    Raises ExportError.
    """
    for module in model.modules():
        kinds = getattr(module, "rope_type", "default")
        for kind in kinds.values() if isinstance(kinds, dict) else (kinds,):
            if kind not in STATIC_ROTARY:
                raise ExportError(
                    f"{directory}: its rotary frequencies ({kind}) change with the length of the text. Any "
                    f"decoder can teach a student instead: edgetext distill --teacher {directory}"
                )


def _names(model: Any, embedding: Any, head: Any) -> dict[str, str]:
    """Name of every matrix by the hash of its numbers, as it is and turned: the exporter keeps few names."""
    names: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            matrix = parameter.detach().float().numpy()
            for stored in (matrix, matrix.T):
                names.setdefault(fingerprint(stored), name)
    for module, name in ((head, "head.weight"), (embedding, "embedding.weight")):
        matrix = module.weight.detach().float().numpy()
        names |= {fingerprint(matrix): name, fingerprint(matrix.T): name}
    return names


def fingerprint(matrix: FloatArray) -> str:
    """Hash of a matrix's shape and numbers, row by row."""
    return hashlib.sha256(repr(matrix.shape).encode() + np.ascontiguousarray(matrix).tobytes()).hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave the terminal to edgetext: the exporter advises and reports."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """First line of what went wrong at the bottom, without the exporter's colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    line = next(filter(None, (line.strip() for line in text.splitlines())), "no message")
    return f"{type(error).__name__}: {line[:300]}"
