"""Ways to damage a bundle: a function of (members, random numbers) gives the bytes of an .etx file.

Each returns what a careless or hostile writer could hand over. Those that change a member's content usually
also mend its size and hash in the manifest, so that the damage gets past the checksums to the parser behind.
"""

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

Members = dict[str, bytes]
MEMBERS = ("manifest.json", "model.onnx", "tokenizer.json", "generation.json", "golden.json", "quality.json")
ODD_NUMBERS = (0, 1, -1, 2, 255, 256, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63, -(2**63), 2**64, 10**40)
ODD_VALUES: tuple[Any, ...] = (
    *ODD_NUMBERS, None, True, "", "x" * 5000, "\ud800", "../x", [], {}, [[]], 1e308, -0.5, "\x00", "é" * 100, [0] * 1000,
)  # fmt: skip
ODD_NAMES = (
    "../evil",
    "/etc/evil",
    "a\\b",
    "C:evil",
    "model.onnx\x00",
    "MODEL.ONNX",
    "évil",
    "",
    "x" * 300,
    "a/b",
)


def pack(members: Mapping[str, bytes]) -> bytes:
    """A stored zip of these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def signed(members: Members) -> Members:
    """The members with sizes and hashes in the manifest as they are, if the manifest can be read at all."""
    try:
        manifest = json.loads(members["manifest.json"])
        for name, content in members.items():
            if name in manifest["members"]:
                manifest["members"][name] = {"size": len(content), "sha256": sha256(content).hexdigest()}
    except (ValueError, KeyError, TypeError, RecursionError):
        return members
    return {**members, "manifest.json": json.dumps(manifest).encode()}


def flip_bits(data: bytes, chance: random.Random, most: int = 8) -> bytes:
    """Some bits turned over."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, most)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def edit_bytes(data: bytes, chance: random.Random) -> bytes:
    """A piece dropped, repeated, replaced by noise or by extreme numbers."""
    start = chance.randrange(len(data))
    end = min(len(data), start + chance.choice((1, 2, 4, 8, 64, 1000)))
    return chance.choice(
        (
            lambda: data[:start] + data[end:],
            lambda: data[:end] + data[start:end] * chance.randint(1, 20) + data[end:],
            lambda: data[:start] + chance.randbytes(end - start) + data[end:],
            lambda: data[:start] + b"\xff" * (end - start) + data[end:],
            lambda: data[:start] + b"\x00" * (end - start) + data[end:],
            lambda: data[:start],
        )
    )()


def edit_json(data: bytes, chance: random.Random) -> bytes:
    """One to three values of a JSON document replaced, dropped or copied elsewhere."""
    document = json.loads(data)
    for _ in range(chance.randint(1, 3)):
        places = list(_places(document))
        if not places:
            break
        holder, key = chance.choice(places)
        action = chance.randrange(4)
        if action == 0:
            del holder[key]
        elif action == 1:
            other, name = chance.choice(places)
            holder[key] = (
                other.get(name)
                if isinstance(other, dict)
                else other[min(name, len(other) - 1)]
                if other
                else 0
            )
        elif isinstance(holder[key], int) and action == 2:
            holder[key] += chance.choice((-1, 1, 2, 100, -(10**6), 10**9))
        else:
            holder[key] = chance.choice(ODD_VALUES)
    try:
        return json.dumps(document, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):  # something now holds itself
        return b"{"


def _places(node: Any) -> Any:
    if isinstance(node, dict | list):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from _places(node[key])


def whole_file(members: Members, chance: random.Random) -> bytes:
    """The archive damaged from outside."""
    return chance.choice((flip_bits, edit_bytes))(pack(members), chance)


def cut_file(members: Members, chance: random.Random) -> bytes:
    """The archive cut short, or with something before or after it."""
    data = pack(members)
    cut = chance.randrange(len(data))
    return chance.choice((data[:cut], data[cut:], chance.randbytes(50) + data, data + chance.randbytes(50)))


def one_member(members: Members, chance: random.Random) -> bytes:
    """A member damaged, its hash mended."""
    name = chance.choice(MEMBERS[1:])
    damage = chance.choice((flip_bits, edit_bytes))
    return pack(signed({**members, name: damage(members[name], chance) if members[name] else b"x"}))


def one_document(members: Members, chance: random.Random) -> bytes:
    """Values of a JSON member replaced, its hash mended; the tokenizer most often."""
    name = chance.choice(("tokenizer.json", "tokenizer.json", "generation.json", "golden.json"))
    return pack(signed({**members, name: edit_json(members[name], chance)}))


def manifest(members: Members, chance: random.Random) -> bytes:
    """The manifest edited, with or without mended hashes."""
    changed = {**members, "manifest.json": edit_json(members["manifest.json"], chance)}
    return pack(signed(changed) if chance.random() < 0.7 else changed)


def swapped(members: Members, chance: random.Random) -> bytes:
    """Two members exchanged, one dropped, doubled, renamed or added; hashes mended where they can be."""
    first, second = chance.sample(MEMBERS, 2)
    action = chance.randrange(5)
    if action == 0:
        return pack(signed({**members, first: members[second], second: members[first]}))
    if action == 1:
        return pack({name: content for name, content in members.items() if name != first})
    if action == 2:
        return pack({chance.choice(ODD_NAMES) if name == first else name: c for name, c in members.items()})
    if action == 3:
        return pack({**members, chance.choice(ODD_NAMES): b"x" * chance.randrange(100)})
    file = io.BytesIO(pack(members))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(zipfile.ZipInfo(first + chance.choice(("", "x"))), chance.randbytes(20))
    return file.getvalue()


def forged_headers(members: Members, chance: random.Random) -> bytes:
    """Fields of the zip's own records overwritten: sizes, offsets, methods, flags, counts, names."""
    data = bytearray(pack(members))
    signature = chance.choice((b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"))
    found, at = [], data.find(signature)
    while at >= 0:
        found.append(at)
        at = data.find(signature, at + 1)
    for _ in range(chance.randint(1, 3)):
        at = chance.choice(found) + chance.randrange(4, 46)
        value = struct.pack("<I", chance.choice((*ODD_NUMBERS[:7], 0xFFFFFFFF, 8, 12, 14)) % 2**32)
        size = chance.choice((1, 2, 4))
        data[at : at + size] = value[:size]
    return bytes(data)


def compressed(members: Members, chance: random.Random) -> bytes:
    """Members compressed, among them one that unpacks to far more than it is."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            bomb = name == "golden.json" and chance.random() < 0.5
            method = chance.choice(
                (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            )
            content = content + b" " * (1 << 20) if bomb else content
            archive.writestr(name, content, zipfile.ZIP_DEFLATED if bomb else method)
    return file.getvalue()


KINDS: tuple[Callable[[Members, random.Random], bytes], ...] = (
    whole_file,
    cut_file,
    one_member,
    one_member,
    one_document,
    one_document,
    manifest,
    manifest,
    swapped,
    forged_headers,
    compressed,
)
"""All of them; the ones with more to find stand twice."""
