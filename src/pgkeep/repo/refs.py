"""References to frames of map packs, and reading what they lead to (docs/format.md 6)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

import msgspec

from pgkeep.errors import Damaged


class Ref(NamedTuple):
    """Where a map frame lies and what it is.

    `pack` is the last part of the object's name (`<owner>.<n>`), `frame` the frame's number in it,
    `offset` and `stored` its place in bytes, `raw` its length when opened, `id` its 32-byte id.
    """

    pack: str
    frame: int
    offset: int
    stored: int
    raw: int
    id: bytes


_Natural = Annotated[int, msgspec.Meta(ge=0)]


class JsonRef(msgspec.Struct, array_like=True, frozen=True):
    """A reference in a JSON document; `pack` is an index into the document's pack table."""

    pack: _Natural
    frame: _Natural
    offset: _Natural
    stored: _Natural
    raw: _Natural
    id: str


class PackTable:
    """Numbers the packs that references name, in the order in which they are first named."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """The index of `name`, which joins the table if it is not there."""
        number = self._numbers.setdefault(name, len(self.names))
        if number == len(self.names):
            self.names.append(name)
        return number


_BINARY = struct.Struct("<6I32s")
BINARY_SIZE = _BINARY.size


def encode_binary(refs: Iterable[Ref], packs: PackTable) -> bytes:
    """References as 56 bytes each; their packs join the table."""
    return b"".join(
        _BINARY.pack(packs.number(ref.pack), ref.frame, ref.offset, ref.stored, ref.raw, 0, ref.id)
        for ref in refs
    )


def decode_binary(data: bytes | memoryview, packs: Sequence[str], source: str) -> list[Ref]:
    """References of 56 bytes each; raises Damaged, naming `source`."""
    if len(data) % _BINARY.size:
        raise Damaged(f"{source}: references of the wrong length")
    try:
        return [
            Ref(packs[pack], frame, offset, stored, raw, identity)
            for pack, frame, offset, stored, raw, _, identity in _BINARY.iter_unpack(data)
        ]
    except IndexError:
        raise Damaged(f"{source}: a reference to a pack that is not in the table") from None


def to_json(refs: Iterable[Ref], packs: PackTable) -> list[JsonRef]:
    """References for a JSON document; their packs join the table."""
    return [JsonRef(packs.number(ref.pack), *ref[1:5], ref.id.hex()) for ref in refs]


def from_json(refs: Iterable[JsonRef], packs: Sequence[str], source: str) -> list[Ref]:
    """References out of a JSON document; raises Damaged, naming `source`."""
    try:
        return [
            Ref(packs[ref.pack], ref.frame, ref.offset, ref.stored, ref.raw, bytes.fromhex(ref.id))
            for ref in refs
        ]
    except (IndexError, ValueError):
        raise Damaged(f"{source}: a reference that names no pack or no id") from None
