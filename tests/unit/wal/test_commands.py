"""The shell lines, run by real shells the way PostgreSQL runs them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from shutil import which

import pytest

from pgkeep.wal.commands import archive_command, restore_command

SHELLS = [shell for shell in ("dash", "bash") if which(shell)]
pytestmark = pytest.mark.parametrize("shell", SHELLS)


def program(directory: Path, body: str) -> list[str]:
    """A program under a name that needs quoting; it writes its arguments to `arguments`."""
    path = directory / "it's 100% odd $HOME"
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{directory}/arguments"\n{body}\n')
    path.chmod(0o755)
    return [str(path), "--config", "/a b/%c.toml"]


def substituted(command: str, **values: str) -> str:
    """What PostgreSQL makes of a command; it refuses unknown letters after a per cent sign."""
    out, rest = "", command
    while rest:
        before, found, rest = rest.partition("%")
        out += before
        if found:
            out += "%" if rest[0] == "%" else values[rest[0]]
            rest = rest[1:]
    return out


def run(shell: str, command: str, cwd: Path) -> int:
    text = substituted(command, p="pg_wal/00000001000000000000000A", f="00000001000000000000000A")
    return subprocess.run([shell, "-c", text], cwd=cwd, check=False).returncode


def arguments(directory: Path) -> Sequence[str]:
    return (directory / "arguments").read_text().splitlines()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("exit 0", 0),
        ("exit 100", 1),
        ("exit 1", 126),
        ("exit 2", 126),
        ("exit 3", 126),
        ("exit 125", 126),
        ("exit 130", 126),
        ("kill -9 $$", 126),
        ("kill -15 $$", 126),
        ("exec /no/such/interpreter", 126),
    ],
)
def test_restore_lets_only_absent_through(shell: str, body: str, code: int, tmp_path: Path) -> None:
    assert run(shell, restore_command(program(tmp_path, body)), tmp_path) == code


def test_restore_fails_when_the_program_is_gone(shell: str, tmp_path: Path) -> None:
    assert run(shell, restore_command([str(tmp_path / "gone")]), tmp_path) == 126
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/python\n")
    broken.chmod(0o755)
    assert run(shell, restore_command([str(broken)]), tmp_path) == 126


def test_restore_never_stops_a_standby(shell: str, tmp_path: Path) -> None:
    (tmp_path / "standby.signal").touch()
    for body, code in [("exit 0", 0), ("exit 100", 1), ("exit 2", 1), ("kill -9 $$", 1)]:
        assert run(shell, restore_command(program(tmp_path, body)), tmp_path) == code


def test_restore_passes_its_arguments(shell: str, tmp_path: Path) -> None:
    command = restore_command(program(tmp_path, "exit 0"), timeline=3)
    assert run(shell, command, tmp_path) == 0
    name = "00000001000000000000000A"
    assert arguments(tmp_path) == [
        *("--config", "/a b/%c.toml", "wal", "fetch", "--timeline", "3"),
        *(name, f"pg_wal/{name}"),
    ]


@pytest.mark.parametrize(
    ("body", "code"),
    [("exit 0", 0), ("exit 1", 1), ("exit 2", 1), ("exit 130", 1), ("kill -9 $$", 1)],
)
def test_archive_never_exits_above_125(shell: str, body: str, code: int, tmp_path: Path) -> None:
    assert run(shell, archive_command(program(tmp_path, body)), tmp_path) == code


def test_archive_fails_with_1_when_the_program_is_gone(shell: str, tmp_path: Path) -> None:
    assert run(shell, archive_command([str(tmp_path / "gone")]), tmp_path) == 1


def test_archive_passes_its_arguments(shell: str, tmp_path: Path) -> None:
    assert run(shell, archive_command(program(tmp_path, "exit 0")), tmp_path) == 0
    assert arguments(tmp_path)[-3:] == ["wal", "push", "pg_wal/00000001000000000000000A"]


def test_a_signal_to_the_group_ends_the_shell_too(shell: str, tmp_path: Path) -> None:
    """PostgreSQL signals the process group; it must then see a signal, not "absent"."""
    text = substituted(restore_command(program(tmp_path, "sleep 30")), p="p", f="f")
    process = subprocess.Popen([shell, "-c", text], cwd=tmp_path, start_new_session=True)
    while not (tmp_path / "arguments").exists():
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
