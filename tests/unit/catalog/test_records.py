"""Records on their way into a repository and back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from pgkeep.catalog.inventory import read_inventory
from pgkeep.catalog.records import (
    BadBlock,
    Record,
    Tablespace,
    committed,
    from_json,
    read_record,
    to_json,
    write_record,
)
from pgkeep.codec.container import Kind
from pgkeep.errors import Damaged, NewerFormat
from pgkeep.repo import names
from pgkeep.repo.log import Log
from pgkeep.repo.objects import put_object
from pgkeep.repo.refs import JsonRef
from pgkeep.repo.repository import Repository, create
from pgkeep.store.memory import MemoryStore

BACKUP = "20261123T080000Z-abcdef"


def record(**changes: Any) -> Record:
    plain = Record(
        id=BACKUP,
        cluster="bss",
        system_identifier=2**63 + 5,
        generation=2,
        packs=(f"{BACKUP}.000000",),
        root=(JsonRef(0, 3, 160, 500, 900, "ab" * 32),),
        start_lsn=0x1_0000_0028,
        stop_lsn=0x1_0100_0000,
        timeline=2,
        start_timeline=1,
        start_time=datetime(2026, 11, 23, 8, tzinfo=UTC),
        stop_time=datetime(2026, 11, 23, 8, 5, 0, 7, tzinfo=UTC),
        server_version_num=180006,
        block_size=8192,
        relseg_size=131072,
        segment_size=16 << 20,
        data_checksum_version=1,
        tablespaces=(Tablespace(16400, "/späce"),),
        backup_label="START WAL LOCATION: 1/28\n",
        class_="daily",
        bad_blocks=(BadBlock("base/5/1", 7, 1, 2),),
        wal_first="000000010000000100000000",
        wal_last="000000020000000100000000",
    )
    return msgspec.structs.replace(plain, **changes)


@pytest.fixture
def repo() -> Repository:
    return create(MemoryStore(), host_name="test", keep=lambda key_file: None).repository


def test_json_is_what_the_format_says() -> None:
    value = json.loads(to_json(record()))
    assert value["start_lsn"] == "1/28"
    assert value["start_time"] == "2026-11-23T08:00:00.000000Z"
    assert value["stop_time"] == "2026-11-23T08:05:00.000007Z"
    assert value["class"] == "daily"
    assert value["root"] == [[0, 3, 160, 500, 900, "ab" * 32]]
    assert value["tablespaces"] == [{"oid": 16400, "location": "/späce"}]


def test_round_trip_and_unknown_members() -> None:
    value = json.loads(to_json(record())) | {"of_a_later_version": {"x": 1}}
    assert from_json(json.dumps(value).encode(), "records/bss/x") == record()


@pytest.mark.parametrize(
    "change",
    [
        {"start_lsn": "nowhere"},
        {"start_lsn": 5},
        {"timeline": "two"},
        {"stop_time": "yesterday"},
        {"stop_time": "2026-11-23T08:00:00"},
    ],
)
def test_a_record_that_is_none_is_damage(change: dict[str, Any]) -> None:
    value = json.loads(to_json(record())) | change
    with pytest.raises(Damaged, match="records/bss/x"):
        from_json(json.dumps(value).encode(), "records/bss/x")
    missing = {k: v for k, v in json.loads(to_json(record())).items() if k != "stop_lsn"}
    for raw in (json.dumps(missing).encode(), b"[]", b"{"):
        with pytest.raises(Damaged):
            from_json(raw, "records/bss/x")


def test_a_method_of_a_later_version_is_not_read_as_a_full_backup() -> None:
    value = json.loads(to_json(record())) | {"method": "something new"}
    with pytest.raises(NewerFormat, match="something new"):
        from_json(json.dumps(value).encode(), "records/bss/x")


def test_a_record_must_be_the_one_that_was_committed(repo: Repository) -> None:
    sha256 = write_record(repo, "bss", record())
    assert read_record(repo, "bss", BACKUP, sha256) == record()
    with pytest.raises(Damaged):
        read_record(repo, "bss", BACKUP, bytes(32))


def test_a_record_under_another_id_is_refused(repo: Repository) -> None:
    other = "20261123T090000Z-abcdef"
    name = names.record("bss", other)
    sha256 = put_object(repo, Kind.RECORD, name, to_json(record())).sha256
    with pytest.raises(Damaged, match=BACKUP):
        read_record(repo, "bss", other, sha256)


def commit(repo: Repository, log: Log, made: Record) -> None:
    log.append("begin", {"id": made.id, "kind": "backup", "base": None})
    sha256 = write_record(repo, "bss", made)
    log.append("commit", {"id": made.id, "record": sha256.hex()})


def test_only_committed_backups_exist_and_the_oldest_comes_first(repo: Repository) -> None:
    log = Log(repo, "bss")
    log.append("init", {"system_identifier": 7})
    assert committed(repo, "bss") == []
    # The later one has the id that sorts first: ids come from clocks, the log's order does not.
    first, second = record(), record(id="20261123T070000Z-zzzzzz", system_identifier=9)
    write_record(repo, "bss", record(id="20261123T060000Z-aaaaaa"))
    commit(repo, log, first)
    commit(repo, log, second)
    assert committed(repo, "bss") == [first, second]
    assert committed(repo, "bss", log.state()) == [first, second]


def test_an_inventory_keeps_to_one_system_identifier(repo: Repository) -> None:
    old = record(system_identifier=7, stop_time=datetime(2026, 1, 1, tzinfo=UTC))
    new = record(system_identifier=9)
    found = read_inventory(repo, "bss", [new, old])
    assert found.system_identifier == 9
    assert found.records == (new,)
    assert read_inventory(repo, "bss", [new, old], system_identifier=7).records == (old,)
    assert found.coverage.timelines == {}
    assert found.coverage.segment_size == 16 << 20
