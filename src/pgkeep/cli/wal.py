"""`pgkeep wal push` and `pgkeep wal fetch`: what PostgreSQL calls, once a segment."""

from __future__ import annotations

import click

from pgkeep.cli.common import Common, answer, common_options


@click.group("wal")
def command() -> None:
    """Archive and fetch WAL: what archive_command and restore_command call."""


@command.command("push")
@click.argument("path")
@common_options
def push(common: Common, path: str) -> None:
    """Store one WAL file; PATH is PostgreSQL's %p.

    Succeeds only when the repository has it durably. The same file again succeeds; a different
    file of the same name is an error, and nothing is overwritten.
    """
    from pgkeep.ops.wal import push_wal
    from pgkeep.ops.wiring import choose

    done = push_wal(choose(common.config, common.cluster, common.repository), path)
    answer(common, done.to_json(), lambda: None)


@command.command("fetch")
@click.argument("name")
@click.argument("destination", metavar="PATH")
@click.option("--timeline", type=int, metavar="N", help="Serve only this timeline's history.")
@common_options
def fetch(common: Common, name: str, destination: str, timeline: int | None) -> None:
    """Write the WAL file NAME (PostgreSQL's %f) to PATH (%p).

    Exit code 100 when the repository really does not have it; any other failure has another code,
    so that PostgreSQL does not take it for the end of the WAL.
    """
    from pgkeep.ops.wal import fetch_wal
    from pgkeep.ops.wiring import choose

    chosen = choose(common.config, common.cluster, common.repository)
    done = fetch_wal(chosen, name, destination, timeline=timeline)
    answer(common, done.to_json(), lambda: None)
