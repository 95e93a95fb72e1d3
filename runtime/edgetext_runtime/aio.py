"""The same streams for asyncio: the work is done in a thread, so that the event loop goes on meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from typing import Self

from .results import Generation, GenerationStream, Piece


class AsyncGenerationStream(AsyncIterator[Piece]):
    """A `results.GenerationStream` to read with ``async for``.

    Cancelling the task that reads it cancels the generation, and so does the end of an ``async with`` block.
    """

    def __init__(self, stream: GenerationStream) -> None:
        self._stream = stream

    async def __anext__(self) -> Piece:
        """The next piece, never empty."""
        try:
            piece = await asyncio.to_thread(next, self._stream, None)
        except asyncio.CancelledError:
            self.cancel()
            raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        self.cancel()
        if error is None:
            await self.read()

    def cancel(self) -> None:
        """End the generation after the step in progress; see `GenerationStream.cancel`."""
        self._stream.cancel()

    async def read(self) -> Generation:
        """Read what is left; return the finished generation."""
        try:
            await asyncio.to_thread(_exhaust, self._stream)
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self._stream.result

    @property
    def result(self) -> Generation:
        """The finished generation; see `GenerationStream.result`."""
        return self._stream.result


def _exhaust(stream: GenerationStream) -> None:
    for _ in stream:
        pass
