"""`attributary receipts ...` and `verify-receipt`: keys, signed runs, proofs of their rows, and whether one holds.

What is verified is verified here: no server is asked.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeAlias

import click

from attributary.bundle.bundle import Bundle
from attributary.bundle.manifest import Manifest
from attributary.client.sync import Client
from attributary.errors import InvalidArgumentError, PreconditionError, ReceiptError, needs
from attributary.files import read_file, write_file
from attributary.plain import json_line, plain
from attributary.receipts.statement import ANSWER, bundle_facts

from .options import Argument, ClientTls, Json, Option, declared

with needs("receipts"):
    from attributary.receipts import keys, proof, strict_json, verify


PathWord: TypeAlias = Annotated[Path, Argument()]
_MARKS = {"ok": "ok", "differs": "DIFFERS", "refused": "REFUSED", "not compared": "not compared"}
_BUNDLE_ID = re.compile(r"[0-9a-f]{16}")
_SHOWN_CREATORS = 5


@click.group("receipts")
def receipts_group() -> None:
    """Keys of signed answers, signed runs, proofs of their rows. `attributary verify-receipt` checks them."""


@receipts_group.command("new-key")
@declared
def new_key_command(file: PathWord) -> None:
    """Make FILE, a new Ed25519 key that signs; only its owner may read it."""
    click.echo(f"{plain(str(file))}: key {keys.create(file).public.key_id}")


@receipts_group.command("rotate-key")
@declared
def rotate_key_command(file: PathWord) -> None:
    """Put a new key first in FILE. The one before signs no more, and its receipts still verify.

    A server that reads FILE signs with the new key within about a second.
    """
    click.echo(f"{plain(str(file))}: key {keys.rotate(file).public.key_id}")


@receipts_group.command("keys")
@declared
def keys_command(
    *,
    file: Annotated[Path | None, Argument()] = None,
    address: Annotated[str, "host:port of a server, in place of FILE"] = "",
    token: Annotated[str | None, "bearer token of that server"] = None,
    tls: ClientTls,
    as_json: Json = False,
) -> None:
    """Print the public keys of FILE, or of the server at --address, as PEM: what `verify-receipt --keys` takes.

    The first one signs; the others did.
    """
    if (file is None) == (not address):
        raise InvalidArgumentError("file", "either FILE or --address must be given")
    if file is not None:
        found = [(key.key_id, key.pem()) for key in keys.read_public_keys(file, "file").values()]
    else:
        with Client(address, tls=tls, token=token) as client:
            found = [(key.key_id, key.pem) for key in client.list_receipt_keys()]
        if not found:
            raise PreconditionError("receipts", f"the server at {address} signs none")
    if as_json:
        click.echo(json_line({"keys": [{"key_id": key_id, "pem": pem} for key_id, pem in found]}))
        return
    for key_id, pem in found:
        # Readers of PEM skip what is between the blocks.
        click.echo(f"key {plain(key_id)}")
        click.echo("\n".join(plain(line) for line in pem.splitlines()))


@receipts_group.command("sign-run")
@declared
def sign_run_command(
    run: PathWord,
    key_file: Annotated[Path, Option("PEM; the first private key signs", "--receipt-key-file")],
    bundle: Annotated[Path | None, "the run's bundle, for its model and calibration"] = None,
) -> None:
    """Sign the summary of a finished RUN and a Merkle root over its rows: RUN/receipt.json."""
    click.echo(f"wrote {plain(str(sign(run, key_file, bundle)))}")


@receipts_group.command("prove")
@declared
def prove_command(
    run: PathWord,
    generation_id: Annotated[str, Argument()],
    out: Annotated[Path | None, "default: GENERATION_ID.proof.json in this folder"] = None,
) -> None:
    """Prove that GENERATION_ID was answered in a signed RUN, and how: a file for `verify-receipt`."""
    from attributary.batch.signing import prove_row

    data = prove_row(run, generation_id)
    target = out or Path(f"{file_stem(generation_id)}.proof.json")
    write_file(target, data)
    click.echo(f"wrote {plain(str(target))}")


@receipts_group.command("embed")
@declared
def embed_command(
    picture: PathWord,
    receipt: Annotated[Path, "of this picture"],
    cert: Annotated[Path, "PEM: the signer's certificate and those above it"],
    key: Annotated[Path, "PEM: the signer's private key; not that of receipts"],
    out: Annotated[Path, "the picture with Content Credentials"],
) -> None:
    """Write PICTURE with Content Credentials (C2PA) that hold its receipt; its pixels stay as they are."""
    credentials = _credentials()
    assertion = credentials.attribution(read_file(receipt, "receipt"))
    data = credentials.add_credentials(
        read_file(picture, "picture"), [assertion], read_file(cert, "cert"), read_file(key, "key")
    )
    write_file(out, data)
    click.echo(f"wrote {plain(str(out))}")


@receipts_group.command("extract")
@declared
def extract_command(picture: PathWord, out: Annotated[Path, "the receipt, for `verify-receipt`"]) -> None:
    """Write the receipt in PICTURE's Content Credentials to a file. It is not verified."""
    write_file(out, _credentials().read_receipt(read_file(picture, "picture")))
    click.echo(f"wrote {plain(str(out))}")


def _credentials() -> ModuleType:
    with needs("c2pa"):
        from attributary.receipts import credentials
    return credentials


def check_key_file(key_file: Path) -> None:
    """Raise InvalidArgumentError for a file that cannot sign."""
    keys.read_key_file(key_file)


