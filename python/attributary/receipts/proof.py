"""A row of a run, proven to be in it: the row's bytes, its way up the Merkle tree, and the run's signed receipt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from attributary.errors import ReceiptError

from . import merkle, strict_json
from .keys import PublicKey
from .statement import RUN
from .verify import Finding, Receipt, hex_digest, open_receipt

PROOF: Final = "https://attributary.dev/row-proof/v1"
_FIELDS: Final = ("type", "row", "index", "path", "receipt")


@dataclass(frozen=True, slots=True)
class Proof:
    """A proof whose form is right."""

    row: Mapping[str, Any]
    receipt: Receipt
    finding: Finding  # whether the row is in the run


def write_proof(row: bytes, index: int, siblings: Sequence[bytes], receipt: bytes) -> bytes:
    """Return a proof as one line of JSON; `row` and `receipt` are kept as they are."""
    return strict_json.write(
        {
            "type": PROOF,
            "row": strict_json.to_base64(row),
            "index": index,
            "path": [sibling.hex() for sibling in siblings],
            "receipt": strict_json.to_base64(receipt),
        }
    )


def is_proof(data: bytes) -> bool:
    """Whether this is meant as a proof, not as a receipt; raises ReceiptError for what is not JSON."""
    return "row" in strict_json.read(data, "receipt")


def open_proof(data: bytes, keys: Mapping[str, PublicKey] | None) -> Proof:
    """Read a proof and verify the receipt in it; raises ReceiptError."""
    kind, row, index, siblings, receipt = strict_json.fields(
        strict_json.read(data, "proof"), _FIELDS, "proof"
    )
    if kind != PROOF:
        raise ReceiptError("proof.type", f"must be {PROOF}, got {str(kind)[:80]!r}")
    opened = open_receipt(strict_json.from_base64(receipt, "proof.receipt"), keys)
    if opened.kind != RUN:
        raise ReceiptError("proof.receipt", "is about one picture, not about a run")
    if not isinstance(index, int) or isinstance(index, bool) or not isinstance(siblings, list):
        raise ReceiptError("proof.index", "must be a number, and proof.path a list")
    hashes = [
        bytes.fromhex(hex_digest(sibling, f"proof.path[{place}]")) for place, sibling in enumerate(siblings)
    ]
    data_of_row = strict_json.from_base64(row, "proof.row")
    rows = opened.predicate["rows"]
    root = merkle.root_of_path(merkle.leaf_hash(data_of_row), index, rows, hashes)
    row_facts = strict_json.read(data_of_row, "proof.row")
    if root is None or root.hex() != opened.predicate["merkle_root"]:
        finding = Finding("row", "differs", f"row {index} of the {rows} that were signed is another one")
    else:
        finding = Finding(
            "row", "ok", f"{row_facts.get('generation_id')} is row {index} of the {rows} that were signed"
        )
    return Proof(row_facts, opened, finding)
