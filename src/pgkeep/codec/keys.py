"""What is needed to seal and open: key bundles by id, the host's signer, the hosts to believe.

The bytes are those of `docs/format.md`, section 3.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from pgkeep.errors import Damaged, KeyProblem

Bytes = bytes | bytearray | memoryview
ENCRYPTED = "aes-256-gcm"
PLAIN = "none"


class _BundleJson(msgspec.Struct, omit_defaults=True):
    key_id: str
    role: str
    map: str
    data_public: str
    id_key: str
    print_seed: str
    authority_public: str
    created: str
    data_private: str | None = None
    authority_private: str | None = None


@dataclass(frozen=True, slots=True)
class KeyBundle:
    """One set of keys; the private halves are None in a writer's bundle. Keys have 32 bytes."""

    key_id: bytes
    role: str
    map: bytes = field(repr=False)
    data_public: bytes
    id_key: bytes = field(repr=False)
    print_seed: int = field(repr=False)
    authority_public: bytes
    created: str
    data_private: bytes | None = field(default=None, repr=False)
    authority_private: bytes | None = field(default=None, repr=False)

    def to_json(self) -> bytes:
        """The bundle as it is wrapped in a slot."""
        return msgspec.json.encode(
            _BundleJson(
                key_id=self.key_id.hex(),
                role=self.role,
                map=_b64(self.map),
                data_public=_b64(self.data_public),
                id_key=_b64(self.id_key),
                print_seed=_b64(self.print_seed.to_bytes(8, "little")),
                authority_public=_b64(self.authority_public),
                created=self.created,
                data_private=_b64(self.data_private) if self.data_private else None,
                authority_private=_b64(self.authority_private) if self.authority_private else None,
            )
        )

    @classmethod
    def from_json(cls, raw: bytes) -> KeyBundle:
        """Reads a bundle; raises Damaged when it is none. Unknown members are ignored."""
        try:
            read = msgspec.json.decode(raw, type=_BundleJson)
            bundle = cls(
                key_id=bytes.fromhex(read.key_id),
                role=read.role,
                map=_key(read.map),
                data_public=_key(read.data_public),
                id_key=_key(read.id_key),
                print_seed=int.from_bytes(_unb64(read.print_seed), "little"),
                authority_public=_key(read.authority_public),
                created=read.created,
                data_private=_key(read.data_private) if read.data_private else None,
                authority_private=_key(read.authority_private) if read.authority_private else None,
            )
        except (msgspec.DecodeError, ValueError) as error:
            raise Damaged(f"a key bundle can't be read: {error}") from error
        return bundle

    def for_writer(self) -> KeyBundle:
        """The same keys without those that read contents or enrol hosts."""
        return KeyBundle(
            self.key_id,
            "writer",
            self.map,
            self.data_public,
            self.id_key,
            self.print_seed,
            self.authority_public,
            self.created,
        )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _unb64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from error


def _key(text: str) -> bytes:
    key = _unb64(text)
    if len(key) != 32:
        raise ValueError(f"a key has {len(key)} bytes instead of 32")
    return key


@dataclass(frozen=True, slots=True)
class HostSigner:
    """This host's signing key: 8 bytes of id, an Ed25519 private key."""

    host_id: bytes
    private: bytes = field(repr=False)

    @property
    def public(self) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.private).public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.private).sign(message)


def verify_signature(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` (Ed25519) over `message` was made with the key of `public`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def x25519(private: bytes, public: bytes) -> bytes:
    """The shared secret (RFC 7748), 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).exchange(
        X25519PublicKey.from_public_bytes(public)
    )


def x25519_pair() -> tuple[bytes, bytes]:
    """A new (private, public) pair."""
    private = X25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


def x25519_public(private: bytes) -> bytes:
    """The public half."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


@dataclass(frozen=True)
class KeyRing:
    """Every bundle that this process could open, and which is used for new objects.

    `hosts` finds the public key of a host id, and raises KeyProblem for one that the authority
    never certified. `signer` is None where nothing may be written.
    """

    repository_id: bytes
    encryption: str
    bundles: Mapping[bytes, KeyBundle]
    current: bytes
    signer: HostSigner | None
    hosts: Callable[[bytes], bytes]

    @property
    def encrypted(self) -> bool:
        return self.encryption != PLAIN

    @property
    def print_seed(self) -> int:
        return self.bundles[self.current].print_seed

    @property
    def can_read_data(self) -> bool:
        return self.bundles[self.current].data_private is not None

    def bundle(self, key_id: bytes) -> KeyBundle:
        """The keys of that id; raises KeyProblem when this process has none of that id."""
        found = self.bundles.get(key_id)
        if found is None:
            raise KeyProblem(
                f"this needs the key {key_id.hex()}, which the key file does not open",
                hint="use the key file of a host that has this key, or the recovery key",
            )
        return found

    def frame_id(self, raw: Bytes) -> bytes:
        """Keyed BLAKE3 of raw data, 32 bytes."""
        return blake3(raw, key=self.bundles[self.current].id_key).digest()
