"""`key recover`: a new key file from the recovery key, when the old one is lost."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from pgkeep.codec.keyfile import KeyFile
from pgkeep.config.model import Chosen
from pgkeep.repo.repository import open_with_recovery
from pgkeep.store.open import local_path, open_store


def recover_key(chosen: Chosen, recovery_key: str) -> Path:
    """Opens the repository with the recovery key and writes a key file that works from now on.

    Raises UsageError for a typing mistake, KeyProblem when the key is another repository's or the
    key file is there already.
    """
    store = open_store(chosen.repository.url)
    root = local_path(chosen.repository.url)

    def keep(key_file: KeyFile) -> None:
        key_file.save(chosen.key_file)
        if os.geteuid() == 0:
            info = root.stat()
            os.chown(chosen.key_file, info.st_uid, info.st_gid)

    open_with_recovery(store, recovery_key, socket.gethostname(), keep)
    return chosen.key_file
