"""From a run or a Hugging Face directory to a verified bundle, top to bottom."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgetext import __version__
from edgetext.errors import ExportError
from edgetext.models import ModelConfig
from edgetext.models.huggingface import is_huggingface
from edgetext_export.builder import ORT_FLOOR
from edgetext_export.card import write_card
from edgetext_export.decoder import Decoder
from edgetext_export.discriminator import checked_discriminator
from edgetext_export.gates import Gates, check_gates
from edgetext_export.golden import record_golden, replay
from edgetext_export.graph import StepGraph, build_step_graph
from edgetext_export.huggingface import read_huggingface
from edgetext_export.parity import Parity, check_parity, measure_parity
from edgetext_export.recipes import Precision, Recipe, Target, find_recipe
from edgetext_export.source import Source, read_source
from edgetext_export.timing import measure_ms
from edgetext_export.tuning import tune
from edgetext_export.writer import write_bundle
from edgetext_runtime.bundle import Bundle, Manifest, read_bundle
from edgetext_runtime.errors import BundleError, EdgetextError
from edgetext_runtime.generator import Generator
from edgetext_runtime.rating import MEMBER
from edgetext_runtime.sampling import GenerationDefaults, SamplingParams
from edgetext_runtime.session import StepSession
from edgetext_runtime.tokenizer import Tokenizer

QUALITY_TOKENS = 20_000
"""Test tokens that the quality record is measured on, at most."""
GENERATION = GenerationDefaults(SamplingParams(temperature=0.8, top_k=40, top_p=0.95))
"""Sampling that a bundle uses when nothing is asked for."""
VERIFIED_THREADS = (1, 2)
"""Thread counts at which the written file must give its golden tokens."""


@dataclass(frozen=True)
class ExportReport:
    """What an export made, and how good it is."""

    path: Path
    """The bundle."""
    recipe: str
    """Its name, with ``-portable`` where that was asked for."""
    precision: Precision
    parameters: int
    bundle_bytes: int
    """Size of the file."""
    model_bytes: int
    """Size of model.onnx in it."""
    quality: Parity
    golden_cases: int
    """Cases replayed from the written file, at each of `VERIFIED_THREADS`."""
    seconds: float
    """Wall time of the export."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "path": str(self.path),
            "recipe": self.recipe,
            "precision": self.precision,
            "parameters": self.parameters,
            "bundle_bytes": self.bundle_bytes,
            "model_bytes": self.model_bytes,
            "quality": self.quality.to_dict(),
            "golden_cases": self.golden_cases,
            "seconds": round(self.seconds, 3),
        }


