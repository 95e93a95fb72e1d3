"""What is decided on the host: each option by its definition; with all of them off, the graph's choice."""

import math
from itertools import pairwise

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgetext_export.writer import write_bundle
from edgetext_runtime import Generator, InputError, read_bundle
from edgetext_runtime.processors import keep_typical, penalise_repetition, repeated_ngrams


@pytest.fixture(scope="module", params=["lstm_path", "byte_path", "attention_path"])
def generator(request, tmp_path_factory) -> Generator:
    """A tiny bundle whose graph, like an exported one, never samples padding or unknown words."""
    bundle = read_bundle(request.getfixturevalue(request.param))
    model = onnx.load_from_string(bundle.members["model.onnx"])
    nodes = model.graph.node
    at = next(n for n, node in enumerate(nodes) if node.output[0] == "last")
    nodes[at].output[0] = "raw"
    mask = np.zeros(bundle.manifest.vocab_size, np.float32)
    special = bundle.manifest.special_tokens
    mask[[i for i in (special["pad"], special["unk"]) if i is not None]] = -np.inf
    model.graph.initializer.append(numpy_helper.from_array(mask, "suppressed"))
    nodes.insert(at + 1, helper.make_node("Add", ["raw", "suppressed"], ["last"]))
    path = tmp_path_factory.mktemp("suppressing") / "model.etx"
    members = {**bundle.members, "model.onnx": model.SerializeToString()}
    return Generator.load(write_bundle(path, bundle.manifest, members))


def test_host_and_graph_choose_the_same_tokens(generator):
    for seed in range(20):
        for sampling in ({}, {"temperature": 0}, {"top_k": 5, "temperature": 1.3}, {"min_p": 0.1}):
            native = generator.generate("ab", seed=seed, **sampling)
            host = generator.generate("ab", seed=seed, processors=[lambda logits, ids: None], **sampling)
            assert host.tokens == native.tokens
            assert (host.text, host.finish_reason) == (native.text, native.finish_reason)
            state = generator.prefill("ab")
            assert generator.generate(state=state, seed=seed, **sampling).tokens == native.tokens


def test_host_path_gives_the_same_tokens_with_any_threads(generator):
    two = Generator(generator.bundle, threads=2)
    options = {"repetition_penalty": 1.3, "typical_p": 0.8, "no_repeat_ngram_size": 3}
    for seed in range(8):
        assert (
            two.generate("ab", seed=seed, **options).tokens
            == generator.generate("ab", seed=seed, **options).tokens
        )


def test_logprobs_are_those_of_score_and_change_no_token(generator):
    prompt = "ab"
    plain = generator.generate(prompt, seed=4, max_new_tokens=8)
    result = generator.generate(prompt, seed=4, max_new_tokens=8, logprobs=True)
    assert result.tokens == plain.tokens
    assert plain.logprobs is None
    assert len(result.logprobs) == len(result.tokens)
    state, expected = generator.session.new_state(), []
    fed = [0, *generator.tokenizer.encode(prompt), *result.tokens]
    step = generator.session.run(
        np.array([fed]),
        state,
        sampling=generator.defaults.sampling,
        uniform=np.zeros(1, np.float32),
        positions=np.arange(len(fed)),
        want_logits=True,
    )
    for at, token in enumerate(result.tokens, start=len(fed) - len(result.tokens) - 1):
        row = step.logits[0, at].astype(np.float64)
        expected.append(row[token] - math.log(np.exp(row).sum()))
    np.testing.assert_allclose(result.logprobs, expected, rtol=1e-4, atol=1e-4)


def test_likeliest_tokens_are_given_in_order(generator):
    result = generator.generate("ab", seed=4, max_new_tokens=8, logprobs=True, top_logprobs=3)
    for token, logprob, likely in zip(result.tokens, result.logprobs, result.top_logprobs, strict=True):
        values = list(likely.values())
        assert (len(values), values) == (3, sorted(values, reverse=True))
        assert likely.get(token, logprob) == logprob <= values[0]


