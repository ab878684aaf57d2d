"""Makes and opens a repository: `repo.json`, key slots, hosts (`docs/format.md`, 2 and 3)."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pgkeep.codec.keyfile import KeyFile, recovery_decode, recovery_encode
from pgkeep.codec.keys import (
    ENCRYPTED,
    PLAIN,
    HostSigner,
    KeyBundle,
    KeyRing,
    verify_signature,
    x25519_pair,
)
from pgkeep.codec.slots import read_slot, unwrap, wrap
from pgkeep.errors import Damaged, KeyProblem, NewerFormat, ObjectMissing, StoreError
from pgkeep.repo import names
from pgkeep.store.base import Store, settle

FORMAT = 1
_RECOVERY_SLOT = "recovery"
_PLAIN_SLOT = "plain"
_HOST_DOMAIN = b"pgkeep 1 host\0"


class _RepoJson(msgspec.Struct):
    format: int
    repository: str
    encryption: str
    created: str


class _HostJson(msgspec.Struct):
    format: int
    host: str
    name: str
    public: str
    created: str
    signature: str


@dataclass(frozen=True)
class Repository:
    """An open repository: where it is, and the keys at hand. `id` has 16 bytes."""

    store: Store
    ring: KeyRing
    id: bytes


@dataclass(frozen=True)
class Created:
    """A new repository; both keys are None when it is not encrypted."""

    repository: Repository
    key_file: KeyFile | None
    recovery_key: str | None


def is_there(store: Store) -> bool:
    """Whether there is a repository in the store."""
    return store.exists(names.REPOSITORY)


def create(
    store: Store,
    *,
    encryption: str = ENCRYPTED,
    host_name: str,
    keep: Callable[[KeyFile], None],
) -> Created:
    """Makes a new repository. `keep` must save the key file durably: it is called before anything
    that needs the key exists. Raises StoreError when the store holds anything already.
    """
    _demand_empty(store)
    repository_id = os.urandom(16)
    bundle = _new_bundle()
    now = names.time_text(datetime.now(UTC))
    if encryption == PLAIN:
        _put_slot(store, repository_id, bundle, _PLAIN_SLOT, None, "not encrypted", now)
        _put_repo_json(store, repository_id, encryption, now)
        return Created(
            _opened(store, repository_id, PLAIN, {bundle.key_id: bundle}, None), None, None
        )
    recovery_private, recovery_public = x25519_pair()
    key_file, slot_public = _new_key_file(repository_id)
    keep(key_file)
    _put_slot(store, repository_id, bundle, key_file.slot, slot_public, host_name, now)
    _put_slot(store, repository_id, bundle, _RECOVERY_SLOT, recovery_public, "recovery key", now)
    _put_host(store, repository_id, bundle, key_file.signer, host_name, now)
    _put_repo_json(store, repository_id, encryption, now)
    repository = _opened(store, repository_id, encryption, {bundle.key_id: bundle}, key_file.signer)
    return Created(repository, key_file, recovery_encode(recovery_private))


def open_repository(store: Store, key_file: KeyFile | None) -> Repository:
    """Opens with a key file, or without one a repository that is not encrypted.

    Raises ObjectMissing (no repository here), NewerFormat, Damaged, KeyProblem.
    """
    repository_id, encryption = _read_repo_json(store)
    if encryption == PLAIN:
        bundles = _open_slots(store, repository_id, _PLAIN_SLOT, None)
        return _opened(store, repository_id, PLAIN, bundles, None)
    if key_file is None:
        raise KeyProblem(
            f"the repository {store.url} is encrypted and no key file was given",
            hint="set key_file in the configuration, or use pgkeep key recover",
        )
    if key_file.repository != repository_id.hex():
        raise KeyProblem(
            f"the key file is for repository {key_file.repository[:8]}…, but {store.url} is "
            f"repository {repository_id.hex()[:8]}…",
            hint="point key_file or url to the other one",
        )
    bundles = _open_slots(store, repository_id, key_file.slot, key_file.slot_private)
    return _opened(store, repository_id, encryption, bundles, key_file.signer)


def open_with_recovery(
    store: Store, recovery_key: str, host_name: str, keep: Callable[[KeyFile], None]
) -> Repository:
    """Opens with the recovery key and enrols this host anew; `keep` saves its key file.

    Raises UsageError for a typing mistake, KeyProblem for another repository's key.
    """
    private = recovery_decode(recovery_key)
    repository_id, encryption = _read_repo_json(store)
    if encryption == PLAIN:
        raise KeyProblem(f"{store.url} is not encrypted: it needs no key")
    bundles = _open_slots(store, repository_id, _RECOVERY_SLOT, private)
    key_file, slot_public = _new_key_file(repository_id)
    keep(key_file)
    now = names.time_text(datetime.now(UTC))
    for bundle in bundles.values():
        _put_slot(store, repository_id, bundle, key_file.slot, slot_public, host_name, now)
    newest = bundles[_newest(bundles)]
    _put_host(store, repository_id, newest, key_file.signer, host_name, now)
    return _opened(store, repository_id, encryption, bundles, key_file.signer)


def _demand_empty(store: Store) -> None:
    found = next(iter(store.list("")), None)
    if found is None:
        return
    if is_there(store):
        raise StoreError(
            f"{store.url} is a repository already",
            hint="use it with its key file, or give the new repository another address",
        )
    raise StoreError(
        f"{store.url} is not empty: it holds {found.name} and is no repository",
        hint="give the repository a place of its own",
    )


def _new_bundle() -> KeyBundle:
    data_private, data_public = x25519_pair()
    authority = Ed25519PrivateKey.generate()
    return KeyBundle(
        key_id=os.urandom(8),
        role="owner",
        map=os.urandom(32),
        data_public=data_public,
        id_key=os.urandom(32),
        print_seed=secrets.randbits(64),
        authority_public=authority.public_key().public_bytes_raw(),
        created=names.time_text(datetime.now(UTC)),
        data_private=data_private,
        authority_private=authority.private_bytes_raw(),
    )


def _new_key_file(repository_id: bytes) -> tuple[KeyFile, bytes]:
    """A key file for this host, and the public half of its slot."""
    private, public = x25519_pair()
    host = os.urandom(8).hex()
    return (
        KeyFile(
            repository=repository_id.hex(),
            slot=f"host-{host}",
            slot_private=private,
            host=host,
            sign_private=Ed25519PrivateKey.generate().private_bytes_raw(),
        ),
        public,
    )


def _put_slot(
    store: Store,
    repository_id: bytes,
    bundle: KeyBundle,
    slot: str,
    public: bytes | None,
    label: str,
    created: str,
) -> None:
    wrapped = wrap(
        bundle,
        repository_id=repository_id,
        slot=slot,
        public=public,
        label=label,
        created=created,
    )
    settle(store, names.key_slot(bundle.key_id, slot), wrapped)


def _put_host(
    store: Store,
    repository_id: bytes,
    bundle: KeyBundle,
    signer: HostSigner,
    name: str,
    created: str,
) -> None:
    if bundle.authority_private is None:
        raise KeyProblem("this key may not enrol hosts", hint="use an owner's key")
    authority = Ed25519PrivateKey.from_private_bytes(bundle.authority_private)
    public = signer.public
    signature = authority.sign(_HOST_DOMAIN + repository_id + signer.host_id + public)
    text = _HostJson(
        FORMAT,
        signer.host_id.hex(),
        name,
        base64.b64encode(public).decode(),
        created,
        base64.b64encode(signature).decode(),
    )
    settle(store, names.host(signer.host_id), msgspec.json.encode(text))


def _put_repo_json(store: Store, repository_id: bytes, encryption: str, created: str) -> None:
    text = _RepoJson(FORMAT, repository_id.hex(), encryption, created)
    settle(store, names.REPOSITORY, msgspec.json.format(msgspec.json.encode(text), indent=2))


def _read_repo_json(store: Store) -> tuple[bytes, str]:
    """(repository id, encryption)."""
    try:
        raw = store.get(names.REPOSITORY)
    except ObjectMissing:
        raise ObjectMissing(
            f"there is no repository at {store.url}",
            hint="mend url in the configuration, or make one with pgkeep init",
        ) from None
    try:
        form = msgspec.json.decode(raw, type=dict[str, object]).get("format")
        if isinstance(form, int) and form > FORMAT:
            raise NewerFormat(
                f"the repository {store.url} has format {form}, this pgkeep knows {FORMAT}",
                hint="use a newer pgkeep",
            )
        read = msgspec.json.decode(raw, type=_RepoJson)
        repository_id = bytes.fromhex(read.repository)
        if len(repository_id) != 16 or read.encryption not in (ENCRYPTED, PLAIN):
            raise ValueError(f"encryption {read.encryption!r}, repository {read.repository!r}")
    except (msgspec.DecodeError, ValueError) as error:
        raise Damaged(
            f"{names.REPOSITORY} of {store.url} can't be read: {error}",
            hint="it is small and never changes: put it back from a copy of the repository",
        ) from None
    return repository_id, read.encryption


def _open_slots(
    store: Store, repository_id: bytes, slot: str, private: bytes | None
) -> dict[bytes, KeyBundle]:
    """Every bundle that has a slot of this name, opened."""
    bundles: dict[bytes, KeyBundle] = {}
    for entry in store.list(names.KEYS):
        key_text, _, name = entry.name.removeprefix(names.KEYS).partition("/")
        if name != slot:
            continue
        key_id = _key_id(key_text, entry.name)
        bundle = unwrap(
            read_slot(store.get(entry.name), entry.name),
            repository_id=repository_id,
            key_id=key_id,
            name=slot,
            private=private,
        )
        if bundle.key_id != key_id:
            raise Damaged(f"{entry.name} holds another key than its name says")
        bundles[key_id] = bundle
    if not bundles:
        raise KeyProblem(
            f"no key of {store.url} has a slot {slot}",
            hint="the slot was removed, or the repository is not whole: use another key file, or "
            "pgkeep key recover with the recovery key",
        )
    return bundles


def _key_id(text: str, name: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise Damaged(f"{name} is no name of a key slot") from None


def _newest(bundles: dict[bytes, KeyBundle]) -> bytes:
    return max(bundles.values(), key=lambda bundle: (bundle.created, bundle.key_id)).key_id


def _opened(
    store: Store,
    repository_id: bytes,
    encryption: str,
    bundles: dict[bytes, KeyBundle],
    signer: HostSigner | None,
) -> Repository:
    current = _newest(bundles)
    hosts = _Hosts(store, repository_id, bundles[current].authority_public, signer)
    ring = KeyRing(repository_id, encryption, bundles, current, signer, hosts)
    return Repository(store, ring, repository_id)


class _Hosts:
    """Public keys of hosts, read when first asked for and believed only if certified."""

    def __init__(
        self, store: Store, repository_id: bytes, authority: bytes, signer: HostSigner | None
    ) -> None:
        self._store = store
        self._repository_id = repository_id
        self._authority = authority
        self._known = {signer.host_id: signer.public} if signer is not None else {}

    def __call__(self, host_id: bytes) -> bytes:
        found = self._known.get(host_id)
        if found is None:
            found = self._known[host_id] = self._read(host_id)
        return found

    def _read(self, host_id: bytes) -> bytes:
        name = names.host(host_id)
        try:
            read = msgspec.json.decode(self._store.get(name), type=_HostJson)
            public = base64.b64decode(read.public, validate=True)
            signature = base64.b64decode(read.signature, validate=True)
        except ObjectMissing:
            raise Damaged(
                f"something was written by host {host_id.hex()}, which nobody enrolled",
                hint="somebody without a key may have put it there: nothing of it was used",
            ) from None
        except (msgspec.DecodeError, binascii.Error) as error:
            raise Damaged(f"{name} can't be read: {error}") from None
        message = _HOST_DOMAIN + self._repository_id + host_id + public
        if not verify_signature(self._authority, signature, message):
            raise Damaged(
                f"{name} is not certified by the repository's authority",
                hint="somebody without a key may have put it there: nothing of it was used",
            )
        return public
