"""`pgkeep show`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgkeep.cli.common import Common, answer, common_options
from pgkeep.cli.progress import seconds_text, size_text
from pgkeep.pgformat.lsn import format_lsn

if TYPE_CHECKING:
    from pgkeep.catalog.records import Record
    from pgkeep.ops.listing import Listing


@click.command("show")
@click.argument("backup_id", metavar="ID")
@common_options
def command(common: Common, backup_id: str) -> None:
    """All that is known of one backup: ID, the beginning of it, or `latest`."""
    from pgkeep.ops.listing import record_json, show
    from pgkeep.ops.wiring import choose

    record, found = show(choose(common.config, common.cluster, common.repository), backup_id)
    document = {**record_json(record), "reachable": found.reachable_json(record.id)}
    answer(common, document, lambda: _render(record, found))


def _render(record: Record, found: Listing) -> None:
    version = f"{record.server_version_num // 10000}.{record.server_version_num % 10000}"
    lines = [
        ("backup", record.id),
        ("label", record.label or "none"),
        ("class", record.class_ or "none"),
        ("method", f"{record.method}, {record.source}, WAL by {record.wal_source}"),
        ("server", f"PostgreSQL {version}, system {record.system_identifier}"),
        ("began", f"{record.start_time:%Y-%m-%d %H:%M:%S} UTC at {format_lsn(record.start_lsn)}"),
        ("ended", f"{record.stop_time:%Y-%m-%d %H:%M:%S} UTC at {format_lsn(record.stop_lsn)}"),
        ("timeline", str(record.timeline)),
        ("took", seconds_text(record.seconds)),
        ("size", f"{size_text(record.bytes)} in {record.files} files"),
        ("stored", f"{size_text(record.stored_bytes)}, of it map {size_text(record.map_bytes)}"),
        ("needs WAL", f"{record.wal_first} to {record.wal_last}"),
    ]
    lines += [("tablespace", f"{space.oid} at {space.location}") for space in record.tablespaces]
    for window in found.windows[record.id]:
        reached = "can't be restored: WAL is missing"
        if window.restorable:
            time = f"{window.to_time:%Y-%m-%d %H:%M:%S} UTC, " if window.to_time else ""
            reached = f"up to {time}{format_lsn(window.to_lsn)}"
        lines.append(("reaches", f"on timeline {window.timeline}: {reached}"))
    lines += [("warning", text) for text in record.warnings]
    for bad in record.bad_blocks:
        computed = f"page says {bad.stored:#06x}, is {bad.computed:#06x}"
        lines.append(("bad block", f"{bad.path} block {bad.block}: {computed}"))
    for name, value in lines:
        click.echo(f"{name:<11} {value}")
