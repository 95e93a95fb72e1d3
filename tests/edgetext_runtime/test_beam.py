"""Beam search against an exhaustive one, and best_of against its definition."""

import numpy as np
import pytest

from edgetext_runtime import Generator
from edgetext_runtime.request import log_softmax


@pytest.fixture(params=["lstm", "attention"])
def generator(request) -> Generator:
    return request.getfixturevalue(request.param)


def next_logprobs(generator, fed):
    """Log-probabilities [V] of the token after ``fed``; padding and unknown words impossible."""
    step = generator.session.run(
        np.array([fed]),
        generator.session.new_state(),
        sampling=generator.defaults.sampling,
        uniform=np.zeros(1, np.float32),
        want_logits=True,
    )
    logprobs = log_softmax(step.logits[0, -1])
    logprobs[list(generator.tokenizer.suppressed)] = -np.inf
    return logprobs


def texts_of_two(generator, prompt):
    """All texts of up to two tokens as (tokens, sum of log-probabilities, tokens with the end)."""
    fed = [0, *generator.tokenizer.encode(prompt)]
    first = next_logprobs(generator, fed)
    yield (), first[0], 1
    for one in np.flatnonzero(np.isfinite(first))[1:]:
        second = next_logprobs(generator, [*fed, one])
        yield (int(one),), first[one] + second[0], 2
        for two in np.flatnonzero(np.isfinite(second))[1:]:
            yield (int(one), int(two)), first[one] + second[two], 2


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.7, 1.0, 2.0])
def test_wide_beams_find_the_best_text_there_is(generator, penalty):
    for prompt in ("ab", "", "no"):
        found = generator.generate(prompt, num_beams=64, length_penalty=penalty, max_new_tokens=2)
        best = max(texts_of_two(generator, prompt), key=lambda text: text[1] / text[2] ** penalty)
        assert found.tokens == best[0]
        assert found.finish_reason == ("length" if len(best[0]) == 2 else "eos")


def total(generator, prompt, result):
    fed, summed = [0, *generator.tokenizer.encode(prompt)], 0.0
    for token in (*result.tokens, *([0] if result.finish_reason == "eos" else [])):
        summed += next_logprobs(generator, fed)[token]
        fed.append(token)
    return summed / max(1, len(result.tokens) + (result.finish_reason == "eos"))


def test_more_beams_find_no_worse_texts_than_greedy(generator):
    for prompt in ("ab", "cde", "hello"):
        greedy = generator.generate(prompt, temperature=0, logit_bias={}, max_new_tokens=6, min_new_tokens=6)
        beams = generator.generate(prompt, num_beams=8, max_new_tokens=6, min_new_tokens=6)
        assert total(generator, prompt, beams) >= total(generator, prompt, greedy) - 1e-4


def test_beam_search_needs_no_seed_and_may_be_constrained(generator):
    one, two = (generator.generate("ab", num_beams=3, seed=seed, max_new_tokens=8) for seed in (1, 2))
    assert one.tokens == two.tokens
    result = generator.generate("ab", num_beams=3, choices=["cab", "dad", "fee"], logprobs=True)
    assert (result.text in {"cab", "dad", "fee"}, result.finish_reason) == (True, "eos")
    assert len(result.logprobs) == 3


def test_beams_stop_before_a_stop_string(lstm):
    free = lstm.generate("ab", num_beams=3, max_new_tokens=12, min_new_tokens=10)
    stop = free.text[4]
    result = lstm.generate("ab", num_beams=3, max_new_tokens=12, min_new_tokens=10, stop=stop)
    assert stop not in result.text
    assert (
        "".join(lstm.stream("ab", num_beams=3, max_new_tokens=12))
        == lstm.generate("ab", num_beams=3, max_new_tokens=12).text
    )


def test_best_of_is_the_likeliest_of_its_seeds(generator):
    state = generator.prefill("ab")
    candidates = [generator.generate(state=state, seed=seed, logprobs=True) for seed in range(3, 11)]
    best = max(candidates, key=lambda r: np.mean(r.logprobs) if r.logprobs else -np.inf)
    found = generator.generate("ab", seed=3, best_of=8)
    assert (found.tokens, found.seed, found.logprobs) == (best.tokens, best.seed, None)
    assert generator.generate("ab", seed=3, best_of=8, logprobs=True).logprobs == best.logprobs
