"""Storing WAL files in a repository in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgkeep.catalog import walfile
from pgkeep.catalog.inventory import read_inventory
from pgkeep.codec.container import Kind
from pgkeep.errors import NotPostgres, ObjectExists, PgkeepError, StoreFull, WrongCluster
from pgkeep.pgformat.walsummary import RestorePoint, WalSummary, summarize
from pgkeep.repo import names
from pgkeep.repo.objects import get_object
from pgkeep.repo.repository import Repository
from pgkeep.wal.push import PushResult, push
from pgkeep.wal.pushlog import last_push

SIZE = 1 << 20
SYSTEM = 7_300_000_000_000_000_001
Make = Callable[..., Path]


def pushed(repo: Repository, path: Path, **options: Any) -> PushResult:
    return push(repo, "bss", path, system_identifier=SYSTEM, **options)


def objects(repo: Repository, prefix: str) -> list[str]:
    return [entry.name for entry in repo.store.list(prefix)]


def test_a_segment_is_stored_and_described(repo: Repository, make: Make) -> None:
    path = make(5)
    done = pushed(repo, path)
    name = names.wal_file("bss", SYSTEM, 1, path.name)
    assert done == PushResult(path.name, "stored", SIZE, repo.store.size(name))
    assert get_object(repo, Kind.WAL, name).raw == path.read_bytes()
    described = walfile.read(repo, name)
    assert described.header == walfile.WalHeader(1, SYSTEM, 18)
    summary = described.wal_summary()
    assert summary is not None
    assert summary.records == 0


def test_the_same_bytes_again_are_fine(repo: Repository, make: Make) -> None:
    path = make(5)
    assert pushed(repo, path).how == "stored"
    before = objects(repo, "")
    assert pushed(repo, path).how == "same"
    assert objects(repo, "") == before


def test_other_bytes_are_refused_and_kept_beside(repo: Repository, make: Make) -> None:
    first = make(5).read_bytes()
    path = make(5)
    pushed(repo, path)
    make(5, fill=b"other")
    for _ in range(2):
        with pytest.raises(ObjectExists, match=r"other bytes.*SHA-256 [0-9a-f]{64}") as refused:
            pushed(repo, path)
    assert "conflicts/bss/" in (refused.value.hint or "")
    name = names.wal_file("bss", SYSTEM, 1, path.name)
    assert get_object(repo, Kind.WAL, name).raw == first
    (aside,) = objects(repo, "conflicts/")
    assert get_object(repo, Kind.WAL, aside).raw == path.read_bytes()


def test_wal_of_another_cluster_is_refused(repo: Repository, make: Make) -> None:
    with pytest.raises(WrongCluster, match="system identifier 42"):
        pushed(repo, make(5, system=42))
    assert objects(repo, "wal/") == []


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"size": SIZE - 8192}, "instead of 1048576"),
        ({"size": 20}, "20 bytes are too few"),
        ({"timeline": 2}, "later timeline 2"),
    ],
)
def test_a_segment_that_can_not_be_this_one_is_refused(
    header: dict[str, int], message: str, repo: Repository, make: Make
) -> None:
    with pytest.raises(NotPostgres, match=message):
        pushed(repo, make(5, **header))
    assert objects(repo, "wal/") == []


def test_a_recycled_segment_under_a_new_name_is_refused(repo: Repository, make: Make) -> None:
    path = make(5)
    renamed = path.rename(path.with_name(path.name[:-1] + "9"))
    with pytest.raises(NotPostgres, match="instead of"):
        pushed(repo, renamed)


def test_not_wal_is_refused(repo: Repository, make: Make, tmp_path: Path) -> None:
    path = make(5)
    path.write_bytes(b"\0" * SIZE)
    with pytest.raises(NotPostgres, match="zeros"):
        pushed(repo, path)
    odd = tmp_path / "postgresql.conf"
    odd.write_text("x")
    with pytest.raises(NotPostgres, match="not the name of a WAL"):
        pushed(repo, odd)


def test_files_that_can_not_be_read(repo: Repository, make: Make) -> None:
    path = make(5)
    path.unlink()
    with pytest.raises(PgkeepError, match="does not exist"):
        pushed(repo, path)
    path.mkdir()
    with pytest.raises(PgkeepError, match="is a directory"):
        pushed(repo, path)


def test_a_new_timeline_may_begin_with_its_parents_pages(repo: Repository, make: Make) -> None:
    path = make(5, name_timeline=3, timeline=1)
    history = path.with_name("00000003.history")
    history.write_text("2\t0/480000\tno recovery target specified\n")
    with pytest.raises(NotPostgres, match="does not have at"):
        pushed(repo, path)
    history.write_text("1\t0/580000\tno recovery target specified\n")
    assert pushed(repo, path).how == "stored"


def test_the_history_in_the_repository_serves_as_well(repo: Repository, make: Make) -> None:
    path = make(5, name_timeline=3, timeline=1)
    history = path.with_name("00000003.history")
    history.write_text("2\t0/480000\tno recovery target specified\n")
    pushed(repo, history)
    history.unlink()
    with pytest.raises(NotPostgres, match="does not have at"):
        pushed(repo, path)


def test_history_partial_and_backup_files(repo: Repository, make: Make) -> None:
    partial = make(7, suffix=".partial")
    history = partial.with_name("00000002.history")
    history.write_text("1\t0/780000\tno recovery target specified\n")
    backup = partial.with_name("000000010000000000000005.00000028.backup")
    backup.write_text("START WAL LOCATION: 0/5000028\n")
    for path in (partial, history, backup, make(5), make(6)):
        assert pushed(repo, path).how == "stored"
    found = read_inventory(repo, "bss", system_identifier=SYSTEM)
    assert found.coverage.segment_size == SIZE
    route = found.coverage.route(2, 5 * SIZE)
    assert [(run.timeline, run.first, run.last, run.partial) for run in route.runs] == [
        (1, 5, 6, False),
        (1, 7, 7, True),
    ]
    assert route.end == 0x780000
    summary = found.contents.summary(1, 7)
    assert summary is not None


def test_a_summary_that_is_too_long_does_not_stop_archiving(
    repo: Repository, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = tuple(RestorePoint(n, n + 104, 0, f"point number {n}") for n in range(10_000))

    def full(raw: bytes, start: int) -> WalSummary:
        return dataclasses.replace(summarize(raw, start), restore_points=points)

    monkeypatch.setattr("pgkeep.wal.push.summarize", full)
    path = make(5)
    assert pushed(repo, path).how == "stored"
    described = walfile.read(repo, names.wal_file("bss", SYSTEM, 1, path.name))
    assert described.wal_summary() is None
    assert described.header is not None


def test_a_history_that_is_none_is_refused(repo: Repository, tmp_path: Path) -> None:
    path = tmp_path / "00000002.history"
    path.write_text("this is not one\n")
    with pytest.raises(NotPostgres):
        pushed(repo, path)


def test_what_the_host_notes(
    repo: Repository, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    path = make(5)
    with monkeypatch.context() as broken:

        def full(name: str, data: object) -> None:
            raise StoreFull("no space left", hint="free some")

        broken.setattr(repo.store, "create", full)
        with pytest.raises(StoreFull):
            pushed(repo, path, state_dir=state)
    failed = last_push(state)
    assert failed.failing
    assert failed.error is not None
    assert (failed.error.name, failed.error.message) == (path.name, "no space left")
    pushed(repo, path, state_dir=state)
    assert not last_push(state).failing
