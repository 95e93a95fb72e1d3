"""Opens the port and serves until it is told to stop."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgetext.serving.completion import Limits
from edgetext_runtime.errors import DependencyError, InputError

if TYPE_CHECKING:
    from edgetext_runtime import Generator


def serve(
    generator: Generator,
    name: str | None = None,
    *,
    source: str | Path = "model",
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve a model until the process is interrupted.

    Args:
        generator: what continues the prompts.
        name: the model's id in the API; default: the name of its file.
        source: where the bundle is from.
        host: address or name to listen on.
        port: port; 0 takes a free one.
        limits: what one client may ask for; default: ``Limits()``.
        say: called with a line of text once the port is open.

    Raises:
        DependencyError: if starlette or uvicorn is missing.
        InputError: if the address cannot be listened on.
    """
    try:
        import uvicorn

        from edgetext.serving.app import LOOPBACK_HOSTS, make_app
    except ImportError as error:
        raise DependencyError(f"cannot serve ({error}): pip install 'edgetext[serve]'") from error

    name = name or Path(source).name.removesuffix(".etx")
    listener = _listen(host, port)
    hosts = LOOPBACK_HOSTS if is_loopback(host) else ("*",)
    app = make_app(generator, name, limits, hosts=hosts)
    config = uvicorn.Config(
        app, log_level="warning", lifespan="off", server_header=False, timeout_graceful_shutdown=5
    )
    shown, port = listener.getsockname()[:2]
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/v1"
    say(f"serving {name} at {address} (model={name!r}; stop with Ctrl-C)")
    if not is_loopback(host):
        say("anyone who reaches this address can use it: there is no password")
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own, which no other reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(
            f"host is {host!r} ({error}); allowed is an address of this machine (--host)"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise InputError(
            f"cannot listen on {host}, port {port} ({error}); choose another (--host, --port)"
        ) from error
    return listener
