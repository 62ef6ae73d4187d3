"""A picture with Content Credentials: signed and read back by the C2PA library, its receipt that of its pixels."""

import io
import json

import pytest
from click.testing import CliRunner

from attributary.cli.main import cli
from attributary.errors import InvalidArgumentError
from attributary.receipts.verify import compare_picture, open_receipt

c2pa = pytest.importorskip("c2pa", reason="c2pa-python is not installed")
credentials = pytest.importorskip("attributary.receipts.credentials")


@pytest.fixture(scope="module")
def signed(sign, picture, certificates):
    """(picture with credentials, its receipt)."""
    _, receipt = sign(picture(3), "a red ellipse")
    chain, key = certificates.certificate()
    return credentials.add_credentials(picture(3), [credentials.attribution(receipt)], chain, key), receipt


def manifest(data, mime="image/png"):
    with c2pa.Reader(mime, io.BytesIO(data)) as reader:
        told, detailed = json.loads(reader.json()), json.loads(reader.detailed_json())
    active = told["active_manifest"]
    return told, told["manifests"][active], detailed["manifests"][active]


def test_the_attribution_is_a_gathered_assertion_of_a_valid_manifest(signed):
    told, active, detailed = manifest(signed[0])
    assert told["validation_state"] in ("Valid", "Trusted")
    (assertion,) = [one for one in active["assertions"] if one["label"] == credentials.LABEL]
    assert assertion["data"]["receipt"].encode() == signed[1]
    assert not assertion.get("created")
    gathered = json.dumps(detailed["claim"].get("gathered_assertions"))
    assert credentials.LABEL in gathered
    assert credentials.LABEL not in json.dumps(detailed["claim"]["created_assertions"])


def test_the_receipt_in_the_picture_is_about_its_pixels(signed, known, picture):
    receipt = open_receipt(credentials.read_receipt(signed[0]), known)
    finding = compare_picture(receipt, signed[0])
    assert finding.state == "ok"
    assert "same pixels in another file" in finding.text
    assert compare_picture(receipt, picture(3)).state == "ok"


def test_a_changed_picture_is_no_longer_valid(signed):
    data = bytearray(signed[0])
    place = data.rindex(b"IDAT") + 20
    data[place] ^= 1
    assert manifest(bytes(data))[0]["validation_state"] == "Invalid"


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_other_formats_carry_them_too(sign, known, picture, certificates, written_again, form):
    data = written_again(picture(3), form)
    _, receipt = sign(data)
    chain, key = certificates.certificate()
    found = credentials.add_credentials(data, [credentials.attribution(receipt)], chain, key)
    assert compare_picture(open_receipt(credentials.read_receipt(found), known), found).state == "ok"


def test_what_cannot_be_used_is_named(sign, picture, certificates):
    _, receipt = sign(picture(3))
    assertions = [credentials.attribution(receipt)]
    chain, key = certificates.certificate()
    with pytest.raises(InvalidArgumentError, match="is no picture"):
        credentials.add_credentials(b"text", assertions, chain, key)
    with pytest.raises(InvalidArgumentError, match="key"):
        credentials.add_credentials(picture(3), assertions, chain, b"none")
    with pytest.raises(InvalidArgumentError, match="credentials"):
        credentials.add_credentials(picture(3), assertions, b"none", key)
    with pytest.raises(InvalidArgumentError, match="no Content Credentials"):
        credentials.read_receipt(picture(3))


def test_the_verbs_write_and_read_them(sign, picture, certificates, tmp_path, key):
    for name, data in zip(("chain.pem", "key.pem"), certificates.certificate(), strict=True):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "a.png").write_bytes(picture(3))
    (tmp_path / "a.json").write_bytes(sign(picture(3))[1])
    (tmp_path / "public.pem").write_text(key.public.pem())
    place = {
        name: str(tmp_path / name) for name in ("a.png", "a.json", "chain.pem", "key.pem", "b.png", "b.json")
    }
    words = ["receipts", "embed", place["a.png"], "--receipt", place["a.json"], "--cert", place["chain.pem"], "--key",
             place["key.pem"], "--out", place["b.png"]]  # fmt: skip
    assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
    words = ["receipts", "extract", place["b.png"], "--out", place["b.json"]]
    assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
    words = [
        "verify-receipt",
        place["b.json"],
        "--keys",
        str(tmp_path / "public.pem"),
        "--picture",
        place["b.png"],
    ]
    assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