def sign(run: Path, key_file: Path, bundle: Path | None) -> Path:
    """Sign a run with the keys of a file."""
    from attributary.batch.signing import sign_run

    facts: dict[str, Any] | None = None
    if bundle is not None:
        facts = bundle_facts(Bundle.open(bundle, verify=False).manifest)
    return sign_run(run, keys.read_key_file(key_file), facts)


def file_stem(name: str) -> str:
    """A name that any text can be stored under: nothing of it is a directory."""
    return (
        "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in name).lstrip(".")[:120] or "row"
    )


@click.command("verify-receipt")
@declared
def verify_receipt_command(
    receipt: Annotated[Path, Argument()],
    key_file: Annotated[
        Path | None, Option("public keys, PEM: `attributary receipts keys`", "--keys")
    ] = None,
    picture: Annotated[Path | None, "the picture that it should be about, under any name"] = None,
    bundle: Annotated[str, "the bundle that should have answered: its directory or its id"] = "",
    answer: Annotated[
        Path | None, "the answer that was given, as `query --json` prints it or HTTP replies"
    ] = None,
    run: Annotated[Path | None, "of a run's receipt: the run's directory"] = None,
    as_json: Json = False,
) -> None:
    """Check RECEIPT, of an answer or of a run, or the proof of a run's row.

    Ends with status 0 if it was signed by one of the keys and nothing that was given differs, else with 1.
    """
    known = None if key_file is None else keys.read_public_keys(key_file)
    row: Mapping[str, Any] | None = None
    findings: list[verify.Finding] = []
    opened: verify.Receipt | None = None
    try:
        data = read_file(receipt, "receipt", strict_json.MAX_BYTES)
        if proof.is_proof(data):
            proven = proof.open_proof(data, known)
            opened, row = proven.receipt, proven.row
            findings = [verify.signature_finding(opened), proven.finding]
        else:
            opened = verify.open_receipt(data, known)
            findings = [verify.signature_finding(opened)]
    except ReceiptError as error:
        findings.append(verify.Finding("receipt", "refused", str(error)))
    if opened is not None:
        if picture is not None:
            findings.append(_picture(opened, row, read_file(picture, "picture")))
        if bundle:
            findings.append(verify.compare_bundle(opened, _bundle(bundle)))
        if answer is not None:
            findings.append(verify.compare_answer(opened, _answer(answer)))
        if run is not None:
            from attributary.batch.signing import compare_run

            findings += compare_run(opened, run)
    verified = all(finding.state == "ok" for finding in findings)
    if as_json:
        report = {"verified": verified, "findings": [asdict(finding) for finding in findings]}
        if opened is not None:
            report |= {
                "kind": opened.kind,
                "subjects": dict(opened.subjects),
                "predicate": dict(opened.predicate),
            }
        if row is not None:
            report["row"] = dict(row)
        click.echo(json_line(report))
    else:
        for line in [*_lines(findings), *([] if opened is None else _claims(opened, row))]:
            click.echo(plain(line))
        click.echo("verified" if verified else "NOT VERIFIED")
    if not verified:
        sys.exit(1)


def _lines(findings: list[verify.Finding]) -> list[str]:
    return [f"{finding.what}: {_MARKS[finding.state]}: {finding.text}" for finding in findings]


def _claims(receipt: verify.Receipt, row: Mapping[str, Any] | None) -> list[str]:
    """What the receipt says, for people."""
    predicate, bundle = receipt.predicate, receipt.predicate["bundle"]
    model = f", model {bundle['model']}" if bundle.get("model") else ""
    lines = [f"signed at {predicate['time']} for bundle {bundle['id']}{model}"]
    answer = predicate["answer"] if receipt.kind == ANSWER else row
    if answer is None:
        return [*lines, f"a run of {predicate['rows']} rows"]
    for total in (answer.get("creators") or [])[:_SHOWN_CREATORS]:
        interval = {
            name: value for name, value in total.items() if name not in ("creator", "share", "item_count")
        }
        lines.append(
            f"  {total.get('creator')}: {_percent(total.get('share'))}"
            + (f"  {json.dumps(interval, ensure_ascii=False)}" if interval else "")
        )
    lines.append(
        f"  nobody in particular: {_percent(answer.get('diffuse_share'))}, withheld: "
        f"{_percent(answer.get('withheld_share'))}"
        + (", out of distribution" if answer.get("out_of_distribution") else "")
    )
    if receipt.kind == ANSWER and predicate["query"].get("filter"):
        lines.append(
            f"  asked with the filter {json.dumps(predicate['query']['filter'], ensure_ascii=False)}"
        )
    return lines


def _percent(share: Any) -> str:
    return f"{share:.1%}" if isinstance(share, int | float) else "not told"


def _picture(receipt: verify.Receipt, row: Mapping[str, Any] | None, data: bytes) -> verify.Finding:
    """Of a row, the file is all that was noted."""
    if row is None:
        return verify.compare_picture(receipt, data)
    return verify.compare_file(str(row.get("image_sha256", "")), data)


def _bundle(given: str) -> Mapping[str, Any]:
    place = Path(given)
    if place.is_dir():
        return bundle_facts(Manifest.read(place))
    if not _BUNDLE_ID.fullmatch(given):
        raise InvalidArgumentError(
            "bundle", f"{given} is neither a directory that is there nor a bundle's id"
        )
    return {"id": given}


def _answer(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(read_file(path, "answer"))
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError("answer", f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidArgumentError("answer", f"{path} must hold one JSON object")
    # A reply over HTTP.
    inner = found.get("attribution")
    return inner if isinstance(inner, dict) else found
