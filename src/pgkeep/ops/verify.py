"""`verify`."""

from __future__ import annotations

from pgkeep.config.model import Chosen
from pgkeep.events import Emit
from pgkeep.ops.wiring import open_chosen
from pgkeep.verify import run as engine
from pgkeep.verify.findings import VerifyReport


def verify(chosen: Chosen, *, backup_id: str | None, deep: bool, emit: Emit) -> VerifyReport:
    """Looks at everything, or at one backup; raises what `verify.run.verify` does."""
    repo = open_chosen(chosen)
    return engine.verify(repo, chosen.cluster_name, backup=backup_id, deep=deep, emit=emit)
