"""Stores what the server streams: frames into packs in many threads, then the map of them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pgkeep.backup.slice import Frame, SlicedFile, Slicer
from pgkeep.backup.stream import BACKUP_LABEL, CONTROL_FILE, KEPT, StreamedCluster
from pgkeep.catalog.records import BadBlock
from pgkeep.errors import NotPostgres
from pgkeep.events import Emit, PhaseEnded, PhaseStarted, Progress
from pgkeep.parallel import Pool, default_workers, ordered_map
from pgkeep.pgformat.control import ControlFile, parse_control
from pgkeep.pgformat._page_interim import wrong_blocks
from pgkeep.pgserver.replication import BaseBackupStream
from pgkeep.repo.generation import EncodedFrame, GenerationSummary, GenerationWriter
from pgkeep.repo.mapwriter import MapWriter
from pgkeep.repo.repository import Repository
from pgkeep.repo.tree import RootRef, TreeWriter

READING = "reading and storing"
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
    checksums: bool
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


@dataclass(frozen=True, slots=True)
class _Checked:
    """A frame ready to be sealed, and what is wrong with the pages in it."""

    encoded: EncodedFrame
    bad: list[BadBlock]


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
        bad = _fill(job, writer, streamed, stream.start_lsn, emit)
        summary = writer.close()
        root = tree.finish([summary.ref], bytes(streamed.manifest))
        maps.close()
        prints.close()
    emit(PhaseEnded(READING, time.monotonic() - began, streamed.received))
    return Contents(
        summary,
        root,
        maps.stored_bytes + prints.stored_bytes,
        bad,
        _kept(streamed, BACKUP_LABEL),
        parse_control(_kept(streamed, CONTROL_FILE)),
    )


def _streamed(job: Job, stream: BaseBackupStream, tree: TreeWriter) -> StreamedCluster:
    slicer = Slicer(
        job.generation,
        block_size=job.block_size,
        segment_blocks=job.segment_blocks,
        keep=KEPT,
    )

    def add_file(file: SlicedFile) -> None:
        tree.add(file.entry, file.leaves)

    return StreamedCluster(stream.messages(), slicer, add_file)


def _fill(
    job: Job, writer: GenerationWriter, streamed: StreamedCluster, start_lsn: int, emit: Emit
) -> list[BadBlock]:
    """Frames through the threads into the writer; returns the blocks with wrong checksums."""

    def work(frame: Frame) -> _Checked:
        bad = _check(frame, job.block_size, start_lsn) if job.checksums else []
        return _Checked(writer.encode(frame.data), bad)

    found: list[BadBlock] = []
    told = 0
    for done in ordered_map(work, streamed.frames(), workers=default_workers(), ahead=AHEAD):
        writer.add(done.encoded)
        found.extend(done.bad)
        if streamed.received - told >= PROGRESS_STEP:
            told = streamed.received
            emit(Progress(READING, told))
    return found


def _check(frame: Frame, block_size: int, start_lsn: int) -> list[BadBlock]:
    bad: list[BadBlock] = []
    for span in frame.spans:
        pages = frame.data[span.offset : span.offset + span.length]
        path = span.path.decode("utf-8", "replace")
        first = span.file_block - span.block
        bad.extend(
            BadBlock(path, wrong.block + first, wrong.stored, wrong.computed)
            for wrong in wrong_blocks(pages, span.block, block_size, start_lsn)
        )
    return bad


def _kept(streamed: StreamedCluster, path: bytes) -> bytes:
    content = streamed.kept.get(path)
    if content is None:
        raise NotPostgres(f"the server's base backup has no {path.decode()}")
    return content
