"""The settings, their defaults and what may be written for each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

Level = Annotated[int, Meta(ge=1, le=19)]
Seconds = Annotated[int, Meta(ge=1, le=7 * 86400)]


class RepositoryConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Where backups live.

    `url` is a `file://` address or an absolute path. `key_file` is made by `init`; unset, it lies
    beside the configuration file as `pgkeep-<repository>.key`.
    """

    url: str
    encryption: Literal["aes-256-gcm", "none"] = "aes-256-gcm"
    key_file: str | None = None
    compression_level: Level = 1


class ClusterConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One PostgreSQL instance.

    `conninfo` is libpq's, and PG* variables, service and password files work as in libpq.
    `repository` may stay unset while there is only one. `archive_timeout` is how many seconds a
    backup waits for WAL while nothing arrives. `state_dir` holds what `wal push` notes of itself.
    """

    conninfo: str
    repository: str | None = None
    archive_timeout: Seconds = 60
    state_dir: str | None = None


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """A whole configuration file: `[repository.NAME]` and `[cluster.NAME]` tables."""

    repository: dict[str, RepositoryConfig] = {}
    cluster: dict[str, ClusterConfig] = {}


class Chosen(Struct, frozen=True):
    """The cluster and the repository that a command is about, with every default filled in."""

    path: Path
    cluster_name: str
    cluster: ClusterConfig
    repository_name: str
    repository: RepositoryConfig
    key_file: Path
    state_dir: Path
