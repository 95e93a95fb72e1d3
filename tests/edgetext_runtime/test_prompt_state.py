"""A prompt paid for once: continued, forked, extended, written, read, and refused when it is forged."""

import hashlib
import json
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tiny_bundle as tiny

from edgetext_runtime import Generator, InputError, PromptState

PROMPT = "abc d"


@pytest.fixture(params=["lstm", "attention"])
def generator(request) -> Generator:
    return request.getfixturevalue(request.param)


def test_greedy_continuation_equals_that_of_the_prompt(generator):
    whole = generator.generate(PROMPT, temperature=0, max_new_tokens=12)
    state = generator.prefill(PROMPT)
    # The tiny graphs sample padding as well; the host, which samples a state's first token, never does.
    if whole.tokens[:1] not in ((1,), (2,)):
        assert generator.generate(state=state, temperature=0, max_new_tokens=12).tokens == whole.tokens
    assert generator.generate(state=state, logprobs=True, temperature=0).prompt_tokens == len(PROMPT)


def test_a_state_is_not_changed_by_what_continues_it(generator):
    state = generator.prefill(PROMPT)
    kept = [array.copy() for array in state.arrays]
    first = [generator.generate(state=state, seed=seed).tokens for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        again = list(
            pool.map(lambda seed: generator.generate(state=state.fork(), seed=seed).tokens, range(8))
        )
    assert again == first
    assert len(set(first)) > 1
    assert all(np.array_equal(a, b) for a, b in zip(kept, state.arrays, strict=True))
    with pytest.raises(ValueError, match="read-only"):
        state.arrays[0][:] = 0


def test_text_after_a_state_is_fed_after_it(generator):
    parts = generator.prefill(" d", state=generator.prefill("abc"))
    whole = generator.prefill("abc d")
    assert (parts.tokens, parts.length) == (whole.tokens, whole.length)
    np.testing.assert_allclose(parts.logits, whole.logits, rtol=1e-4, atol=1e-4)
    direct = generator.generate(" d", state=generator.prefill("abc"), temperature=0, max_new_tokens=8)
    assert direct.tokens == generator.generate("abc d", temperature=0, max_new_tokens=8).tokens


def test_empty_prompt_is_the_start_of_a_document(generator):
    state = generator.prefill()
    assert (state.tokens, state.length) == ((0,), 1)
    assert generator.prefill("", state=state).tokens == (0,)


def test_bytes_give_the_same_state_also_to_another_generator_of_the_bundle(generator):
    state = generator.prefill(PROMPT)
    data = state.to_bytes()
    other = Generator(generator.bundle, threads=2)
    read = PromptState.from_bytes(data, other)
    assert read.to_bytes() == data
    assert other.generate(state=read, seed=3).tokens == generator.generate(state=state, seed=3).tokens


def test_caches_are_stored_as_far_as_they_are_filled(attention):
    short, long = (len(attention.prefill("a" * n).to_bytes()) for n in (2, 20))
    assert long - short > 18 * 2 * 32 * 4


def forged(data, **changes):
    """The state with another header, and a checksum that fits."""
    _, _, size = struct.unpack_from("<14sBI", data)
    header = json.dumps({**json.loads(data[19 : 19 + size]), **changes}).encode()
    content = struct.pack("<14sBI", data[:14], 1, len(header)) + header + data[19 + size : -32]
    return content + hashlib.sha256(content).digest()


def test_every_flipped_bit_and_every_cut_is_noticed(generator):
    data = generator.prefill("ab").to_bytes()
    assert PromptState.from_bytes(forged(data), generator).to_bytes() == data
    for at in range(0, len(data), 7):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(InputError, match="allowed are the bytes of PromptState"):
            PromptState.from_bytes(damaged, generator)
        with pytest.raises(InputError, match="data "):
            PromptState.from_bytes(data[:at], generator)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bundle": "0" * 64}, "another bundle"),
        ({"tokens": [99999]}, "not ids below"),
        ({"tokens": "abc"}, "not ids below"),
        ({"length": 0}, "length of 0"),
        ({"length": 99}, "length of 99"),
        ({"length": "3"}, "length of '3'"),
        ({"length": True}, "length of True"),
    ],
)
def test_forged_headers_are_refused(generator, changes, message):
    data = generator.prefill("ab").to_bytes()
    with pytest.raises(InputError, match=message):
        PromptState.from_bytes(forged(data, **changes), generator)


def test_size_must_be_that_of_the_model(attention):
    data = attention.prefill("ab").to_bytes()
    with pytest.raises(InputError, match="size its header implies"):
        PromptState.from_bytes(forged(data, length=2), attention)
    newer = data[:14] + bytes([9]) + data[15:]
    with pytest.raises(InputError, match="version 9"):
        PromptState.from_bytes(newer, attention)


def test_state_of_another_bundle_is_refused(lstm, byte_model):
    for wrong in (byte_model.prefill("ab"), "ab", 3):
        with pytest.raises(InputError, match="state is not of this bundle"):
            lstm.generate(state=wrong)


def test_state_with_a_full_context(attention):
    state = attention.prefill("a" * (tiny.CONTEXT - 1))
    assert len(attention.generate(state=state, seed=0).tokens) <= 1
    with pytest.raises(InputError, match="context of"):
        attention.generate("b", state=state)
    with pytest.raises(InputError, match="context of"):
        attention.prefill("a" * tiny.CONTEXT)
    cut = attention.prefill("ab" * tiny.CONTEXT, context_policy="truncate_left")
    assert (cut.length, len(cut.tokens)) == (tiny.CONTEXT // 2, 2 * tiny.CONTEXT + 1)
