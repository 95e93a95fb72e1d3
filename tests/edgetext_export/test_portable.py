"""Portable graphs: the ONNX standard's operators only, the same model, in this runtime and in another."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx.reference import ReferenceEvaluator
from step_graphs import CONFIGS, lively, manifest_of, reference, run, tokens_for, weights_of

from edgetext.cli import group
from edgetext.errors import ExportError
from edgetext_export import build_step_graph, export_run
from edgetext_export.builder import PORTABLE_IR_VERSION, PORTABLE_OPSET
from edgetext_export.decoder import Decoder
from edgetext_export.parity import greedy_tokens
from edgetext_export.recipes import RECIPES
from edgetext_runtime import BundleError, Generator, read_bundle
from edgetext_runtime.numpy_session import NumpySession
from edgetext_runtime.sampling import SamplingParams
from edgetext_runtime.session import StepSession

GUIDE = Path(__file__).parents[2] / "docs/portable.md"
TOLERANCE = {"int8": 0.06, "int8-head-fp32": 0.06, "fp16": 2e-3, "fp32": 1e-5}
"""Mean logit error over the spread of the logits."""
SOME = [CONFIGS[n] for n in ("lstm, tied, projected", "gru, tied, projected", "transformer, tied, grouped")]


def portable(config, recipe, suppressed=()):
    """A torch generator, the portable step graph of its weights, and a session of that."""
    model = lively(config)
    recipe = RECIPES[recipe].as_portable()
    graph = build_step_graph(config, weights_of(model), recipe, suppressed=suppressed)
    return model, graph, StepSession(graph.model, manifest_of(config, graph))


def every_node(graph):
    """The nodes of a graph and of the bodies of its loops."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from every_node(attribute.g)