def export_run(
    run_dir: str | Path,
    output: str | Path | None = None,
    recipe: str = "int8",
    force: bool = False,
    *,
    quality_tokens: int = QUALITY_TOKENS,
    target: Target = "generic",
    gates: Gates = Gates(),  # noqa: B008 - frozen
    tuned: bool = False,
    corpus: str | None = None,
    context: int | None = None,
    discriminator: bool = False,
    generation: GenerationDefaults | None = None,
    portable: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Export the accepted student of a run as a bundle; write it only once it has passed its checks.

    The graph is built from the checkpoint, compared with torch on the test split, put together with its
    tokenizer and records, then read back from disk to replay its golden tokens at one and two threads.

    Args:
        run_dir: directory made by `edgetext distill`, or a Hugging Face model of Llama's or GPT-2's family.
        output: path of the bundle; default: `student-RECIPE.etx` in the run directory, of a Hugging Face
            directory `NAME-RECIPE.etx` where you are (`RECIPE-portable` of a portable one).
        recipe: how the weights are stored (`edgetext_export.recipes`): int8, int4, fp16, fp32 or another.
        force: replace an existing output.
        quality_tokens: most test tokens for the quality record.
        target: class of CPUs the bundle is made for (`edgetext_export.recipes.Recipe.at`).
        tuned: measure which of a few ways to store 8-bit weights is fastest here, and take it; the timings go
            into the manifest, so two exports are no longer the same bytes.
        gates: limits of size, time and loss; a bundle that misses one is not written.
        corpus: of a Hugging Face directory: text to measure it on (default: the embedded corpus).
        context: of a Hugging Face directory: most tokens its cache holds.
        discriminator: put the run's discriminator into the bundle, for `best_of`.
        generation: sampling the bundle uses when nothing is asked for; default: `GENERATION`.
        portable: write the graph with operators of the ONNX standard only, for other runtimes as well.
        progress: called with (tokens compared, tokens in all).

    Raises:
        ExportError: if the run's parts do not fit, a weight is not finite, the graph fails its checks or
            misses a gate, or the output exists or cannot be written.
        CheckpointError: if the run has no finished student, or a file of it is damaged.
    """
    started = time.perf_counter()
    run_dir = Path(run_dir)
    foreign = is_huggingface(run_dir)
    chosen = find_recipe(recipe).at(target)
    if portable:
        chosen = chosen.as_portable()
    label = f"{recipe}-portable" if portable else recipe
    path = _output(run_dir, output, label, foreign)
    if quality_tokens < 1:
        raise ExportError(f"quality_tokens is {quality_tokens}; it must be at least 1 (--tokens)")
    if not foreign and (corpus is not None or context is not None):
        raise ExportError("--corpus and --context are for Hugging Face directories; a run has its own")
    if foreign and discriminator:
        raise ExportError("a Hugging Face directory has no discriminator; leave out --discriminator")
    if foreign:
        _check_output(path, force)
        source = read_huggingface(run_dir, corpus=corpus, tokens=quality_tokens, context=context)
    else:
        source = read_source(run_dir)
        _check_output(path, force)
    config = source.config
    if tuned:
        chosen = _tuned(chosen, source)
    graph = build_step_graph(config, source.weights, chosen, suppressed=source.suppressed)
    manifest = bundle_manifest(
        config,
        graph,
        source.tokenizer,
        name=source.name,
        provenance=source.provenance,
        licence=source.licence,
    )
    defaults = generation or GENERATION
    members = {
        "model.onnx": graph.model,
        "tokenizer.json": source.tokenizer_json,
        "generation.json": _json(asdict(defaults.sampling) | {"max_new_tokens": defaults.max_new_tokens}),
        "golden.json": _json({"cases": []}),
    }
    if discriminator:
        members[MEMBER] = checked_discriminator(run_dir, source.stream)
    generator = Generator(Bundle(manifest, members, ""), threads=1, provider="cpu")
    quality = measure_parity(
        source.model,
        generator.session,
        source.stream,
        windows=source.windows,
        limit=quality_tokens,
        suppressed=source.tokenizer.suppressed,
        progress=progress,
    )
    check_parity(quality, chosen.precision)
    ms_per_token = measure_ms(generator) if gates.max_ms is not None else None
    members["quality.json"] = _json(quality.to_dict())
    members["golden.json"] = record_golden(generator, source.stream)
    cases = json.loads(members["golden.json"])["cases"]
    card = write_card(manifest, quality.to_dict(), len(graph.model), cases[0]["prompt"])
    members["CARD.md"] = card.encode()
    _write_verified(path, manifest, members, lambda size: check_gates(gates, quality, size, ms_per_token))
    return ExportReport(
        path=path,
        recipe=label,
        precision=chosen.precision,
        parameters=manifest.parameters,
        bundle_bytes=path.stat().st_size,
        model_bytes=len(graph.model),
        quality=quality,
        golden_cases=len(cases),
        seconds=time.perf_counter() - started,
    )


def _tuned(recipe: Recipe, source: Source) -> Recipe:
    """The recipe as it is fastest on this machine."""
    if recipe.name != "int8" or recipe.portable:
        name = f"{recipe.name} with --portable" if recipe.portable else recipe.name
        raise ExportError(f"--tune is for the recipe int8, not {name}")

    def build(candidate: Recipe) -> StepSession:
        graph = build_step_graph(source.config, source.weights, candidate, suppressed=source.suppressed)
        manifest = bundle_manifest(
            source.config, graph, source.tokenizer, name=source.name, provenance={}, licence="not stated"
        )
        return StepSession(graph.model, manifest)

    return tune(recipe, source.config.kind, source.config.tied, build)


def bundle_manifest(
    config: ModelConfig | Decoder,
    graph: StepGraph,
    tokenizer: Tokenizer,
    *,
    name: str,
    provenance: dict[str, Any],
    licence: str,
) -> Manifest:
    """What a bundle says of a graph that was built from `config` for `tokenizer`."""
    return Manifest(
        name=name,
        created_by=f"edgetext {__version__}",
        architecture=config.kind,
        config=config.to_dict(),
        precision=graph.precision,
        quantisation=graph.quantisation,
        parameters=config.parameters(),
        vocab_size=config.vocab_size,
        context_length=config.context or None,
        special_tokens={"eos": tokenizer.eos_id, "pad": tokenizer.pad_id, "unk": tokenizer.unk_id},
        opset=graph.opset,
        ort_floor=ORT_FLOOR,
        state=graph.state,
        provenance=provenance,
        licence=licence,
    )


def _output(source: Path, output: str | Path | None, recipe: str, foreign: bool) -> Path:
    """Where the bundle goes: into the run, but not into somebody else's model directory."""
    if output is not None:
        return Path(output)
    return Path(f"{source.resolve().name}-{recipe}.etx") if foreign else source / f"student-{recipe}.etx"


def _check_output(path: Path, force: bool) -> None:
    """Refuse an output that could not be written, before minutes go into making it."""
    if path.is_dir():
        raise ExportError(
            f"{path} is a directory; give the path of a file, such as {path / 'model.etx'} (-o)"
        )
    if path.exists() and not force:
        raise ExportError(f"{path} exists already; replace it with --force, or choose another path with -o")
    if not path.parent.is_dir():
        raise ExportError(f"{path.parent} is not a directory; make it first, or choose another path with -o")
    if not os.access(path.parent, os.W_OK):
        raise ExportError(f"{path.parent} cannot be written to; choose another path with -o")


def _write_verified(
    path: Path, manifest: Manifest, members: dict[str, bytes], accept: Callable[[int], None]
) -> None:
    """Write beside the output, read that back, replay its golden tokens, and only then give it its name.

    `accept` is given the size of the file and raises ExportError if it is not wanted.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        try:
            write_bundle(draft, manifest, members, force=True)
            accept(draft.stat().st_size)
            bundle = read_bundle(draft)
            for threads in VERIFIED_THREADS:
                _check_replay(Generator(bundle, threads=threads, provider="cpu"), threads)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except ExportError:
        raise
    except (BundleError, OSError) as error:
        raise ExportError(f"{path} could not be written: {error}") from error
    except EdgetextError as error:
        raise ExportError(f"the written bundle does not run: {error}") from error


def _check_replay(generator: Generator, threads: int) -> None:
    for number, result in enumerate(replay(generator)):
        if not result.equal:
            raise ExportError(
                f"golden case {number} gives other tokens when read back with {threads} threads "
                f"(first at token {result.first_difference}): onnxruntime is not "
                f"deterministic here; please report this"
            )


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
