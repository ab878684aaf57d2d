"""Finds, reads and checks the configuration file, and picks what a command is about."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from pgkeep.config.model import Chosen, ClusterConfig, Config, RepositoryConfig
from pgkeep.errors import ConfigError, UsageError

LOCAL_FILE = Path("pgkeep.toml")
SYSTEM_FILE = Path("/etc/pgkeep/pgkeep.toml")
SHARED_STATE_DIR = Path("/var/lib/pgkeep-state")
_S = TypeVar("_S", bound=Struct)
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

EXAMPLE = """\
[repository.main]
url = "file:///var/lib/pgkeep"

[cluster.bss]
conninfo = "host=localhost user=pgkeep"
"""


def find_file(explicit: str | None) -> Path:
    """The configuration file: `--config`, `PGKEEP_CONFIG`, `./pgkeep.toml`, then `/etc/pgkeep`.

    Raises ConfigError when there is none.
    """
    named = explicit or os.environ.get("PGKEEP_CONFIG")
    if named:
        return Path(named)
    for candidate in (LOCAL_FILE, SYSTEM_FILE):
        if candidate.exists():
            return candidate
    raise ConfigError(
        f"there is no configuration file: neither {LOCAL_FILE} here nor {SYSTEM_FILE}",
        hint=f"write one, or name it with --config or PGKEEP_CONFIG; the smallest is:\n\n{EXAMPLE}",
    )


def load(path: Path) -> Config:
    """Reads and checks one file. Raises ConfigError, which names the setting and where it is."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"the configuration file {path} does not exist", hint="name another with --config"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a directory", hint="name the file in it") from None
    except PermissionError:
        raise ConfigError(
            f"no permission to read the configuration file {path}",
            hint=f"run as its owner, or let user {os.getuid()} read it",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from None
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", hint="mend that line") from None
    unknown = sorted(set(tables) - {"repository", "cluster"})
    if unknown:
        raise ConfigError(
            f"{path}: unknown setting {unknown[0]}",
            hint="a file has tables [repository.NAME] and [cluster.NAME] only",
        )
    config = Config(
        repository=_tables(path, tables, "repository", RepositoryConfig),
        cluster=_tables(path, tables, "cluster", ClusterConfig),
    )
    _check_names(path, config)
    return config


def _tables(path: Path, tables: dict[str, object], kind: str, struct: type[_S]) -> dict[str, _S]:
    named = tables.get(kind, {})
    if not isinstance(named, dict):
        raise ConfigError(f"{path}: {kind} must be tables [{kind}.NAME]")
    return {name: _table(path, f"{kind}.{name}", table, struct) for name, table in named.items()}


def _table(path: Path, place: str, table: object, struct: type[_S]) -> _S:
    if not isinstance(table, dict):
        raise ConfigError(
            f"{path}: {place} must be a table, not a value", hint=f"write [{place}] on its own line"
        )
    try:
        return msgspec.convert(table, struct)
    except msgspec.ValidationError as error:
        raise _explain(path, place, str(error), struct) from None


def _explain(path: Path, place: str, reason: str, struct: type[Struct]) -> ConfigError:
    """msgspec's words with the setting's own path, as in `cluster.bss.conninfo`."""
    message, _, where = reason.partition(" - at ")
    unknown = re.search(r"unknown field `([^`]+)`", message)
    if unknown:
        return ConfigError(
            f"{path}: unknown setting {place}.{unknown.group(1)}",
            hint=f"known here: {', '.join(struct.__struct_fields__)}",
        )
    missing = re.search(r"missing required field `([^`]+)`", message)
    if missing:
        return ConfigError(
            f"{path}: {place}.{missing.group(1)} is missing", hint=f"add a line for it to [{place}]"
        )
    setting = where.strip("`").removeprefix("$")
    return ConfigError(f"{path}: {place}{setting}: {message[0].lower()}{message[1:]}")


def _check_names(path: Path, config: Config) -> None:
    for kind, names in (("repository", config.repository), ("cluster", config.cluster)):
        if not names:
            raise ConfigError(
                f"{path} names no {kind}",
                hint=f"add a table [{kind}.NAME]; the smallest file is:\n\n{EXAMPLE}",
            )
        for name in names:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"{path}: {kind}.{name} is not a usable name",
                    hint="use lower-case letters, digits, - and _, starting with a letter or digit",
                )
    for name, cluster in config.cluster.items():
        if cluster.repository is not None and cluster.repository not in config.repository:
            raise ConfigError(
                f"{path}: cluster.{name}.repository names {cluster.repository}, "
                "which is not in the file",
                hint=f"known: {', '.join(config.repository)}",
            )


def choose(path: Path, config: Config, *, cluster: str | None, repository: str | None) -> Chosen:
    """What the command is about; with one of a kind in the file it need not be named."""
    cluster_name = _pick("cluster", "--cluster", cluster, list(config.cluster))
    settings = config.cluster[cluster_name]
    wanted = repository or settings.repository
    repository_name = _pick("repository", "--repository", wanted, list(config.repository))
    place = config.repository[repository_name]
    directory = path.resolve().parent
    key_file = directory / (place.key_file or f"pgkeep-{repository_name}.key")
    return Chosen(
        path=path.resolve(),
        cluster_name=cluster_name,
        cluster=settings,
        repository_name=repository_name,
        repository=place,
        key_file=key_file,
        state_dir=_state_dir(directory, settings) / cluster_name,
    )


def _pick(kind: str, option: str, wanted: str | None, known: list[str]) -> str:
    if wanted is None:
        if len(known) == 1:
            return known[0]
        raise UsageError(
            f"the configuration has {len(known)} of kind {kind}: {', '.join(known)}",
            hint=f"say which with {option}",
        )
    if wanted not in known:
        raise UsageError(
            f"there is no {kind} {wanted} in the configuration",
            hint=f"known: {', '.join(known)}",
        )
    return wanted


def _state_dir(directory: Path, cluster: ClusterConfig) -> Path:
    if cluster.state_dir is not None:
        return directory / cluster.state_dir
    if SHARED_STATE_DIR.is_dir():
        return SHARED_STATE_DIR
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(home) / "pgkeep"
