"""From a request to texts in the form of OpenAI's API: whole, or piece by piece."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from edgetext.serving.completion import Completion

if TYPE_CHECKING:
    from edgetext_runtime import Generation, Generator

_Json = dict[str, Any]
_FINISH = {"eos": "stop", "stop": "stop", "length": "length", "context": "length"}
"""OpenAI's reason for each of ours."""


class _Text:
    """One text of an answer, which grows: its number, and the log-probabilities of what is shown next."""

    def __init__(self, generator: Generator, index: int, asked: Completion) -> None:
        self._tokenizer, self._index = generator.tokenizer, index
        self._wanted = asked.logprobs is not None
        self._position, self._previous = 0, list[int]()

    def part(self, text: str, logprobs: _Json | None, result: Generation | None = None) -> _Json:
        """A choice as the API gives it; ``seed`` is edgetext's own addition."""
        end = None if result is None else _FINISH.get(result.finish_reason, "length")
        seed = None if result is None else result.seed
        return {
            "index": self._index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": end,
            "seed": seed,
        }

    def logprobs(
        self, tokens: Sequence[int], values: Sequence[float], likely: Sequence[Mapping[int, float]]
    ) -> _Json | None:
        """OpenAI's object for the next tokens: their texts, where those begin, and how likely they were."""
        if not self._wanted:
            return None
        texts, offsets = [], []
        for token in tokens:
            before = self._tokenizer.decode(self._previous)  # words bring the space before them
            texts.append(self._tokenizer.decode([*self._previous, token])[len(before) :])
            offsets.append(self._position)
            self._previous, self._position = [token], self._position + len(texts[-1])
        names = [{self._name(token): value for token, value in one.items()} for one in likely]
        return {
            "tokens": texts,
            "token_logprobs": list(values),
            "top_logprobs": names or None,
            "text_offset": offsets,
        }

    def _name(self, token: int) -> str:
        return "<eos>" if token == self._tokenizer.eos_id else self._tokenizer.decode([token])

    async def echo(self, generator: Generator, prompt: str) -> _Json | None:
        """The log-probabilities of the prompt."""
        if not self._wanted or not prompt:
            return self.logprobs((), (), ())
        score = await asyncio.to_thread(generator.score, prompt)
        return self.logprobs(score.tokens, score.logprobs, [{}] * len(score.tokens))


def _joined(head: _Json | None, tail: _Json | None) -> _Json | None:
    if head is None or tail is None:
        return tail
    return {name: ((head[name] or []) + (tail[name] or [])) or None for name in tail}


def _usage(prompt: int, generated: int) -> _Json:
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}


async def write_choices(generator: Generator, asked: Completion) -> _Json:
    """Write all texts of a request, prompt after prompt.

    Returns:
        The ``choices`` and the ``usage`` of the answer; tokens of candidates that were not chosen count.
    """
    choices: list[_Json] = []
    prompt_tokens = generated = 0
    for prompt in asked.prompts:
        results = [
            await generator.agenerate(prompt, seed=asked.seed_of(number), **asked.options)
            for number in range(asked.candidates)
        ]
        prompt_tokens += results[0].prompt_tokens
        generated += sum(len(result.tokens) for result in results)
        if asked.candidates > asked.n:
            results.sort(key=_mean_logprob, reverse=True)
        for result in results[: asked.n]:
            text = _Text(generator, len(choices), asked)
            head = await text.echo(generator, prompt) if asked.echo else None
            own = text.logprobs(result.tokens, result.logprobs or (), result.top_logprobs or ())
            shown = (prompt if asked.echo else "") + result.text
            choices.append(text.part(shown, _joined(head, own), result))
    return {"choices": choices, "usage": _usage(prompt_tokens, generated)}


def _mean_logprob(result: Generation) -> float:
    return fmean(result.logprobs) if result.logprobs else float("-inf")


async def stream_choices(generator: Generator, asked: Completion) -> AsyncIterator[_Json]:
    """The same texts as they appear, in parts of an answer."""
    index = prompt_tokens = generated = 0
    for prompt in asked.prompts:
        for number in range(asked.n):
            text = _Text(generator, index, asked)
            if asked.echo:
                yield {"choices": [text.part(prompt, await text.echo(generator, prompt))]}
            async with generator.astream(prompt, seed=asked.seed_of(number), **asked.options) as stream:
                async for piece in stream:
                    own = text.logprobs(piece.tokens, piece.logprobs, piece.top_logprobs)
                    yield {"choices": [text.part(piece, own)]}
            yield {"choices": [text.part("", None, stream.result)]}
            prompt_tokens += 0 if number else stream.result.prompt_tokens
            generated += len(stream.result.tokens)
            index += 1
    if asked.include_usage:
        yield {"choices": [], "usage": _usage(prompt_tokens, generated)}


def event(content: _Json) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"
