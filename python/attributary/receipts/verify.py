"""Checking a receipt without a server: who signed it, what it is about, what of that differs from what is at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import pack
from typing import Any, Final, Literal

from attributary.errors import InvalidArgumentError, ReceiptError
from attributary.pictures import decode, pixels_digest

from . import envelope, strict_json
from .keys import PublicKey
from .statement import ANSWER, BYTES, PIXELS, RUN, STATEMENT, SUMMARY

State = Literal["ok", "differs", "refused", "not compared"]
_HEX: Final = frozenset("0123456789abcdef")
# A receipt is no reason to read a file of any size.
_MAX_PICTURE: Final = 256 << 20
_MAX_LISTED: Final = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, and what came of it."""

    what: str
    state: State
    text: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt whose form is right; `signer` is None where it was not verified."""

    kind: str  # ANSWER or RUN
    subjects: Mapping[str, str]  # SHA-256, hex, by name
    predicate: Mapping[str, Any]
    signer: PublicKey | None


def open_receipt(data: bytes, keys: Mapping[str, PublicKey] | None) -> Receipt:
    """Read a receipt and verify its signature; raises ReceiptError. Without `keys` only its form is checked."""
    found = envelope.parse(data)
    signer = None if keys is None else envelope.verify(found, keys)
    signed = strict_json.read(found.payload, "statement")
    kind_of_statement, subjects, kind, predicate = strict_json.fields(
        signed, ("_type", "subject", "predicateType", "predicate"), "statement"
    )
    if kind_of_statement != STATEMENT:
        raise ReceiptError("statement._type", f"must be {STATEMENT}, got {str(kind_of_statement)[:80]!r}")
    if kind not in (ANSWER, RUN):
        raise ReceiptError("statement.predicateType", f"is not known here: {str(kind)[:80]!r}")
    if not isinstance(predicate, dict):
        raise ReceiptError("statement.predicate", "must be an object")
    receipt = Receipt(kind, _subjects(subjects), predicate, signer)
    (_check_answer if kind == ANSWER else _check_run)(receipt)
    return receipt


def signature_finding(receipt: Receipt) -> Finding:
    """Who signed."""
    if receipt.signer is None:
        return Finding("signature", "not compared", "no keys were given: anybody may have written this")
    return Finding("signature", "ok", f"by key {receipt.signer.key_id}")


def compare_picture(receipt: Receipt, data: bytes) -> Finding:
    """Whether a file is the picture that a receipt is about, renamed or not."""
    if receipt.kind != ANSWER:
        return Finding("picture", "differs", "the receipt is about a whole run, not about one picture")
    signed_bytes, signed_pixels = receipt.subjects.get(BYTES), receipt.subjects[PIXELS]
    digest = hashlib.sha256(data).hexdigest()
    if digest == signed_bytes:
        return Finding("picture", "ok", f"the file is the one that was asked about, SHA-256 {digest}")
    try:
        pixels = pixels_digest(decode(data, max_bytes=_MAX_PICTURE, max_pixels=1 << 28, field="picture"))
    except InvalidArgumentError as error:
        return Finding("picture", "differs", f"the file is no picture that can be read: {error.message}")
    if pixels == signed_pixels and signed_bytes is None:
        return Finding("picture", "ok", f"the pixels are those that were asked about, SHA-256 {pixels}")
    if pixels == signed_pixels:
        return Finding(
            "picture",
            "ok",
            "the same pixels in another file: written again, or its metadata changed. SHA-256 of the file "
            f"{digest}, of the one that was asked about {signed_bytes}",
        )
    return Finding(
        "picture",
        "differs",
        f"another picture: neither the file (SHA-256 {digest}, asked about: {signed_bytes or 'pixels alone'}) "
        f"nor the pixels ({pixels}, asked about: {signed_pixels})",
    )


def compare_file(signed: str, data: bytes) -> Finding:
    """Whether a file's bytes are those of a digest."""
    digest = hashlib.sha256(data).hexdigest()
    if digest == signed:
        return Finding("picture", "ok", f"the file is the one that was answered, SHA-256 {digest}")
    return Finding("picture", "differs", f"another file: SHA-256 {digest}, answered was {signed or 'none'}")


def compare_bundle(receipt: Receipt, bundle: Mapping[str, Any]) -> Finding:
    """Whether a bundle is the one that answered; `bundle` is `bundle_facts` of it, or as much as is known."""
    signed = receipt.predicate["bundle"]
    shared = {name: value for name, value in bundle.items() if name in signed}
    found = list(differences({name: signed[name] for name in shared}, shared, "bundle"))
    if found:
        return Finding("bundle", "differs", _listed(found))
    return Finding("bundle", "ok", f"{signed['id']} answered")


def compare_answer(receipt: Receipt, answer: Mapping[str, Any]) -> Finding:
    """Whether an answer (JSON, as `attributary query --json` prints it or HTTP replies) is the one that was signed."""
    if receipt.kind != ANSWER:
        return Finding("answer", "differs", "the receipt is about a whole run, not about one answer")
    signed = receipt.predicate["answer"]
    found = list(differences(signed, _shared(signed, answer), "answer"))
    if found:
        return Finding("answer", "differs", _listed(found))
    return Finding(
        "answer", "ok", f"{len(signed['items'])} items, {len(signed['creators'])} creators, as signed"
    )


