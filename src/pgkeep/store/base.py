"""What a store must do, whatever it is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pgkeep.errors import Damaged, ObjectExists, ObjectMissing, StoreUnavailable, UsageError

Piece = bytes | bytearray | memoryview
Data = Piece | Sequence[Piece]

_NAME = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9._+=-]*(/[A-Za-z0-9_+=-][A-Za-z0-9._+=-]*)*")
_LONGEST_NAME = 512
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """An object in a listing; `size` in bytes, `modified` in seconds since 1970."""

    name: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store was found to do: `create` refuses a taken name; what it accepts is durable."""

    conditional_put: bool
    durable: bool


class Store(Protocol):
    """Objects are written whole, once, and never changed; a partial one is never visible.

    Every method raises StoreUnavailable, StoreDenied or StoreFull for troubles of the store itself.
    """

    @property
    def url(self) -> str: ...

    def create(self, name: str, data: Data) -> None:
        """Makes an object durably, or raises ObjectExists when anything has that name."""

    def get(self, name: str) -> bytes:
        """The whole object; raises ObjectMissing."""

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; raises ObjectMissing, or Damaged if it is too short."""

    def size(self, name: str) -> int:
        """The object's size in bytes; raises ObjectMissing."""

    def exists(self, name: str) -> bool:
        """Whether there is such an object."""

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[Entry]:
        """Objects whose names start with `prefix`, in byte order, those past `after` only."""

    def delete(self, name: str) -> None:
        """Removes the object; that it is not there is no error."""

    def capabilities(self) -> Capabilities: ...


def check_name(name: str) -> str:
    """A name that every store can hold; raises UsageError."""
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} can't be the name of an object in a store")
    return name


def pieces(data: Data) -> list[Piece]:
    """The data as a list of buffers, without copying."""
    return [data] if isinstance(data, bytes | bytearray | memoryview) else list(data)


def too_short(name: str, offset: int, length: int, got: int) -> Damaged:
    """The error for a range that goes past an object's end."""
    return Damaged(
        f"{name} is cut short: wanted {length} bytes at {offset}, got {got}",
        hint="pgkeep verify tells which backups need it",
    )


def settle(store: Store, name: str, data: Data) -> Literal["created", "same"]:
    """Creates an object although the answer may get lost.

    After a failure that says nothing certain (a time-out, a name that is taken, perhaps by our own
    first attempt) it looks: absent, the same bytes are put again; equal, done; different, raises
    ObjectExists.
    """
    attempt = 0
    while True:
        attempt += 1
        try:
            store.create(name, data)
            return "created"
        except (ObjectExists, StoreUnavailable) as error:
            if _is_same(store, name, data):
                return "same"
            if isinstance(error, ObjectExists) or attempt >= _ATTEMPTS:
                raise


def _is_same(store: Store, name: str, data: Data) -> bool:
    """Whether the object is there with exactly these bytes; raises ObjectExists if with others."""
    try:
        found = store.get(name)
    except ObjectMissing:
        return False
    if found != b"".join(pieces(data)):
        raise ObjectExists(
            f"{name} exists already with other bytes; nothing was overwritten",
        )
    return True
