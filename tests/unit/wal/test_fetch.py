"""Giving WAL back from a repository in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from pgkeep.catalog import walfile
from pgkeep.codec.container import Kind
from pgkeep.errors import Damaged, NotPostgres, PgkeepError, StoreUnavailable, WalAbsent
from pgkeep.repo import names
from pgkeep.repo.objects import get_object, put_object
from pgkeep.repo.repository import Repository
from pgkeep.wal.fetch import FetchResult, fetch
from pgkeep.wal.push import push

SIZE = 1 << 20
SYSTEM = 7_300_000_000_000_000_001
Make = Callable[..., Path]
Fetch = Callable[..., FetchResult]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where PostgreSQL wants the file."""
    (tmp_path / "data" / "pg_wal").mkdir(parents=True)
    return tmp_path / "data" / "pg_wal" / "RECOVERYXLOG"


@pytest.fixture
def ask(repo: Repository, place: Path) -> Fetch:
    def ask(name: str, timeline: int | None = None) -> FetchResult:
        return fetch(repo, "bss", name, place, timeline=timeline, system_identifier=SYSTEM)

    return ask


@pytest.fixture
def store(repo: Repository, make: Make) -> Callable[..., Path]:
    """Pushes a made segment and returns its path."""

    def store(number: int, timeline: int = 1, *, suffix: str = "", fill: bytes = b"") -> Path:
        path = make(number, name_timeline=timeline, suffix=suffix, fill=fill)
        push(repo, "bss", path, system_identifier=SYSTEM)
        return path

    return store


@pytest.fixture
def fork(repo: Repository, tmp_path: Path) -> str:
    """Timeline 2 leaves timeline 1 in the middle of segment 5."""
    path = tmp_path / "00000002.history"
    path.write_text(f"1\t0/{5 * SIZE + SIZE // 2:X}\tno recovery target specified\n")
    push(repo, "bss", path, system_identifier=SYSTEM)
    return path.name


def listing(place: Path) -> list[str]:
    return sorted(path.name for path in place.parent.iterdir())


@pytest.mark.parametrize("timeline", [None, 1])
def test_a_stored_segment_comes_back(
    timeline: int | None, ask: Fetch, store: Callable[..., Path], place: Path
) -> None:
    path = store(5, fill=b"records")
    assert ask(path.name, timeline) == FetchResult(path.name, path.name, SIZE)
    assert place.read_bytes() == path.read_bytes()
    assert listing(place) == ["RECOVERYXLOG"]


def test_it_replaces_what_lies_there(ask: Fetch, store: Callable[..., Path], place: Path) -> None:
    path = store(5)
    place.write_bytes(b"stale" * SIZE)
    ask(path.name)
    assert place.read_bytes() == path.read_bytes()


def test_what_a_killed_fetch_left_goes_away(
    ask: Fetch, store: Callable[..., Path], place: Path
) -> None:
    name = store(5).name
    old, young = (place.with_name(f"RECOVERYXLOG.pgkeep-{pid}") for pid in (1, 2))
    old.write_bytes(b"x")
    young.write_bytes(b"x")
    os.utime(old, (0, 0))
    ask(name)
    assert listing(place) == ["RECOVERYXLOG", young.name]


@pytest.mark.parametrize("timeline", [None, 1])
def test_absent_only_at_the_end(
    timeline: int | None, ask: Fetch, store: Callable[..., Path], place: Path
) -> None:
    name = store(6).name
    with pytest.raises(WalAbsent) as absent:
        ask(name[:-1] + "7", timeline)
    assert absent.value.exit_code == 100
    with pytest.raises(PgkeepError, match="later WAL") as fault:
        ask(name[:-1] + "5", timeline)
    assert fault.value.exit_code not in (0, 100)
    assert listing(place) == []


def test_an_empty_repository_has_nothing(ask: Fetch) -> None:
    with pytest.raises(WalAbsent):
        ask("000000010000000000000005")
    with pytest.raises(WalAbsent):
        ask("00000002.history")


def test_history_files(ask: Fetch, fork: str, place: Path) -> None:
    for timeline in (None, 1, 2):
        ask(fork, timeline)
        assert place.read_bytes().startswith(b"1\t0/580000")
    with pytest.raises(WalAbsent):
        ask("00000003.history", 2)


def test_the_pinned_history_must_be_there(ask: Fetch) -> None:
    with pytest.raises(PgkeepError, match="to follow timeline 4") as fault:
        ask("00000004.history", 4)
    assert fault.value.exit_code != 100