def test_repetition_penalty_divides_or_multiplies():
    logits = np.array([2.0, -2.0, 3.0, -3.0], np.float32)
    penalise_repetition(logits, [0, 1, 1], 2.0)
    assert logits.tolist() == [1.0, -4.0, 3.0, -3.0]


def test_penalties_see_prompt_and_text_as_said(lstm):
    """A processor, which comes after the penalties, watches what they did."""
    ids = lstm.tokenizer.encode("ab")
    seen = {}

    def watch(name):
        return lambda logits, tokens: seen.setdefault(name, []).append((logits.copy(), tokens))

    def first_two(**options):
        return lstm.generate("ab", temperature=0, max_new_tokens=2, min_new_tokens=2, **options).tokens

    first_two(processors=[watch("plain")])
    first_two(processors=[watch("repetition")], repetition_penalty=1.5)
    first_two(processors=[watch("presence")], presence_penalty=0.5, frequency_penalty=0.25)
    plain, tokens = seen["plain"][0]
    assert tokens == tuple(ids)
    expected = plain.copy()
    penalise_repetition(expected, ids, 1.5)
    np.testing.assert_array_equal(seen["repetition"][0][0], expected)
    np.testing.assert_array_equal(seen["presence"][0][0], plain)  # the prompt does not count
    (after, tokens), (before, _) = seen["presence"][1], seen["plain"][1]
    assert len(tokens) == len(ids) + 1
    assert before[tokens[-1]] - after[tokens[-1]] == pytest.approx(0.75)
    assert np.count_nonzero(np.isfinite(before) & (before != after)) == 1


@given(tokens=st.lists(st.integers(0, 3), max_size=12), size=st.integers(1, 4), following=st.integers(0, 3))
def test_repeated_ngrams_are_what_would_appear_twice(tokens, size, following):
    def ngrams(ids):
        return [tuple(ids[at : at + size]) for at in range(len(ids) - size + 1)]

    twice = len(tokens) + 1 >= size and ngrams([*tokens, following])[-1] in ngrams(tokens)
    assert (following in repeated_ngrams(tokens, size)) == twice


def test_no_ngram_of_prompt_and_text_repeats(lstm):
    for seed in range(10):
        result = lstm.generate("abab", seed=seed, no_repeat_ngram_size=2, max_new_tokens=60)
        ids = [*lstm.tokenizer.encode("abab"), *result.tokens]
        pairs = list(pairwise(ids))
        assert len(pairs) - len(set(pairs)) == 1  # that of the prompt itself


def test_typical_sampling_keeps_the_tokens_nearest_to_the_entropy():
    p = np.array([0.5, 0.25, 0.125, 0.125])  # surprise 1, 2, 3, 3 bits; entropy 1.75 bits
    logits = np.log(p).astype(np.float32)
    kept = logits.copy()
    keep_typical(kept, 1.0, 0.2)
    assert np.isfinite(kept).tolist() == [False, True, False, False]
    kept = logits.copy()
    keep_typical(kept, 1.0, 0.6)
    assert np.isfinite(kept).tolist() == [True, True, False, False]
    kept = logits.copy()
    keep_typical(kept, 1.0, 0.8)
    assert np.isfinite(kept).tolist() == [True, True, True, False]  # of equal ones the lower id


def test_greedy_decoding_knows_no_typical_tokens(lstm):
    greedy = lstm.generate("ab", temperature=0, logit_bias={})
    assert lstm.generate("ab", temperature=0, typical_p=0.01, logit_bias={}).tokens == greedy.tokens


def test_logit_bias_forces_and_bans(lstm):
    x = lstm.tokenizer.encode("x")[0]
    assert lstm.generate("ab", seed=0, max_new_tokens=5, logit_bias={x: 1000}).text == "xxxxx"
    for seed in range(10):
        assert (
            "a"
            not in lstm.generate("ab", seed=seed, logit_bias={lstm.tokenizer.encode("a")[0]: -math.inf}).text
        )