def differences(signed: Any, found: Any, path: str) -> Iterator[str]:
    """Yield what differs between a signed value and one that is at hand, each with its path."""
    if isinstance(signed, dict) and isinstance(found, dict):
        for name in dict.fromkeys([*signed, *found]):
            if name not in found or name not in signed:
                yield f"{path}.{name}: only in the {'receipt' if name in signed else 'other'}"
            else:
                yield from differences(signed[name], found[name], f"{path}.{name}")
    elif isinstance(signed, list) and isinstance(found, list):
        if len(signed) != len(found):
            yield f"{path}: {len(signed)} in the receipt, {len(found)} in the other"
        for place, (one, other) in enumerate(zip(signed, found, strict=False)):
            yield from differences(one, other, f"{path}[{place}]")
    elif not _same(signed, found):
        yield f"{path}: {signed!r} in the receipt, {found!r} in the other"


def _same(signed: Any, found: Any) -> bool:
    """Whether two values are one: over HTTP 64-bit numbers are text, and others have the digits of a float32."""
    if isinstance(signed, bool) != isinstance(found, bool):
        return False
    if isinstance(signed, int) and isinstance(found, str):
        return str(signed) == found
    if isinstance(signed, float) and isinstance(found, float):
        return signed == found or (
            max(map(abs, (signed, found))) < 1e30 and pack("f", signed) == pack("f", found)
        )
    return bool(signed == found)


def _shared(signed: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Of an answer at hand, what receipts tell; a reply has more, of the server's times for example."""
    shared: dict[str, Any] = {}
    for name, value in signed.items():
        if name not in answer:
            continue
        other = answer[name]
        if isinstance(value, list) and isinstance(other, list):
            other = [
                {key: entry[key] for key in known if key in entry}
                if isinstance(known, dict) and isinstance(entry, dict)
                else entry
                for known, entry in zip(value, other, strict=False)
            ] + other[len(value) :]
        shared[name] = other
    return shared


def _listed(found: list[str]) -> str:
    rest = len(found) - _MAX_LISTED
    return "; ".join(found[:_MAX_LISTED]) + (f"; and {rest} more" if rest > 0 else "")


def _subjects(found: Any) -> dict[str, str]:
    if not isinstance(found, list) or not found:
        raise ReceiptError("statement.subject", "must hold a subject")
    subjects: dict[str, str] = {}
    for place, subject in enumerate(found):
        what = f"statement.subject[{place}]"
        name, digests = strict_json.fields(subject, ("name", "digest"), what)
        (digest,) = strict_json.fields(digests, ("sha256",), f"{what}.digest")
        if not isinstance(name, str) or name in subjects:
            raise ReceiptError(f"{what}.name", "must be a text that no other subject has")
        subjects[name] = hex_digest(digest, f"{what}.digest.sha256")
    return subjects


def hex_digest(found: Any, what: str) -> str:
    """Return a SHA-256 in hex; raises ReceiptError."""
    if not isinstance(found, str) or len(found) != 64 or not _HEX.issuperset(found):
        raise ReceiptError(what, "must be a SHA-256 in 64 hexadecimal digits")
    return found


def _check_answer(receipt: Receipt) -> None:
    if PIXELS not in receipt.subjects or not {BYTES, PIXELS}.issuperset(receipt.subjects):
        raise ReceiptError("statement.subject", f"must be {BYTES} and {PIXELS}, or {PIXELS} alone")
    _check_bundle(receipt.predicate)
    answer = _entry(receipt.predicate, "answer", dict, "statement.predicate")
    for name in ("items", "creators"):
        for place, entry in enumerate(_entry(answer, name, list, "statement.predicate.answer")):
            where = f"statement.predicate.answer.{name}[{place}]"
            if not isinstance(entry, dict):
                raise ReceiptError(where, "must be an object")
            _share(entry, "share", where)
    for name in ("diffuse_share", "withheld_share"):
        _share(answer, name, "statement.predicate.answer")


def _check_run(receipt: Receipt) -> None:
    if set(receipt.subjects) != {SUMMARY}:
        raise ReceiptError("statement.subject", f"must be {SUMMARY}")
    _check_bundle(receipt.predicate)
    hex_digest(receipt.predicate.get("merkle_root"), "statement.predicate.merkle_root")
    rows = receipt.predicate.get("rows")
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 0:
        raise ReceiptError("statement.predicate.rows", "must be a number of rows")


def _check_bundle(predicate: Mapping[str, Any]) -> None:
    where = "statement.predicate"
    _entry(predicate, "time", str, where)
    _entry(_entry(predicate, "bundle", dict, where), "id", str, f"{where}.bundle")


def _entry(found: Mapping[str, Any], name: str, kind: type[Any], where: str) -> Any:
    if not isinstance(found.get(name), kind):
        raise ReceiptError(f"{where}.{name}", f"must be {'an' if kind is dict else 'a'} {_WORDS[kind]}")
    return found[name]


def _share(found: Mapping[str, Any], name: str, where: str) -> None:
    share = found.get(name)
    if isinstance(share, bool) or not isinstance(share, int | float) or not -1e-6 <= share <= 1 + 1e-6:
        raise ReceiptError(f"{where}.{name}", "must be a share from 0 to 1")


_WORDS: Final[Mapping[type[Any], str]] = {dict: "object", list: "list", str: "text"}
