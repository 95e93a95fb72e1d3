"""From a run or a Hugging Face directory to a verified bundle, top to bottom."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgetext import __version__
from edgetext.errors import CheckpointError, ExportError
from edgetext.models import ModelConfig
from edgetext.models.huggingface import is_huggingface
from edgetext_export.builder import ORT_FLOOR
from edgetext_export.card import write_card
from edgetext_export.decoder import Decoder
from edgetext_export.delivery import check_outputs, deliver, output_path
from edgetext_export.gates import Gates, check_gates
from edgetext_export.golden import record_golden
from edgetext_export.graph import StepGraph, build_step_graph
from edgetext_export.huggingface import read_huggingface
from edgetext_export.mobile import Mobile, checked_mobile, mobile_paths
from edgetext_export.moments import Moments, read_moments
from edgetext_export.parity import Parity, check_parity, flip_rate, measure_parity
from edgetext_export.recipes import Precision, Recipe, Target, find_recipe
from edgetext_export.rounding import Rounding
from edgetext_export.source import Source, read_source
from edgetext_export.static import DEFAULT, Method, calibrate
from edgetext_export.timing import measure_ms
from edgetext_export.traced import Traced
from edgetext_export.traced_graph import build_traced_graph
from edgetext_export.tuning import tune
from edgetext_runtime.bundle import Bundle, Manifest
from edgetext_runtime.engine import StepBackend
from edgetext_runtime.generator import Generator
from edgetext_runtime.rating import MEMBER
from edgetext_runtime.sampling import GenerationDefaults, SamplingParams
from edgetext_runtime.session import StepSession
from edgetext_runtime.tokenizer import Tokenizer

QUALITY_TOKENS = 20_000
"""Test tokens that the quality record is measured on, at most."""
MIN_STEPS, STEP_WORK = 512, 40_000_000_000
"""Positions also fed token by token: all, as long as positions times parameters stay below this."""
TUNING_TOKENS = 5_000
"""Validation tokens that flips of candidates are counted on, at most."""
GENERATION = GenerationDefaults(SamplingParams(temperature=0.8, top_k=40, top_p=0.95))
"""Sampling that a bundle uses when nothing is asked for."""


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
    """Cases replayed from the written file, at each of `delivery.VERIFIED_THREADS`."""
    seconds: float
    """Wall time of the export."""
    mobile: Mobile | None = None
    """What was written for a phone, if it was asked for."""

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
            "mobile": self.mobile.to_dict() if self.mobile else None,
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
    mobile: bool = False,
    calibration: Method | None = None,
    generation: GenerationDefaults = GENERATION,
    portable: bool = False,
    rounding: Rounding | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Export the accepted student of a run as a bundle; write it only once it has passed its checks.

    The graph is compared with torch on the test split, and read back from disk to give its golden tokens.

    Args:
        run_dir: directory made by `edgetext distill`, or a Hugging Face model.
        output: path of the bundle; default: `student-RECIPE.etx` in the run directory, of a Hugging Face
            directory `NAME-RECIPE.etx` where you are (`RECIPE-portable` of a portable one).
        recipe: how the weights are stored (`edgetext_export.recipes`): int8, int4, fp16, fp32 or another.
        force: replace existing outputs.
        quality_tokens: most test tokens for the quality record.
        target: class of CPUs the bundle is made for (`edgetext_export.recipes.Recipe.at`).
        tuned: take the fastest of a few ways to store 8-bit weights, with a gate on flips the fastest that
            keeps to it on validation text; its measurements go into the manifest.
        gates: limits of size, time and loss; a bundle that misses one is not written.
        corpus: of a Hugging Face directory: text to measure it on (default: the embedded corpus).
        context: of a Hugging Face directory: most tokens its cache holds.
        discriminator: put the run's discriminator into the bundle, for `best_of`.
        mobile: also write what a phone needs, beside the bundle (`edgetext_export.mobile`).
        calibration: of the recipe int8-static: how ranges are made of what was seen (default: percentile).
        generation: sampling the bundle uses when nothing is asked for.
        portable: write the graph with operators of the ONNX standard only, for other runtimes as well.
        rounding: of quantised weights: to the ``nearest`` level, or by ``gptq`` (`edgetext_export.rounding`);
            default: the latter, unless the student was trained in int8 or there is no text to go by.
        progress: called with (tokens compared, tokens in all).

    Raises:
        ExportError: if the run's parts do not fit, a weight is not finite, the graph fails its checks or
            misses a gate, or an output exists or cannot be written.
        CheckpointError: if the run has no finished student, or a file of it is damaged.
    """
    started, run_dir = time.perf_counter(), Path(run_dir)
    chosen = _recipe(recipe, target, calibration, portable, tuned)
    label = f"{recipe}-portable" if portable else recipe
    path = output_path(run_dir, output, label)
    wanted = (path, *mobile_paths(path)) if mobile else (path,)
    source = _read(
        run_dir, corpus, context, quality_tokens, discriminator, lambda: check_outputs(wanted, force)
    )
    moments = _moments(source, chosen, rounding)
    chosen = _tuned(chosen, source, moments, gates.max_flip) if tuned else chosen
    graph = _graph(source, chosen, calibration or DEFAULT, moments)
    del moments
    manifest, members = _draft(source, graph, generation)
    if discriminator:
        from edgetext_export.discriminator import checked_discriminator  # 50 MB, with its trainer

        members[MEMBER] = checked_discriminator(run_dir, source.stream)
    generator = Generator(Bundle(manifest, members, ""), threads=1, provider="cpu")
    quality = _quality(generator, source, quality_tokens, progress)
    check_parity(quality, recipe)
    taken = measure_ms(generator) if gates.max_ms is not None else None
    members |= _measured_members(generator, quality, source)
    del generator, source, graph  # models, before others are made of what was written
    phone = checked_mobile(manifest, members, target) if mobile else None
    files = phone.files(path, len(members["model.onnx"])) if phone else {}
    deliver(path, manifest, members, files, lambda size: check_gates(gates, quality, size, taken))
    return ExportReport(
        path=path,
        recipe=label,
        precision=chosen.precision,
        parameters=manifest.parameters,
        bundle_bytes=path.stat().st_size,
        model_bytes=len(members["model.onnx"]),
        quality=quality,
        golden_cases=len(json.loads(members["golden.json"])["cases"]),
        seconds=time.perf_counter() - started,
        mobile=phone,
    )


