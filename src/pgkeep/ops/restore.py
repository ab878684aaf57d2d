"""`restore`: the engine with the configuration's repository and the command that fetches WAL."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pgkeep.config.model import Chosen
from pgkeep.events import Emit
from pgkeep.ops.wiring import command_line, open_chosen
from pgkeep.restore.run import RestoreOptions, RestoreResult, run
from pgkeep.restore.target import Action, TimelineWish, parse_target
from pgkeep.wal.commands import restore_command


def restore(
    chosen: Chosen,
    *,
    target_dir: str,
    backup: str | None = None,
    to: str = "latest",
    inclusive: bool = True,
    timeline: TimelineWish = None,
    action: Action = "promote",
    tablespaces: Mapping[str, str] | None = None,
    owner: str | None = None,
    archive: bool = True,
    dry_run: bool = False,
    program: list[str] | None = None,
    emit: Emit,
) -> RestoreResult:
    """Makes a data directory at a moment; raises what `restore.run.run` does."""
    target = replace(
        parse_target(to, local_zone=_local_zone()),
        inclusive=inclusive,
        timeline=timeline,
        action=action,
    )
    line = command_line(chosen, program)
    options = RestoreOptions(
        target_dir=Path(os.path.abspath(target_dir)),
        restore_command=lambda number: restore_command(line, timeline=number),
        target=target,
        backup=backup,
        tablespaces=tablespaces or {},
        owner=owner,
        archive=archive,
        plan_only=dry_run,
    )
    return run(open_chosen(chosen), chosen.cluster_name, options, emit)


def _local_zone() -> tzinfo:
    """This host's zone with its changes of clocks; a mere offset would not know of them."""
    name = os.environ.get("TZ", "").lstrip(":")
    try:
        if name:
            return ZoneInfo(name)
        with open("/etc/localtime", "rb") as file:
            return ZoneInfo.from_file(file, key="local time")
    except (OSError, ValueError, ZoneInfoNotFoundError):
        return UTC
