"""Reads a stored zip from memory: what a bundle is, and nothing else that the zip format allows.

No compression, no encryption, no parts, no 64-bit sizes (a bundle's limits are below), nothing before the
first member or after the end record but its comment. Layout: PKWARE's APPNOTE.TXT, sections 4.3.7 to 4.3.16.
"""

from struct import Struct
from typing import NamedTuple

_END = Struct("<4s4H2LH")
_ENTRY = Struct("<4s6H3L5H2L")
_LOCAL = Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_ENCRYPTED = 1


class Entry(NamedTuple):
    """A member: its name, and where its content is."""

    name: str
    start: int
    size: int
    stored: bool
    """Whether it is the content as it is, not compressed."""


def list_members(data: bytes) -> list[Entry]:
    """The members of an archive.

    Raises:
        ValueError: if it is not a zip, cut short, or anything but plain.
    """
    end = data.rfind(b"PK\x05\x06", max(0, len(data) - _END.size - _LONGEST_COMMENT))
    if end < 0 or end + _END.size > len(data):
        raise ValueError("no end of a zip archive")
    _, disk, first_disk, here, count, size, start, comment = _END.unpack_from(data, end)
    if disk or first_disk or here != count or end + _END.size + comment != len(data) or start + size != end:
        raise ValueError("the end record of the zip archive does not fit it")
    entries, at = [], start
    for _ in range(count):
        if at + _ENTRY.size > end:
            raise ValueError("a directory of the zip archive that ends early")
        fields = _ENTRY.unpack_from(data, at)
        signature, flags, method, packed, plain = fields[0], fields[3], fields[4], fields[8], fields[9]
        lengths, local = fields[10:13], fields[16]
        if signature != b"PK\x01\x02" or flags & _ENCRYPTED:
            raise ValueError("an entry of the zip archive that is none, or encrypted")
        at += _ENTRY.size
        name = data[at : at + lengths[0]]
        at += sum(lengths)
        begin = _content(data, local, name, packed, start)
        entries.append(Entry(name.decode(), begin, plain, method == 0 and packed == plain))
    if at != end:
        raise ValueError("a directory of the zip archive of another length")
    return entries


def _content(data: bytes, at: int, name: bytes, size: int, end: int) -> int:
    """Where the content of a member starts."""
    if at + _LOCAL.size > end:
        raise ValueError("a member that is not in the zip archive")
    fields = _LOCAL.unpack_from(data, at)
    start = at + _LOCAL.size + len(name)
    if fields[0] != b"PK\x03\x04" or fields[9] != len(name) or data[at + _LOCAL.size : start] != name:
        raise ValueError("a member whose names differ")
    start += fields[10]
    if start + size > end:
        raise ValueError("a member that is cut short")
    return start
