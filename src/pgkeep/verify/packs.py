"""Looks at data packs: that each is there and is the one that the frame list names.

Deep, every frame is opened and its id checked, one pack at a time in each thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgkeep.codec.container import HEADER_SIZE, ContainerOpener, Kind
from pgkeep.errors import Damaged, KeyProblem, NewerFormat, PgkeepError
from pgkeep.repo import names
from pgkeep.repo.objects import read_footer
from pgkeep.repo.repository import Repository
from pgkeep.verify.findings import NEW_BACKUP, Problem, demand_store
from pgkeep.verify.maps import Key, KnownGeneration

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class PackJob:
    """One data pack and what its frame list says of it; columns have one row a frame."""

    key: Key
    name: str
    header: bytes
    digest: bytes
    block_size: int
    stored: NDArray[np.uint32]
    blocks: NDArray[np.uint16]
    ids: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PackLook:
    """What was seen: problems, the pack's size in bytes, raw bytes that were opened."""

    job: PackJob
    problems: list[Problem]
    size: int = 0
    frame_bytes: int = 0


def jobs(known: KnownGeneration, cluster: str) -> Iterator[PackJob]:
    """The packs of a generation."""
    document = known.document
    for chunk in known.lists:
        at = 0
        for number, frames in enumerate(chunk.pack_frames.tolist()):
            rows = slice(at, at + frames)
            at += frames
            yield PackJob(
                known.key,
                names.data_pack(cluster, document.owner, chunk.first_pack + number),
                chunk.headers[number].tobytes(),
                chunk.digests[number].tobytes(),
                document.block_size,
                chunk.stored[rows],
                chunk.blocks[rows],
                chunk.ids[rows],
            )


def look(repo: Repository, job: PackJob, *, deep: bool) -> PackLook:
    """Raises StoreUnavailable when the store does not answer; all else is the pack's problem."""
    try:
        found = read_footer(repo, Kind.DATA, job.name)
        problems = []
        if found.digest != job.digest or found.footer.ids != tuple(map(bytes, job.ids)):
            what = "it is whole, but not the pack that the backup's frame list names"
            problems.append(Problem(job.name, what, NEW_BACKUP))
        if not deep:
            return PackLook(job, problems, found.size)
        opened, damaged = _open_all(repo, job)
        return PackLook(job, problems + damaged, found.size, opened)
    except PgkeepError as error:
        demand_store(repo.store, error)
        problems = [Problem(job.name, error.message, NEW_BACKUP)]
        if not deep:
            return PackLook(job, problems)
        opened, damaged = _open_rest(repo, job)
        return PackLook(job, problems + damaged, 0, opened)


def _open_rest(repo: Repository, job: PackJob) -> tuple[int, list[Problem]]:
    """Which frames of a pack with a damaged end are still good."""
    try:
        return _open_all(repo, job)
    except PgkeepError as error:
        demand_store(repo.store, error)
        return 0, []


def _open_all(repo: Repository, job: PackJob) -> tuple[int, list[Problem]]:
    stored = memoryview(repo.store.get(job.name))
    opener = ContainerOpener(repo.ring, Kind.DATA, job.name, job.header)
    at, opened, bad = HEADER_SIZE, 0, list[int]()
    for number, length in enumerate(job.stored.tolist()):
        raw_length = int(job.blocks[number]) * job.block_size
        try:
            opener.open_frame(
                number, stored[at : at + length], raw_length, job.ids[number].tobytes()
            )
            opened += raw_length
        except (Damaged, NewerFormat, KeyProblem):
            bad.append(number)
        at += length
    return opened, [_frames_problem(job, bad)] if bad else []


def _frames_problem(job: PackJob, bad: list[int]) -> Problem:
    shown = ", ".join(map(str, bad[:_SHOWN])) + (" …" if len(bad) > _SHOWN else "")
    what = f"{len(bad)} of its {len(job.stored)} frames can't be opened: {shown}"
    return Problem(job.name, what, NEW_BACKUP)
