"""A configuration is read whole or refused with the setting's own path."""

from pathlib import Path

import pytest

from pgkeep.config.load import EXAMPLE, choose, find_file, load
from pgkeep.errors import ConfigError, UsageError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pgkeep.toml"
    path.write_text(text)
    return path


def test_the_smallest_file_has_six_lines_at_most_and_needs_no_names(tmp_path: Path) -> None:
    path = write(tmp_path, EXAMPLE)
    assert len(EXAMPLE.splitlines()) <= 6
    chosen = choose(path, load(path), cluster=None, repository=None)
    assert (chosen.cluster_name, chosen.repository_name) == ("bss", "main")
    assert chosen.key_file == tmp_path / "pgkeep-main.key"
    assert chosen.repository.encryption == "aes-256-gcm"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[repository.main]\nurl='/r'\nurll='x'\n[cluster.a]\nconninfo=''", "repository.main.urll"),
        ("[repository.main]\nurl='/r'\n[cluster.a]\nconinfo=''", "unknown setting cluster.a.conin"),
        ("[repository.main]\nurl='/r'\n[cluster.a]\n", "cluster.a.conninfo is missing"),
        ("[repository.main]\nurl=3\n[cluster.a]\nconninfo=''", "repository.main.url: expected"),
        ("[repository.main]\nurl='/r'\ncompression_level=99\n", "repository.main.compression_lev"),
        ("[repository.main]\nurl='/r'\nencryption='rot13'\n", "repository.main.encryption"),
        ("[repositry.main]\nurl='/r'\n", "unknown setting repositry"),
        ("[repository.main]\nurl='/r'\n", "names no cluster"),
        ("[cluster.a]\nconninfo=''\n", "names no repository"),
        ("[repository.main]\nurl='/r'\n[cluster.BSS]\nconninfo=''", "cluster.BSS is not a usable"),
        ("[repository.a]\nurl='/r'\n[cluster.a]\nconninfo=''\nrepository='b'", "names b"),
        ("[repository]\nmain='/r'\n", "repository.main must be a table"),
        ("cluster='a'\n", "cluster must be tables"),
        ("[repository.main\n", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert words in caught.value.message
    assert str(path) in caught.value.message


def test_a_missing_file_a_directory_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is a directory"):
        load(tmp_path)
    (tmp_path / "odd.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "odd.toml")


def test_no_file_anywhere_shows_the_smallest_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGKEEP_CONFIG", raising=False)
    monkeypatch.setattr("pgkeep.config.load.SYSTEM_FILE", tmp_path / "etc.toml")
    with pytest.raises(ConfigError) as caught:
        find_file(None)
    assert EXAMPLE in (caught.value.hint or "")
    monkeypatch.setenv("PGKEEP_CONFIG", "/somewhere.toml")
    assert find_file(None) == Path("/somewhere.toml")
    assert find_file("mine.toml") == Path("mine.toml")


def test_with_several_the_choice_must_be_made(tmp_path: Path) -> None:
    two = EXAMPLE + '\n[cluster.crm]\nconninfo = ""\n'
    path = write(tmp_path, two)
    config = load(path)
    with pytest.raises(UsageError, match="2 of kind cluster") as caught:
        choose(path, config, cluster=None, repository=None)
    assert "--cluster" in (caught.value.hint or "")
    assert choose(path, config, cluster="crm", repository=None).cluster_name == "crm"
    with pytest.raises(UsageError, match="no cluster dev"):
        choose(path, config, cluster="dev", repository=None)
