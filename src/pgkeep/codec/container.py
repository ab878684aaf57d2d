"""The one shape of everything sealed: header, frames, footer, trailer.

Bytes as in `docs/format.md`, section 4. HKDF is RFC 5869, AES-GCM NIST SP 800-38D, X25519 RFC 7748,
Ed25519 RFC 8032. The nonce is a counter and the key is new for each object (random salt), so no
pair of key and nonce is used twice.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from dataclasses import dataclass
from enum import IntEnum

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pgkeep.codec.compress import MAX_RAW as MAX_RAW
from pgkeep.codec.compress import Bytes, compress, decompress
from pgkeep.codec.keys import KeyRing, verify_signature, x25519, x25519_pair
from pgkeep.errors import Damaged, KeyProblem, NewerFormat

HEADER_SIZE = 160
TRAILER_SIZE = 88
TAG_SIZE = 16
MAX_FRAMES = 16_384

_MAGIC = b"PGKEEP01"
_END_MAGIC = b"PGKEND01"
_HEADER = struct.Struct("<8sBBHI8s32s32s32s32s8s")
_TRAILER = struct.Struct("<IIQ64s8s")
_FOOTER_NUMBER = 0xFFFFFFFF
_ZEROS = bytes(32)
_DOMAIN_FRAME = b"pgkeep 1 frame\0"
_DOMAIN_FOOTER = b"pgkeep 1 footer\0"
_DOMAIN_OBJECT = b"pgkeep 1 object\0"


class Kind(IntEnum):
    """What a container holds."""

    DATA = 1
    MAP = 2
    LOG = 3
    RECORD = 4
    WAL = 5


class Suite(IntEnum):
    """How a container is sealed."""

    NONE = 0
    AES_256_GCM = 1


_SEALED_TO_DATA_KEY = (Kind.DATA, Kind.WAL)


@dataclass(frozen=True, slots=True)
class Header:
    """The first 160 bytes."""

    kind: int
    suite: int
    key_id: bytes
    salt: bytes
    kem: bytes
    frame_commitment: bytes
    footer_commitment: bytes
    host: bytes

    def pack(self) -> bytes:
        return _HEADER.pack(
            _MAGIC,
            self.kind,
            self.suite,
            HEADER_SIZE,
            0,
            self.key_id,
            self.salt,
            self.kem,
            self.frame_commitment,
            self.footer_commitment,
            self.host,
        )

    @classmethod
    def unpack(cls, raw: Bytes, name: str) -> Header:
        """Reads a header; raises Damaged or NewerFormat, naming the object."""
        if len(raw) < HEADER_SIZE:
            raise Damaged(f"{name} is cut short: it has {len(raw)} bytes")
        magic, kind, suite, length, flags, *rest = _HEADER.unpack(raw[:HEADER_SIZE])
        if magic[:6] != _MAGIC[:6]:
            raise Damaged(f"{name} does not begin as an object of a pgkeep repository does")
        known = magic == _MAGIC and suite in tuple(Suite) and kind in tuple(Kind)
        if not known or length != HEADER_SIZE or flags:
            raise NewerFormat(
                f"{name} is damaged, or was written by a newer pgkeep: format {magic[6:]!r}, "
                f"kind {kind}, suite {suite}, flags {flags:#x}",
                hint="use the newest pgkeep that writes to this repository",
            )
        return cls(kind, suite, *rest)


@dataclass(frozen=True, slots=True)
class Footer:
    """What a container says of itself: its frames' lengths in bytes and ids, and JSON."""

    stored_lengths: tuple[int, ...]
    raw_lengths: tuple[int, ...]
    ids: tuple[bytes, ...]
    meta: bytes

    def pack(self) -> bytes:
        count = len(self.stored_lengths)
        return b"".join(
            (
                struct.pack(f"<I{count}I{count}I", count, *self.stored_lengths, *self.raw_lengths),
                *self.ids,
                self.meta,
            )
        )

    @classmethod
    def unpack(cls, raw: bytes, name: str) -> Footer:
        """Reads a footer; raises Damaged, naming the object."""
        if len(raw) < 4:
            raise Damaged(f"{name}: its footer is too short")
        (count,) = struct.unpack_from("<I", raw)
        end = 4 + count * 40
        if count > MAX_FRAMES or end > len(raw):
            raise Damaged(f"{name}: its footer speaks of {count} frames and is too short for them")
        numbers = struct.unpack_from(f"<{2 * count}I", raw, 4)
        ids_at = 4 + 8 * count
        ids = tuple(raw[at : at + 32] for at in range(ids_at, end, 32))
        return cls(numbers[:count], numbers[count:], ids, raw[end:])