def _recipe(name: str, target: Target, calibration: Method | None, portable: bool, tuned: bool) -> Recipe:
    """The recipe at its target; refuses a calibration or tuning that it would not use."""
    recipe = find_recipe(name).at(target)
    if tuned and (name != "int8" or portable):
        raise ExportError(
            f"--tune is for the recipe int8, not {f'{name} with --portable' if portable else name}"
        )
    if calibration is not None and not recipe.static:
        raise ExportError(f"--calibration is for the recipe int8-static, not {name}")
    return recipe.as_portable() if portable else recipe


def _read(
    directory: Path,
    corpus: str | None,
    context: int | None,
    tokens: int,
    discriminator: bool,
    check_outputs: Callable[[], None],
) -> Source:
    """What is exported, once it is known to be there and its outputs can be written."""
    if tokens < 1:
        raise ExportError(f"quality_tokens is {tokens}; it must be at least 1 (--tokens)")
    if not is_huggingface(directory):
        if corpus is not None or context is not None:
            raise ExportError("--corpus and --context are for Hugging Face directories; a run has its own")
        source = read_source(directory)
        check_outputs()
        return source
    if discriminator:
        raise ExportError("a Hugging Face directory has no discriminator; leave out --discriminator")
    check_outputs()  # reading takes longer than this
    return read_huggingface(directory, corpus=corpus, tokens=tokens, context=context)


