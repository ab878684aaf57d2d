"""The names of everything in a repository (`docs/format.md`, section 1)."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

from pgkeep.errors import Damaged, UsageError

REPOSITORY = "repo.json"
KEYS = "keys/"
HOSTS = "hosts/"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_CLUSTER = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[a-z2-7]{6}")


def new_id(now: datetime) -> str:
    """An id for a backup or a compaction that starts at `now`, unlike any other."""
    tail = "".join(secrets.choice(_ALPHABET) for _ in range(6))
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{tail}"


def is_id(text: str) -> bool:
    """Whether `text` has the form of an id."""
    return _ID.fullmatch(text) is not None


def time_text(moment: datetime) -> str:
    """A time as it is written in JSON."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def parse_time(text: str) -> datetime:
    """Reads such a time; raises Damaged."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z")
    except ValueError as error:
        raise Damaged(f"{text!r} is not a time: {error}") from None


def check_cluster_name(name: str) -> str:
    """The name, if a cluster may have it; raises UsageError."""
    if not _CLUSTER.fullmatch(name):
        raise UsageError(
            f"{name!r} can't be the name of a cluster",
            hint="use lower-case letters, digits, - and _, starting with a letter or digit",
        )
    return name


def key_slot(key_id: bytes, slot: str) -> str:
    return f"{KEYS}{key_id.hex()}/{slot}"


def host(host_id: bytes) -> str:
    return f"{HOSTS}{host_id.hex()}"


def log_prefix(cluster: str) -> str:
    return f"log/{cluster}/"


def log_entry(cluster: str, seq: int) -> str:
    return f"{log_prefix(cluster)}{seq:012d}"


def pack_name(owner: str, number: int) -> str:
    """A pack's own name, without kind and cluster, as pack tables have it."""
    return f"{owner}.{number:06d}"


def data_pack(cluster: str, owner: str, number: int) -> str:
    return f"packs/data/{cluster}/{pack_name(owner, number)}"


def map_pack(cluster: str, pack: str) -> str:
    """The object of a map pack, by its own name."""
    return f"packs/map/{cluster}/{pack}"


def record(cluster: str, backup_id: str) -> str:
    return f"records/{cluster}/{backup_id}"


def wal_prefix(cluster: str, system_identifier: int) -> str:
    return f"wal/{cluster}/{system_identifier}/"


def wal_timeline_prefix(cluster: str, system_identifier: int, timeline: int) -> str:
    return f"{wal_prefix(cluster, system_identifier)}{timeline:08X}/"


def wal_file(cluster: str, system_identifier: int, timeline: int, file: str) -> str:
    return f"{wal_timeline_prefix(cluster, system_identifier, timeline)}{file}"
