"""The options that every verb has, before or after its name, and how a verb answers."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Common:
    """What the options common to all verbs said."""

    config: str | None = None
    cluster: str | None = None
    repository: str | None = None
    json: bool = False
    verbose: bool = False
    quiet: bool = False


_OPTIONS = (
    click.option("--config", metavar="FILE", help="Configuration file (default: ./pgkeep.toml)."),
    click.option("--cluster", metavar="NAME", help="Which cluster, when there are several."),
    click.option("--repository", metavar="NAME", help="Which repository, when there are several."),
    click.option("--json", "json_", is_flag=True, help="Answer with one JSON document."),
    click.option("-v", "--verbose", is_flag=True, help="Say more."),
    click.option("-q", "--quiet", is_flag=True, help="Say only what went wrong."),
)


def common_options(function: F) -> F:
    """Gives a command the common options; it gets them as one `Common`, its first argument."""

    @functools.wraps(function)
    def wrapper(
        *args: Any,
        config: str | None,
        cluster: str | None,
        repository: str | None,
        json_: bool,
        verbose: bool,
        quiet: bool,
        **rest: Any,
    ) -> Any:
        context = click.get_current_context()
        before: Common = context.obj if isinstance(context.obj, Common) else Common()
        common = replace(
            before,
            config=config or before.config,
            cluster=cluster or before.cluster,
            repository=repository or before.repository,
            json=json_ or before.json,
            verbose=verbose or before.verbose,
            quiet=quiet or before.quiet,
        )
        context.find_root().obj = common
        return function(common, *args, **rest)

    decorated: Any = wrapper
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    result: F = decorated
    return result


def answer(common: Common, document: object, render: Callable[[], None]) -> None:
    """One JSON document on standard output, or people's text by `render`."""
    if common.json:
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    elif not common.quiet:
        render()
