"""Which frames are read in one go: neighbours in a pack cost one request, not one each."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

_NEAR = 1 << 16
"""Bytes between two frames that are read along rather than asked for apart."""
_AT_ONCE = 8 << 20


def runs(places: Iterable[tuple[Hashable, int, int]]) -> Iterator[list[int]]:
    """Cut `places` (pack, offset, length; in the order of offsets) into runs, at most 8 MiB each.

    A run is the indexes of places that lie close together in one pack.
    """
    run: list[int] = []
    first_pack: Hashable = None
    start = end = 0
    for index, (pack, offset, length) in enumerate(places):
        far = offset - end > _NEAR or offset + length - start > _AT_ONCE
        if run and (pack != first_pack or far):
            yield run
            run = []
        if not run:
            first_pack, start = pack, offset
        run.append(index)
        end = offset + length
    if run:
        yield run
