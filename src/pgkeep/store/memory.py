"""A store in memory: the contract with nothing else, for tests of everything above it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from pgkeep.errors import ObjectExists, ObjectMissing
from pgkeep.store.base import Capabilities, Data, Entry, check_name, pieces, too_short


class MemoryStore:
    """Keeps objects in a dictionary; safe to use from many threads."""

    def __init__(self) -> None:
        self._objects: dict[str, tuple[bytes, float]] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return "memory:"

    def create(self, name: str, data: Data) -> None:
        content = b"".join(pieces(data))
        with self._lock:
            if check_name(name) in self._objects:
                raise ObjectExists(f"{name} exists already")
            self._objects[name] = (content, time.time())

    def get(self, name: str) -> bytes:
        found = self._objects.get(name)
        if found is None:
            raise ObjectMissing(f"there is no object {name}")
        return found[0]

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        found = self.get(name)[offset : offset + length]
        if len(found) != length:
            raise too_short(name, offset, length, len(found))
        return found

    def size(self, name: str) -> int:
        return len(self.get(name))

    def exists(self, name: str) -> bool:
        return name in self._objects

    def list(self, prefix: str, *, after: str | None = None) -> Iterator[Entry]:
        with self._lock:
            found = sorted(
                Entry(name, len(data), modified)
                for name, (data, modified) in self._objects.items()
                if name.startswith(prefix) and (after is None or name > after)
            )
        return iter(found)

    def delete(self, name: str) -> None:
        with self._lock:
            self._objects.pop(name, None)

    def capabilities(self) -> Capabilities:
        return Capabilities(conditional_put=True, durable=False)
