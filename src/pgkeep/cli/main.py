"""The entry point: finds the verb, turns errors into messages and exit codes."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from pgkeep import __version__
from pgkeep.cli.common import Common, common_options
from pgkeep.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, PgkeepError

_VERBS = {
    "init": "Make the repository and its key, check the server, print its settings.",
    "check": "Everything that could stop a backup, archiving or a restore, with remedies.",
    "backup": "Make a backup.",
    "list": "Backups and the moments that can be reached.",
    "show": "All that is known of one backup.",
    "restore": "Make a data directory at a moment.",
    "verify": "Prove that what is stored is whole.",
    "wal": "Archive and fetch WAL: what PostgreSQL calls.",
    "key": "The keys of a repository.",
    "demo": "The whole job on an embedded PostgreSQL, in a temporary directory.",
}


class _Verbs(click.Group):
    """Imports a verb's module only when that verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = import_module(f"pgkeep.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(_VERBS.items()))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pgkeep")
@common_options
def pgkeep(common: Common) -> None:
    """Backs up PostgreSQL and proves that it can bring it back."""


def main(argv: list[str] | None = None) -> NoReturn:
    """Runs one verb and exits with its code."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Runs one verb; returns the exit code. Nothing but an error of ours ends in a traceback."""
    try:
        pgkeep.main(argv, prog_name="pgkeep", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("pgkeep: interrupted\n")
        return EXIT_INTERRUPTED
    except PgkeepError as error:
        _report(error, as_json="--json" in argv)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read us has gone; Python would complain again while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return 0


def _report(error: PgkeepError, *, as_json: bool) -> None:
    if as_json:
        document = {
            "error": {
                "kind": type(error).__name__,
                "message": error.message,
                "hint": error.hint,
                "exit_code": error.exit_code,
            }
        }
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    sys.stderr.write(f"pgkeep: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"hint: {error.hint}\n")
