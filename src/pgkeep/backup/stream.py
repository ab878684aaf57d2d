"""The protocol source: BASE_BACKUP's archives turned into files and frames.

Bytes go one way: server messages → tar members → `Slicer` → frames. What is small and needed
afterwards (the labels, pg_control, the manifest, what the server warned of) is kept beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pgkeep.backup.slice import Frame, SlicedFile, Slicer
from pgkeep.errors import NotPostgres
from pgkeep.pgformat.basebackup import (
    ArchiveData,
    ManifestStart,
    NewArchive,
    ProgressReport,
    parse_message,
)
from pgkeep.pgformat.tarstream import MemberKind, TarData, TarEnd, TarMember, TarReader
from pgkeep.repo.filetable import FileEntry, FileKind

BACKUP_LABEL = b"backup_label"
TABLESPACE_MAP = b"tablespace_map"
CONTROL_FILE = b"global/pg_control"
KEPT = frozenset({BACKUP_LABEL, TABLESPACE_MAP, CONTROL_FILE})


class StreamedCluster:
    """The files of one base backup as they come.

    `frames` drives everything; `on_file` gets each file once it is whole. Afterwards `kept` has
    the contents of the paths in `KEPT` and `manifest` the server's manifest.
    """

    def __init__(
        self,
        messages: Iterator[memoryview],
        slicer: Slicer,
        on_file: Callable[[SlicedFile], None],
    ) -> None:
        self._messages = messages
        self._slicer = slicer
        self._on_file = on_file
        self._prefix = b""
        self._tar = TarReader()
        self.manifest = bytearray()
        self.kept: dict[bytes, bytes] = {}
        self.received = 0

    def frames(self) -> Iterator[Frame]:
        """Every frame of the backup, in order."""
        in_manifest = False
        for raw in self._messages:
            self.received += len(raw)
            message = parse_message(raw)
            match message:
                case ArchiveData() if in_manifest:
                    self.manifest += message.data
                case ArchiveData():
                    yield from self._archive(message.data)
                case NewArchive():
                    self._start_archive(message)
                case ManifestStart():
                    self._tar.finish()
                    in_manifest = True
                case ProgressReport():
                    pass
        yield from self._slicer.finish()

    def _start_archive(self, archive: NewArchive) -> None:
        self._tar.finish()
        self._tar = TarReader()
        self._prefix = b""
        if archive.tablespace:
            oid = archive.name.removesuffix(".tar")
            if not oid.isdigit():
                raise NotPostgres(f"the server named a tablespace archive {archive.name!r}")
            self._prefix = b"pg_tblspc/" + oid.encode() + b"/"

    def _archive(self, data: memoryview) -> Iterator[Frame]:
        for event in self._tar.feed(data):
            if isinstance(event, TarData):
                yield from self._slicer.data(event.data)
            elif isinstance(event, TarMember):
                self._member(event)
            elif isinstance(event, TarEnd):
                yield from self._file_over()

    def _member(self, member: TarMember) -> None:
        if not member.name:
            return
        path = self._prefix + member.name.encode("utf-8", "surrogateescape")
        kind = _KINDS[member.kind]
        entry = FileEntry(
            path=path,
            kind=kind,
            mode=member.mode,
            size=member.size if kind is FileKind.FILE else 0,
            mtime=member.mtime,
            flags=0,
            target=member.link_target.encode("utf-8", "surrogateescape"),
        )
        if kind is FileKind.FILE:
            self._slicer.begin(entry)
        else:
            self._on_file(SlicedFile(entry, []))

    def _file_over(self) -> Iterator[Frame]:
        done, frame = self._slicer.end()
        if done.content is not None:
            self.kept[done.entry.path] = done.content
        self._on_file(done)
        if frame is not None:
            yield frame


_KINDS = {
    MemberKind.FILE: FileKind.FILE,
    MemberKind.DIRECTORY: FileKind.DIRECTORY,
    MemberKind.SYMLINK: FileKind.SYMLINK,
}
