"""`init`: a configuration, a repository with its key, the cluster's place in it, and advice.

Everything can be repeated: what is there already is left as it is and said so. The server is asked
first, so that nothing is made for a server that can't be reached.
"""

from __future__ import annotations

import os
import pwd
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pgkeep.codec.keyfile import KeyFile
from pgkeep.config import load as loading
from pgkeep.config.model import Chosen
from pgkeep.errors import ConfigError, UsageError, WrongCluster
from pgkeep.ops.wiring import command_line, open_chosen
from pgkeep.pgserver.session import ServerFacts, Session
from pgkeep.repo.log import Log, LogState
from pgkeep.repo.repository import Repository, create, is_there
from pgkeep.store.open import local_path, open_store
from pgkeep.wal.commands import archive_command

CONFIG_TEMPLATE = """\
[repository.main]
url = "{url}"

[cluster.{cluster}]
conninfo = "{conninfo}"
"""


@dataclass(frozen=True)
class InitResult:
    """What was made; `recovery_key` is there only once. `settings` are those PostgreSQL needs, with
    the value that it should have, `statements` is the SQL that brings them about."""

    config: str
    config_written: bool
    repository: str
    repository_made: bool
    cluster: str
    cluster_added: bool
    key_file: str | None
    recovery_key: str | None
    system_identifier: int
    server_version: str
    statements: list[str]
    restart_needed: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def write_config(path: Path, *, url: str, conninfo: str, cluster: str) -> None:
    """Writes the smallest configuration; raises ConfigError when there is one already."""
    for value in (url, conninfo):
        if any(c in value for c in '"\\\n'):
            raise UsageError(f"{value!r} has a quote or a backslash: write the file by hand")
    text = CONFIG_TEMPLATE.format(url=url, cluster=cluster, conninfo=conninfo)
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(
            f"{path} exists already", hint="edit it, and run pgkeep init without --url"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from None


def init(
    config: str | None,
    cluster: str | None,
    repository: str | None,
    *,
    url: str | None,
    conninfo: str | None,
    program: list[str] | None = None,
) -> InitResult:
    """Makes what is missing and says what PostgreSQL needs."""
    written = False
    if url is not None or conninfo is not None:
        if url is None or conninfo is None:
            raise UsageError("--url and --conninfo go together")
        path = Path(config or loading.LOCAL_FILE)
        local_path(url)
        write_config(path, url=url, conninfo=conninfo, cluster=cluster or "main")
        written, config = True, str(path)
    path = loading.find_file(config)
    chosen = loading.choose(path, loading.load(path), cluster=cluster, repository=repository)
    with Session.connect(chosen.cluster.conninfo) as session:
        facts = session.facts()
    repo, made, recovery_key = _repository(chosen, facts)
    added = _add_cluster(repo, chosen, facts)
    _make_state_dir(chosen, facts)
    statements, restart = advice(facts, archive_command(command_line(chosen, program)))
    return InitResult(
        config=str(chosen.path),
        config_written=written,
        repository=chosen.repository.url,
        repository_made=made,
        cluster=chosen.cluster_name,
        cluster_added=added,
        key_file=str(chosen.key_file) if repo.ring.encrypted else None,
        recovery_key=recovery_key,
        system_identifier=facts.system_identifier,
        server_version=version_text(facts.version_num),
        statements=statements,
        restart_needed=restart,
    )


def version_text(number: int) -> str:
    """server_version_num as people write it."""
    return f"{number // 10000}.{number % 10000}"


def _repository(chosen: Chosen, facts: ServerFacts) -> tuple[Repository, bool, str | None]:
    """The repository, whether it was made just now, and then its recovery key."""
    root = local_path(chosen.repository.url)
    _make_root(root, facts)
    store = open_store(chosen.repository.url)
    if is_there(store):
        return open_chosen(chosen), False, None

    def keep(key_file: KeyFile) -> None:
        key_file.save(chosen.key_file)
        _give(chosen.key_file, root)

    made = create(
        store,
        encryption=chosen.repository.encryption,
        host_name=socket.gethostname(),
        keep=keep,
    )
    return made.repository, True, made.recovery_key


def _make_root(root: Path, facts: ServerFacts) -> None:
    """The repository's directory; made by root, it belongs to the server's user."""
    if root.exists():
        return
    try:
        root.mkdir(mode=0o700, parents=True)
        if os.geteuid() == 0 and facts.os_user is not None:
            user = pwd.getpwnam(facts.os_user)
            os.chown(root, user.pw_uid, user.pw_gid)
    except OSError as error:
        raise ConfigError(
            f"the repository directory {root} can't be made: {error.strerror}",
            hint="make it by hand, owned by the user who will run pgkeep, then run init again",
        ) from None


def _give(path: Path, root: Path) -> None:
    """As root: the key file must be readable where WAL is pushed, by the repository's owner."""
    if os.geteuid() == 0:
        info = root.stat()
        os.chown(path, info.st_uid, info.st_gid)


def _make_state_dir(chosen: Chosen, facts: ServerFacts) -> None:
    """As root, the place that both root's commands and the server's pushes may use."""
    if os.geteuid() != 0 or facts.os_user is None or chosen.cluster.state_dir is not None:
        return
    user = pwd.getpwnam(facts.os_user)
    for directory in (loading.SHARED_STATE_DIR, loading.SHARED_STATE_DIR / chosen.cluster_name):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        os.chown(directory, user.pw_uid, user.pw_gid)


def _add_cluster(repo: Repository, chosen: Chosen, facts: ServerFacts) -> bool:
    """The log's first entry; raises WrongCluster when the name belongs to another system."""
    log = Log(repo, chosen.cluster_name)

    def check(state: LogState) -> None:
        known = state.system_identifier
        if known is not None and known != facts.system_identifier:
            raise WrongCluster(
                f"the repository keeps {chosen.cluster_name} as system {known}, but the server is "
                f"{facts.system_identifier}",
                hint="give the new server a [cluster.NAME] of its own",
            )

    state = log.state()
    check(state)
    if state.system_identifier is not None:
        return False
    log.append("init", {"system_identifier": str(facts.system_identifier)}, check=check)
    return True


def advice(facts: ServerFacts, command: str) -> tuple[list[str], bool]:
    """SQL that sets what PostgreSQL needs and has not, and whether it takes a restart."""
    settings = facts.settings
    statements = []
    restart = False
    if settings.get("wal_level") == "minimal":
        statements.append("ALTER SYSTEM SET wal_level = 'replica';")
        restart = True
    if settings.get("archive_mode") == "off":
        statements.append("ALTER SYSTEM SET archive_mode = 'on';")
        restart = True
    if settings.get("archive_library"):
        statements.append("ALTER SYSTEM SET archive_library = '';")
    if settings.get("archive_command") != command:
        quoted = command.replace("'", "''")
        statements.append(f"ALTER SYSTEM SET archive_command = '{quoted}';")
    if settings.get("archive_timeout") == "0":
        statements.append("ALTER SYSTEM SET archive_timeout = '60s';")
    if not facts.replication:
        statements.append(f'ALTER ROLE "{facts.user}" REPLICATION;')
    if not facts.superuser:
        statements.append(f'GRANT pg_read_all_settings TO "{facts.user}";')
        statements.append(f'GRANT EXECUTE ON FUNCTION pg_switch_wal() TO "{facts.user}";')
    if statements and not restart:
        statements.append("SELECT pg_reload_conf();")
    return statements, restart