def test_bad_words_never_appear_however_they_are_cut(byte_model, lstm):
    for model in (byte_model, lstm):
        texts = (model.generate("a", seed=seed, top_k=40).text for seed in range(300))
        plain = next(text for text in texts if len(text) > 8 and "\ufffd" not in text[:6])
        for bad in ([plain[2]], [plain[1:3], plain[4:6]], ["é", plain[0:4]]):
            for seed in range(12):
                text = model.generate("a", seed=seed, bad_words=bad, max_new_tokens=60).text
                assert not any(word in text for word in bad)


def test_min_new_tokens_holds_back_the_end(lstm):
    short = next(seed for seed in range(99) if len(lstm.generate("ab", seed=seed, logit_bias={}).tokens) < 9)
    result = lstm.generate("ab", seed=short, min_new_tokens=20)
    assert len(result.tokens) >= 20


def test_processors_run_in_order_with_the_tokens_so_far(lstm):
    x = lstm.tokenizer.encode("x")[0]

    def only_x(logits, tokens):
        logits[:] = -np.inf
        logits[x] = 0

    def then_end(logits, tokens):
        return np.eye(len(logits))[0] * 99 if tokens[-3:] == (x, x, x) else None

    result = lstm.generate("ab", processors=[only_x, then_end], seed=0, temperature=0)
    assert (result.text, result.finish_reason) == ("xxx", "eos")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processors": [lambda logits, ids: logits[:3]]}, r"returned shape \(3,\)"),
        ({"processors": [lambda logits, ids: "no"]}, "returned no logits"),
        ({"processors": [lambda logits, ids: logits * np.nan]}, "no token is allowed after 0 new tokens"),
        ({"processors": [lambda logits, ids: logits - np.inf]}, "no token is allowed"),
        ({"choices": ["ab"], "bad_words": ["b"]}, "no token is allowed after 1 new tokens"),
        ({"logit_bias": {99: 1.0}}, "logit_bias has 99: 1.0"),
        ({"logit_bias": {"a": 1.0}}, "logit_bias has 'a'"),
        ({"logit_bias": {3: math.nan}}, "logit_bias has 3: nan"),
    ],
)
def test_options_that_leave_nothing_say_so(lstm, options, message):
    with pytest.raises(InputError, match=message):
        lstm.generate("ab", seed=0, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"typical_p": 0}, "typical_p is 0"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"presence_penalty": 3}, "presence_penalty is 3"),
        ({"frequency_penalty": "much"}, "frequency_penalty is 'much'"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1"),
        ({"min_new_tokens": 40}, "min_new_tokens is 40"),
        ({"temperature": 10**400}, "temperature is 1000"),
        ({"bad_words": "word"}, "bad_words is 'word'"),
        ({"bad_words": [""]}, "bad_words is"),
        ({"processors": 3}, "processors is 3"),
        ({"logit_bias": [1]}, "logit_bias is"),
        ({"logprobs": 1}, "logprobs is 1"),
        ({"top_logprobs": 3}, "top_logprobs is 3"),
        ({"top_logprobs": 65, "logprobs": True}, "top_logprobs is 65"),
        ({"top_logprobs": 1, "logprobs": True, "num_beams": 2}, "top_logprobs is 1"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"best_of": 2, "num_beams": 2}, "best_of is 2"),
        ({"context_policy": "forget"}, "context_policy is 'forget'"),
        ({"stop": 3}, "stop is 3"),
    ],
)
def test_invalid_options_are_refused_at_once(lstm, options, message):
    with pytest.raises(InputError, match=f"{message}.*allowed|allowed.*{message}"):
        lstm.stream("ab", **options)


def test_unknown_option_names_the_known_ones(lstm):
    with pytest.raises(InputError, match=r"unknown option 'temprature'; allowed are .*temperature"):
        lstm.generate("ab", temprature=1)
