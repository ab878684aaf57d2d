"""Stores what the server streams: frames into packs in many threads, then the map of them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pgkeep.backup.damage import find_bad_blocks, named_files
from pgkeep.backup.slice import Frame, SlicedFile, Slicer
from pgkeep.backup.stream import BACKUP_LABEL, CONTROL_FILE, KEPT, StreamedCluster
from pgkeep.catalog.records import BadBlock
from pgkeep.errors import NotPostgres
from pgkeep.events import Emit, PhaseEnded, PhaseStarted, Progress
from pgkeep.parallel import Pool, default_workers, ordered_map
from pgkeep.pgformat.control import ControlFile, parse_control
from pgkeep.pgserver.replication import BaseBackupStream
from pgkeep.repo.generation import EncodedFrame, GenerationSummary, GenerationWriter
from pgkeep.repo.mapwriter import MapWriter
from pgkeep.repo.repository import Repository
from pgkeep.repo.tree import RootRef, TreeReader, TreeWriter

READING = "reading and storing"
CHECKING = "looking for damaged blocks"
PROGRESS_STEP = 8 << 20
AHEAD = 8
"""Frames between the server and the packs: 1 MiB raw each, and at most as much compressed."""
UPLOADS = 3
"""Packs of 16 MiB on their way to the store; with AHEAD it bounds the memory."""


@dataclass(frozen=True, slots=True)
class Job:
    """One backup under way: where it goes, and what the server's pages are like."""

    repo: Repository
    cluster: str
    backup_id: str
    generation: int
    block_size: int
    segment_blocks: int
    level: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What the stream brought, now in packs; `map_bytes` is the size of the map packs."""

    generation: GenerationSummary
    root: RootRef
    map_bytes: int
    bad_blocks: list[BadBlock]
    label: bytes
    control: ControlFile


def store(job: Job, stream: BaseBackupStream, emit: Emit) -> Contents:
    """Reads the whole stream into packs, then stores the map of it."""
    total = sum(tablespace.size or 0 for tablespace in stream.tablespaces)
    emit(PhaseStarted(READING, total or None))
    began = time.monotonic()
    with Pool(UPLOADS, queue=UPLOADS, name="upload") as uploads:
        maps = MapWriter(job.repo, job.cluster, job.backup_id, uploads=uploads)
        prints = maps.beside()
        writer = GenerationWriter(
            job.repo,
            job.cluster,
            job.backup_id,
            job.generation,
            block_size=job.block_size,
            maps=maps,
            prints=prints,
            level=job.level,
            uploads=uploads,
        )
        tree = TreeWriter(maps, job.block_size)
        streamed = _streamed(job, stream, tree)
        _fill(writer, streamed, emit)
        summary = writer.close()
        root = tree.finish([summary.ref], bytes(streamed.manifest))
        maps.close()
        prints.close()
    emit(PhaseEnded(READING, time.monotonic() - began, streamed.received))
    return Contents(
        summary,
        root,
        maps.stored_bytes + prints.stored_bytes,
        _damage(job, stream, root, emit),
        _kept(streamed, BACKUP_LABEL),
        parse_control(_kept(streamed, CONTROL_FILE)),
    )


def _streamed(job: Job, stream: BaseBackupStream, tree: TreeWriter) -> StreamedCluster:
    slicer = Slicer(
        job.generation,
        block_size=job.block_size,
        keep=KEPT,
    )

    def add_file(file: SlicedFile) -> None:
        tree.add(file.entry, file.leaves)

    return StreamedCluster(stream.messages(), slicer, add_file)


def _fill(writer: GenerationWriter, streamed: StreamedCluster, emit: Emit) -> None:
    """Frames through the threads into the writer."""

    def encode(frame: Frame) -> EncodedFrame:
        return writer.encode(frame.data)

    told = 0
    for encoded in ordered_map(encode, streamed.frames(), workers=default_workers(), ahead=AHEAD):
        writer.add(encoded)
        if streamed.received - told >= PROGRESS_STEP:
            told = streamed.received
            emit(Progress(READING, told))


def _damage(job: Job, stream: BaseBackupStream, root: RootRef, emit: Emit) -> list[BadBlock]:
    """Every block with a wrong checksum, if the server found any."""
    if stream.checksum_error is None or not job.repo.ring.can_read_data:
        return []
    emit(PhaseStarted(CHECKING))
    began = time.monotonic()
    found = find_bad_blocks(
        TreeReader(job.repo, job.cluster, root.refs),
        named_files(stream.connection.notices),
        start_lsn=stream.start_lsn,
        segment_blocks=job.segment_blocks,
    )
    emit(PhaseEnded(CHECKING, time.monotonic() - began))
    return found


def _kept(streamed: StreamedCluster, path: bytes) -> bytes:
    content = streamed.kept.get(path)
    if content is None:
        raise NotPostgres(f"the server's base backup has no {path.decode()}")
    return content