@pytest.mark.parametrize("recipe", TOLERANCE)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_all_operators_are_the_standards_and_the_logits_torchs(config, recipe):
    model, graph, session = portable(config, recipe)
    proto = onnx.load_from_string(graph.model)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", PORTABLE_OPSET)]
    assert (proto.ir_version, graph.opset) == (PORTABLE_IR_VERSION, PORTABLE_OPSET)
    for node in every_node(proto.graph):
        assert node.domain == ""
        assert onnx.defs.get_schema(node.op_type, PORTABLE_OPSET).since_version <= PORTABLE_OPSET
    tokens = tokens_for(config)
    expected = reference(model, tokens)
    whole = run(session, tokens, session.new_state(), range(11)).logits
    state = session.new_state()
    cuts = ((0, 4), (4, 5), (5, 9), (9, 10), (10, 11))
    pieces = [run(session, tokens[:, a:b], state, range(b - a)).logits for a, b in cuts]
    for found in (whole, np.concatenate(pieces, axis=1)):
        assert np.abs(found - expected).mean() < TOLERANCE[recipe] * expected.std()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_batch_gives_torchs_logits_for_every_sequence(config):
    model, _, session = portable(config, "fp32")
    tokens = tokens_for(config, batch=3)
    found = run(session, tokens, session.new_state(3), [3, 10]).logits
    np.testing.assert_allclose(found, reference(model, tokens)[:, [3, 10]], atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_greedy_tokens_are_those_of_torch_and_of_the_native_graph(config):
    model, _, session = portable(config, "fp32", suppressed=(1,))
    native = build_step_graph(config, weights_of(model), "fp32", suppressed=(1,))
    count = config.context or 48
    for graph in (session, StepSession(native.model, manifest_of(config, native))):
        assert greedy_tokens(model, graph, count, (1,)) == (count, count)


@pytest.mark.parametrize("config", SOME, ids=lambda config: config.kind)
@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_another_runtime_gives_the_same_tokens(config, recipe):
    """ONNX's own reference evaluator, which neither fuses nor shares buffers; sampled, and with a prompt."""
    _, graph, session = portable(config, recipe)
    other = ReferenceEvaluator(graph.model)
    sampling = SamplingParams(temperature=0.9, top_k=20, top_p=0.9, min_p=0.01)
    numbers = {
        name: np.array([getattr(sampling, name)]) for name in ("temperature", "top_k", "top_p", "min_p")
    }
    feeds = {name: x.astype(np.int64 if name == "top_k" else np.float32) for name, x in numbers.items()}
    names = ["next_token", *(entry.output for entry in graph.state)]
    memory = {s.input: np.zeros(s.concrete_shape(1, config.context), np.float32) for s in graph.state}
    state = session.new_state()
    given, draws = tokens_for(config, time=4), np.random.default_rng(0).random((10, 1), np.float32)
    for uniform in draws:
        place = {"past_length": np.array([state.length])} if config.context else {}
        last = np.array([given.shape[1] - 1])
        token, *after = other.run(
            names, feeds | memory | place | {"tokens": given, "positions": last, "uniform": uniform}
        )
        memory = dict(zip(memory, after, strict=True))
        found = session.run(given, state, sampling=sampling, uniform=uniform).next_token
        assert token[:, 0].tolist() == found.tolist()
        given = token


def test_the_numpy_backend_runs_the_lstm_and_refuses_the_others_with_the_way_out():
    for config in SOME:
        model, graph, _ = portable(config, "fp32")
        if config.kind == "lstm":
            session = NumpySession(graph.model, manifest_of(config, graph))
            tokens = tokens_for(config)
            found = run(session, tokens, session.new_state(), range(11)).logits
            np.testing.assert_allclose(found, reference(model, tokens), atol=1e-4)
            continue
        with pytest.raises(BundleError, match="pip install onnxruntime"):
            NumpySession(graph.model, manifest_of(config, graph))


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
def test_what_only_other_peoples_models_have_is_the_same_as_in_the_native_graph(activation):
    """Biases, LayerNorm, learned positions, plain feed-forwards, ids read by another row."""
    biases = ("qkv", "output", "up", "down")
    shape = Decoder(
        *(67, 32, 2, 4, 2, 8, 48, 24, True, 1e-5), norm="layer", activation=activation, biases=biases,
        head_bias=True, start_row=1,
    )  # fmt: skip
    random = np.random.default_rng(0)
    weights = {n: random.normal(0, 0.3, size).astype(np.float32) for n, size in shape.shapes().items()}
    tokens, logits = tokens_for(shape, batch=2), []
    for recipe in (RECIPES["fp32"], RECIPES["fp32"].as_portable()):
        graph = build_step_graph(shape, weights, recipe)
        session = StepSession(graph.model, manifest_of(shape, graph))
        logits.append(run(session, tokens, session.new_state(2), range(11)).logits)
    np.testing.assert_allclose(*logits, atol=1e-4)


def test_a_full_context_is_used_to_its_end_and_a_state_can_be_kept():
    config = CONFIGS["transformer, tied, grouped"]
    model, _, session = portable(config, "fp32")
    tokens = tokens_for(config, time=config.context)
    state = session.new_state()
    run(session, tokens[:, :-2], state, [0])
    kept = session.write_state(session.read_state(state), state.length)
    for memory in (state, kept):
        found = [
            run(session, tokens[:, t : t + 1], memory, [0]).logits[0, 0] for t in (-2, config.context - 1)
        ]
        np.testing.assert_allclose(found, reference(model, tokens)[0, -2:], atol=1e-4)


@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_the_bundle_says_that_it_is_portable(run, tmp_path, recipe):
    report = export_run(run, tmp_path / "m.etx", recipe, portable=True, quality_tokens=200)
    bundle = read_bundle(report.path)
    assert report.recipe == f"{recipe}-portable"
    assert bundle.manifest.opset == PORTABLE_OPSET
    assert bundle.manifest.quantisation["operators"] == "ai.onnx"
    assert f"ai.onnx, opset {PORTABLE_OPSET}" in bundle.members["CARD.md"].decode()
    assert Generator(bundle).verify() == []


def test_the_loop_of_the_guide_writes_what_the_runtime_writes(run, tmp_path, monkeypatch):
    export_run(run, tmp_path / "my.etx", "fp32", portable=True, quality_tokens=50)
    (snippet,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(snippet, GUIDE.name, "exec"), names)  # noqa: S102 - the text under test
    session = Generator.load(tmp_path / "my.etx").session
    state, draws, token = session.new_state(), np.random.default_rng(1), session.manifest.eos_id
    for expected in names["written"]:
        sampling = SamplingParams(temperature=0.8, top_k=40, top_p=0.95)
        token = session.step(token, state, sampling, draws.random(1, np.float32)[0])
        assert token == expected


def test_the_command_writes_float32_unless_told_otherwise(spoilt):
    result = CliRunner().invoke(group, ["export", str(spoilt), "--portable", "--tokens", "50", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert (report["recipe"], report["precision"]) == ("fp32-portable", "fp32")
    assert report["path"] == str(spoilt / "student-fp32-portable.etx")


def test_what_the_standard_cannot_do_is_refused(spoilt):
    with pytest.raises(ExportError, match="no standard operator multiplies 4-bit weights"):
        export_run(spoilt, recipe="int4", portable=True)
    with pytest.raises(ExportError, match="--tune is for the recipe int8, not int8 with --portable"):
        export_run(spoilt, recipe="int8", portable=True, tuned=True)
