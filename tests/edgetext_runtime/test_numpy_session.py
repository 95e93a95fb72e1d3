"""The numpy backend gives what ONNX Runtime gives: the same tokens, for every kind of exported model."""

import numpy as np
import pytest
import tiny_bundle as tiny

from edgetext.models import ModelConfig
from edgetext_export.decoder import Decoder
from edgetext_export.graph import build_step_graph
from edgetext_export.recurrent import recurrent_shapes
from edgetext_runtime import InputError, SamplingParams, StepSession
from edgetext_runtime.numpy_session import NumpySession

VOCAB = 61
STEPS = 256
GREEDY = SamplingParams(temperature=0)
SAMPLED = SamplingParams(temperature=0.8, top_k=20, top_p=0.95)
ALL = SamplingParams(min_p=0.01)
HALF = np.array([0.5], np.float32)

SHAPES = {
    "lstm": ModelConfig("lstm", VOCAB, 16, 24, 1, tied=True),
    "lstm-deep": ModelConfig("lstm", VOCAB, 37, 20, 2),
    "lstm-square": ModelConfig("lstm", VOCAB, 16, 16, 2, tied=True),
    "transformer": ModelConfig(
        "transformer", VOCAB, 32, 32, 2, heads=4, kv_heads=2, ffn=50, context=300, tied=True
    ),
    "transformer-bottleneck": ModelConfig(
        "transformer", VOCAB, 48, 48, 2, heads=2, kv_heads=1, ffn=24, context=300, bottleneck=20
    ),
}


def exported(config, precision, seed=0):
    """Model and manifest with random weights, as the exporter writes them."""
    random = np.random.default_rng(seed)
    shapes = recurrent_shapes(config) if config.kind == "lstm" else Decoder.of(config).shapes()
    weights = {}
    for name, shape in shapes.items():
        values = random.standard_normal(shape).astype(np.float32)
        weights[name] = 1 + values / 10 if "norm" in name else values * shape[-1] ** -0.5
    weights["embedding.weight"] *= 4
    graph = build_step_graph(config, weights, precision, suppressed=(1, 2))
    changes = {"precision": precision, "quantisation": graph.quantisation, "config": config.to_dict()}
    return graph.model, tiny.manifest(VOCAB, graph.state, context_length=config.context or None, **changes)


def by_hand(kind):
    """Model and manifest of a graph that was not written by the exporter."""
    model, state = (tiny.lstm_model if kind == "lstm" else tiny.attention_model)(VOCAB)
    return model, tiny.manifest(VOCAB, state)


def both(model, manifest):
    return StepSession(model, manifest), NumpySession(model, manifest)


def play(session, params, steps=STEPS, prompt=(0, 5, 9, 3, 12)):
    """The tokens of a generation."""
    draws = np.random.default_rng(7).random(steps, dtype=np.float32)
    state = session.new_state()
    first = session.run(tokens(*prompt), state, sampling=params, uniform=draws[:1])
    chosen = [int(first.next_token[0])]
    for uniform in draws[1:]:
        chosen.append(session.step(chosen[-1], state, params, float(uniform)))
    return chosen


def logits(session, ids, positions):
    """Logits of a batch at some positions."""
    draws = np.zeros(len(ids), np.float32)
    state = session.new_state(len(ids))
    return session.run(
        ids, state, sampling=GREEDY, uniform=draws, positions=np.array(positions), want_logits=True
    ).logits


def tokens(*ids):
    return np.array([ids], np.int64)


@pytest.mark.parametrize("name", SHAPES)
def test_fp32_tokens_are_those_of_onnxruntime(name):
    ort, ours = both(*exported(SHAPES[name], "fp32"))
    for params in (GREEDY, SAMPLED, ALL):
        assert play(ours, params) == play(ort, params)


@pytest.mark.parametrize(("kind", "steps"), [("lstm", STEPS), ("attention", tiny.CONTEXT - 5)])
def test_tokens_of_graphs_written_by_hand(kind, steps):
    ort, ours = both(*by_hand(kind))
    for params in (GREEDY, SAMPLED, ALL):
        assert play(ours, params, steps) == play(ort, params, steps)


@pytest.mark.parametrize("name", SHAPES)
def test_int8_logits_are_those_of_the_int8_kernels(name):
    """Activations are rounded as the kernels round them; a sum may round one to the next level, rarely."""
    ort, ours = both(*exported(SHAPES[name], "int8"))
    ids = np.random.default_rng(1).integers(0, VOCAB, 200)
    states = ort.new_state(), ours.new_state()
    differences, flips = [], 0
    for token in ids:
        expected, found = (
            session.run(tokens(token), state, sampling=GREEDY, uniform=HALF, want_logits=True).logits[0, 0]
            for session, state in zip((ort, ours), states, strict=True)
        )
        differences.append(np.abs(expected - found).max() / expected.std())
        flips += expected.argmax() != found.argmax()
    assert np.median(differences) < 1e-4
    assert flips <= 2


def test_int8_tokens_of_an_lstm_are_those_of_onnxruntime():
    ort, ours = both(*exported(SHAPES["lstm"], "int8"))
    assert play(ours, GREEDY) == play(ort, GREEDY)
    assert play(ours, SAMPLED) == play(ort, SAMPLED)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", SHAPES)
def test_prompts_and_batches(name, precision):
    ort, ours = both(*exported(SHAPES[name], precision, seed=3))
    ids = np.random.default_rng(2).integers(0, VOCAB, (3, 9))
    expected, found = (logits(session, ids, [0, 4, 8]) for session in (ort, ours))
    assert found.shape == (3, 3, VOCAB)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4 if precision == "fp32" else 0.05)


