"""Generation: streams, seeds, stops, limits, scores and golden cases, on tiny real models."""

import io
import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny_bundle as tiny

from edgetext_export.writer import write_bundle
from edgetext_runtime import (
    BundleError,
    EdgetextError,
    Generator,
    InputError,
    SamplingParams,
    TokenizerError,
    read_bundle,
)
from edgetext_runtime.console import verify_to

MODELS = ["lstm", "byte_model", "attention"]


@pytest.fixture(params=MODELS)
def generator(request) -> Generator:
    return request.getfixturevalue(request.param)


def repacked(generator, path, manifest=None, **changes):
    """The bundle of a generator with other members."""
    bundle = generator.bundle
    return write_bundle(path, manifest or bundle.manifest, {**bundle.members, **changes}, force=True)


def test_stream_is_generate(generator):
    for seed in range(20):
        stream = generator.stream("abc d", seed=seed)
        pieces = list(stream)
        result = generator.generate("abc d", seed=seed)
        assert "".join(pieces) == stream.result.text == result.text
        assert stream.result.tokens == result.tokens
        assert all(pieces)
        assert result.text == generator.tokenizer.decode(result.tokens)


def test_characters_arrive_whole(byte_model):
    for seed in range(10):
        stream = byte_model.stream("é", seed=seed, max_new_tokens=64)
        pieces = list(stream)
        assert "".join(pieces) == byte_model.tokenizer.decode_bytes(stream.result.tokens).decode(
            errors="replace"
        )


def test_same_seed_same_tokens_in_any_order_and_with_any_threads(generator):
    asked = [(prompt, seed) for prompt in ("", "abc", "a b c d") for seed in range(4)]

    def play(model, order):
        return {key: model.generate(key[0], seed=key[1]).tokens for key in order}

    expected = play(generator, asked)
    assert play(generator, asked[::-1]) == expected
    two = Generator(generator.bundle, threads=2)
    assert two.session.threads == 2
    assert play(two, asked) == expected
    assert len(set(expected.values())) > 4


def test_fresh_seed_is_reported_and_repeats(generator):
    first = generator.generate("ab")
    assert generator.generate("ab", seed=first.seed).tokens == first.tokens
    assert generator.generate("ab").seed != first.seed


def test_several_threads_and_interleaved_streams_do_not_disturb_each_other(generator):
    expected = [generator.generate("ab", seed=seed).tokens for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda seed: generator.generate("ab", seed=seed).tokens, range(24))
        assert list(results) == expected
    one, two = generator.stream("ab", seed=1), generator.stream("ab", seed=2)
    alternately = [next(one, ""), next(two, ""), *one, *two]
    assert alternately
    assert (one.result.tokens, two.result.tokens) == (expected[1], expected[2])


def test_generation_follows_the_numpy_sampler(generator):
    """The whole loop by hand: logits from the session, tokens from the reference sampler."""
    from reference_sampling import sample

    params = SamplingParams(temperature=0.8, top_k=12, top_p=0.9, min_p=0.01)
    draws = np.random.Generator(np.random.PCG64(3))
    state = generator.session.new_state()
    feed, expected = [0, *generator.tokenizer.encode("bad c")], []
    while len(expected) < 12:
        uniform = np.array([draws.random(dtype=np.float32)])
        step = generator.session.run(
            np.array([feed]), state, sampling=params, uniform=uniform, want_logits=True
        )
        token = int(sample(step.logits[:, -1], params, uniform)[0])
        if token == 0:
            break
        expected.append(token)
        feed = [token]
    settings = {"temperature": 0.8, "top_k": 12, "top_p": 0.9, "min_p": 0.01}
    result = generator.generate("bad c", max_new_tokens=12, seed=3, **settings)
    assert list(result.tokens) == expected


