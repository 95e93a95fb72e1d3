"""Streams that end early: cancelled from anywhere, left by ``with``, read by asyncio."""

import asyncio
import threading

import pytest

from edgetext_runtime import EdgetextError, Generator, InputError

LONG = {"seed": 1, "max_new_tokens": 1_000_000, "logit_bias": {0: float("-inf")}}
"""A text that goes on: the end is banned."""


def test_cancelled_stream_ends_after_the_step_in_progress(byte_model):
    stream = byte_model.stream("a", **LONG)
    seen = next(stream)
    stream.cancel()
    rest = list(stream)
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.text == seen + "".join(rest)
    assert len(stream.result.tokens) <= len(seen.encode()) + 4
    whole = byte_model.generate("a", **{**LONG, "max_new_tokens": 50})
    assert whole.tokens[: len(stream.result.tokens)] == stream.result.tokens


def test_pieces_say_what_they_are_made_of(byte_model):
    options = {"seed": 1, "max_new_tokens": 60, "logprobs": True, "top_logprobs": 2}
    for search in ({}, {"best_of": 2}, {"num_beams": 2, "top_logprobs": None}):
        stream = byte_model.stream("a", **{**options, **search})
        pieces, result = list(stream), stream.result
        assert "".join(pieces) == result.text
        count = sum(len(piece.tokens) for piece in pieces)
        assert sum((piece.tokens for piece in pieces), ()) == result.tokens[:count]
        assert sum((piece.logprobs for piece in pieces), ()) == result.logprobs[:count]
        if result.top_logprobs:
            assert sum((piece.top_logprobs for piece in pieces), ()) == result.top_logprobs[:count]


def test_result_may_be_read_right_after_cancelling(lstm):
    stream = lstm.stream("a", **LONG)
    with pytest.raises(EdgetextError, match="not finished"):
        _ = stream.result
    stream.cancel()
    assert (stream.result.finish_reason, stream.result.tokens) == ("cancelled", ())


def test_native_path_is_cancelled_too(lstm):
    for seed in range(50):
        stream = lstm.stream("a", seed=seed)
        if next(stream, None) is None:
            continue
        stream.cancel()
        if stream.result.finish_reason == "cancelled":
            return
    pytest.fail("no stream was long enough to be cancelled")


def test_another_thread_cancels(lstm):
    stream = lstm.stream("a", **LONG)
    read = []
    reader = threading.Thread(target=lambda: read.extend(stream))
    reader.start()
    stream.cancel()
    reader.join(timeout=30)
    assert not reader.is_alive()
    assert stream.result.text == "".join(read)


def test_with_block_ends_the_work_and_leaves_a_result(lstm):
    with lstm.stream("a", **LONG) as stream:
        first = next(stream)
    assert stream.result.finish_reason == "cancelled"
    assert stream.result.text.startswith(first)
    with lstm.stream("a", seed=1) as finished:
        pieces = list(finished)
    assert finished.result == finished.result
    assert finished.result.text == "".join(pieces)
    assert finished.result.finish_reason != "cancelled"
    with pytest.raises(KeyError), lstm.stream("a", **LONG):
        raise KeyError


def test_searches_are_cancelled_too(lstm):
    for options in ({"num_beams": 3}, {"best_of": 500}):
        stream = lstm.stream("a", **{**LONG, **options})
        stream.cancel()
        assert stream.result.finish_reason == "cancelled"


def test_asyncio_gives_the_same_text(lstm: Generator):
    async def main():
        whole, stream = await lstm.agenerate("ab", seed=3), lstm.astream("ab", seed=3)
        pieces = [piece async for piece in stream]
        many = await asyncio.gather(*(lstm.agenerate("ab", seed=seed) for seed in range(8)))
        return whole, pieces, stream.result, many

    whole, pieces, result, many = asyncio.run(main())
    expected = lstm.generate("ab", seed=3)
    assert (whole.text, result.text, "".join(pieces)) == (expected.text,) * 3
    assert [one.tokens for one in many] == [lstm.generate("ab", seed=seed).tokens for seed in range(8)]


def test_asyncio_cancels(lstm):
    async def main():
        task = asyncio.create_task(lstm.agenerate("a", **LONG))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with lstm.astream("a", **LONG) as stream:
            async for _ in stream:
                break
        return stream.result

    assert asyncio.run(main()).finish_reason == "cancelled"


def test_asyncio_checks_the_arguments_at_once(lstm):
    with pytest.raises(InputError, match="top_p is 0"):
        lstm.astream("a", top_p=0)
