"""Texts that outgrow a Transformer's context: refused, cut, or slid along."""

import numpy as np
import pytest
import tiny_bundle as tiny

from edgetext_runtime import InputError
from edgetext_runtime.context import fit_prompt

LONG = "abcdefghij " * 5


def test_what_fits_is_never_cut():
    for policy in ("error", "truncate_left", "slide"):
        assert fit_prompt(range(24), 24, policy, room=99) == list(range(24))
        assert fit_prompt(range(9999), None, policy, room=99) == list(range(9999))


def test_truncation_leaves_room_but_keeps_half():
    assert fit_prompt(range(50), 24, "truncate_left", room=4) == list(range(30, 50))
    assert fit_prompt(range(50), 24, "truncate_left", room=99) == list(range(38, 50))
    assert fit_prompt(range(50), 1, "truncate_left", room=99) == [49]
    assert fit_prompt(range(50), 24, "slide", room=4) == list(range(38, 50))


def test_error_names_the_way_out(attention):
    with pytest.raises(InputError, match="context_policy"):
        attention.generate(LONG)


def test_truncated_prompt_is_its_last_tokens(attention):
    ids = attention.tokenizer.encode(LONG)
    state = attention.session.new_state()
    step = attention.session.run(
        np.array([ids[-20:]]),
        state,
        sampling=attention.defaults.override(temperature=0).sampling,
        uniform=np.zeros(1, np.float32),
    )
    result = attention.generate(LONG, temperature=0, max_new_tokens=4, context_policy="truncate_left")
    assert result.tokens[:1] == tuple(step.next_token) or step.next_token[0] == 0
    assert result.prompt_tokens == len(ids)


def test_sliding_goes_on_from_the_last_half(attention):
    """Against the same by hand: a fresh state is fed the last half whenever the context is full."""
    sampling = attention.defaults.override(temperature=0).sampling
    draws = np.zeros(1, np.float32)
    history = [0, *attention.tokenizer.encode("ab")]
    feed, state, expected = list(history), attention.session.new_state(), []
    while len(expected) < 60:
        step = attention.session.run(np.array([feed]), state, sampling=sampling, uniform=draws)
        token = int(step.next_token[0])
        if token == 0:
            break
        expected.append(token)
        history.append(token)
        feed = [token]
        if state.length == tiny.CONTEXT:
            feed, state = history[-tiny.CONTEXT // 2 :], attention.session.new_state()
    result = attention.generate("ab", temperature=0, max_new_tokens=60, context_policy="slide")
    assert list(result.tokens) == expected


def test_sliding_ends_only_where_it_was_asked_to(attention):
    never = {0: float("-inf")}
    for prompt in ("ab", LONG, "a" * (tiny.CONTEXT - 1)):
        result = attention.generate(
            prompt, seed=1, max_new_tokens=100, context_policy="slide", logit_bias=never
        )
        assert (result.finish_reason, len(result.tokens)) == ("length", 100)


def test_recurrent_models_have_no_limit(lstm):
    for policy in ("error", "truncate_left", "slide"):
        text = lstm.generate(LONG, seed=1, context_policy=policy).text
        assert text == lstm.generate(LONG, seed=1).text


def test_beams_do_not_slide(attention):
    with pytest.raises(InputError, match="with num_beams"):
        attention.generate("ab", num_beams=2, context_policy="slide")
    result = attention.generate("ab", num_beams=2, max_new_tokens=99, logit_bias={0: float("-inf")})
    assert result.finish_reason == "context"
