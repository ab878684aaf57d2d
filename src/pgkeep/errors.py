"""The tree of what can go wrong: exit code, retryable, hint.

Every error that pgkeep raises on purpose is a PgkeepError:

    PgkeepError                 exit 1
    ├── UsageError              exit 2   wrong option, value or combination on the command line
    │   └── ConfigError         exit 2   the configuration file is missing, unreadable or wrong
    ├── ProblemFound            exit 3   a check, verification or drill ran and found something wrong
    ├── LeaseHeld               exit 4   somebody else is doing this to the same cluster
    ├── StoreError              exit 1   a store did not do what it was asked
    │   ├── ObjectMissing                an object that must exist does not
    │   ├── ObjectExists                 a create-only put found other bytes under the name
    │   ├── StoreUnavailable             passing: timeouts, resets, throttling (retryable)
    │   ├── StoreDenied                  credentials or permissions
    │   └── StoreFull                    no space left, or over quota
    ├── FormatError             exit 1   bytes are not what their format says (truncated, damaged)
    │   ├── Damaged                      a stored object fails its seal, digest or length
    │   ├── NewerFormat                  written by a newer pgkeep than this one
    │   └── NotPostgres                  not the PostgreSQL file or stream that it should be
    ├── KeyProblem              exit 1   no key, a wrong key, or a key without the right
    ├── ServerError             exit 1   the PostgreSQL server refused, failed or went away
    │   └── ServerGone                   the connection broke (retryable)
    ├── WrongCluster            exit 1   the system identifier is not the one on record
    ├── TargetUnreachable       exit 1   a recovery target that nothing stored can reach
    ├── TargetDirectoryError    exit 1   the directory to restore into can't or must not be used
    ├── ArchiveStalled          exit 1   WAL that a backup needs does not arrive
    └── WalAbsent               exit 100 a segment that the repository really does not have

`hint` is the sentence that says what to do next; it is printed on a line of its own.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_PROBLEM = 3
EXIT_LEASE = 4
EXIT_WAL_ABSENT = 100
EXIT_INTERRUPTED = 130


class PgkeepError(Exception):
    """What happened and to what; `hint` says what to do about it."""

    exit_code: ClassVar[int] = EXIT_FAILED
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PgkeepError):
    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    pass


class ProblemFound(PgkeepError):
    exit_code = EXIT_PROBLEM


class LeaseHeld(PgkeepError):
    exit_code = EXIT_LEASE


class StoreError(PgkeepError):
    pass


class ObjectMissing(StoreError):
    pass


class ObjectExists(StoreError):
    pass


class StoreUnavailable(StoreError):
    retryable = True


class StoreDenied(StoreError):
    pass


class StoreFull(StoreError):
    pass


class FormatError(PgkeepError):
    pass


class Damaged(FormatError):
    pass


class NewerFormat(FormatError):
    pass


class NotPostgres(FormatError):
    pass


class KeyProblem(PgkeepError):
    pass


class ServerError(PgkeepError):
    pass


class ServerGone(ServerError):
    retryable = True


class WrongCluster(PgkeepError):
    pass


class TargetUnreachable(PgkeepError):
    pass


class TargetDirectoryError(PgkeepError):
    pass


class ArchiveStalled(PgkeepError):
    pass


class WalAbsent(PgkeepError):
    exit_code = EXIT_WAL_ABSENT
