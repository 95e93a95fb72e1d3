"""The step session: the fast path is the slow path, and graphs that do not fit their manifest are refused."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import tiny_bundle as tiny
from onnx import TensorProto

from edgetext_runtime import (
    BundleError,
    DependencyError,
    InputError,
    ProviderError,
    SamplingParams,
    StepSession,
)

VOCAB = 30
GREEDY = SamplingParams(temperature=0)
HALF = np.array([0.5], np.float32)


@pytest.fixture(scope="module", params=["lstm", "attention"])
def made(request):
    """Model bytes and manifest."""
    model, state = (tiny.lstm_model if request.param == "lstm" else tiny.attention_model)(VOCAB)
    return model, tiny.manifest(VOCAB, state)


@pytest.fixture(scope="module")
def session(made):
    return StepSession(*made)


def tokens(*ids):
    return np.array([ids], np.int64)


def test_prompt_at_once_equals_token_by_token(session):
    ids = [0, 5, 9, 3, 3, 12]
    whole, steps = session.new_state(), session.new_state()
    at_once = session.run(
        tokens(*ids), whole, sampling=GREEDY, uniform=HALF, positions=np.arange(6), want_logits=True
    )
    one_by_one = [
        session.run(tokens(i), steps, sampling=GREEDY, uniform=HALF, want_logits=True).logits[0, 0]
        for i in ids
    ]
    np.testing.assert_allclose(at_once.logits[0], one_by_one, rtol=1e-4, atol=1e-4)
    assert whole.length == steps.length == 6


def test_fast_path_equals_general_path(session):
    params = SamplingParams(temperature=0.7, top_k=9)
    general, fast, step = session.new_state(), session.new_state(), session.new_state()
    draws = np.random.default_rng(0).random(12, dtype=np.float32)
    for number, uniform in enumerate(draws):
        one = np.array([uniform])
        expected = session.run(tokens(number), general, sampling=params, uniform=one, want_logits=True)
        assert (
            session.run(tokens(number), fast, sampling=params, uniform=one).next_token == expected.next_token
        )
        assert session.step(number, step, params, float(uniform)) == expected.next_token[0]


def test_sampling_can_change_and_paths_can_mix_within_a_state(session):
    def play(mixed):
        state = session.new_state()
        session.run(tokens(0, 4, 7), state, sampling=GREEDY, uniform=HALF)
        chosen = []
        for number in range(8):
            params = SamplingParams(temperature=1 + number % 3)
            result = session.run(
                tokens(number), state, sampling=params, uniform=HALF, want_logits=mixed and number % 2 == 1
            )
            chosen.append(int(result.next_token[0]))
        return chosen

    assert play(mixed=True) == play(mixed=False)


def test_batch_rows_equal_single_sequences(session):
    rows = np.array([[0, 3, 5], [0, 8, 2]], np.int64)
    draws = np.array([0.2, 0.9], np.float32)
    state, params = session.new_state(2), SamplingParams()
    together = [session.run(rows, state, sampling=params, uniform=draws).next_token]
    together.append(session.run(rows[:, :1], state, sampling=params, uniform=draws).next_token)
    for row in range(2):
        alone = session.new_state()
        one = draws[row : row + 1]
        first = session.run(rows[row : row + 1], alone, sampling=params, uniform=one).next_token
        second = session.run(rows[row : row + 1, :1], alone, sampling=params, uniform=one).next_token
        assert [first[0], second[0]] == [result[row] for result in together]


def test_results_are_not_overwritten_by_later_calls(session):
    state = session.new_state()
    first = session.run(tokens(3), state, sampling=GREEDY, uniform=HALF).next_token
    kept = first.copy()
    for number in range(5):
        session.run(tokens(number), state, sampling=GREEDY, uniform=HALF)
    assert first.tolist() == kept.tolist()


@pytest.mark.parametrize(
    ("ids", "changes", "message"),
    [
        (np.zeros(3, np.int64), {}, "tokens have shape"),
        (np.zeros((1, 0), np.int64), {}, "tokens have shape"),
        (np.zeros((2, 1), np.int64), {}, "tokens have shape"),
        (tokens(VOCAB), {}, "from 0 to 29"),
        (tokens(-1), {}, "from 0 to 29"),
        (tokens(1).astype(float), {}, "integers"),
        (tokens(1), {"uniform": np.zeros(2, np.float32)}, "uniform has shape"),
        (tokens(1, 2), {"positions": np.array([2])}, "positions is"),
        (tokens(1, 2), {"positions": np.array([], np.int64)}, "positions is"),
    ],
)
def test_bad_input_is_refused_before_the_graph_sees_it(session, ids, changes, message):
    with pytest.raises(InputError, match=message):
        session.run(ids, session.new_state(), **{"sampling": GREEDY, "uniform": HALF, **changes})


def test_full_cache_is_an_input_error():
    model, state = tiny.attention_model(VOCAB)
    session = StepSession(model, tiny.manifest(VOCAB, state))
    full = session.new_state()
    session.run(np.zeros((1, tiny.CONTEXT), np.int64), full, sampling=GREEDY, uniform=HALF)
    with pytest.raises(InputError, match=f"context of {tiny.CONTEXT}"):
        session.run(tokens(1), full, sampling=GREEDY, uniform=HALF)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "auto", True, 9999])
def test_invalid_threads(made, threads):
    with pytest.raises(InputError, match="threads is"):
        StepSession(*made, threads=threads)


def test_provider_is_used_or_refused(made):
    with pytest.raises(ProviderError, match="unknown provider 'npu'"):
        StepSession(*made, provider="npu")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        with pytest.raises(ProviderError, match="pip install onnxruntime-gpu"):
            StepSession(*made, provider="cuda")


def test_too_old_onnxruntime_names_the_command(made):
    model, manifest = made
    with pytest.raises(DependencyError, match=r"pip install -U 'onnxruntime>=99\.0'"):
        StepSession(model, replace(manifest, ort_floor="99.0"))


@pytest.mark.parametrize("model", [b"", b"not protobuf", b"\x08\x07" * 50])
def test_model_that_is_none(made, model):
    with pytest.raises(BundleError, match="cannot load"):
        StepSession(model, made[1])


def test_model_with_weights_in_another_file_is_refused(made, tmp_path, monkeypatch):
    model = onnx.load_from_string(made[0])
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="another file"):
        StepSession((tmp_path / "m.onnx").read_bytes(), made[1])


def edited(model, change):
    proto = onnx.load_from_string(model)
    change(proto.graph)
    return proto.SerializeToString()


def test_graph_that_does_not_fit_its_manifest_is_refused(made):
    model, manifest = made

    def extra_input(graph):
        graph.input.append(onnx.helper.make_tensor_value_info("condition", TensorProto.FLOAT, [1]))

    def no_logits(graph):
        graph.output.remove(next(o for o in graph.output if o.name == "logits"))

    def fixed_batch(graph):
        next(i for i in graph.input if i.name == "min_p").type.tensor_type.shape.dim[0].dim_value = 2

    for change, message in [
        (extra_input, "inputs are not those .*condition"),
        (no_logits, "outputs are not those .*logits"),
        (fixed_batch, "input 'min_p' is"),
    ]:
        with pytest.raises(BundleError, match=message):
            StepSession(edited(model, change), manifest)
    with pytest.raises(BundleError, match="'logits' is"):
        StepSession(model, replace(manifest, vocab_size=VOCAB + 1))
    first = replace(manifest.state[0], input="tokens")
    with pytest.raises(BundleError, match="name of another input"):
        StepSession(model, replace(manifest, state=(first, *manifest.state[1:])))
    with pytest.raises(BundleError, match="inputs are not those"):
        StepSession(model, replace(manifest, state=manifest.state[:1]))