def test_a_prompt_longer_than_the_attention_takes_at_once():
    ort, ours = both(*exported(SHAPES["transformer"], "fp32"))
    ids = np.random.default_rng(2).integers(0, VOCAB, (1, 280))
    expected, found = (logits(session, ids, [0, 127, 128, 279]) for session in (ort, ours))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_prompt_at_once_equals_token_by_token(name):
    session = NumpySession(*exported(SHAPES[name], "fp32"))
    ids = [0, 5, 9, 3, 3, 12]
    whole = logits(session, tokens(*ids), range(6))[0]
    state = session.new_state()
    one_by_one = [
        session.run(tokens(i), state, sampling=GREEDY, uniform=HALF, want_logits=True).logits[0, 0]
        for i in ids
    ]
    np.testing.assert_allclose(whole, one_by_one, atol=1e-5)
    assert state.length == 6


def test_batch_rows_equal_single_sequences():
    session = NumpySession(*exported(SHAPES["transformer"], "fp32"))
    rows = np.array([[0, 3, 5], [0, 8, 2]], np.int64)
    draws = np.array([0.2, 0.9], np.float32)
    state = session.new_state(2)
    together = [session.run(rows, state, sampling=SAMPLED, uniform=draws).next_token]
    together.append(session.run(rows[:, :1], state, sampling=SAMPLED, uniform=draws).next_token)
    for row in range(2):
        alone, one = session.new_state(), draws[row : row + 1]
        first = session.run(rows[row : row + 1], alone, sampling=SAMPLED, uniform=one).next_token
        second = session.run(rows[row : row + 1, :1], alone, sampling=SAMPLED, uniform=one).next_token
        assert [first[0], second[0]] == [result[row] for result in together]


@pytest.mark.parametrize("name", ["lstm-deep", "transformer"])
def test_a_state_can_move_between_backends(name):
    ort, ours = both(*exported(SHAPES[name], "fp32"))
    continuations = []
    for prefill in (ort, ours):
        state = prefill.new_state()
        prefill.run(tokens(0, 7, 8, 9), state, sampling=GREEDY, uniform=HALF)
        arrays = prefill.read_state(state)
        for session in (ort, ours):
            moved = session.write_state(arrays, state.length)
            continuations.append([session.step(11, moved, GREEDY, 0.5) for _ in range(20)])
        arrays[0][...] = 0  # copies: nobody's state has changed
        continuations.append([prefill.step(11, state, GREEDY, 0.5) for _ in range(20)])
    assert all(continuation == continuations[0] for continuation in continuations)


def test_a_state_that_does_not_fit_is_refused():
    session = NumpySession(*exported(SHAPES["transformer"], "fp32"))
    state = session.new_state()
    session.run(tokens(0, 7), state, sampling=GREEDY, uniform=HALF)
    arrays = session.read_state(state)
    with pytest.raises(InputError, match="state"):
        session.write_state(arrays, 3)
    with pytest.raises(InputError, match="state"):
        session.write_state(arrays[:1], 2)
    with pytest.raises(InputError, match="state"):
        session.write_state([array.astype(np.float64) for array in arrays], 2)


def test_results_are_not_overwritten_by_later_calls():
    session = NumpySession(*by_hand("lstm"))
    state = session.new_state()
    first = session.run(tokens(3), state, sampling=GREEDY, uniform=HALF, want_logits=True)
    token, kept = first.next_token.copy(), first.logits.copy()
    for number in range(5):
        session.run(tokens(number), state, sampling=GREEDY, uniform=HALF)
    assert first.next_token == token
    np.testing.assert_array_equal(first.logits, kept)


def test_suppressed_ids_keep_their_logits_but_are_never_chosen():
    model, manifest = exported(SHAPES["lstm"], "fp32")
    session = NumpySession(model, manifest)
    result = session.run(tokens(0), session.new_state(), sampling=GREEDY, uniform=HALF, want_logits=True)
    assert np.isfinite(result.logits).all()
    everything = SamplingParams(temperature=1000)
    chosen = {session.step(0, session.new_state(), everything, u / 500) for u in range(500)}
    assert chosen.isdisjoint({1, 2})
    assert len(chosen) > VOCAB / 2


@pytest.mark.parametrize(
    ("ids", "changes", "message"),
    [
        (np.zeros(3, np.int64), {}, "tokens have shape"),
        (np.zeros((2, 1), np.int64), {}, "tokens have shape"),
        (tokens(VOCAB), {}, "from 0 to 60"),
        (tokens(-1), {}, "from 0 to 60"),
        (tokens(1), {"uniform": np.zeros(2, np.float32)}, "uniform has shape"),
        (tokens(1, 2), {"positions": np.array([2])}, "positions is"),
        (np.zeros((1, tiny.CONTEXT + 1), np.int64), {}, f"context of {tiny.CONTEXT}"),
    ],
)
def test_bad_input_is_refused(ids, changes, message):
    session = NumpySession(*by_hand("attention"))
    with pytest.raises(InputError, match=message):
        session.run(ids, session.new_state(), **{"sampling": GREEDY, "uniform": HALF, **changes})


@pytest.mark.parametrize("threads", [0, 2, True, 1.0, "auto"])
def test_only_one_thread(threads):
    with pytest.raises(InputError, match="threads is"):
        NumpySession(*by_hand("lstm"), threads=threads)
    with pytest.raises(InputError, match="batch is 0"):
        NumpySession(*by_hand("lstm")).new_state(0)


def test_what_it_says_of_itself():
    model, manifest = by_hand("lstm")
    session = NumpySession(model, manifest)
    assert (session.provider, session.threads, session.manifest) == ("numpy", 1, manifest)
