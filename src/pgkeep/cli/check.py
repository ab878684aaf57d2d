"""`pgkeep check`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pgkeep.cli.common import Common, answer, common_options
from pgkeep.cli.progress import narrator
from pgkeep.errors import EXIT_PROBLEM

if TYPE_CHECKING:
    from pgkeep.ops.check import CheckReport

_MARKS = {"ok": ("ok", "green"), "warning": ("warn", "yellow"), "problem": ("FAIL", "red")}


@click.command("check")
@click.option("--no-switch", is_flag=True, help="Don't close a WAL segment to see it arrive.")
@common_options
def command(common: Common, no_switch: bool) -> None:
    """Everything that could stop a backup, archiving or a restore, with remedies.

    Exit code 3 if there is a problem.
    """
    from pgkeep.ops.check import check
    from pgkeep.ops.wiring import choose

    chosen = choose(common.config, common.cluster, common.repository)
    with narrator(common) as emit:
        report = check(chosen, switch=not no_switch, emit=emit)
    answer(common, report.to_json(), lambda: _render(report))
    if not report.ok:
        sys.exit(EXIT_PROBLEM)


def _render(report: CheckReport) -> None:
    for item in report.checked:
        mark, colour = _MARKS[item.level]
        click.echo(f"{click.style(f'{mark:<5}', fg=colour)}{item.what:<12}{item.text}")
        if item.remedy:
            click.echo(f"{'':<17}do: {item.remedy}")