@dataclass(frozen=True, slots=True)
class Sealed:
    """A whole container: its pieces in order, its digest, its size in bytes."""

    buffers: list[Bytes]
    digest: bytes
    size: int


def context(suite: int, kind: int, repository_id: bytes, name: str) -> bytes:
    """What every seal is bound to: the object's own name, so that two can't be swapped."""
    encoded = name.encode("ascii")
    return bytes((suite, kind)) + repository_id + len(encoded).to_bytes(2, "little") + encoded


def _derive(secret: bytes, salt: bytes, info: bytes) -> tuple[bytes, bytes]:
    okm = HKDF(algorithm=SHA256(), length=64, salt=salt, info=info).derive(secret)
    return okm[:32], okm[32:]


class _Seal:
    """AES-256-GCM under one key, or for suite 0 a checksum of the same shape."""

    def __init__(self, key: bytes | None, id_key: bytes) -> None:
        self._aead = AESGCM(key) if key is not None else None
        self._id_key = id_key

    def seal(self, nonce: int, data: Bytes, bound: bytes) -> Bytes:
        if self._aead is None:
            return bytes(data) + self._checksum(data, bound)
        sealed = bytearray(len(data) + TAG_SIZE)
        self._aead.encrypt_into(nonce.to_bytes(12, "big"), data, bound, sealed)
        return sealed

    def open(self, nonce: int, sealed: Bytes, bound: bytes) -> Bytes:
        """The data; raises InvalidTag."""
        if len(sealed) < TAG_SIZE:
            raise InvalidTag
        if self._aead is None:
            view = memoryview(sealed)
            data, tag = view[:-TAG_SIZE], view[-TAG_SIZE:]
            if not hmac.compare_digest(self._checksum(data, bound), tag):
                raise InvalidTag
            return data
        return self._aead.decrypt(nonce.to_bytes(12, "big"), sealed, bound)

    def _checksum(self, data: Bytes, bound: bytes) -> bytes:
        return blake3(bound, key=self._id_key).update(data).digest(length=TAG_SIZE)


def _signed(bound: bytes, header: bytes, footer: Bytes, trailer_start: bytes) -> bytes:
    digest = hashlib.sha256(bound + header)
    digest.update(footer)
    digest.update(trailer_start)
    return _DOMAIN_OBJECT + digest.digest()


def _digest(header: bytes, footer: Bytes, trailer: bytes) -> bytes:
    digest = hashlib.sha256(header)
    digest.update(footer)
    digest.update(trailer)
    return digest.digest()


