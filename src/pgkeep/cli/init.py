"""`pgkeep init`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgkeep.cli.common import Common, answer, common_options

if TYPE_CHECKING:
    from pgkeep.ops.init import InitResult


@click.command("init")
@click.option("--url", metavar="URL", help="Write a configuration with this repository ...")
@click.option("--conninfo", metavar="TEXT", help="... and this server (libpq's conninfo).")
@common_options
def command(common: Common, url: str | None, conninfo: str | None) -> None:
    """Make the repository and its key, check the server, print the settings PostgreSQL needs.

    May be repeated: what is there already stays as it is.
    """
    from pgkeep.ops.init import init

    done = init(common.config, common.cluster, common.repository, url=url, conninfo=conninfo)
    answer(common, done.to_json(), lambda: _render(done))


def _render(done: InitResult) -> None:
    click.echo(f"configuration  {done.config}{' (written)' if done.config_written else ''}")
    made = "made" if done.repository_made else "there already"
    click.echo(f"repository     {done.repository} ({made})")
    added = "added" if done.cluster_added else "there already"
    click.echo(
        f"cluster        {done.cluster} ({added}): PostgreSQL {done.server_version}, "
        f"system {done.system_identifier}"
    )
    if done.key_file:
        click.echo(f"key file       {done.key_file}: keep a copy where the backups are not")
    if done.recovery_key:
        click.echo(
            "\nThis is the recovery key. It opens the repository when the key file is lost, and it "
            f"is\nshown only now. Write it down:\n\n    {done.recovery_key}\n"
        )
    if done.statements:
        click.echo("PostgreSQL needs these settings (as a superuser):\n")
        for statement in done.statements:
            click.echo(f"    {statement}")
        if done.restart_needed:
            click.echo("\nthen restart the server.")
        click.echo("\nAfterwards: pgkeep check")
    else:
        click.echo("PostgreSQL has all the settings that it needs. Next: pgkeep check")
