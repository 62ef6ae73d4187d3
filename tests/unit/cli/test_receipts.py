"""The verbs of receipts, as people use them: at 80 columns, with renamed pictures, rotated keys and hostile files."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from attributary.cli.main import cli
from attributary.errors import AttributaryError, PreconditionError


def invoked(*words):
    """(exit code, output); an error of ours is its text, as `main` prints it."""
    result = CliRunner().invoke(cli, [str(word) for word in words], env={"COLUMNS": "80"})
    if isinstance(result.exception, AttributaryError):
        return 2, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def invoke():
    return invoked


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_server, picture):
    """A folder with keys.pem, a picture, its receipt, its answer and the server's public keys."""
    place = tmp_path_factory.mktemp("served")
    assert invoked("receipts", "new-key", place / "keys.pem")[0] == 0
    (place / "cat.png").write_bytes(picture(3))
    with start_server(config={"receipt_key_file": str(place / "keys.pem")}) as server:
        where = ("--address", server.address)
        code, out = invoked("query", place / "cat.png", *where, "--receipts", place / "given", "--json")
        assert code == 0
        (place / "answer.json").write_text(out)
        code, public = invoked("receipts", "keys", *where)
        assert code == 0
        (place / "public.pem").write_text(public)
    return place


@pytest.fixture
def place(served, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(served, tmp_path / "place"))


def test_a_receipt_verifies_under_any_name_of_its_picture(place, invoke):
    receipt = place / "given" / "cat.png.receipt.json"
    (place / "cat.png").rename(place / "dog.jpg")
    code, out = invoke(
        "verify-receipt", receipt, "--keys", place / "public.pem", "--picture", place / "dog.jpg",
        "--answer", place / "answer.json",
    )  # fmt: skip
    assert code == 0, out
    assert out.endswith("verified\n")
    assert "nobody in particular" in out
    assert "\x1b" not in out


def test_without_keys_nothing_is_verified(place, invoke):
    code, out = invoke("verify-receipt", place / "given" / "cat.png.receipt.json")
    assert code == 1
    assert "no keys were given" in out
    assert out.endswith("NOT VERIFIED\n")


def test_what_differs_is_said(place, invoke, picture):
    receipt = place / "given" / "cat.png.receipt.json"
    (place / "other.png").write_bytes(picture(4))
    known = ("--keys", place / "public.pem")
    code, out = invoke("verify-receipt", receipt, *known, "--picture", place / "other.png")
    assert (code, "picture: DIFFERS: another picture" in out) == (1, True)
    code, out = invoke("verify-receipt", receipt, *known, "--bundle", "00000000000000aa")
    assert (code, "bundle: DIFFERS: bundle.id: " in out) == (1, True)
    code, out = invoke("verify-receipt", receipt, *known, "--bundle", place / "none")
    assert (code, "neither a directory" in out) == (2, True)
    code, out = invoke("verify-receipt", receipt, *known, "--run", place)
    assert (code, "run: DIFFERS" in out) == (1, True)
    invoke("receipts", "new-key", place / "other.pem")
    code, out = invoke("verify-receipt", receipt, "--keys", place / "other.pem", "--json")
    told = json.loads(out)
    assert (code, told["verified"]) == (1, False)
    assert "not among those given" in told["findings"][0]["text"]


def test_the_bundles_directory_is_compared(place, invoke, tiny_bundle_dir):
    code, out = invoke("verify-receipt", place / "given" / "cat.png.receipt.json", "--keys", place / "keys.pem",
                       "--bundle", tiny_bundle_dir)  # fmt: skip
    assert code == 0, out


def test_rotated_keys_verify_what_they_signed(place, invoke):
    assert invoke("receipts", "rotate-key", place / "keys.pem")[0] == 0
    out = invoke("receipts", "keys", place / "keys.pem")[1]
    assert out.count("BEGIN PUBLIC KEY") == 2
    (place / "public.pem").write_text(out)
    assert (
        invoke("verify-receipt", place / "given" / "cat.png.receipt.json", "--keys", place / "public.pem")[0]
        == 0
    )


HOSTILE = {
    "empty": b"",
    "not UTF-8": b"\xff" * 100,
    "deep": b"[" * 100_000,
    "colours": b'{"payload": "\x1b[31m"}',
    "a row": b'{"row": 1}',
    "nothing": b"{}",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_receipt_is_one_line_and_no_traceback(place, invoke, data):
    (place / "bad.json").write_bytes(data)
    code, out = invoke("verify-receipt", place / "bad.json", "--keys", place / "public.pem")
    assert code == 1
    assert out.startswith("receipt: REFUSED: ")
    assert len(out.splitlines()) == 2
    assert "\x1b" not in out


def test_names_in_a_receipt_move_no_cursor(place, invoke):
    from attributary.receipts import keys, strict_json
    from attributary.receipts.envelope import parse, seal

    signer = keys.read_key_file(place / "keys.pem").signer
    payload = parse((place / "given" / "cat.png.receipt.json").read_bytes()).payload
    found = json.loads(payload)
    found["predicate"]["answer"]["creators"][0]["creator"] = "\x1b[2J\nverified"
    (place / "bad.json").write_bytes(seal(strict_json.write(found), signer))
    code, out = invoke("verify-receipt", place / "bad.json", "--keys", place / "public.pem")
    assert code == 0
    assert "\\x1b[2J\\nverified" in out


def test_a_run_is_signed_and_its_rows_are_proven(place, invoke, tiny_bundle_dir, picture):
    log = place / "log"
    log.mkdir()
    for number in range(5):
        (log / f"{number}.png").write_bytes(picture(number))
    code, out = invoke("score", log, "--bundle", tiny_bundle_dir, "--out", place / "run", "--receipt-key-file",
                       place / "keys.pem")  # fmt: skip
    assert code == 0, out
    known = ("--keys", place / "public.pem")
    code, out = invoke("verify-receipt", place / "run" / "receipt.json", *known, "--run", place / "run")
    assert code == 0, out
    code, out = invoke("receipts", "prove", place / "run", "log/3.png", "--out", place / "proof.json")
    assert code == 0, out
    code, out = invoke("verify-receipt", place / "proof.json", *known, "--picture", log / "3.png")
    assert code == 0, out
    code, out = invoke("verify-receipt", place / "proof.json", *known, "--picture", log / "2.png")
    assert (code, "another file" in out) == (1, True)


def test_a_key_that_cannot_be_used_stops_a_run_before_it_begins(place, invoke, tiny_bundle_dir, picture):
    (place / "keys.pem").chmod(0o644)
    log = place / "log"
    log.mkdir()
    (log / "a.png").write_bytes(picture(0))
    code, out = invoke("score", log, "--bundle", tiny_bundle_dir, "--out", place / "run", "--receipt-key-file",
                       place / "keys.pem")  # fmt: skip
    assert (code, "chmod 600" in out) == (2, True)
    assert not (place / "run").exists()


def test_a_server_of_an_older_release_is_told_apart(tmp_path):
    from attributary.cli.receipt_files import write_receipt
    from attributary.client.types import Answer

    answer = Answer((), (), 1.0, 0.0, False, "00", "1", None)
    with pytest.raises(PreconditionError, match="older release"):
        write_receipt(tmp_path, "a.png", answer)
