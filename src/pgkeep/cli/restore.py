"""`pgkeep restore`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import click

from pgkeep.cli.common import Common, answer, common_options
from pgkeep.cli.progress import narrator, seconds_text, size_text
from pgkeep.errors import UsageError

if TYPE_CHECKING:
    from pgkeep.restore.run import RestoreResult


@click.command("restore")
@click.option("--target-dir", metavar="DIR", required=True, help="Empty or new data directory.")
@click.option("--backup", "backup_id", metavar="ID", help="Begin with this backup.")
@click.option(
    "--to",
    default="latest",
    show_default=True,
    metavar="TIME|LSN|XID|NAME|latest|immediate",
    help="The moment; time:, lsn:, xid: or name: in front says which of them it is.",
)
@click.option("--exclusive", is_flag=True, help="Stop just before the target, not just after it.")
@click.option("--timeline", metavar="N", help="A number, current or latest (default: latest).")
@click.option(
    "--action",
    type=click.Choice(["promote", "pause", "shutdown"]),
    default="promote",
    show_default=True,
    help="What the server does when it has reached the target.",
)
@click.option(
    "--map", "maps", multiple=True, metavar="OLD=NEW", help="Where a tablespace goes (path or OID)."
)
@click.option("--owner", metavar="USER", help="As root: who owns what is made.")
@click.option("--no-archive", is_flag=True, help="The restored server does not archive WAL.")
@click.option("--start", is_flag=True, help="Start the server and wait for the target.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@common_options
def command(
    common: Common,
    target_dir: str,
    backup_id: str | None,
    to: str,
    exclusive: bool,
    timeline: str | None,
    action: Literal["promote", "pause", "shutdown"],
    maps: tuple[str, ...],
    owner: str | None,
    no_archive: bool,
    start: bool,
    dry_run: bool,
) -> None:
    """Make a data directory at a moment.

    The right backup is chosen; a moment that can't be reached is refused before anything is
    written. Nothing is ever written into a directory that is in use or not empty.
    """
    from pgkeep.ops.restore import restore, start_restored
    from pgkeep.ops.wiring import choose

    chosen = choose(common.config, common.cluster, common.repository)
    with narrator(common) as emit:
        done = restore(
            chosen,
            target_dir=target_dir,
            backup=backup_id,
            to=to,
            inclusive=not exclusive,
            timeline=_timeline(timeline),
            action=action,
            tablespaces=_maps(maps),
            owner=owner,
            archive=not no_archive,
            dry_run=dry_run,
            emit=emit,
        )
        if start and not dry_run:
            start_restored(done, emit)
    answer(common, done.to_json(), lambda: _render(done, started=start))


def _timeline(text: str | None) -> int | Literal["current", "latest"] | None:
    if text is None or text in ("current", "latest"):
        return cast('Literal["current", "latest"] | None', text)
    try:
        number = int(text, 0)
    except ValueError:
        number = 0
    if number < 1:
        raise UsageError(
            f"{text!r} is not a timeline", hint="give its number, or current or latest"
        )
    return number


def _maps(maps: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in maps:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise UsageError(
                f"--map {text!r} has no = in it", hint="write --map /old/place=/new/place"
            )
        found[old] = new
    return found


def _render(done: RestoreResult, *, started: bool) -> None:
    verb = "restored" if done.restored else "would restore"
    click.echo(
        f"{verb} backup {done.backup_id} to {done.target} on timeline {done.timeline} into "
        f"{done.target_dir}"
    )
    for old, new in done.tablespaces.items():
        click.echo(f"tablespace {old} in {new}")
    click.echo(
        f"{size_text(done.bytes)} in {done.files} files, owned by {done.owner}"
        + (f", in {seconds_text(done.seconds)}" if done.restored else "")
    )
    if done.restored and not started:
        click.echo(f"start it with: pg_ctl -D {done.target_dir} start (as {done.owner})")
