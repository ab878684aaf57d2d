"""A real repository in a directory, with backups made of made-up files and WAL."""

from __future__ import annotations

import hashlib
import random
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from pgkeep.catalog.records import Record, Tablespace, write_record
from pgkeep.catalog.walfile import WalFile
from pgkeep.codec.container import Kind
from pgkeep.pgformat.manifest import ManifestFile, write_manifest
from pgkeep.pgformat.walname import SegmentName
from pgkeep.repo import leaf as leaves
from pgkeep.repo import names
from pgkeep.repo.filetable import FileEntry, FileKind
from pgkeep.repo.generation import GenerationRef, GenerationWriter
from pgkeep.repo.leaf import Leaf
from pgkeep.repo.log import Log
from pgkeep.repo.mapwriter import MapWriter
from pgkeep.repo.objects import put_object
from pgkeep.repo.refs import PackTable, to_json
from pgkeep.repo.repository import Repository, create
from pgkeep.repo.tree import TreeWriter
from pgkeep.store.local import LocalStore

BLOCK = 8192
SLOTS = 128
SEGMENT = 1 << 20
CLUSTER = "bss"
SYSTEM = 7_000_000_000_000_000_123
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LABEL = """\
START WAL LOCATION: 0/{start:X} (file 0000000100000000000000{segment:02X})
CHECKPOINT LOCATION: 0/{start:X}
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-23 12:00:00 UTC
LABEL: it's a test
START TIMELINE: 1
"""
DIRECTORIES = ("base", "base/5", "global", "pg_tblspc", "pg_wal", "pg_wal/archive_status")


@dataclass
class MadeBackup:
    """A backup and what its files must be after a restore."""

    record: Record
    files: dict[str, bytes]
    ref: GenerationRef
    maps: dict[str, list[Leaf]]


@dataclass
class MadeRepository:
    """A repository in `root` with the cluster's log begun; `backups` in the order made."""

    root: Path
    repo: Repository
    backups: list[MadeBackup] = field(default_factory=list)

    def add_wal(self, first: int, last: int) -> None:
        """Stores made-up segments; their contents are random."""
        for number in range(first, last + 1):
            name = SegmentName(1, number).name(SEGMENT)
            raw = random.Random(number).randbytes(SEGMENT)
            meta = WalFile(name, len(raw), hashlib.sha256(raw).hexdigest(), names.time_text(NOON))
            object_name = names.wal_file(CLUSTER, SYSTEM, 1, name)
            put_object(self.repo, Kind.WAL, object_name, raw, msgspec.json.encode(meta))

    def add_backup(
        self,
        files: dict[str, bytes],
        *,
        segment: int,
        tablespaces: tuple[Tablespace, ...] = (),
        changed: dict[str, dict[int, bytes]] | None = None,
        **members: object,
    ) -> MadeBackup:
        """A backup from segment `segment` to the next one.

        With `changed` (blocks by file) it stores only those and takes the rest from the backup
        before, as an incremental one does.
        """
        now = NOON + timedelta(hours=segment)
        log, owner = Log(self.repo, CLUSTER), names.new_id(now)
        begun = log.append("begin", {"id": owner, "kind": "backup", "base": None})
        maps = MapWriter(self.repo, CLUSTER, owner)
        prints = maps.beside()
        writer = GenerationWriter(
            self.repo,
            CLUSTER,
            owner,
            begun.seq,
            block_size=BLOCK,
            maps=maps,
            prints=prints,
            pack_size=2 << 20,
        )
        if changed is None:
            placed = _store_whole(writer, begun.seq, files)
        else:
            files, placed = _store_changes(writer, begun.seq, self.backups[-1], changed)
        done = writer.close()
        tree = TreeWriter(maps, BLOCK)
        for path in DIRECTORIES:
            tree.add(FileEntry(path.encode(), FileKind.DIRECTORY, mode=0o700))
        for path, content in files.items():
            tree.add(FileEntry(path.encode(), size=len(content), mode=0o600), placed[path])
        known = [done.ref, *(backup.ref for backup in self.backups)]
        root = tree.finish(known, _manifest(files))
        maps.close()
        prints.close()
        packs = PackTable()
        refs = to_json(root.refs, packs)
        start = segment * SEGMENT + 40
        record = Record(
            **{
                "id": owner,
                "cluster": CLUSTER,
                "system_identifier": SYSTEM,
                "generation": begun.seq,
                "packs": tuple(packs.names),
                "root": tuple(refs),
                "start_lsn": start,
                "stop_lsn": start + SEGMENT,
                "timeline": 1,
                "start_timeline": 1,
                "start_time": now,
                "stop_time": now + timedelta(minutes=1),
                "server_version_num": 180006,
                "block_size": BLOCK,
                "relseg_size": 131072,
                "segment_size": SEGMENT,
                "data_checksum_version": 1,
                "tablespaces": tablespaces,
                "backup_label": LABEL.format(start=start, segment=segment),
                "wal_first": SegmentName(1, segment).name(SEGMENT),
                "wal_last": SegmentName(1, segment + 1).name(SEGMENT),
                **members,
            }  # type: ignore[arg-type]
        )
        sha256 = write_record(self.repo, CLUSTER, record)
        log.append("commit", {"id": owner, "record": sha256.hex()})
        made = MadeBackup(record, files, done.ref, placed)
        self.backups.append(made)
        return made

    def copy(self, root: Path) -> MadeRepository:
        """The same repository in another place, to be damaged."""
        shutil.copytree(self.root, root)
        repo = Repository(LocalStore(root), self.repo.ring, self.repo.id)
        return MadeRepository(root, repo, list(self.backups))

    def objects(self, prefix: str) -> list[Path]:
        """The files of objects whose names start so."""
        return [self.root / entry.name for entry in self.repo.store.list(prefix)]


