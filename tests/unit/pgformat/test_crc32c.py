from __future__ import annotations

import random

import pytest

from pgkeep.pgformat.crc32c import crc32c, crc32c_of_each


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_known_values(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected
    if data:
        assert crc32c_of_each([data] * 3) == (expected,) * 3


@pytest.mark.parametrize("length", [1, 7, 8, 30, 42])
def test_each_of_many_messages_gets_its_own(length: int) -> None:
    source = random.Random(length)
    messages = [source.randbytes(length) for _ in range(300)]
    assert crc32c_of_each(messages) == tuple(map(crc32c, messages))


def test_messages_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="not of one length"):
        crc32c_of_each([b"ab", b"c"])