def test_defaults_come_from_the_bundle(lstm):
    plain = lstm.generate("ab", seed=5)
    spelt = lstm.generate(
        "ab", seed=5, temperature=0.9, top_k=0, top_p=0.95, min_p=0.0, max_new_tokens=32, stop=()
    )
    assert plain.tokens == spelt.tokens


def test_greedy_needs_no_seed(generator):
    assert (
        generator.generate("a", temperature=0, seed=1).tokens == generator.generate("a", temperature=0).tokens
    )


def test_finish_reasons(lstm, attention):
    results = [lstm.generate("ab", seed=seed) for seed in range(10)]
    ended = next(r for r in results if r.finish_reason == "eos")
    assert 0 not in ended.tokens
    assert ended.prompt_tokens == 2
    assert ended.timings.prefill_s > 0
    short = lstm.generate("ab", seed=ended.seed, max_new_tokens=1)
    assert (short.finish_reason, short.tokens) == ("length", ended.tokens[:1])
    full = [attention.generate("abcdefghijklmnopqrst", seed=s, max_new_tokens=99) for s in range(20)]
    filled = [r for r in full if r.finish_reason == "context"]
    assert filled
    # 20 letters and the start token fill 21 of 24 places; the token after the last place is the end.
    assert {len(r.tokens) for r in filled} == {tiny.CONTEXT - 21 + 1}


def test_prompt_as_long_as_the_context_gives_one_token_and_a_longer_one_is_refused(attention):
    fits = "a" * (tiny.CONTEXT - 1)
    assert len(attention.generate(fits, seed=0, temperature=0).tokens) <= 1
    for call in (attention.generate, attention.stream, attention.score):
        with pytest.raises(InputError, match=f"{tiny.CONTEXT + 1} tokens .* context of {tiny.CONTEXT}"):
            call(fits + "a")


def test_stop_strings_never_show(byte_model):
    for seed in range(15):
        whole = byte_model.generate("a", seed=seed).text
        if len(whole) < 8:
            continue
        for stop in (whole[3], whole[4:6], whole[2:7]):
            stream = byte_model.stream("a", seed=seed, stop=[stop, "never seen"])
            pieces = list(stream)
            assert "".join(pieces) == stream.result.text == whole[: whole.index(stop)]
            assert stream.result.finish_reason == "stop"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"min_p": 1}, "min_p is 1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"stop": [""]}, "stop is ''"),
        ({"prompt": b"bytes"}, "prompt is b'bytes'"),
    ],
)
def test_invalid_settings_are_refused_at_once(lstm, settings, message):
    with pytest.raises(InputError, match=f"{message}; allowed"):
        lstm.stream(**settings)


def test_prompt_with_half_a_surrogate_pair(byte_model):
    with pytest.raises(TokenizerError):
        byte_model.generate("\ud800")


def test_unfinished_stream_has_no_result(lstm):
    stream = lstm.stream("ab", seed=0)
    next(stream)
    with pytest.raises(EdgetextError, match="not finished"):
        _ = stream.result
    for _ in stream:
        pass
    assert stream.result
    assert next(stream, None) is None
    assert stream.result


def test_long_prompt_equals_the_same_tokens_fed_one_by_one(lstm):
    prompt = "the cat. " * 80  # 720 tokens: several calls of the graph
    result = lstm.generate(prompt, temperature=0, max_new_tokens=4)
    state, token = lstm.session.new_state(), 0
    for token_in in [0, *lstm.tokenizer.encode(prompt)]:
        token = lstm.session.step(token_in, state, SamplingParams(temperature=0), 0.0)
    assert result.tokens[:1] == (token,) or token == 0


def test_score_is_the_softmax_of_the_logits(generator):
    text = "hello, cat."
    score = generator.score(text)
    tokens = generator.tokenizer.encode(text)
    state, expected, previous = generator.session.new_state(), [], 0
    for token in tokens:
        step = generator.session.run(
            np.array([[previous]]),
            state,
            sampling=SamplingParams(),
            uniform=np.zeros(1, np.float32),
            want_logits=True,
        )
        weights = np.exp(step.logits[0, 0].astype(np.float64))
        expected.append(math.log(weights[token] / weights.sum()))
        previous = token
    assert score.tokens == tuple(tokens)
    np.testing.assert_allclose(score.logprobs, expected, rtol=1e-4, atol=1e-4)
    assert score.perplexity == pytest.approx(math.exp(-np.mean(expected)), rel=1e-3)


