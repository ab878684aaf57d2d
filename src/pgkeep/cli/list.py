"""`pgkeep list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgkeep.cli.common import Common, answer, common_options
from pgkeep.cli.progress import size_text
from pgkeep.pgformat.lsn import format_lsn

if TYPE_CHECKING:
    from pgkeep.ops.listing import Listing


@click.command("list")
@common_options
def command(common: Common) -> None:
    """Backups, oldest first, and the moments that can be reached from each."""
    from pgkeep.ops.listing import listing
    from pgkeep.ops.wiring import choose

    found = listing(choose(common.config, common.cluster, common.repository))
    answer(common, found.to_json(), lambda: _render(found))


def _render(found: Listing) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not found.backups:
        console.print(f"{found.cluster} has no backup yet: pgkeep backup makes one")
    table = Table(title=f"{found.cluster} in {found.repository}", title_justify="left")
    for name in ("backup", "size", "stored", "timeline", "reachable from", "to", "remarks"):
        table.add_column(name, overflow="fold")
    for record in found.backups:
        for number, window in enumerate(found.windows[record.id]):
            first = number == 0
            to = "can't be restored: WAL is missing"
            if window.restorable:
                to = f"{window.to_time:%Y-%m-%d %H:%M:%S}" if window.to_time else "its own end"
                to += f"  {format_lsn(window.to_lsn)}"
            remarks = [record.label or ""]
            if record.bad_blocks:
                remarks.append(f"{len(record.bad_blocks)} bad blocks")
            table.add_row(
                record.id if first else "",
                size_text(record.bytes) if first else "",
                size_text(record.stored_bytes) if first else "",
                str(window.timeline),
                f"{window.from_time:%Y-%m-%d %H:%M:%S}",
                to,
                ", ".join(filter(None, remarks)) if first else "",
            )
    if found.backups:
        console.print(table)
        console.print("Times are UTC.")
    for backup_id in found.unfinished:
        console.print(f"unfinished: {backup_id} (running, or its process died)")
