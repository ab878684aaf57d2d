"""Waits until the WAL that a backup needs is in the repository, or says why it does not arrive."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pgkeep.backup.plan import STREAM_HINT
from pgkeep.errors import ArchiveStalled
from pgkeep.events import Emit, PhaseEnded, PhaseStarted

PHASE = "waiting for WAL"
POLL = 0.2


def wait_for_wal(
    segments: Sequence[str],
    present: Callable[[str], bool],
    explain: Callable[[], str],
    emit: Emit,
    *,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Returns once every one of `segments` is present.

    `timeout` (seconds) runs anew whenever one arrives. Raises ArchiveStalled, with what `explain`
    knows of the archiver, when none did for that long.
    """
    missing = [name for name in segments if not present(name)]
    if not missing:
        return
    emit(PhaseStarted(PHASE, None, len(missing)))
    began = since = clock()
    while missing:
        if clock() - since > timeout:
            raise ArchiveStalled(
                f"{len(missing)} WAL segment(s) that the backup needs did not reach the repository "
                f"within {timeout:.0f} s, the first is {missing[0]}; {explain()}",
                hint=STREAM_HINT,
            )
        sleep(POLL)
        still = [name for name in missing if not present(name)]
        if len(still) < len(missing):
            since = clock()
        missing = still
    emit(PhaseEnded(PHASE, clock() - began, 0))