def test_score_of_a_long_text_and_of_none(lstm):
    assert len(lstm.score("ab " * 300).logprobs) == 900
    with pytest.raises(InputError, match="text is ''"):
        lstm.score("")


def golden_case(generator, prompt, **settings):
    result = generator.generate(prompt, **settings)
    ids = generator.tokenizer.encode(prompt)
    return {"prompt": prompt, "prompt_tokens": ids, "sampling": settings, "tokens": list(result.tokens)}


def test_verify_replays_the_golden_cases(generator, tmp_path):
    good = [
        golden_case(generator, "abc", temperature=0, seed=0),
        golden_case(generator, "", temperature=0.8, top_k=5, seed=7, max_new_tokens=9),
    ]
    bad = {**good[1], "tokens": [*good[1]["tokens"][:-1], 3, 4]}
    other_ids = {**good[0], "prompt_tokens": [3]}
    endless = {**good[0], "sampling": {"temperature": 0, "max_new_tokens": 2**31}, "tokens": [3, 4]}
    unsaid = {**good[0], "sampling": {"temperature": 0, "max_new_tokens": None, "seed": None}}
    for cases, failed in ((good, []), ([*good, bad], [2]), ([other_ids], [0]), ([endless, unsaid], [0])):
        golden = json.dumps({"cases": cases}).encode()
        path = repacked(generator, tmp_path / "g.etx", **{"golden.json": golden})
        loaded = Generator.load(path)
        assert [loaded.golden.index(case) for case in loaded.verify()] == failed
        said = io.StringIO()
        assert verify_to(said, path) is (failed == [])
        assert ("does not give" in said.getvalue()) is (failed != [])


@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b"nonsense"),
        ("tokenizer.json", tiny.char_tokenizer().replace(b'"a"', b'"\\ud800"')),
        ("tokenizer.json", tiny.byte_tokenizer()),
        ("generation.json", b"[]"),
        ("generation.json", b'{"temperature": -1}'),
        ("golden.json", b"{}"),
        ("golden.json", b'{"cases": [1]}'),
        (
            "golden.json",
            b'{"cases": [{"prompt": "", "prompt_tokens": [], "sampling": {"x": 1}, "tokens": []}]}',
        ),
        (
            "golden.json",
            b'{"cases": [{"prompt": "", "prompt_tokens": [], "sampling": {}, "tokens": [9999]}]}',
        ),
        ("model.onnx", b"nonsense"),
    ],
)
def test_member_that_does_not_fit_is_a_bundle_error(lstm, tmp_path, member, content):
    path = repacked(lstm, tmp_path / "bad.etx", **{member: content})
    read_bundle(path)  # the file itself is intact
    with pytest.raises(BundleError, match=member):
        Generator.load(path)


def test_special_tokens_must_be_the_tokenizers(lstm, tmp_path):
    from dataclasses import replace

    manifest = replace(lstm.manifest, special_tokens={"eos": 1, "pad": 0, "unk": 2})
    with pytest.raises(BundleError, match="special tokens"):
        Generator.load(repacked(lstm, tmp_path / "bad.etx", manifest))


def test_load_from_bytes_and_folder(lstm_path, tmp_path):
    import zipfile

    zipfile.ZipFile(lstm_path).extractall(tmp_path / "folder")
    from_bytes = Generator.load(lstm_path.read_bytes())
    from_folder = Generator.load(tmp_path / "folder", threads=1)
    assert from_bytes.generate("a", seed=1).tokens == from_folder.generate("a", seed=1).tokens