class ContainerWriter:
    """Seals frames into one object, in order; `finish` ends it. Belongs to one thread."""

    def __init__(self, ring: KeyRing, kind: Kind, name: str) -> None:
        bundle = ring.bundle(ring.current)
        if ring.encrypted and ring.signer is None:
            raise KeyProblem(
                "this key has no host to sign as, so nothing can be written with it",
                hint="make a key file with pgkeep key recover first",
            )
        self._signer = ring.signer if ring.encrypted else None
        suite = Suite.AES_256_GCM if ring.encrypted else Suite.NONE
        self._context = context(suite, kind, ring.repository_id, name)
        salt = os.urandom(32)
        kem, frame_key, footer_key = _ZEROS, None, None
        frame_commitment = footer_commitment = _ZEROS
        if ring.encrypted:
            secret = bundle.map
            if kind in _SEALED_TO_DATA_KEY:
                ephemeral, kem = x25519_pair()
                secret = x25519(ephemeral, bundle.data_public)
            frame_key, frame_commitment = _derive(secret, salt + kem, _DOMAIN_FRAME + self._context)
            footer_key, footer_commitment = _derive(
                bundle.map, salt + kem, _DOMAIN_FOOTER + self._context
            )
        self._frames = _Seal(frame_key, bundle.id_key)
        self._footer = _Seal(footer_key, bundle.id_key)
        self.header = Header(
            kind,
            suite,
            bundle.key_id,
            salt,
            kem,
            frame_commitment,
            footer_commitment,
            self._signer.host_id if self._signer else bytes(8),
        ).pack()
        self._buffers: list[Bytes] = [self.header]
        self._stored: list[int] = []
        self._raw: list[int] = []
        self._ids: list[bytes] = []
        self.size = HEADER_SIZE

    @property
    def count(self) -> int:
        """How many frames it has."""
        return len(self._stored)

    def append(self, compressed: Bytes, raw_length: int, frame_id: bytes) -> int:
        """Seals one compressed frame; returns its stored length in bytes."""
        number = self.count
        if number >= MAX_FRAMES:
            raise ValueError(f"a container has at most {MAX_FRAMES} frames")
        sealed = self._frames.seal(number, compressed, self._context + number.to_bytes(4, "little"))
        self._buffers.append(sealed)
        self._stored.append(len(sealed))
        self._raw.append(raw_length)
        self._ids.append(frame_id)
        self.size += len(sealed)
        return len(sealed)

    def finish(self, meta: bytes = b"") -> Sealed:
        """Ends the object with its footer (`meta` is JSON) and its signature."""
        footer = Footer(tuple(self._stored), tuple(self._raw), tuple(self._ids), meta).pack()
        if len(footer) > MAX_RAW:
            raise ValueError("a container's footer has at most 1 MiB")
        bound = self._context + _FOOTER_NUMBER.to_bytes(4, "little")
        sealed = self._footer.seal(0, len(footer).to_bytes(4, "little") + compress(footer), bound)
        start = _TRAILER.pack(len(sealed), 0, self.size, bytes(64), _END_MAGIC)[:16]
        signature = bytes(64)
        if self._signer is not None:
            signature = self._signer.sign(_signed(self._context, self.header, sealed, start))
        trailer = start + signature + _END_MAGIC
        self._buffers += [sealed, trailer]
        self.size += len(sealed) + TRAILER_SIZE
        return Sealed(self._buffers, _digest(self.header, sealed, trailer), self.size)


