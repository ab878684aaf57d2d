"""The log of a cluster: what happened, in order; its `commit` makes a backup exist.

An entry is created at head + 1 or not at all, and carries the SHA-256 of the one before
(`docs/format.md`, section 5). `fold` is pure; `Log` reads, checks the chain, and appends.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from pgkeep.codec.container import Kind
from pgkeep.errors import Damaged, ObjectExists, ObjectMissing, PgkeepError
from pgkeep.repo import names
from pgkeep.repo.objects import get_object, put_object
from pgkeep.repo.repository import Repository

CHECKPOINT_EVERY = 1_000
_NOTHING_BEFORE = "0" * 64


class LogEntry(msgspec.Struct, frozen=True):
    """One entry; `body` has what docs/format.md says for its type."""

    seq: int
    prev: str
    type: str
    time: str
    host: str
    body: dict[str, Any]


class Opened(msgspec.Struct, frozen=True):
    """Work that has begun and neither committed nor aborted."""

    seq: int
    kind: str
    base: str | None
    time: str
    host: str


class Committed(msgspec.Struct, frozen=True):
    """A backup that exists: its record, and the generation that it wrote."""

    record: str
    sha256: str
    generation: int
    seq: int
    time: str


class Held(msgspec.Struct, frozen=True):
    reason: str
    time: str


class Condemned(msgspec.Struct, frozen=True):
    seq: int
    time: str


class LogState(msgspec.Struct):
    """The fold of all entries so far."""

    system_identifier: int | None = None
    open: dict[str, Opened] = {}
    backups: dict[str, Committed] = {}
    aborted: list[str] = []
    expired: list[str] = []
    condemned: dict[str, Condemned] = {}
    holds: dict[str, Held] = {}
    key_id: str | None = None


def fold(state: LogState, entry: LogEntry, cluster: str) -> LogState:
    """The state after one more entry; what an entry may not do is ignored, as for all readers."""
    body = entry.body
    after = LogState(
        state.system_identifier,
        dict(state.open),
        dict(state.backups),
        list(state.aborted),
        list(state.expired),
        dict(state.condemned),
        dict(state.holds),
        state.key_id,
    )
    match entry.type:
        case "init":
            after.system_identifier = int(body["system_identifier"])
        case "begin":
            after.open[body["id"]] = Opened(
                entry.seq, body["kind"], body.get("base"), entry.time, entry.host
            )
        case "commit":
            work = after.open.pop(body["id"], None)
            if work is not None:
                record = names.record(cluster, body["id"])
                after.backups[body["id"]] = Committed(
                    record, body["record"], work.seq, entry.seq, entry.time
                )
        case "abort":
            if after.open.pop(body["id"], None) is not None:
                after.aborted.append(body["id"])
        case "expire":
            for backup in body["ids"]:
                if after.backups.pop(backup, None) is not None:
                    after.expired.append(backup)
        case "condemn":
            for pack in body["packs"]:
                after.condemned.setdefault(pack, Condemned(entry.seq, entry.time))
        case "repoint":
            after.open.pop(body["id"], None)
            for backup, moved in body["records"].items():
                old = after.backups.get(backup)
                if old is not None:
                    after.backups[backup] = msgspec.structs.replace(
                        old, record=moved["record"], sha256=moved["sha256"]
                    )
        case "hold":
            if body["id"] in after.backups:
                after.holds[body["id"]] = Held(body["reason"], entry.time)
        case "release":
            after.holds.pop(body["id"], None)
        case "key":
            if body["event"] == "current":
                after.key_id = body["key_id"]
        case "checkpoint":
            return msgspec.convert(body["state"], LogState)
    return after


class Log:
    """One cluster's log. Remembers what it has read; belongs to one thread."""

    def __init__(self, repo: Repository, cluster: str) -> None:
        self._repo = repo
        self.cluster = names.check_cluster_name(cluster)
        self._state = LogState()
        self._seq = 0
        self._digest = _NOTHING_BEFORE

    @property
    def head(self) -> tuple[int, str]:
        """The last entry that was read: its number (0 for none) and SHA-256."""
        return self._seq, self._digest

    def state(self) -> LogState:
        """Reads what is new and returns the state; raises Damaged when the chain is broken."""
        if self._seq == 0:
            self._start()
        while self._read_next():
            pass
        return self._state

    def founding_system(self) -> int | None:
        """The system identifier in the first entry, read alone; None when there is no log.

        Quick, for those who can check it otherwise: later entries may have changed it.
        """
        read = self._read(1)
        if read is None:
            return None
        return int(read[0].body["system_identifier"])

    def entries(self) -> list[LogEntry]:
        """Every entry from the first on, the chain checked."""
        found: list[LogEntry] = []
        digest, seq = _NOTHING_BEFORE, 1
        while True:
            read = self._read(seq)
            if read is None:
                self._demand_end(seq)
                return found
            entry, sha256 = read
            self._check(entry, seq, digest)
            found.append(entry)
            digest, seq = sha256, seq + 1

    def append(
        self,
        type_: str,
        body: dict[str, Any],
        *,
        check: Callable[[LogState], None] = lambda state: None,
    ) -> LogEntry:
        """Adds an entry at the head; `check` raises when the newest state forbids it.

        When somebody else was quicker, reads what they added, asks `check` again and tries again.
        """
        while True:
            state = self.state()
            check(state)
            if (self._seq + 1) % CHECKPOINT_EVERY == 0:
                self._put("checkpoint", {"state": msgspec.to_builtins(state)})
                continue
            entry = self._put(type_, body)
            if entry is not None:
                self.state()
                return entry

    def _put(self, type_: str, body: dict[str, Any]) -> LogEntry | None:
        """The entry, or None when its number was taken."""
        signer = self._repo.ring.signer
        entry = LogEntry(
            seq=self._seq + 1,
            prev=self._digest,
            type=type_,
            time=names.time_text(datetime.now(UTC)),
            host=signer.host_id.hex() if signer else "",
            body=body,
        )
        name = names.log_entry(self.cluster, entry.seq)
        try:
            put_object(self._repo, Kind.LOG, name, msgspec.json.encode(entry))
        except ObjectExists:
            return None
        return entry

    def _start(self) -> None:
        """Skips to the last checkpoint, if there is one."""
        newest = self._newest_listed()
        at = newest - newest % CHECKPOINT_EVERY
        if at:
            read = self._read(at)
            if read is None:
                raise self._broken(at, "it is missing although later ones are there")
            entry, digest = read
            if entry.type != "checkpoint" or entry.seq != at:
                raise self._broken(at, "it is not the checkpoint that it should be")
            self._accept(entry, digest)

    def _newest_listed(self) -> int:
        prefix = names.log_prefix(self.cluster)
        newest = 0
        for found in self._repo.store.list(prefix):
            text = found.name.removeprefix(prefix)
            if text.isdigit():
                newest = max(newest, int(text))
        return newest

    def _read_next(self) -> bool:
        read = self._read(self._seq + 1)
        if read is None:
            self._demand_end(self._seq + 1)
            return False
        entry, digest = read
        self._check(entry, self._seq + 1, self._digest)
        self._accept(entry, digest)
        return True

    def _demand_end(self, absent: int) -> None:
        """A missing entry is the end only if nothing comes after it."""
        name = names.log_entry(self.cluster, absent)
        later = self._repo.store.list(names.log_prefix(self.cluster), after=name)
        if next(later, None) is not None and self._read(absent) is None:
            raise self._broken(absent, "it is missing although later ones are there")

    def _accept(self, entry: LogEntry, digest: str) -> None:
        try:
            self._state = fold(self._state, entry, self.cluster)
        except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
            raise self._broken(entry.seq, f"its body can't be understood ({error})") from None
        self._seq, self._digest = entry.seq, digest

    def _read(self, seq: int) -> tuple[LogEntry, str] | None:
        name = names.log_entry(self.cluster, seq)
        try:
            found = get_object(self._repo, Kind.LOG, name)
        except ObjectMissing:
            return None
        try:
            entry = msgspec.json.decode(found.raw, type=LogEntry)
        except msgspec.DecodeError as error:
            raise self._broken(seq, f"it can't be read ({error})") from None
        return entry, found.sha256.hex()

    def _check(self, entry: LogEntry, seq: int, prev: str) -> None:
        if entry.seq != seq:
            raise self._broken(seq, f"it says that it is entry {entry.seq}")
        if entry.prev != prev:
            raise self._broken(seq, "it does not follow from the entry before it")

    def _broken(self, seq: int, what: str) -> PgkeepError:
        return Damaged(
            f"the log of {self.cluster} is damaged at entry {seq}: {what}",
            hint="an object was lost, changed or put back from an older copy: restore "
            f"{names.log_entry(self.cluster, seq)} from a copy of the repository",
        )
