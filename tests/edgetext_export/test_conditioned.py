"""Labels from torch to the device: the condition in the graph, in every way to generate, on both backends."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from step_graphs import GRU, LSTM, TRANSFORMER, lively, make, manifest_of, run, tokens_for, weights_of

from edgetext.errors import CorpusError
from edgetext.evaluate.candidates import Bundled, open_candidate
from edgetext_export import build_step_graph, export_run
from edgetext_runtime import Generator, InputError, PromptState, read_bundle
from edgetext_runtime.numpy_session import NumpySession
from edgetext_runtime.session import StepSession

TEXT = "The quick fox ran over the fence, and nobody in the village saw it."
PROMPT = TEXT[:9]
LABELS = ("good", "bad", "neither")
CONFIGS = {config.kind: replace(config, labels=LABELS) for config in (LSTM, GRU, TRANSFORMER)}
EVERY = {**CONFIGS, "bottleneck": replace(CONFIGS["transformer"], bottleneck=16, heads=2)}


def expected(model, tokens, condition):
    with torch.no_grad():
        return model(torch.from_numpy(tokens), condition=torch.from_numpy(condition)).logits.numpy()


@pytest.mark.parametrize("portable", [False, True], ids=["native", "portable"])
@pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)
def test_prompts_steps_and_batches_give_torchs_logits_under_their_condition(config, portable):
    model = lively(config)
    recipe = "fp32"
    if portable:
        from edgetext_export.recipes import find_recipe

        recipe = find_recipe("fp32").as_portable()
    graph = build_step_graph(config, weights_of(model), recipe)
    session = StepSession(graph.model, manifest_of(config, graph))
    tokens = tokens_for(config, batch=3)
    condition = np.eye(3, dtype=np.float32)[[2, 0, 1]]
    found = run(session, tokens, session.new_state(3, condition), range(11)).logits
    np.testing.assert_allclose(found, expected(model, tokens, condition), atol=1e-4)
    one, state = np.array([0.5, -1, 2], np.float32), session.new_state(1, np.array([0.5, -1, 2], np.float32))
    steps = [run(session, tokens[:1, t : t + 1], state, [0]).logits for t in range(11)]
    np.testing.assert_allclose(
        np.concatenate(steps, axis=1), expected(model, tokens[:1], one[None]), atol=1e-4
    )


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_numpy_runs_conditions_as_onnxruntime_does(kind, recipe):
    config = CONFIGS[kind]
    _, ort = make(config, recipe)
    graph = build_step_graph(config, weights_of(lively(config)), recipe)
    ours = NumpySession(graph.model, manifest_of(config, graph))
    tokens, condition = tokens_for(config, batch=2), np.eye(3, dtype=np.float32)[:2]
    states = ort.new_state(2, condition), ours.new_state(2, condition)
    for part in (slice(0, 6), slice(6, 7), slice(7, 8)):
        count = part.stop - part.start
        pairs = zip((ort, ours), states, strict=True)
        found = [run(session, tokens[:, part], state, range(count)).logits for session, state in pairs]
        np.testing.assert_allclose(*found, atol=2e-3 if recipe == "int8" else 1e-4)


@pytest.fixture(scope="module", params=["int8", "fp32"])
def bundle(request, conditioned, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "model.etx"
    export_run(conditioned, path, request.param)
    return path


@pytest.fixture(scope="module")
def generator(bundle):
    return Generator.load(bundle, threads=1)


def test_the_manifest_lists_the_labels_and_golden_cases_use_them(bundle, generator):
    assert generator.manifest.labels == LABELS
    entry = generator.manifest.state[-1]
    assert (entry.input, entry.output, entry.kind) == ("condition.label", "", "condition")
    cases = json.loads(read_bundle(bundle).members["golden.json"])["cases"]
    assert [case["sampling"]["label"] for case in cases] == ["good", "bad", "neither", "good"]
    card = read_bundle(bundle).members["CARD.md"].decode()
    assert "good, bad, neither" in card
    assert 'label="good", temperature' in card
    assert generator.verify() == []


def test_the_label_changes_the_text_and_the_seed_repeats_it(generator):
    texts = {label: generator.generate(label=label, seed=1, max_new_tokens=24).tokens for label in LABELS}
    assert len(set(texts.values())) == 3
    assert generator.generate(label="bad", seed=1, max_new_tokens=24).tokens == texts["bad"]
    assert (
        generator.generate(label="bad", label_strength=1.0, seed=1, max_new_tokens=24).tokens == texts["bad"]
    )
    middle = {generator.generate(label=x, label_strength=0, seed=1, max_new_tokens=24).tokens for x in LABELS}
    assert len(middle) == 1
    assert generator.score("The dog fell.", label="bad") != generator.score("The dog fell.", label="good")


def test_every_way_to_generate_gives_the_texts_of_the_label(bundle, generator):
    options = {"label": "neither", "temperature": 0.9, "max_new_tokens": 12}
    alone = [generator.generate(PROMPT, seed=seed, **options) for seed in range(3)]
    stream = generator.stream(PROMPT, seed=1, **options)
    assert "".join(stream) == alone[1].text
    state = generator.prefill(PROMPT, label="neither")
    again = PromptState.from_bytes(state.to_bytes(), generator)
    for start in (state, again):
        assert (
            generator.generate(state=start, seed=1, temperature=0.9, max_new_tokens=12).tokens
            == alone[1].tokens
        )
    if generator.manifest.precision == "fp32":
        batch = generator.generate_batch([PROMPT] * 3, seed=0, **options)
        assert [text.tokens for text in batch] == [text.tokens for text in alone]
    beams = [generator.generate(label=x, num_beams=3, max_new_tokens=8).tokens for x in LABELS]
    assert len(set(beams)) > 1
    hosted = generator.generate(PROMPT, seed=1, logprobs=True, **options)
    assert hosted.tokens == alone[1].tokens


@pytest.mark.parametrize("conditioned", ["transformer"], indirect=True)
def test_a_sliding_context_keeps_the_label(conditioned, tmp_path):
    export_run(conditioned, tmp_path / "m.etx", "fp32")
    generator = Generator.load(tmp_path / "m.etx", threads=1)
    limit = generator.manifest.context_length
    settings = {
        "context_policy": "slide",
        "temperature": 0,
        "max_new_tokens": limit + 8,
        "logit_bias": {0: -1e6},
    }
    text = generator.generate(label="bad", **settings).tokens
    fed = [0, *text[: limit - 1]][-(limit // 2) :]
    state = generator.session.new_state(1, np.array([0, 1, 0], np.float32))
    step = run(generator.session, np.array([fed]), state, [len(fed) - 1])
    logits = step.logits[0, 0].copy()
    logits[[0, 1]] = -np.inf
    assert text[limit] == int(logits.argmax())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "label is None; allowed is good, bad, neither"),
        ({"label": "ugly"}, "label is 'ugly'; allowed is good, bad, neither"),
        ({"label": 3}, "label is 3; allowed"),
        ({"label": ["good"]}, "label is .*allowed"),
        ({"label": "good", "label_strength": 11}, "label_strength is 11; allowed is a number from -10 to 10"),
        ({"label": "good", "label_strength": float("nan")}, "label_strength is nan"),
        ({"label": "good", "label_strength": "2"}, "label_strength is '2'"),
    ],
)
def test_a_wrong_label_is_refused_with_those_there_are(generator, options, message):
    for call in (
        generator.generate,
        generator.stream,
        generator.prefill,
        lambda **given: generator.score("a", **given),
    ):
        with pytest.raises(InputError, match=message):
            call(**options)


def test_a_state_has_its_label_and_takes_no_other(generator):
    state = generator.prefill("The", label="good")
    with pytest.raises(InputError, match="none with a state"):
        generator.generate(state=state, label="bad")
    with pytest.raises(InputError, match="label_strength is 2"):
        generator.generate(state=state, label_strength=2)


def test_an_unconditioned_model_refuses_a_label(exported):
    generator = Generator.load(exported.path)
    with pytest.raises(InputError, match="label is 'good'; allowed is none: this model has no labels"):
        generator.generate(label="good")
    with pytest.raises(InputError, match="label_strength is 2"):
        generator.generate(label_strength=2)


def test_the_referee_reads_run_and_bundle_as_the_same_mixture(conditioned, generator):
    checkpoint, bundled = open_candidate(conditioned), Bundled("bundle", generator)
    row = [0, *generator.tokenizer.encode(TEXT)]
    ours, theirs = bundled.log_probabilities(row), checkpoint.log_probabilities(row)
    tolerance = 1e-3 if generator.manifest.precision == "fp32" else 0.5
    np.testing.assert_allclose(ours, theirs, atol=tolerance)
    assert len(bundled.sample(3, 1.0, seed=1)) == len(checkpoint.sample(3, 1.0, seed=1)) == 3


def test_labels_of_another_corpus_are_refused(conditioned, tmp_path):
    spoilt = shutil.copytree(conditioned, tmp_path / "run")
    np.save(spoilt / "data" / "test.labels.npy", np.zeros(3, np.uint16))
    with pytest.raises(CorpusError, match="other labels"):
        export_run(spoilt, tmp_path / "model.etx")
