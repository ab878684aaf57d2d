"""The two WAL verbs over a repository, for the shell lines of servers in tests.

`wal_tool.py DIRECTORY wal push PATH` or `… wal fetch [--timeline N] NAME PATH`: DIRECTORY has the
repository, its key and the system identifier.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pgkeep.codec.keyfile import KeyFile
from pgkeep.errors import PgkeepError
from pgkeep.repo.repository import Repository, open_repository
from pgkeep.store.local import LocalStore

CLUSTER = "bss"


def open_at(directory: Path) -> tuple[Repository, int]:
    """The repository and the system identifier of its cluster."""
    key = KeyFile.load(directory / "key")
    repo = open_repository(LocalStore(directory / "repo"), key)
    return repo, int((directory / "system").read_text())


def main(words: list[str]) -> None:
    repo, system = open_at(Path(words[0]))
    if words[1:3] == ["wal", "push"]:
        from pgkeep.wal.push import push

        push(repo, CLUSTER, words[3], system_identifier=system, state_dir=Path(words[0]) / "state")
        return
    from pgkeep.wal.fetch import fetch

    timeline = int(words[words.index("--timeline") + 1]) if "--timeline" in words else None
    fetch(repo, CLUSTER, words[-2], words[-1], timeline=timeline, system_identifier=system)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PgkeepError as error:
        sys.stderr.write(f"wal_tool: {error.message}\n")
        sys.exit(error.exit_code)
