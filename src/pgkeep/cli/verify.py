"""`pgkeep verify`."""

from __future__ import annotations

import sys

import click

from pgkeep.cli.common import Common, answer, common_options
from pgkeep.cli.progress import narrator
from pgkeep.errors import EXIT_PROBLEM


@click.command("verify")
@click.option("--backup", "backup_id", metavar="ID", help="Only this backup (default: all).")
@click.option("--deep", is_flag=True, help="Open every frame and every WAL segment.")
@common_options
def command(common: Common, backup_id: str | None, deep: bool) -> None:
    """Prove that what is stored is whole. Exit code 3 if something is not."""
    from pgkeep.ops.verify import verify
    from pgkeep.ops.wiring import choose

    chosen = choose(common.config, common.cluster, common.repository)
    with narrator(common) as emit:
        report = verify(chosen, backup_id=backup_id, deep=deep, emit=emit)

    def render() -> None:
        for finding in report.findings:
            click.echo(str(finding))
        click.echo(report.summary)

    answer(common, report.to_json(), render)
    if not report.ok:
        sys.exit(EXIT_PROBLEM)
