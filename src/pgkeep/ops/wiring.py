"""From names in a configuration to things that are open. The only place that names drivers."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from pgkeep.codec.keyfile import KeyFile
from pgkeep.codec.keys import PLAIN
from pgkeep.config import load as loading
from pgkeep.config.model import Chosen
from pgkeep.repo.repository import Repository, open_repository
from pgkeep.store.open import open_store


def choose(config: str | None, cluster: str | None, repository: str | None) -> Chosen:
    """What a command is about; raises ConfigError or UsageError."""
    path = loading.find_file(config)
    return loading.choose(path, loading.load(path), cluster=cluster, repository=repository)


def open_chosen(chosen: Chosen) -> Repository:
    """The repository, opened with this host's key file."""
    store = open_store(chosen.repository.url)
    plain = chosen.repository.encryption == PLAIN
    return open_repository(store, None if plain else KeyFile.load(chosen.key_file))


def program() -> list[str]:
    """How to call this pgkeep from PostgreSQL's command lines, with absolute paths."""
    called = Path(sys.argv[0])
    if called.name == "pgkeep" and called.is_file() and os.access(called, os.X_OK):
        return [str(called.resolve())]
    if called.name == "pgkeep" and (found := shutil.which("pgkeep")):
        return [found]
    return [sys.executable, "-m", "pgkeep"]


def command_line(chosen: Chosen, called: list[str] | None = None) -> list[str]:
    """The program with the global options that lead back to `chosen`."""
    line = [*(called or program()), "--config", str(chosen.path)]
    return [*line, "--cluster", chosen.cluster_name, "--repository", chosen.repository_name]
