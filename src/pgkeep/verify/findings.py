"""What is wrong, seen once, with the backups that need it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from pgkeep.errors import PgkeepError, StoreUnavailable
from pgkeep.repo import names
from pgkeep.store.base import Store

T = TypeVar("T")

NEW_BACKUP = (
    "make a new backup now (pgkeep backup); put the object back from a copy of the repository if "
    "there is one, else expire the backups that need it; look at the disk or bucket below"
)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one object of the repository, and what to do about it."""

    object: str
    what: str
    hint: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem with the backups that can't be restored because of it, wholly or in part."""

    object: str
    what: str
    backups: tuple[str, ...]
    hint: str

    def __str__(self) -> str:
        needed = ", ".join(self.backups) or "no backup"
        return f"{self.object}: {self.what}\n  needed by: {needed}\n  hint: {self.hint}"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was looked at, and what was wrong; sizes in bytes.

    `frames` and `segments_read` are 0 unless the verification was deep.
    """

    backups: tuple[str, ...]
    findings: tuple[Finding, ...]
    map_frames: int
    packs: int
    pack_bytes: int
    frames: int
    frame_bytes: int
    segments: int
    segments_read: int
    deep: bool
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def summary(self) -> str:
        """One line: what was looked at, and whether all of it was whole."""
        many = "1 backup" if len(self.backups) == 1 else f"{len(self.backups)} backups"
        verdict = f"{many} are whole" if len(self.backups) != 1 else f"{many} is whole"
        if self.findings:
            hurt = {backup for finding in self.findings for backup in finding.backups}
            verdict = f"{len(self.findings)} findings, {len(hurt)} of {many} affected"
        looked = f"{self.map_frames} map frames, {self.packs} packs, {self.segments} WAL segments"
        if self.deep:
            looked += (
                f"; opened {self.frames} frames ({self.frame_bytes / 1e9:.1f} GB) "
                f"and {self.segments_read} WAL files"
            )
        return f"{verdict}: looked at {looked} in {self.seconds:.1f} s"

    def to_json(self) -> dict[str, Any]:
        return {"ok": self.ok, **asdict(self)}


def demand_store(store: Store, error: PgkeepError) -> None:
    """Raises `error` again when it was the whole store that did not answer.

    An outage says nothing about what is stored; one object on a bad sector does.
    """
    if isinstance(error, StoreUnavailable):
        try:
            store.get(names.REPOSITORY)
        except PgkeepError:
            raise error from None


class Ledger:
    """Gathers problems. A thing that several backups share is looked at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._problems: dict[Hashable, list[Problem]] = {}
        self._backups: dict[Hashable, dict[str, None]] = {}

    def needs(self, backup: str, key: Hashable) -> bool:
        """Notes that `backup` needs a thing; whether nobody has looked at it yet."""
        self._backups.setdefault(key, {})[backup] = None
        if key in self._problems:
            return False
        self._problems[key] = []
        return True

    def note(self, key: Hashable, problem: Problem) -> None:
        """A thing that was looked at has a problem; saying so twice changes nothing."""
        known = self._problems.setdefault(key, [])
        if problem not in known:
            known.append(problem)

    def attempt(
        self, key: Hashable, object_: str, look: Callable[[], T], *, hint: str = NEW_BACKUP
    ) -> T | None:
        """What `look` returns, or None after its error was noted.

        Raises StoreUnavailable when the store as a whole does not answer.
        """
        try:
            return look()
        except PgkeepError as error:
            demand_store(self._store, error)
            self.note(key, Problem(object_, error.message, hint))
            return None

    def findings(self) -> tuple[Finding, ...]:
        """All that was noted, in the order in which it was seen."""
        return tuple(
            Finding(p.object, p.what, tuple(sorted(self._backups.get(key, {}))), p.hint)
            for key, problems in self._problems.items()
            for p in problems
        )