class ContainerOpener:
    """Opens frames and the footer of one object; safe to use from many threads.

    `header` are the object's first 160 bytes. Raises Damaged, NewerFormat, or KeyProblem when the
    keys at hand do not open it.
    """

    def __init__(self, ring: KeyRing, kind: Kind, name: str, header: Bytes) -> None:
        self.name = name
        self.header = bytes(header[:HEADER_SIZE])
        read = Header.unpack(header, name)
        if read.kind != kind:
            raise Damaged(f"{name} holds something of kind {read.kind} instead of {int(kind)}")
        if (read.suite == Suite.NONE) == ring.encrypted:
            raise Damaged(
                f"{name} is {'not ' if ring.encrypted else ''}encrypted, unlike its repository",
                hint="somebody may have put it there: nothing of it was used",
            )
        self._read = read
        self._ring = ring
        self._bundle = ring.bundle(read.key_id)
        self._context = context(read.suite, kind, ring.repository_id, name)
        self._frames: _Seal | None = None

    def open_frame(
        self, number: int, stored: Bytes, raw_length: int, frame_id: bytes | None
    ) -> bytes:
        """The raw bytes of frame `number`; raises Damaged, or KeyProblem for a writer's key."""
        seal = self._frames or self._frame_seal()
        bound = self._context + number.to_bytes(4, "little")
        try:
            raw = decompress(seal.open(number, stored, bound), raw_length)
        except InvalidTag:
            raise self._damaged(f"frame {number} does not pass its seal") from None
        except Damaged as error:
            raise self._damaged(f"frame {number}: {error.message}") from None
        if frame_id is not None and self._ring.frame_id(raw) != frame_id:
            raise self._damaged(f"frame {number} is sealed well but is not the one it should be")
        return raw

    def open_footer(self, stored: Bytes, trailer: Bytes) -> Footer:
        """The footer, after the host's signature over it was checked."""
        read_trailer(trailer, self.name)
        bound = self._context + _FOOTER_NUMBER.to_bytes(4, "little")
        try:
            data = self._footer_seal().open(0, stored, bound)
        except InvalidTag:
            raise self._damaged("its footer does not pass its seal") from None
        self._check_signature(stored, bytes(trailer))
        try:
            raw = decompress(data[4:], int.from_bytes(data[:4], "little"))
        except Damaged as error:
            raise self._damaged(f"its footer: {error.message}") from None
        return Footer.unpack(raw, self.name)

    def digest(self, stored_footer: Bytes, trailer: Bytes) -> bytes:
        """SHA-256 that stands for the whole object, 32 bytes."""
        return _digest(self.header, stored_footer, bytes(trailer))

    def _check_signature(self, stored: Bytes, trailer: bytes) -> None:
        if not self._ring.encrypted:
            return
        public = self._ring.hosts(self._read.host)
        message = _signed(self._context, self.header, stored, trailer[:16])
        if not verify_signature(public, trailer[16:80], message):
            raise self._damaged(
                f"it was not signed by host {self._read.host.hex()}, as it says that it was"
            )

    def _frame_seal(self) -> _Seal:
        key = None
        if self._ring.encrypted:
            read, secret = self._read, self._bundle.map
            if read.kind in _SEALED_TO_DATA_KEY:
                if self._bundle.data_private is None:
                    raise KeyProblem(
                        f"{self.name} can't be read: this key file may write but not read contents",
                        hint="use an owner's key file, or the recovery key",
                    )
                secret = x25519(self._bundle.data_private, read.kem)
            key, commitment = _derive(secret, read.salt + read.kem, _DOMAIN_FRAME + self._context)
            self._check_commitment(commitment, read.frame_commitment)
        self._frames = _Seal(key, self._bundle.id_key)
        return self._frames

    def _footer_seal(self) -> _Seal:
        key = None
        if self._ring.encrypted:
            read = self._read
            info = _DOMAIN_FOOTER + self._context
            key, commitment = _derive(self._bundle.map, read.salt + read.kem, info)
            self._check_commitment(commitment, read.footer_commitment)
        return _Seal(key, self._bundle.id_key)

    def _check_commitment(self, found: bytes, expected: bytes) -> None:
        if not hmac.compare_digest(found, expected):
            raise self._damaged(
                f"its header was changed, it lies under a wrong name, or key "
                f"{self._read.key_id.hex()} is not the one that sealed it"
            )

    def _damaged(self, what: str) -> Damaged:
        return Damaged(
            f"{self.name} is damaged: {what}",
            hint="pgkeep verify tells which backups need it; look at the disk or bucket below",
        )


def read_trailer(trailer: Bytes, name: str) -> tuple[int, int]:
    """(offset, stored length) of the footer, in bytes; raises Damaged when it is no trailer."""
    if len(trailer) != TRAILER_SIZE:
        raise Damaged(f"{name} is cut short: its end is missing")
    length, zero, offset, _, magic = _TRAILER.unpack(trailer)
    if magic != _END_MAGIC or zero or offset < HEADER_SIZE:
        raise Damaged(
            f"{name} is damaged or cut short: it does not end as an object does",
            hint="pgkeep verify tells which backups need it",
        )
    return offset, length
