"""`pgkeep key`."""

from __future__ import annotations

import os

import click

from pgkeep.cli.common import Common, answer, common_options


@click.group("key")
def command() -> None:
    """The keys of a repository."""


@command.command("recover")
@common_options
def recover(common: Common) -> None:
    """Write a new key file with the recovery key that init printed.

    The recovery key is asked for, or taken from PGKEEP_RECOVERY_KEY; never from the command line,
    where others could read it.
    """
    from pgkeep.ops.key import recover_key
    from pgkeep.ops.wiring import choose

    chosen = choose(common.config, common.cluster, common.repository)
    typed = os.environ.get("PGKEEP_RECOVERY_KEY") or click.prompt("Recovery key", err=True)
    path = recover_key(chosen, typed)
    answer(
        common,
        {"key_file": str(path)},
        lambda: click.echo(f"{path} written: this host can use the repository again"),
    )
