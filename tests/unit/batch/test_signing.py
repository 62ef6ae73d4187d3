"""Signed runs: one signature for every row and file, and a proof for each row that needs neither."""

import contextlib
import json
import shutil

import pytest

from attributary.batch.signing import RECEIPT, compare_run, prove_row, rows_of, sign_run
from attributary.errors import InvalidArgumentError, OutputError, ReceiptError
from attributary.receipts import keys, strict_json
from attributary.receipts.proof import open_proof
from attributary.receipts.statement import bundle_facts
from attributary.receipts.verify import compare_bundle, open_receipt


@pytest.fixture
def key_file(tmp_path):
    keys.create(tmp_path / "keys.pem")
    return keys.read_key_file(tmp_path / "keys.pem")


@pytest.fixture
def public(key_file):
    return {key.key_id: key for key in key_file.public}


@pytest.fixture
def signed(run_score, log, tmp_path, key_file, tiny_engine):
    """A run of 47 rows with its receipt."""
    out = tmp_path / "run"
    run_score(log, out)
    sign_run(out, key_file, bundle_facts(tiny_engine.bundle.manifest))
    return out


def test_a_signed_run_is_as_it_was_signed(signed, public, tiny_engine):
    receipt = open_receipt((signed / RECEIPT).read_bytes(), public)
    assert receipt.predicate["rows"] == 47
    assert [finding.state for finding in compare_run(receipt, signed)] == ["ok"]
    assert compare_bundle(receipt, bundle_facts(tiny_engine.bundle.manifest)).state == "ok"
    assert compare_bundle(receipt, {"id": "00000000000000aa"}).state == "differs"


@pytest.mark.parametrize("name", ["summary.json", "run.json", "creators.csv", "creators.parquet", "shards"])
def test_a_file_that_was_changed_is_named(signed, public, name):
    receipt = open_receipt((signed / RECEIPT).read_bytes(), public)
    path = signed / name if name != "shards" else sorted((signed / "shards").iterdir())[2]
    path.write_bytes(path.read_bytes() + b"\n")
    (finding,) = compare_run(receipt, signed)
    assert finding.state == "differs"
    assert path.name in finding.text
    path.unlink()
    (finding,) = compare_run(receipt, signed)
    assert finding.state == "differs"
    assert path.name in finding.text


def test_every_row_can_be_proven_without_the_run(signed, public):
    for number, (name, row) in enumerate(rows_of(signed)):
        proven = open_proof(prove_row(signed, name), public)
        assert (proven.finding.state, proven.row["generation_id"]) == ("ok", name)
        assert f"row {number} of the 47" in proven.finding.text
        assert strict_json.write(dict(proven.row)) == row
    assert "prompt_sha256" in json.dumps([json.loads(row) for _, row in rows_of(signed)])
    assert "red ellipse" not in "".join(row.decode() for _, row in rows_of(signed))


def test_a_row_that_was_changed_or_moved_is_not_in_the_run(signed, public):
    found = json.loads(prove_row(signed, "g-7"))
    row = json.loads(strict_json.from_base64(found["row"], ""))
    row["diffuse_share"] = 0.0
    changed = {**found, "row": strict_json.to_base64(strict_json.write(row))}
    assert open_proof(strict_json.write(changed), public).finding.state == "differs"
    assert open_proof(strict_json.write({**found, "index": 8}), public).finding.state == "differs"
    assert open_proof(strict_json.write({**found, "index": -1}), public).finding.state == "differs"
    assert (
        open_proof(strict_json.write({**found, "path": found["path"][:-1]}), public).finding.state
        == "differs"
    )
    for wrong in (
        {"index": "7"},
        {"index": True},
        {"path": 3},
        {"path": ["zz"]},
        {"type": "x"},
        {"receipt": "AA=="},
    ):
        with pytest.raises(ReceiptError):
            open_proof(strict_json.write({**found, **wrong}), public)


def test_every_flipped_bit_of_a_proof_is_refused_or_differs(signed, public):
    data = prove_row(signed, "g-7")
    for place in range(0, len(data), 11):
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            with contextlib.suppress(ReceiptError):
                assert open_proof(bytes(changed), public).finding.state == "differs"


def test_signing_again_keeps_the_receipt_that_holds(signed, key_file, tmp_path):
    first = (signed / RECEIPT).read_bytes()
    sign_run(signed, key_file)
    assert (signed / RECEIPT).read_bytes() == first
    keys.create(tmp_path / "other.pem")
    sign_run(signed, keys.read_key_file(tmp_path / "other.pem"))
    assert (signed / RECEIPT).read_bytes() != first


def test_what_cannot_be_signed_is_named(signed, key_file, tmp_path):
    with pytest.raises(InvalidArgumentError, match="bundle"):
        sign_run(signed, key_file, {"id": "00000000000000aa"})
    with pytest.raises(InvalidArgumentError, match="no row of"):
        prove_row(signed, "nobody")
    unsigned = tmp_path / "unsigned"
    shutil.copytree(signed, unsigned)
    (unsigned / RECEIPT).unlink()
    with pytest.raises(OutputError, match="sign-run"):
        prove_row(unsigned, "g-7")
    (unsigned / "creators.csv").write_text("creator\n")
    with pytest.raises(OutputError, match=r"creators\.csv"):
        sign_run(unsigned, key_file)
    (unsigned / "summary.json").write_text('{"schema_version": 1}')
    with pytest.raises(OutputError, match="schema version 1"):
        sign_run(unsigned, key_file)
    (unsigned / "summary.json").write_text('{"schema_version": 2, "files": {"../../secret": "00"}}')
    with pytest.raises(OutputError, match="secret"):
        sign_run(unsigned, key_file)
    (unsigned / "summary.json").unlink()
    with pytest.raises(OutputError, match=r"summary\.json"):
        sign_run(unsigned, key_file)