def make_repository(root: Path, *, encryption: str = "aes-256-gcm") -> MadeRepository:
    """An empty repository that knows the cluster."""
    root.mkdir()
    made = create(
        LocalStore(root), encryption=encryption, host_name="test", keep=lambda key_file: None
    )
    Log(made.repository, CLUSTER).append("init", {"system_identifier": SYSTEM})
    return MadeRepository(root, made.repository)


def some_files(seed: int = 1) -> dict[str, bytes]:
    """A small data directory: a large relation, small ones, settings, what must not be restored."""
    chance = random.Random(seed)
    files = {f"base/5/{n}": chance.randbytes(n * 200) for n in range(100)}
    files["base/5/16384"] = chance.randbytes(300 * BLOCK)
    files["pg_tblspc/16401/PG_18_202506291/5/20000"] = chance.randbytes(3 * BLOCK)
    files["global/pg_control"] = chance.randbytes(BLOCK)
    files["PG_VERSION"] = b"18\n"
    files["postgresql.conf"] = b"shared_buffers = 1MB\nrecovery_target_xid = '7'\n"
    files["postgresql.auto.conf"] = b"work_mem = '8MB'\nprimary_conninfo = 'host=old'\n"
    files["standby.signal"] = b""
    files["tablespace_map"] = b"16401 /srv/fast\n"
    files["backup_label"] = b"as the stream had it\n"
    return files


def _store_whole(
    writer: GenerationWriter, generation: int, files: dict[str, bytes]
) -> dict[str, list[Leaf]]:
    """Whole blocks of all files one after another, a large file from a new frame on."""
    placed: dict[str, list[Leaf]] = {}
    frame, number = bytearray(), 0
    for path, content in files.items():
        blocks = -(-len(content) // BLOCK)
        placed[path] = []
        if not blocks:
            continue
        if len(frame) // BLOCK + blocks > SLOTS and frame:
            number = writer.add(writer.encode(frame)) + 1
            frame.clear()
        first = number * SLOTS + len(frame) // BLOCK
        placed[path].append(Leaf.single(blocks, generation, first))
        frame += content.ljust(blocks * BLOCK, b"\0")
        while len(frame) >= SLOTS * BLOCK:
            number = writer.add(writer.encode(frame[: SLOTS * BLOCK])) + 1
            del frame[: SLOTS * BLOCK]
    if frame:
        writer.add(writer.encode(frame))
    return placed


def _store_changes(
    writer: GenerationWriter,
    generation: int,
    before: MadeBackup,
    changed: dict[str, dict[int, bytes]],
) -> tuple[dict[str, bytes], dict[str, list[Leaf]]]:
    files, placed = dict(before.files), dict(before.maps)
    for path, blocks in changed.items():
        content = bytearray(files[path])
        for number, block in blocks.items():
            content[number * BLOCK : (number + 1) * BLOCK] = block
        files[path] = bytes(content)
        at = sorted(blocks)
        frame = writer.add(writer.encode(b"".join(blocks[number] for number in at)))
        ordinals = range(frame * SLOTS, frame * SLOTS + len(at))
        placed[path] = [leaves.overlay(placed[path][0], at, generation, list(ordinals))]
    return files, placed


def checksum(content: bytes) -> str:
    """As a manifest has it; quick, since what is large here has no need for the real one."""
    return hashlib.sha256(content).hexdigest()


def _manifest(files: dict[str, bytes]) -> bytes:
    entries = [
        ManifestFile(path, len(content), 1_800_000_000, "SHA256", checksum(content))
        for path, content in files.items()
    ]
    return b"".join(write_manifest(entries, major=18, system_identifier=SYSTEM, wal_ranges=[]))