def _graph(source: Source, recipe: Recipe, calibration: Method, moments: Moments) -> StepGraph:
    """The step graph, calibrated where the recipe wants it."""
    graph = _build(source, recipe, moments)
    if not recipe.static:
        return graph
    return calibrate(graph, recipe, source.calibration(), calibration, source.config.context or None)


def _moments(source: Source, recipe: Recipe, rounding: Rounding | None) -> Moments:
    """What weights are rounded by; nothing where that is to the nearest level."""
    if rounding is not None and (recipe.static or not recipe.quantised):
        raise ExportError(f"--rounding is for weights that are quantised here, not for {recipe.name}")
    by_itself = recipe.quantised and not recipe.static and not source.trained_in_int8
    if rounding == "nearest" or (rounding is None and not by_itself):
        return {}
    plain = find_recipe("fp32")
    plain = plain.as_portable() if recipe.portable else plain
    try:
        text = source.calibration()
        return read_moments(_build(source, plain), text, source.config.context or None)
    except (CheckpointError, ExportError):
        if rounding is not None:
            raise
        return {}


def _build(source: Source, recipe: Recipe, moments: Moments | None = None) -> StepGraph:
    """The step graph: written for the model's kind, or around its trace."""
    if isinstance(source.config, Traced):
        if recipe.portable:
            raise ExportError("--portable is for models that a graph is written for, and this one is traced")
        return build_traced_graph(source.config, recipe, moments)
    suppressed = source.suppressed
    return build_step_graph(source.config, source.weights, recipe, suppressed=suppressed, moments=moments)


def _draft(
    source: Source, graph: StepGraph, generation: GenerationDefaults
) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest and members as far as they are known before anything is measured."""
    manifest = bundle_manifest(
        source.config,
        graph,
        source.tokenizer,
        name=source.name,
        provenance=source.provenance,
        licence=source.licence,
    )
    settings = asdict(generation.sampling) | {"max_new_tokens": generation.max_new_tokens}
    return manifest, {
        "model.onnx": graph.model,
        "tokenizer.json": source.tokenizer_json,
        "generation.json": _json(settings),
        "golden.json": _json({"cases": []}),
    }


def _quality(
    generator: Generator, source: Source, tokens: int, progress: Callable[[int, int], None] | None
) -> Parity:
    """The bundle's graph against torch."""
    return measure_parity(
        source.model,
        generator.session,
        source.stream,
        windows=source.windows,
        labels=source.labels,
        limit=tokens,
        step_limit=max(MIN_STEPS, min(tokens, STEP_WORK // source.config.parameters())),
        suppressed=source.tokenizer.suppressed,
        progress=progress,
    )


def _measured_members(generator: Generator, quality: Parity, source: Source) -> dict[str, bytes]:
    """The members that come of measuring."""
    golden = record_golden(generator, source.stream)
    prompt = json.loads(golden)["cases"][0]["prompt"]
    model_bytes = len(generator.bundle.members["model.onnx"])
    card = write_card(generator.manifest, quality.to_dict(), model_bytes, prompt)
    return {"quality.json": _json(quality.to_dict()), "golden.json": golden, "CARD.md": card.encode()}


def _tuned(recipe: Recipe, source: Source, moments: Moments, most: float | None) -> Recipe:
    """The recipe as it is fastest on this machine, among what keeps to a share of flips."""

    def build(candidate: Recipe) -> StepSession:
        graph = _build(source, candidate, moments)
        manifest = bundle_manifest(
            source.config, graph, source.tokenizer, name=source.name, provenance={}, licence="not stated"
        )
        return StepSession(graph.model, manifest)

    if most is None:
        return tune(recipe, source.config.kind, source.config.tied, build)
    text = source.calibration()

    def flips(session: StepBackend) -> float:
        return flip_rate(source.model, session, text, windows=source.windows, limit=TUNING_TOKENS)

    return tune(recipe, source.config.kind, source.config.tied, build, flips, most)


def bundle_manifest(
    config: ModelConfig | Decoder | Traced,
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


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