def test_the_parent_is_served_up_to_the_fork_only(
    ask: Fetch, fork: str, store: Callable[..., Path], place: Path
) -> None:
    store(4, fill=b"x" * 1000)
    at_fork = store(5, fill=b"y" * (SIZE - 100))
    after = store(6)
    with pytest.raises(WalAbsent):
        ask("000000020000000000000005", 2)
    done = ask(at_fork.name, 2)
    assert done.cut == 5 * SIZE + SIZE // 2
    half = SIZE // 2
    assert place.read_bytes() == at_fork.read_bytes()[:half] + bytes(half)
    with pytest.raises(WalAbsent):
        ask(after.name, 2)
    ask(at_fork.name, 1)
    assert place.read_bytes() == at_fork.read_bytes()


def test_a_whole_segment_of_the_parent_is_served_whole(
    ask: Fetch, fork: str, store: Callable[..., Path], place: Path
) -> None:
    path = store(4, fill=b"x" * (SIZE - 100))
    assert ask(path.name, 2).cut is None
    assert place.read_bytes() == path.read_bytes()


def test_a_missing_segment_of_the_parent_is_a_fault(
    ask: Fetch, fork: str, store: Callable[..., Path]
) -> None:
    store(3)
    with pytest.raises(PgkeepError, match="later WAL of the same history"):
        ask("000000010000000000000004", 2)
    store(6, 2)
    with pytest.raises(PgkeepError, match="later WAL of the same timeline"):
        ask("000000020000000000000005", 2)


def test_timelines_outside_the_pinned_history_are_refused(
    ask: Fetch, fork: str, store: Callable[..., Path]
) -> None:
    child = store(5, 2)
    with pytest.raises(PgkeepError, match="not in the history of timeline 1"):
        ask(child.name, 1)
    with pytest.raises(PgkeepError, match="history file of timeline 9"):
        ask(child.name, 9)


def test_a_partial_stands_in_at_the_end(
    ask: Fetch, store: Callable[..., Path], place: Path
) -> None:
    store(4)
    partial = store(5, suffix=".partial", fill=b"last records")
    name = partial.name.removesuffix(".partial")
    assert ask(name, 1).served == partial.name
    assert place.read_bytes() == partial.read_bytes()
    store(6)
    with pytest.raises(PgkeepError, match="later WAL"):
        ask(name, 1)


def test_a_partial_of_the_parent_is_cut_too(
    ask: Fetch, fork: str, store: Callable[..., Path], place: Path
) -> None:
    partial = store(5, suffix=".partial", fill=b"y" * (SIZE - 100))
    ask(partial.name.removesuffix(".partial"), 2)
    half = SIZE // 2
    assert place.read_bytes() == partial.read_bytes()[:half] + bytes(half)


def test_a_segment_that_arrives_late_is_served(
    ask: Fetch,
    store: Callable[..., Path],
    repo: Repository,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is absent at the first look and there when the listing is made."""
    path = store(5)
    list_names = repo.store.list
    name = names.wal_file("bss", SYSTEM, 1, path.name)
    content = repo.store.get(name)
    repo.store.delete(name)
    store(4)

    def late(prefix: str, *, after: str | None = None) -> object:
        if not repo.store.exists(name):
            repo.store.create(name, content)
        return list_names(prefix, after=after)

    monkeypatch.setattr(repo.store, "list", late)
    ask(path.name, 1)
    assert place.read_bytes() == path.read_bytes()


def test_other_names_are_refused(ask: Fetch) -> None:
    with pytest.raises(NotPostgres):
        ask("postgresql.conf")


def test_a_store_in_trouble_is_not_absent(
    ask: Fetch, store: Callable[..., Path], repo: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = store(5).name

    def gone(name: str) -> bytes:
        raise StoreUnavailable("no route to host")

    monkeypatch.setattr(repo.store, "get", gone)
    with pytest.raises(StoreUnavailable) as trouble:
        ask(name)
    assert trouble.value.exit_code != 100


def test_bytes_that_are_not_what_was_pushed_are_refused(
    ask: Fetch, store: Callable[..., Path], repo: Repository, place: Path
) -> None:
    path = store(5)
    name = names.wal_file("bss", SYSTEM, 1, path.name)
    meta = get_object(repo, Kind.WAL, name).meta
    wrong = msgspec.structs.replace(walfile.decode(meta, name), sha256="0" * 64)
    repo.store.delete(name)
    put_object(repo, Kind.WAL, name, path.read_bytes(), msgspec.json.encode(wrong))
    with pytest.raises(Damaged, match="SHA-256"):
        ask(path.name)
    assert listing(place) == []


def test_a_full_disk_leaves_nothing_behind(
    ask: Fetch, store: Callable[..., Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store(5)

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PgkeepError, match="No space left") as trouble:
        ask(path.name)
    assert trouble.value.exit_code not in (0, 100)
    assert listing(place) == []
