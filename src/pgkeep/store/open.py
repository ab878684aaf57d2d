"""Finds the driver for a repository's address; imports only that one."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pgkeep.errors import ConfigError
from pgkeep.store.base import Store

SUPPORTED = "file:///path, or an absolute path"


def local_path(url: str) -> Path:
    """The directory of a `file://` address or an absolute path; raises ConfigError for others."""
    if url.startswith("/"):
        return Path(url)
    parts = urlsplit(url)
    if parts.scheme != "file":
        raise ConfigError(
            f"{url!r} is not an address of a repository", hint=f"so far supported: {SUPPORTED}"
        )
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ConfigError(
            f"{url!r} names a host or a relative path",
            hint="write three slashes: file:///var/lib/pgkeep",
        )
    return Path(unquote(parts.path))


def open_store(url: str) -> Store:
    """The store at `url`; raises ConfigError for addresses that no driver takes."""
    from pgkeep.store.local import LocalStore

    return LocalStore(local_path(url))
