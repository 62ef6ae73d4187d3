"""Signing a finished run: its summary, which names every file's SHA-256, and a Merkle root over its rows.

A row is signed as the JSON that `row_bytes` makes of its answer. That is made once more to prove a row, and never to
verify one: a proof holds the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from attributary.bundle.files import sha256
from attributary.errors import InvalidArgumentError, OutputError, ReceiptError
from attributary.receipts import envelope, merkle, proof, strict_json
from attributary.receipts.keys import KeyFile
from attributary.receipts.statement import SUMMARY as SUMMARY_SUBJECT
from attributary.receipts.statement import prompt_digest, run_statement
from attributary.receipts.verify import Finding, Receipt, open_receipt

from .run import SUMMARY, commit, read_json, shard_tables

RECEIPT: Final = "receipt.json"
# Of the output: rows of earlier runs do not say all that is signed.
_FIRST_VERSION: Final = 2
# Told by their digest: whoever is shown a row need not see what was asked for.
_PROMPTS: Final = ("prompt_used", "prompt_original", "prompt_source")
_ROW: Final = (
    "generation_id", "model_id", "image_sha256", "has_prompt", "bundle_id", "bundle_revision", "items", "creators",
    "diffuse_share", "withheld_share", "out_of_distribution", "error_code", "error_field", "error_message",
)  # fmt: skip


def sign_run(directory: Path, keys: KeyFile, bundle: Mapping[str, Any] | None = None) -> Path:
    """Write `receipt.json` into a finished run, unless one of these keys has signed the same summary already.

    `bundle` is what is known of the bundle beside its id (`receipts.statement.bundle_facts`). Raises OutputError for a
    run that is not finished or whose files are not those of its summary, InvalidArgumentError for another bundle.
    """
    summary = read_json(directory / SUMMARY)
    version = summary.get("schema_version") if isinstance(summary, dict) else None
    if not isinstance(version, int) or version < _FIRST_VERSION:
        raise OutputError(
            SUMMARY, f"is of output schema version {version}; score the log again to have it signed"
        )
    if problem := _changed_file(directory, summary):
        raise OutputError(problem, "is not the file that the summary names; it cannot be signed")
    if bundle is not None and bundle["id"] != summary["bundle_id"]:
        raise InvalidArgumentError(
            "bundle", f"is {bundle['id']}, the run was answered by {summary['bundle_id']}"
        )
    path = directory / RECEIPT
    if _is_signed(path, directory / SUMMARY, keys):
        return path
    leaves = [merkle.leaf_hash(data) for _, data in rows_of(directory)]
    statement = run_statement(
        (directory / SUMMARY).read_bytes(),
        {
            "run": summary["run"],
            "bundle": bundle or {"id": summary["bundle_id"]},
            "bundle_revision": summary["bundle_revision"],
            "last_bundle_revision": summary["last_bundle_revision"],
            "rows": len(leaves),
            "merkle_root": merkle.root(leaves).hex(),
            "merkle_tree": "RFC 9162 over SHA-256",
        },
    )
    commit(path, envelope.seal(statement, keys.signer), RECEIPT)
    return path


def prove_row(directory: Path, generation_id: str) -> bytes:
    """Return the proof of a signed run's row; raises OutputError for a run without receipt, InvalidArgumentError."""
    receipt = read_receipt(directory)
    leaves: list[bytes] = []
    found: tuple[int, bytes] | None = None
    for name, data in rows_of(directory):
        if name == generation_id and found is None:
            found = len(leaves), data
        leaves.append(merkle.leaf_hash(data))
    if found is None:
        first = next((name for name, _ in rows_of(directory)), "")
        raise InvalidArgumentError(
            "generation_id", f"no row of {directory} is {generation_id[:80]!r}; the first is {first[:80]!r}"
        )
    index, data = found
    return proof.write_proof(data, index, merkle.path(leaves, index), receipt)


def compare_run(receipt: Receipt, directory: Path) -> list[Finding]:
    """What of a run directory is as it was signed."""
    if SUMMARY_SUBJECT not in receipt.subjects:
        return [Finding("run", "differs", "the receipt is about one picture, not about a run")]
    try:
        digest = sha256(directory / SUMMARY)
        if digest != receipt.subjects[SUMMARY_SUBJECT]:
            known = f"SHA-256 {digest}, signed was {receipt.subjects[SUMMARY_SUBJECT]}"
            return [Finding("summary", "differs", f"{SUMMARY} is another one: {known}")]
        summary = read_json(directory / SUMMARY)
        changed = _changed_file(directory, summary)
        if changed:
            return [Finding("files", "differs", f"{changed} is not what was signed")]
        root = merkle.root([merkle.leaf_hash(data) for _, data in rows_of(directory)]).hex()
    except OSError as error:
        return [Finding("run", "differs", f"cannot be read: {error}")]
    if root != receipt.predicate["merkle_root"]:
        # Every file is as it was: rows are read otherwise by another release.
        return [
            Finding("rows", "differs", f"their root is {root}, signed was {receipt.predicate['merkle_root']}")
        ]
    return [Finding("run", "ok", f"{summary['rows']} rows and {len(summary['files'])} files, as signed")]


def rows_of(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (generation id, bytes that are signed) of a run's rows in their order; raises OutputError."""
    for table in shard_tables(directory, (*_ROW, *_PROMPTS)):
        for row in table.to_pylist():
            yield row["generation_id"], row_bytes(row)


def row_bytes(row: Mapping[str, Any]) -> bytes:
    """Return the JSON of a row's answer: names in order, every number with as many digits as tell it from others."""
    known = {name: row[name] for name in _ROW if row[name] is not None}
    if digest := prompt_digest(row["prompt_used"] or ""):
        known["prompt_sha256"] = digest
    return strict_json.write(known)


def read_receipt(directory: Path) -> bytes:
    """Return the receipt of a run; raises OutputError."""
    try:
        return (directory / RECEIPT).read_bytes()
    except OSError as error:
        raise OutputError(
            RECEIPT, f"cannot be read: {error.strerror}; sign the run with `attributary receipts sign-run`"
        ) from None


def _changed_file(directory: Path, summary: Any) -> str:
    """The first file of a run that is not what its summary says; empty if there is none."""
    try:
        files: Mapping[str, str] = summary["files"]
        for name, digest in files.items():
            path = directory / name
            if not path.resolve().is_relative_to(directory.resolve()) or not path.is_file():
                return name
            if sha256(path) != digest:
                return name
    except (KeyError, TypeError, AttributeError):
        return SUMMARY
    return ""


def _is_signed(path: Path, summary: Path, keys: KeyFile) -> bool:
    try:
        receipt = open_receipt(path.read_bytes(), {key.key_id: key for key in keys.public})
        return receipt.subjects.get(SUMMARY_SUBJECT) == sha256(summary)
    except (OSError, ReceiptError):
        return False
