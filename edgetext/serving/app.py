"""The ASGI application: ``GET /v1/models``, ``POST /v1/completions``, ``GET /health``.

Requests take turns for a bounded number of places; a client that goes away ends its generation after the step
in progress. Only JSON is taken, and on a loopback address only requests that name a loopback host: a web page
in a browser on the same machine can do neither without being asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from edgetext.serving.choices import event, stream_choices, write_choices
from edgetext.serving.completion import Completion, Limits, read_completion
from edgetext_runtime.errors import EdgetextError, InputError, TokenizerError

if TYPE_CHECKING:
    from edgetext_runtime import Generator

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]", "::1")
_KINDS = {404: "not_found_error", 429: "rate_limit_error", 500: "server_error", 504: "server_error"}
_Result = TypeVar("_Result")


class _Places:
    """Places to work in, and a queue of bounded length before them."""

    def __init__(self, limits: Limits) -> None:
        self._free = asyncio.Semaphore(limits.concurrency)
        self._left = limits.concurrency + limits.waiting
        self._seconds = limits.seconds

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a place and hold it, at most for the time a request may take."""
        if self._left == 0:
            raise HTTPException(429, "too many requests are waiting; try again later")
        self._left -= 1
        try:
            async with self._free, asyncio.timeout(self._seconds):
                yield
        finally:
            self._left += 1


def make_app(
    generator: Generator, name: str, limits: Limits | None = None, *, hosts: tuple[str, ...]
) -> Starlette:
    """Make the application.

    Args:
        generator: what continues the prompts.
        name: the model's id in the API.
        limits: what one client may ask for; default: ``Limits()``.
        hosts: values of the ``Host`` header that are answered, without a port; ``("*",)`` is any.
    """
    server = _Server(generator, name, limits or Limits())
    routes = [
        Route("/health", server.health),
        Route("/v1/models", server.models),
        Route("/v1/models/{model:path}", server.model),
        Route("/v1/completions", server.completions, methods=["POST"]),
    ]
    handlers = dict.fromkeys((HTTPException, EdgetextError, TimeoutError, Exception), _answer)
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    return Starlette(routes=routes, exception_handlers=handlers, middleware=[guard])


class _Server:
    """The endpoints."""

    def __init__(self, generator: Generator, name: str, limits: Limits) -> None:
        self._generator, self._name, self._limits = generator, name, limits
        self._places = _Places(limits)
        self._started = int(time.time())

    async def health(self, _: Request) -> Response:
        """Say that the server is there."""
        return JSONResponse({"status": "ok", "model": self._name})

    async def models(self, _: Request) -> Response:
        """List the one model."""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        """Describe the one model."""
        self._check_model(request.path_params["model"])
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        manifest = self._generator.manifest
        return {
            "id": self._name,
            "object": "model",
            "created": self._started,
            "owned_by": "edgetext",
            "edgetext": {
                "sha256": self._generator.bundle.sha256,
                "precision": manifest.precision,
                "context_length": manifest.context_length,
            },
        }

    def _check_model(self, name: object) -> None:
        if name != self._name:
            raise HTTPException(404, f"the model {name!r} does not exist here; there is {self._name!r}")

    async def completions(self, request: Request) -> Response:
        """Continue prompts."""
        body = await _read_json(request, self._limits.body_bytes)
        self._check_model(body.get("model", self._name) if isinstance(body, dict) else self._name)
        asked = await asyncio.to_thread(read_completion, body, self._generator, self._limits)
        head = {
            "id": f"cmpl-{uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self._name,
        }
        if asked.stream:
            return StreamingResponse(self._stream(asked, head), media_type="text/event-stream")
        return JSONResponse({**head, **await _unless_gone(request, self._write(asked))})

    async def _write(self, asked: Completion) -> dict[str, Any]:
        async with self._places.one():
            return await write_choices(self._generator, asked)

    async def _stream(self, asked: Completion, head: dict[str, Any]) -> AsyncIterator[bytes]:
        try:
            async with self._places.one():
                async for part in stream_choices(self._generator, asked):
                    yield event({**head, **part})
        except (HTTPException, EdgetextError, TimeoutError) as error:  # too late for a status code
            yield event({"error": _error(error)})
        yield b"data: [DONE]\n\n"


async def _read_json(request: Request, most: int) -> Any:
    """The body, parsed."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"content-type is {kind!r}; allowed is application/json")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most:
            raise HTTPException(413, f"the body has more than {most:,} bytes")
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


async def _unless_gone(request: Request, work: Coroutine[Any, Any, _Result]) -> _Result:
    """Do the work, unless the client goes away: then cancel it."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return await task
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _error(error: Exception) -> dict[str, Any]:
    """An error in OpenAI's form."""
    if isinstance(error, HTTPException):
        status, message = error.status_code, str(error.detail)
    elif isinstance(error, TimeoutError):
        status, message = 504, "the request took too long; ask for fewer tokens"
    else:
        status = 400 if isinstance(error, InputError | TokenizerError) else 500
        message = str(error) if isinstance(error, EdgetextError) else "internal error"
    field = message.split(" ", 1)[0].rstrip(":") if isinstance(error, InputError) else None
    return {
        "message": message,
        "type": _KINDS.get(status, "invalid_request_error"),
        "param": field,
        "code": status,
    }


async def _answer(_: Request, error: Exception) -> Response:
    content = _error(error)
    return JSONResponse({"error": content}, status_code=content["code"])
