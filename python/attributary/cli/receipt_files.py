"""Receipts that a server gave, as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attributary.client.sync import Client
from attributary.client.types import Answer
from attributary.errors import PreconditionError, needs


def write_receipt(folder: Path, name: str, answer: Answer) -> Path:
    """Write the receipt of an answer, as it is, to NAME.receipt.json; raises PreconditionError if there is none."""
    if not answer.receipt:
        raise PreconditionError("receipt", "the server gave none: it is of an older release")
    folder.mkdir(parents=True, exist_ok=True)
    path = free_name(folder, f"{name}.receipt", ".json")
    path.write_bytes(answer.receipt)
    return path


def free_name(folder: Path, stem: str, suffix: str) -> Path:
    """A name in a folder that is not taken: two pictures of one name have a receipt each."""
    path, number = folder / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}{suffix}"
    return path


def signing_options(folder: Path) -> tuple[str, ...]:
    """Options of `serve` with a key of its own in a folder, made if it is not there."""
    with needs("receipts"):
        from attributary.receipts import keys
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "key.pem"
    if not path.exists():
        keys.create(path)
    return ("--receipt-key-file", str(path))


def write_and_verify(folder: Path, client: Client, answers: Sequence[tuple[bytes, Answer]]) -> str:
    """Write a server's public keys and its receipts to a folder, verify each as anybody would; say how it went."""
    from attributary.receipts.keys import read_public_keys
    from attributary.receipts.verify import compare_picture, open_receipt

    public = folder / "keys.pem"
    public.write_text("".join(key.pem for key in client.list_receipt_keys()))
    known = read_public_keys(public)
    for number, (picture, answer) in enumerate(answers):
        path = folder / f"{number:02d}.receipt.json"
        path.write_bytes(answer.receipt)
        finding = compare_picture(open_receipt(path.read_bytes(), known), picture)
        if finding.state != "ok":
            raise PreconditionError("receipts", f"{path} does not hold: {finding.text}")
    return f"{len(answers)} receipts in {folder}, each verified with {public}"
