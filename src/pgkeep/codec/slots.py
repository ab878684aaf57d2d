"""Key bundles wrapped for one way to open them (`docs/format.md`, section 3, "Slots")."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pgkeep.codec.keys import KeyBundle, x25519, x25519_pair, x25519_public
from pgkeep.errors import Damaged, KeyProblem, NewerFormat

X25519 = "x25519"
PLAIN = "plain"
_NONCE = bytes(12)


class Slot(msgspec.Struct, frozen=True, omit_defaults=True):
    """A slot object; unknown members are ignored."""

    format: int
    kind: str
    role: str
    label: str
    created: str
    public: str | None = None
    ephemeral: str | None = None
    sealed: str | None = None
    bundle: dict[str, Any] | None = None


def wrap(
    bundle: KeyBundle,
    *,
    repository_id: bytes,
    slot: str,
    public: bytes | None,
    label: str,
    created: str,
) -> bytes:
    """The slot object that `public`'s private key opens, or anybody when `public` is None."""
    if public is None:
        plain: dict[str, Any] = msgspec.json.decode(bundle.to_json())
        return msgspec.json.encode(Slot(1, PLAIN, bundle.role, label, created, bundle=plain))
    ephemeral, ephemeral_public = x25519_pair()
    info = _info(repository_id, bundle.key_id, slot)
    key = _kek(x25519(ephemeral, public), ephemeral_public + public, info)
    sealed = AESGCM(key).encrypt(_NONCE, bundle.to_json(), info)
    return msgspec.json.encode(
        Slot(
            1,
            X25519,
            bundle.role,
            label,
            created,
            public=base64.b64encode(public).decode(),
            ephemeral=base64.b64encode(ephemeral_public).decode(),
            sealed=base64.b64encode(sealed).decode(),
        )
    )


def read_slot(raw: bytes, name: str) -> Slot:
    """Raises Damaged or NewerFormat, naming the object."""
    try:
        slot = msgspec.json.decode(raw, type=Slot)
    except msgspec.DecodeError as error:
        raise Damaged(f"the key slot {name} can't be read: {error}") from None
    if slot.format > 1:
        raise NewerFormat(f"the key slot {name} was written by a newer pgkeep")
    return slot


def unwrap(
    slot: Slot, *, repository_id: bytes, key_id: bytes, name: str, private: bytes | None
) -> KeyBundle:
    """The bundle in a slot; raises KeyProblem when `private` does not open it."""
    if slot.kind == PLAIN and slot.bundle is not None:
        return KeyBundle.from_json(msgspec.json.encode(slot.bundle))
    if private is None:
        raise KeyProblem(
            "the repository is encrypted and no key was given",
            hint="set key_file in the configuration to the key file",
        )
    try:
        ephemeral = base64.b64decode(slot.ephemeral or "", validate=True)
        sealed = base64.b64decode(slot.sealed or "", validate=True)
        info = _info(repository_id, key_id, name)
        key = _kek(x25519(private, ephemeral), ephemeral + x25519_public(private), info)
        opened = AESGCM(key).decrypt(_NONCE, sealed, info)
    except (binascii.Error, ValueError) as error:
        raise Damaged(f"the key slot {name} is damaged: {error}") from None
    except InvalidTag:
        raise KeyProblem(
            f"the key does not open slot {name} of key {key_id.hex()}",
            hint="it is another repository's key file or an altered one: take the one that init "
            "made, or use pgkeep key recover with the recovery key",
        ) from None
    return KeyBundle.from_json(opened)


def _info(repository_id: bytes, key_id: bytes, slot: str) -> bytes:
    return b"pgkeep 1 slot\0" + repository_id + key_id + slot.encode("ascii")


def _kek(shared: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(shared)
