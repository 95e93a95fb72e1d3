"""What a fuzzing case is: for bundles, loading and using one; for prompts, one call on a good bundle."""

import asyncio
import hashlib
import io
import json
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import tiny_bundle as tiny
from fuzz import mutations, prompts

from edgetext_export.writer import manifest_json
from edgetext_runtime import Generator, PromptState, read_bundle
from edgetext_runtime.bundle import Manifest, MemberRecord

_POOL = 300
_LOOP = asyncio.new_event_loop()  # opens the sockets it needs before any case


@dataclass(frozen=True)
class Case:
    """One case: what kind of mutation it is, what is tried, and the bytes to keep if it fails."""

    kind: str
    run: Callable[[], str | None]
    data: bytes


def tiny_members() -> list[mutations.Members]:
    """Members of three tiny bundles: characters and LSTM, bytes and LSTM, characters and attention."""
    chars, found = 3 + len(tiny.ALPHABET), []
    byte = {"special_tokens": {"eos": 0, "pad": 1, "unk": None}}
    for (model, state), vocab, tokenizer, changes in (
        (tiny.lstm_model(chars), chars, tiny.char_tokenizer(), {}),
        (tiny.lstm_model(258, seed=1), 258, tiny.byte_tokenizer(), byte),
        (tiny.attention_model(chars, seed=2), chars, tiny.char_tokenizer(), {}),
    ):
        manifest: Manifest = tiny.manifest(vocab, state, **changes)
        found.append(_members(manifest, dict(tiny.members(model, tokenizer))))
    return found


def _members(manifest: Manifest, members: dict[str, bytes]) -> mutations.Members:
    blank = {name: MemberRecord(0, "0" * 64) for name in members}
    document = {"manifest.json": manifest_json(replace(manifest, members=blank)), **members}
    generator = Generator.load(mutations.pack(mutations.signed(document)))
    settings = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 0, "max_new_tokens": 6}
    result = generator.generate("ab", **settings)
    case = {
        "prompt": "ab",
        "prompt_tokens": generator.tokenizer.encode("ab"),
        "sampling": settings,
        "tokens": list(result.tokens),
    }
    return mutations.signed({**document, "golden.json": json.dumps({"cases": [case]}).encode()})


class Bundles:
    """Mutated bundles.

    Args:
        also: paths of further bundles to mutate, beside the tiny ones, one case in five.
    """

    guided = True

    def __init__(self, also: list[str]) -> None:
        self._tiny = tiny_members()
        self._also = [_unpacked(Path(path).read_bytes()) for path in also]
        self._learnt: list[mutations.Members] = []

    def draw(self, chance: random.Random) -> Case:
        """The next case."""
        draw = chance.random()
        if self._also and draw < 0.2:
            base = chance.choice(self._also)
        else:
            base = chance.choice(self._learnt if self._learnt and draw < 0.5 else self._tiny)
        mutate = chance.choice(mutations.KINDS)
        try:
            data = mutate(base, chance)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # no JSON any more
            mutate, data = mutations.whole_file, mutations.whole_file(base, chance)
        backend = chance.choice(("cpu", "numpy"))
        return Case(mutate.__name__, lambda: _use(data, backend), data)

    def learn(self, case: Case) -> None:
        """Mutate this one further."""
        try:
            members = _unpacked(case.data)
        except Exception:  # noqa: BLE001 - not an archive, so there is nothing to mutate
            return
        if sum(map(len, members.values())) < 1 << 20:
            self._learnt = [*self._learnt[-_POOL:], members]


def _unpacked(data: bytes) -> mutations.Members:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def _use(data: bytes, backend: str) -> str:
    """Load a bundle and use it; return what it did."""
    read_bundle(data)
    generator = Generator.load(data, provider=backend, threads=1)
    same = not generator.verify()
    generator.generate("ab", max_new_tokens=8, seed=1)
    generator.score("ab")
    state = generator.prefill("a")
    PromptState.from_bytes(state.to_bytes(), generator)
    return "loads, golden tokens as they should be" if same else "loads, golden tokens differ"


class Prompts:
    """Hostile prompts and options on good bundles, through every way to generate."""

    guided = False

    def __init__(self, also: list[str]) -> None:
        sources = [mutations.pack(members) for members in tiny_members()]
        sources += [Path(path).read_bytes() for path in also]
        self._generators = [
            Generator.load(source, provider=backend, threads=1)
            for source in sources
            for backend in ("cpu", "numpy")
        ]

    def draw(self, chance: random.Random) -> Case:
        """The next case."""
        generator = chance.choice(self._generators)
        way = chance.choice(
            (_generate, _generate, _generate, _stream, _batch, _score, _prefill, _state, _asyncio)
        )
        seed = chance.random()
        return Case(way.__name__.strip("_"), lambda: way(generator, random.Random(seed)), repr(seed).encode())

    def learn(self, case: Case) -> None:
        """Nothing is learnt."""


def _generate(generator: Generator, chance: random.Random) -> None:
    generator.generate(prompts.prompt(chance), **prompts.options(chance))


def _stream(generator: Generator, chance: random.Random) -> None:
    with generator.stream(prompts.prompt(chance), **prompts.options(chance)) as stream:
        for number, _ in enumerate(stream):
            if number == 3:
                break
    _ = stream.result


def _batch(generator: Generator, chance: random.Random) -> None:
    many = [prompts.prompt(chance) for _ in range(chance.randrange(5))]
    generator.generate_batch(
        chance.choice((many, many, many, prompts.prompt(chance))), **prompts.options(chance)
    )


def _score(generator: Generator, chance: random.Random) -> None:
    generator.score(prompts.prompt(chance))


def _prefill(generator: Generator, chance: random.Random) -> None:
    state = generator.prefill(
        prompts.prompt(chance), context_policy=chance.choice(("error", "slide", "x", None))
    )
    generator.generate(prompts.prompt(chance), state=state.fork(), **prompts.options(chance))


def _state(generator: Generator, chance: random.Random) -> None:
    data = generator.prefill("ab").to_bytes()
    changed = chance.choice((mutations.flip_bits, mutations.edit_bytes))(data, chance)
    if chance.random() < 0.5:  # the hash mended, to get past it
        changed = changed[:-32] + hashlib.sha256(changed[:-32]).digest()
    state = PromptState.from_bytes(chance.choice((changed, changed, prompts.prompt(chance))), generator)
    generator.generate("a", state=state, max_new_tokens=5)


def _asyncio(generator: Generator, chance: random.Random) -> None:
    prompt, options = prompts.prompt(chance), prompts.options(chance)
    _LOOP.run_until_complete(generator.agenerate(prompt, **options))
