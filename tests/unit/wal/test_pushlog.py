from __future__ import annotations

from pathlib import Path

from pgkeep.wal.pushlog import LastPush, describe_last_push, last_push, note_error, note_success


def test_nothing_is_known_at_first(tmp_path: Path) -> None:
    assert last_push(None) == LastPush(None, None)
    assert last_push(tmp_path / "state") == LastPush(None, None)
    assert not last_push(None).failing


def test_the_newest_note_decides_whether_pushing_fails(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    note_error(state, "000000010000000000000001", "no space left", "free some")
    failed = last_push(state)
    assert failed.failing
    assert failed.error is not None
    assert (failed.error.message, failed.error.hint) == ("no space left", "free some")

    note_success(state, "000000010000000000000001")
    fine = last_push(state)
    assert not fine.failing
    assert fine.success is not None
    assert fine.success.name == "000000010000000000000001"

    note_error(state, "000000010000000000000002", "no space left")
    assert last_push(state).failing
    assert sorted(p.name for p in state.iterdir()) == [
        "push-last-error.json",
        "push-last-success.json",
    ]


def test_a_place_that_cannot_be_written_does_not_fail_the_push(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    note_success(blocked, "x")
    assert last_push(blocked) == LastPush(None, None)


def test_in_words(tmp_path: Path) -> None:
    assert "no wal push" in describe_last_push(tmp_path)
    note_success(tmp_path, "A")
    assert "of A at" in describe_last_push(tmp_path)
    assert "succeeded" in describe_last_push(tmp_path)
    note_error(tmp_path, "B", "no space left", "free some")
    assert "failed: no space left (free some)" in describe_last_push(tmp_path)


def test_a_damaged_note_counts_as_none(tmp_path: Path) -> None:
    note_success(tmp_path, "x")
    (tmp_path / "push-last-success.json").write_bytes(b"{")
    assert last_push(tmp_path).success is None
