"""Batches: every text is the one it would be alone."""

import pytest
import tiny_bundle as tiny

from edgetext_runtime import Generator, InputError

PROMPTS = ["ab", "", "abc de", "x", "hello, cat", "ab", "no.", "x"]


@pytest.fixture(params=["lstm", "byte_model", "attention"])
def generator(request) -> Generator:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0},
        {"stop": ["a", "e"]},
        {"logprobs": True, "max_new_tokens": 9},
        {"repetition_penalty": 1.4, "min_new_tokens": 3},
        {"regex": "[a-e ]{2,9}"},
        {"context_policy": "slide", "max_new_tokens": 50},
    ],
)
def test_texts_are_those_of_one_by_one(generator, options):
    results = generator.generate_batch(PROMPTS, seed=5, **options)
    assert [result.seed for result in results] == list(range(5, 5 + len(PROMPTS)))
    for prompt, result in zip(PROMPTS, results, strict=True):
        alone = generator.generate(prompt, **{**options, "seed": result.seed})
        assert (result.text, result.tokens) == (alone.text, alone.tokens)
        assert result.finish_reason == alone.finish_reason
        assert result.prompt_tokens == alone.prompt_tokens
        if result.logprobs is not None:
            assert result.logprobs == pytest.approx(alone.logprobs, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("options", [{"best_of": 3}, {"num_beams": 2, "max_new_tokens": 6}])
def test_searches_go_one_by_one(generator, options):
    results = generator.generate_batch(PROMPTS[:3], seed=5, **options)
    alone = [generator.generate(prompt, seed=5 + n, **options) for n, prompt in enumerate(PROMPTS[:3])]
    assert [(r.tokens, r.seed) for r in results] == [(r.tokens, r.seed) for r in alone]


def test_more_prompts_than_fit_one_call(lstm):
    prompts = ["ab"] * 70
    results = lstm.generate_batch(prompts, seed=0, max_new_tokens=12)
    assert [r.tokens for r in results] == [
        lstm.generate("ab", seed=seed, max_new_tokens=12).tokens for seed in range(70)
    ]


def test_full_contexts_end(attention):
    results = attention.generate_batch(["abcdefghijklmnopqrst"] * 8, seed=0, max_new_tokens=99)
    filled = [result for result in results if result.finish_reason == "context"]
    assert {len(result.tokens) for result in filled} == {tiny.CONTEXT - 21 + 1}


def test_no_prompts_and_wrong_ones(lstm):
    assert lstm.generate_batch([]) == []
    for wrong in ("ab", 3, ["ab", 3]):
        with pytest.raises(InputError, match="allowed is a"):
            lstm.generate_batch(wrong)
