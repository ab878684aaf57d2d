"""What a host keeps to open a repository, and what a person keeps for the day the host is gone.

Bytes and text as in `docs/format.md`, section 3.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from pgkeep.codec.keys import HostSigner
from pgkeep.errors import KeyProblem, UsageError

_CHECK = 3
_GROUP = 4
_LENGTH = 56


@dataclass(frozen=True, slots=True)
class KeyFile:
    """`repository` and `host` are hexadecimal; the private keys have 32 bytes."""

    repository: str
    slot: str
    slot_private: bytes = field(repr=False)
    host: str
    sign_private: bytes = field(repr=False)

    @property
    def signer(self) -> HostSigner:
        return HostSigner(bytes.fromhex(self.host), self.sign_private)

    def save(self, path: Path) -> None:
        """Makes the file durably, with mode 0600; raises KeyProblem if there is one already."""
        text = (
            "# pgkeep key file: whoever has it can read the repository; without it or the\n"
            "# recovery key nobody can. Keep a copy where the backups are not.\n"
            f'repository = "{self.repository}"\n'
            f'slot = "{self.slot}"\n'
            f'slot_private = "{base64.b64encode(self.slot_private).decode()}"\n'
            f'host = "{self.host}"\n'
            f'sign_private = "{base64.b64encode(self.sign_private).decode()}"\n'
        )
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise KeyProblem(
                f"{path} exists already and is never overwritten",
                hint="it may be the only key to a repository: move it away if you are sure",
            ) from None
        except OSError as error:
            raise KeyProblem(
                f"the key file {path} can't be made: {error.strerror}",
                hint="set key_file in the configuration to a place that this user may write to",
            ) from None
        with os.fdopen(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        _sync_directory(path.parent)

    @classmethod
    def load(cls, path: Path) -> KeyFile:
        """Reads it; raises KeyProblem with what is wrong and what to do."""
        try:
            read = tomllib.loads(path.read_text())
            found = cls(
                repository=str(read["repository"]),
                slot=str(read["slot"]),
                slot_private=base64.b64decode(str(read["slot_private"]), validate=True),
                host=str(read["host"]),
                sign_private=base64.b64decode(str(read["sign_private"]), validate=True),
            )
            bytes.fromhex(found.host + found.repository)
        except FileNotFoundError:
            raise KeyProblem(
                f"the key file {path} does not exist",
                hint="copy it from a host that has it, or make a new one with the recovery key: "
                "pgkeep key recover",
            ) from None
        except OSError as error:
            raise KeyProblem(
                f"the key file {path} can't be read: {error.strerror}",
                hint=f"it must be readable by the user who runs pgkeep (now {os.geteuid()})",
            ) from None
        except (ValueError, KeyError) as error:
            raise KeyProblem(
                f"{path} is not a key file: {error}",
                hint="copy it anew from your safe place, or use pgkeep key recover",
            ) from None
        if len(found.slot_private) != 32 or len(found.sign_private) != 32:
            raise KeyProblem(
                f"{path} is damaged: a key has the wrong length",
                hint="copy it anew from your safe place, or use pgkeep key recover",
            )
        return found


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def recovery_encode(private: bytes) -> str:
    """32 bytes as 14 groups of four letters and digits, the last ones a check."""
    data = private + hashlib.sha256(private).digest()[:_CHECK]
    text = base64.b32encode(data).decode().rstrip("=")
    return "-".join(text[at : at + _GROUP] for at in range(0, len(text), _GROUP))


def recovery_decode(text: str) -> bytes:
    """What somebody typed, back to 32 bytes; raises UsageError, which says what looks wrong.

    Case, spaces and dashes don't matter; 0 and 1, which base32 does not have, count as O and I.
    """
    letters = "".join(text.split()).replace("-", "").upper().replace("0", "O").replace("1", "I")
    odd = sorted(set(letters) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
    if odd:
        raise UsageError(
            f"a recovery key has no {odd[0]!r}", hint="it has letters and the digits 2 to 7 only"
        )
    if len(letters) != _LENGTH:
        raise UsageError(
            f"a recovery key has {_LENGTH} letters and digits, this has {len(letters)}",
            hint="14 groups of four: look for a group left out or typed twice",
        )
    data = base64.b32decode(letters)
    private, check = data[:-_CHECK], data[-_CHECK:]
    if hashlib.sha256(private).digest()[:_CHECK] != check:
        raise UsageError(
            "the recovery key has a typing mistake: its check does not fit",
            hint="compare it group by group with what init printed",
        )
    return private
