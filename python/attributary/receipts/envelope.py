"""DSSE envelopes: bytes, what kind of bytes, and signatures over both. What is signed is never serialised again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from attributary.errors import ReceiptError

from . import strict_json
from .keys import PublicKey, SigningKey

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
_MAX_SIGNATURES: Final = 16


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature and the id of the key that it claims to be by."""

    key_id: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """What an envelope holds; nothing of it is to be believed before `verify`."""

    payload: bytes
    signatures: tuple[Signature, ...]


def encoded(payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding: the bytes that signatures are over."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, key: SigningKey) -> bytes:
    """Return an envelope of `payload`, signed: one line of JSON."""
    signature = {"keyid": key.public.key_id, "sig": strict_json.to_base64(key.sign(encoded(payload)))}
    return strict_json.write(
        {
            "payload": strict_json.to_base64(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [signature],
        }
    )


def parse(data: bytes) -> Envelope:
    """Read an envelope, its JSON in any order and layout; raises ReceiptError naming what is wrong with it."""
    found = strict_json.read(data, "receipt")
    payload, kind, signatures = strict_json.fields(found, ("payload", "payloadType", "signatures"), "receipt")
    if kind != PAYLOAD_TYPE:
        raise ReceiptError("receipt.payloadType", f"must be {PAYLOAD_TYPE}, got {str(kind)[:80]!r}")
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= _MAX_SIGNATURES:
        raise ReceiptError("receipt.signatures", f"must hold 1 to {_MAX_SIGNATURES} signatures")
    return Envelope(
        strict_json.from_base64(payload, "receipt.payload"),
        tuple(_signature(one, f"receipt.signatures[{place}]") for place, one in enumerate(signatures)),
    )


def verify(envelope: Envelope, keys: Mapping[str, PublicKey]) -> PublicKey:
    """Return the key that signed; raises ReceiptError if none of `keys` did, or one of them did not as it is said."""
    signer = None
    for place, signature in enumerate(envelope.signatures):
        key = keys.get(signature.key_id)
        if key is not None:
            if not key.verifies(signature.value, encoded(envelope.payload)):
                raise ReceiptError(
                    f"receipt.signatures[{place}]",
                    f"is not by key {key.key_id[:16]}...: the receipt was changed after it was signed, or never signed",
                )
            signer = signer or key
    if signer is None:
        named = ", ".join(f"{signature.key_id[:16]}..." for signature in envelope.signatures)
        known = ", ".join(f"{key_id[:16]}..." for key_id in keys) or "none"
        raise ReceiptError(
            "receipt.signatures", f"are by keys that are not among those given ({named}; given: {known})"
        )
    return signer


def _signature(found: object, what: str) -> Signature:
    key_id, value = strict_json.fields(found, ("keyid", "sig"), what)
    if not isinstance(key_id, str):
        raise ReceiptError(f"{what}.keyid", "must be a text")
    return Signature(key_id, strict_json.from_base64(value, f"{what}.sig"))
