"""`list` and `show`: the backups that exist and the moments that they and the WAL reach."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgkeep.catalog import records as records_
from pgkeep.catalog.inventory import read_inventory
from pgkeep.catalog.reach import Window, windows
from pgkeep.catalog.records import Record, committed
from pgkeep.config.model import Chosen
from pgkeep.errors import UsageError
from pgkeep.ops.wiring import open_chosen
from pgkeep.pgformat.lsn import format_lsn
from pgkeep.repo.log import Log
from pgkeep.repo.names import time_text


@dataclass(frozen=True)
class Listing:
    """`backups` oldest first; `windows` by backup id."""

    cluster: str
    repository: str
    backups: list[Record]
    windows: dict[str, list[Window]]
    unfinished: list[str]

    def to_json(self) -> dict[str, Any]:
        return {
            "cluster": self.cluster,
            "repository": self.repository,
            "backups": [
                {**record_json(record), "reachable": self.reachable_json(record.id)}
                for record in self.backups
            ],
            "unfinished": self.unfinished,
        }

    def reachable_json(self, backup_id: str) -> list[dict[str, Any]]:
        """What a backup reaches, a member for each timeline."""
        return [
            {
                "timeline": w.timeline,
                "restorable": w.restorable,
                "from_lsn": format_lsn(w.from_lsn),
                "to_lsn": format_lsn(w.to_lsn),
                "from_time": time_text(w.from_time),
                "to_time": time_text(w.to_time) if w.to_time is not None else None,
            }
            for w in self.windows[backup_id]
        ]


def record_json(record: Record) -> dict[str, Any]:
    """A record as JSON values, as it lies in the repository."""
    value: dict[str, Any] = json.loads(records_.to_json(record))
    return value


def listing(chosen: Chosen) -> Listing:
    """Reads the log, the records and which WAL there is."""
    repo = open_chosen(chosen)
    state = Log(repo, chosen.cluster_name).state()
    found = committed(repo, chosen.cluster_name, state)
    reached: dict[str, list[Window]] = {record.id: [] for record in found}
    for system in {record.system_identifier for record in found}:
        inventory = read_inventory(repo, chosen.cluster_name, found, system_identifier=system)
        for window in windows(inventory.records, inventory.coverage, inventory.contents):
            reached[window.backup_id].append(window)
    return Listing(chosen.cluster_name, chosen.repository_name, found, reached, sorted(state.open))


def show(chosen: Chosen, backup_id: str) -> tuple[Record, Listing]:
    """One backup, by its id or an unmistakable beginning of it, or `latest`."""
    found = listing(chosen)
    return pick(found.backups, backup_id), found


def pick(backups: Sequence[Record], wanted: str) -> Record:
    """The backup that `wanted` means; raises UsageError when that is none or several."""
    if wanted == "latest" and backups:
        return backups[-1]
    fitting = [record for record in backups if record.id.startswith(wanted)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(f"{len(fitting)} backups begin with {wanted}", hint="give more of the id")
    raise UsageError(f"there is no backup {wanted}", hint="pgkeep list shows which there are")
