"""Content Credentials (C2PA): a picture that carries its attribution with it, by c2pa-python (extra `c2pa`); offline.

The attribution is a gathered assertion: the maker of the manifest passes on what somebody else has signed, its receipt.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any, Final

import c2pa
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image

from attributary import __version__
from attributary.errors import InvalidArgumentError

from . import envelope, strict_json
from .statement import ANSWER

LABEL: Final = "dev.attributary.attribution"
_CURVES: Final = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
# Nothing is fetched, neither for signing nor for reading; who is trusted is a question for whoever reads.
_SETTINGS: Final = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False},
    "builder": {"thumbnail": {"enabled": False}},
}


def attribution(receipt: bytes) -> dict[str, Any]:
    """Return the assertion of an answer's receipt: the receipt as it is, and its shares to be read by people.

    Raises ReceiptError for what is no receipt of an answer. It is not verified here: whoever reads it has to.
    """
    statement = strict_json.read(envelope.parse(receipt).payload, "statement")
    if statement.get("predicateType") != ANSWER:
        raise InvalidArgumentError("receipt", "is not about one picture")
    answer = statement["predicate"]["answer"]
    shown = {name: answer[name] for name in ("creators", "diffuse_share", "withheld_share") if name in answer}
    return {"label": LABEL, "data": {"receipt": receipt.decode(), **shown}}


def add_credentials(picture: bytes, assertions: Sequence[dict[str, Any]], chain: bytes, key: bytes) -> bytes:
    """Return a picture with a manifest that holds the assertions; its pixels stay as they are.

    `chain` is the signer's certificate and those above it in PEM, `key` its private key. Raises InvalidArgumentError
    naming what cannot be used.
    """
    mime = _mime(picture)
    definition = {
        "claim_generator_info": [{"name": "attributary", "version": __version__}],
        "format": mime,
        # Without "created": gathered, that is not vouched for by whoever signs the manifest.
        "assertions": list(assertions),
    }
    out = io.BytesIO()
    try:
        info = c2pa.C2paSignerInfo(_algorithm(key), chain, key, None)
        with (
            c2pa.Context.from_dict(_SETTINGS) as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(json.dumps(definition), context=context) as builder,
        ):
            # What was there before becomes the parent, with its own manifest if it has one.
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
            builder.sign(signer, mime, io.BytesIO(picture), out)
    except c2pa.C2paError as error:
        raise InvalidArgumentError("credentials", f"cannot be written: {error}") from None
    return out.getvalue()


def read_receipt(picture: bytes) -> bytes:
    """Return the receipt in a picture's Content Credentials, to be verified; raises InvalidArgumentError."""
    try:
        with (
            c2pa.Context.from_dict(_SETTINGS) as context,
            c2pa.Reader(_mime(picture), io.BytesIO(picture), context=context) as reader,
        ):
            store = json.loads(reader.json())
    except c2pa.C2paError as error:
        raise InvalidArgumentError(
            "picture", f"has no Content Credentials that can be read: {error}"
        ) from None
    for assertion in store["manifests"][store["active_manifest"]].get("assertions", []):
        receipt = (assertion.get("data") or {}).get("receipt") if assertion.get("label") == LABEL else None
        if isinstance(receipt, str):
            return receipt.encode()
    raise InvalidArgumentError("picture", "has Content Credentials, and no attribution in them")


def _mime(picture: bytes) -> str:
    try:
        with Image.open(io.BytesIO(picture)) as image:
            # MPO is a JPEG with more behind it, as phones write them.
            mime = Image.MIME.get("JPEG" if image.format == "MPO" else image.format or "", "")
    except Exception:  # decoders raise whatever they like on damaged files
        mime = ""
    if mime not in c2pa.Builder.get_supported_mime_types():
        raise InvalidArgumentError(
            "picture", "is no picture that can carry Content Credentials (JPEG, PNG, WebP, ...)"
        )
    return mime


def _algorithm(pem: bytes) -> bytes:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        raise InvalidArgumentError("key", "is no private key in PEM, not encrypted") from None
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return b"Ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return b"ps256"
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name].lower().encode()
    raise InvalidArgumentError("key", "must be Ed25519, ECDSA on P-256, P-384 or P-521, or RSA")
