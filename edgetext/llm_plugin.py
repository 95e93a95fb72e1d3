"""A plugin for the ``llm`` command line: ``llm -m edgetext/NAME "prompt"`` continues it with a bundle.

``llm edgetext add my.etx`` registers a bundle; its name and path are kept in ``edgetext.json`` in llm's own
directory. This module is loaded whenever ``llm`` starts, so what runs a model is imported when one is run.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import llm
from pydantic import Field

if TYPE_CHECKING:
    from edgetext_runtime import Generator

PREFIX = "edgetext/"


class Edgetext(llm.Model):
    """A registered bundle."""

    can_stream = True
    supports_conversation = False

    class Options(llm.Options):
        """What ``-o NAME VALUE`` takes; what is not given is the bundle's own setting."""

        max_tokens: int | None = Field(default=None, description="Most tokens to generate")
        temperature: float | None = Field(default=None, description="0 is greedy; lower is safer")
        top_k: int | None = Field(default=None, description="Sample among the k likeliest tokens; 0: all")
        top_p: float | None = Field(default=None, description="Sample among the likeliest that reach p")
        min_p: float | None = Field(default=None, description="Drop tokens less likely than this share")
        repetition_penalty: float | None = Field(default=None, description="Above 1: fewer repetitions")
        seed: int | None = Field(default=None, description="Give the same text again")
        stop: str | None = Field(default=None, description="End before this text")
        regex: str | None = Field(default=None, description="Write a full match of this pattern")
        label: str | None = Field(
            default=None, description="What the text should be, of a bundle with labels"
        )

    def __init__(self, name: str, path: Path) -> None:
        self.model_id = PREFIX + name
        self._path = path

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None
    ) -> Iterator[str]:
        """Continue a prompt.

        Raises:
            ModelError: for whatever is wrong with the bundle, the prompt or an option.
        """
        from edgetext_runtime import EdgetextError

        if prompt.system:
            raise llm.ModelError("system: these models only continue a text; put it into the prompt")
        options = prompt.options.model_dump(exclude_none=True)
        options["max_new_tokens"] = options.pop("max_tokens", None)
        try:
            generator = _load(self._path, self._path.stat().st_mtime_ns)
            pieces = generator.stream(prompt.prompt or "", **options)
            yield from map(str, pieces) if stream else ["".join(pieces)]
        except (EdgetextError, OSError) as error:
            raise llm.ModelError(f"{self.model_id}: {error}") from error
        result = pieces.result
        response.set_usage(input=result.prompt_tokens, output=len(result.tokens))
        response.response_json = {"finish_reason": result.finish_reason, "seed": result.seed}


@cache
def _load(path: Path, changed: int) -> Generator:
    """The bundle at a path, loaded once for every time it is ``changed``."""
    from edgetext_runtime import Generator

    return Generator.load(path)


def _registry() -> Path:
    folder: Path = llm.user_dir()  # type: ignore[no-untyped-call]
    return folder / "edgetext.json"


def _registered() -> dict[str, str]:
    """Paths of bundles by their names."""
    try:
        known = json.loads(_registry().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(name): str(path) for name, path in known.items()} if isinstance(known, dict) else {}


def _store(known: dict[str, str]) -> None:
    _registry().write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@llm.hookimpl
def register_models(register: Callable[..., Any]) -> None:
    """Tell llm about the bundles that were added."""
    for name, path in _registered().items():
        register(Edgetext(name, Path(path)))


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    """Add ``llm edgetext add``, ``list`` and ``remove``."""

    @cli.group(name="edgetext")
    def group() -> None:
        """Bundles of edgetext (.etx) as models."""

    @group.command()
    @click.argument("bundle", type=click.Path(exists=True, path_type=Path))
    @click.option("--name", help="The model will be edgetext/NAME.  [default: the file's name]")
    def add(bundle: Path, name: str | None) -> None:
        """Check BUNDLE and make it a model."""
        from edgetext_runtime import EdgetextError, read_bundle

        try:
            read_bundle(bundle)
        except EdgetextError as error:
            raise click.ClickException(str(error)) from error
        name = name or bundle.name.removesuffix(".etx")
        _store({**_registered(), name: str(bundle.resolve())})
        click.echo(f'{PREFIX}{name} is there: llm -m {PREFIX}{name} "The"')

    @group.command("list")
    def list_() -> None:
        """List the models."""
        for name, path in _registered().items():
            click.echo(f"{PREFIX}{name}  {path}")

    @group.command()
    @click.argument("name")
    def remove(name: str) -> None:
        """Forget a model; its file stays."""
        known = _registered()
        if known.pop(name.removeprefix(PREFIX), None) is None:
            raise click.ClickException(f"there is no {name!r}; see `llm edgetext list`")
        _store(known)
