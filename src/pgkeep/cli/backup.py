"""`pgkeep backup`."""

from __future__ import annotations

from typing import Literal

import click

from pgkeep.cli.common import Common, answer, common_options
from pgkeep.cli.progress import narrator, seconds_text, size_text


@click.command("backup")
@click.option("--label", metavar="TEXT", help="A note to find it by.")
@click.option("--class", "class_", metavar="NAME", help="Retention class, kept in the record.")
@click.option("--full", is_flag=True, help="Read and check everything (so far always the case).")
@click.option(
    "--wal",
    type=click.Choice(["archive", "stream"]),
    default="archive",
    show_default=True,
    help="Where the WAL that the backup needs comes from: archive_command, or streamed by itself.",
)
@click.option(
    "--checkpoint",
    type=click.Choice(["fast", "spread"]),
    default="fast",
    show_default=True,
    help="How quickly the server makes the checkpoint that a backup starts with.",
)
@common_options
def command(
    common: Common,
    label: str | None,
    class_: str | None,
    full: bool,
    wal: Literal["archive", "stream"],
    checkpoint: str,
) -> None:
    """Make a backup of the whole cluster.

    It exists once everything needed to restore it, its WAL included, is durable in the repository.
    """
    from pgkeep.ops.backup import backup
    from pgkeep.ops.listing import record_json
    from pgkeep.ops.wiring import choose

    chosen = choose(common.config, common.cluster, common.repository)
    with narrator(common) as emit:
        done = backup(
            chosen,
            label=label,
            backup_class=class_,
            wal=wal,
            fast_checkpoint=checkpoint == "fast",
            emit=emit,
        )

    def render() -> None:
        click.echo(
            f"backup {done.id}: {size_text(done.bytes)} in {done.files} files, stored as "
            f"{size_text(done.stored_bytes)} in {seconds_text(done.seconds)}"
        )
        if done.bad_blocks:
            click.echo(
                f"{len(done.bad_blocks)} block(s) have wrong checksums: "
                f"pgkeep show {done.id} lists them"
            )

    answer(common, record_json(done), render)
