"""A backup that cannot succeed is refused before anything is read."""

from dataclasses import replace

import pytest

from pgkeep.backup.plan import BackupOptions, ServerView, plan
from pgkeep.errors import ArchiveStalled, PgkeepError, ServerError, UsageError, WrongCluster

GOOD = ServerView(
    version_num=180006,
    system_identifier=7,
    wal_level="replica",
    archive_mode="on",
    archiver_failing=None,
)


def test_a_healthy_server_is_backed_up() -> None:
    assert plan(GOOD, 7, BackupOptions()).wal == "archive"


@pytest.mark.parametrize(
    ("server", "recorded", "error", "words"),
    [
        (GOOD, None, UsageError, "not in the repository yet"),
        (GOOD, 8, WrongCluster, "keeps this cluster as 8"),
        (replace(GOOD, version_num=140009), 7, ServerError, "PostgreSQL 14"),
        (replace(GOOD, wal_level="minimal"), 7, ServerError, "wal_level"),
        (replace(GOOD, archive_mode="off"), 7, ArchiveStalled, "archive_mode is off"),
        (replace(GOOD, archiver_failing="no space"), 7, ArchiveStalled, "no space"),
    ],
)
def test_what_stands_in_the_way_is_said(
    server: ServerView, recorded: int | None, error: type[PgkeepError], words: str
) -> None:
    with pytest.raises(error) as caught:
        plan(server, recorded, BackupOptions())
    assert words in caught.value.message


@pytest.mark.parametrize("change", [{"archive_mode": "off"}, {"archiver_failing": "no space"}])
def test_streaming_wal_needs_no_archiving(change: dict[str, str]) -> None:
    server = replace(GOOD, **change)  # type: ignore[arg-type]
    assert plan(server, 7, BackupOptions(wal="stream")).wal == "stream"
    with pytest.raises(ArchiveStalled) as caught:
        plan(server, 7, BackupOptions())
    assert "--wal stream" in (caught.value.hint or "")
