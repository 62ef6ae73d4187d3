"""`attributary verify-receipt`: whether a receipt holds, and what of it differs; no server is asked."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import click

from attributary.bundle.manifest import Manifest
from attributary.errors import InvalidArgumentError, ReceiptError, needs
from attributary.files import read_file
from attributary.plain import json_line, plain
from attributary.receipts.statement import ANSWER, bundle_facts

from .options import Argument, Json, Option, declared

with needs("receipts"):
    from attributary.receipts import keys, proof, strict_json, verify

_MARKS = {"ok": "ok", "differs": "DIFFERS", "refused": "REFUSED", "not compared": "not compared"}
_BUNDLE_ID = re.compile(r"[0-9a-f]{16}")
_SHOWN_CREATORS = 5


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
    except ValueError as error:
        raise InvalidArgumentError("answer", f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidArgumentError("answer", f"{path} must hold one JSON object")
    # A reply over HTTP.
    inner = found.get("attribution")
    return inner if isinstance(inner, dict) else found
