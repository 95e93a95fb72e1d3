"""``edgetext serve``: a bundle behind OpenAI's completions API, for trying it out."""

from __future__ import annotations

import click


@click.command(short_help="Serve a bundle: OpenAI's completions API, on this machine only by default.")
@click.argument("model", metavar="MODEL.etx", type=click.Path(path_type=str))
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address; another than loopback is open to others."
)
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0: any free one."
)
@click.option("--name", metavar="NAME", help="The model's id in the API.  [default: the file's name]")
@click.option("--max-tokens", default=4096, show_default=True, metavar="N", help="Most tokens of one text.")
@click.option("--concurrency", default=2, show_default=True, metavar="N", help="Requests worked on at once.")
@click.option(
    "--waiting", default=32, show_default=True, metavar="N", help="Requests that may wait; others get 429."
)
@click.option("--seconds", default=300, show_default=True, metavar="S", help="Longest time for a request.")
@click.option("--threads", type=int, metavar="N", help="Threads; default: what is fastest here.")
@click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda", "numpy"]),
    default="auto",
    help="Where to run.  [default: onnxruntime's cpu, or numpy where it is missing]",
)
def command(
    model: str,
    host: str,
    port: int,
    name: str | None,
    max_tokens: int,
    concurrency: int,
    waiting: int,
    seconds: int,
    threads: int | None,
    provider: str,
) -> None:
    """Serve MODEL.etx over HTTP with OpenAI's completions API: streaming, stop, logprobs, seed and more.

    Nobody is asked for a password: leave it on the loopback address unless the network is yours.

    \b
    from openai import OpenAI
    client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.completions.create(model="my", prompt="The", seed=1).choices[0].text
    """  # noqa: D301 - click's marker for lines to be left as they are
    from edgetext.serving.completion import Limits
    from edgetext.serving.server import serve
    from edgetext_runtime import Generator

    limits = Limits(max_tokens=max_tokens, concurrency=concurrency, waiting=waiting, seconds=seconds)
    generator = Generator.load(model, threads="auto" if threads is None else threads, provider=provider)
    serve(generator, name, source=model, host=host, port=port, limits=limits, say=click.echo)
