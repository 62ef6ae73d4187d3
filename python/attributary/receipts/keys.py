"""Ed25519 keys in PEM files. The first private key of a file signs; whatever else is in it has signed, and verifies.

Rotating a key puts a new one before it and keeps only the public half of the old one. A key's id is the SHA-256 of its
32 bytes, hex.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from attributary.errors import InvalidArgumentError

_MAX_BYTES: Final = 1 << 20
# Nobody else may read it or write it; its group may read it (secrets are mounted so).
_FORBIDDEN: Final = stat.S_IRWXO | stat.S_IWGRP
_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies."""

    key_id: str
    raw: bytes  # 32
    _key: Ed25519PublicKey

    @classmethod
    def of(cls, key: Ed25519PublicKey) -> PublicKey:
        """Name a key."""
        raw = key.public_bytes_raw()
        return cls(hashlib.sha256(raw).hexdigest(), raw, key)

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether the signature is this key's over these bytes."""
        try:
            self._key.verify(signature, data)
        except InvalidSignature:
            return False
        return True

    def pem(self) -> str:
        """The key as a block of PEM (SubjectPublicKeyInfo)."""
        kind, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return self._key.public_bytes(kind, form).decode()


class SigningKey:
    """A key that signs."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey.of(key.public_key())

    @classmethod
    def new(cls) -> SigningKey:
        """Make a key."""
        return cls(Ed25519PrivateKey.generate())

    def sign(self, data: bytes) -> bytes:
        """Return the 64 bytes of the signature over `data`."""
        return self._key.sign(data)

    def pem(self) -> str:
        """The key as a block of PEM (PKCS #8, not encrypted)."""
        kind, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return self._key.private_bytes(kind, form, serialization.NoEncryption()).decode()


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What signs, and every key whose receipts verify, the one that signs first."""

    signer: SigningKey
    public: tuple[PublicKey, ...]


def read_key_file(path: Path, field: str = "receipt_key_file") -> KeyFile:
    """Read a server's keys; raises InvalidArgumentError naming `field`, also for a file that others may read."""
    data, mode = _read(path, field)
    if mode & _FORBIDDEN:
        raise InvalidArgumentError(
            field,
            f"{path} can be read or changed by others (mode {stat.S_IMODE(mode):03o}); run chmod 600 on it",
        )
    found = _parsed(data, str(path), field)
    signer = next((key for key in found if isinstance(key, SigningKey)), None)
    if signer is None:
        raise InvalidArgumentError(field, f"{path} holds no Ed25519 private key in PEM")
    public = _distinct([signer.public, *map(_public, found)])
    return KeyFile(signer, tuple(public.values()))


def read_public_keys(path: Path, field: str = "keys") -> dict[str, PublicKey]:
    """Read keys to verify with, by id; raises InvalidArgumentError naming `field`."""
    return _distinct(map(_public, _parsed(_read(path, field)[0], str(path), field)))


def parse_public_keys(pem: str, field: str = "keys") -> dict[str, PublicKey]:
    """Read keys to verify with from PEM, by id; raises InvalidArgumentError naming `field`."""
    return _distinct(map(_public, _parsed(pem.encode(), "the text", field)))


def create(path: Path) -> SigningKey:
    """Make a key file of one new key, readable by its owner alone; raises InvalidArgumentError if it is there."""
    key = SigningKey.new()
    if path.exists():
        raise InvalidArgumentError("file", f"{path} exists; rotate it, or name another")
    _write(path, path, key.pem(), 0o600)
    return key


def rotate(path: Path) -> SigningKey:
    """Put a new key before the others of a file; of those only the public halves stay. Whole or not at all."""
    read_key_file(path, "file")
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidArgumentError("file", f"{path} is being rotated by another process") from None
        # Else this lock is on the file that another's has replaced, and that one's key would be lost.
        if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise InvalidArgumentError("file", f"{path} was rotated by another process just now")
        old = read_key_file(path, "file")
        key = SigningKey.new()
        scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        scratch.unlink(missing_ok=True)
        text = "".join([key.pem(), *(one.pem() for one in old.public)])
        _write(path, scratch, text, stat.S_IMODE(path.stat().st_mode))
    return key


def _write(path: Path, scratch: Path, text: str, mode: int) -> None:
    """Write a file by way of one that is not there yet; half a key would stand in the way of a whole one."""
    made = False
    try:
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            made = True
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        if made:
            scratch.unlink(missing_ok=True)
        raise InvalidArgumentError("file", f"{path} cannot be written: {error.strerror}") from None


def _read(path: Path, field: str) -> tuple[bytes, int]:
    """The bytes of a key file, and its mode."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_BYTES:
            raise InvalidArgumentError(field, f"{path} must be a file of at most {_MAX_BYTES} bytes")
        return path.read_bytes(), found.st_mode
    except OSError as error:
        raise InvalidArgumentError(field, f"{path} cannot be read: {error.strerror}") from None


def _parsed(data: bytes, where: str, field: str) -> list[SigningKey | PublicKey]:
    found: list[SigningKey | PublicKey] = []
    blocks = list(_BLOCK.finditer(data))
    for number, block in enumerate(blocks, 1):
        try:
            key: object
            if block[1] == b"PUBLIC KEY":
                key = serialization.load_pem_public_key(block[0])
            else:
                key = serialization.load_pem_private_key(block[0], None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise InvalidArgumentError(
                field, f"block {number} of {where} is no key that can be read (PEM, not encrypted)"
            ) from None
        if isinstance(key, Ed25519PrivateKey):
            found.append(SigningKey(key))
        elif isinstance(key, Ed25519PublicKey):
            found.append(PublicKey.of(key))
        else:
            raise InvalidArgumentError(field, f"block {number} of {where} is no Ed25519 key")
    if data.count(b"-----BEGIN ") != len(blocks):
        # A file that was cut off would do without its last keys, and a rotation would lose them for good.
        raise InvalidArgumentError(
            field, f"a block of {where} has no end, or none of its name: it is not whole"
        )
    if not found:
        raise InvalidArgumentError(field, f"{where} holds no keys in PEM")
    return found


def _public(key: SigningKey | PublicKey) -> PublicKey:
    return key.public if isinstance(key, SigningKey) else key


def _distinct(keys: Iterable[PublicKey]) -> dict[str, PublicKey]:
    found: dict[str, PublicKey] = {}
    for key in keys:
        found.setdefault(key.key_id, key)
    return found
