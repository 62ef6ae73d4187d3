"""A receipt is signed bytes: whatever is not exactly what was signed is refused, in words and never by a traceback."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from google.protobuf import json_format
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.signer import SSlibKey

from attributary.errors import ReceiptError
from attributary.receipts import envelope, strict_json
from attributary.receipts.keys import SigningKey
from attributary.receipts.verify import open_receipt


def refused(data, known) -> str:
    with pytest.raises(ReceiptError) as caught:
        open_receipt(data, known)
    return str(caught.value)


def flipped(data, places):
    for place in places:
        for bit in range(8):
            changed = bytearray(data)
            changed[place] ^= 1 << bit
            yield place, bytes(changed)


def test_every_flipped_bit_of_a_small_receipt_is_refused(key, known):
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "pixels", "digest": {"sha256": "0" * 64}}],
        "predicateType": "https://attributary.dev/attribution/v1",
        "predicate": {
            "time": "2026-01-01T00:00:00.000Z",
            "bundle": {"id": "00000000000000aa"},
            "query": {},
            "answer": {"items": [], "creators": [], "diffuse_share": 1.0, "withheld_share": 0.0},
        },
    }
    receipt = envelope.seal(strict_json.write(statement), key)
    open_receipt(receipt, known)
    for _, changed in flipped(receipt, range(len(receipt))):
        refused(changed, known)


def test_flipped_bits_of_an_answer_are_refused(sign, known, picture):
    _, receipt = sign(picture(3), "a red ellipse")
    for _, changed in flipped(receipt, range(0, len(receipt), 7)):
        refused(changed, known)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_every_flipped_bit_of_a_set_of_answers_is_refused(sign, known, picture):
    count = 0
    for number in range(10):
        _, receipt = sign(picture(number), ("", "a red ellipse")[number % 2], top_k=3)
        for _, changed in flipped(receipt, range(len(receipt))):
            refused(changed, known)
            count += 1
    print(f"{count} flipped bits, all refused")


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_ten_thousand_signed_answers_verify(sign, known, picture, tiny_corpus_dir):
    pictures = [path.read_bytes() for path in sorted(Path(tiny_corpus_dir / "pictures").iterdir())]
    prompts = ("", "a red ellipse", "a blue rectangle", "a green ellipse")
    for number in range(10_000):
        answer, receipt = sign(
            pictures[number % len(pictures)], prompts[number // 300 % len(prompts)], top_k=1 + number % 20
        )
        opened = open_receipt(receipt, known)
        assert opened.subjects["picture"] == answer.picture.data
        assert opened.predicate["answer"]["diffuse_share"] == answer.diffuse_share


def test_many_signed_answers_verify(sign, known, picture):
    for number in range(50):
        answer, receipt = sign(picture(number))
        opened = open_receipt(receipt, known)
        assert [item["share"] for item in opened.predicate["answer"]["items"]] == [
            item.share for item in answer.items
        ]


def test_reordered_and_spaced_json_is_the_same_receipt(sign, known, picture):
    _, receipt = sign(picture(3))
    found = json.loads(receipt)
    again = {name: found[name] for name in reversed(list(found))}
    again["signatures"] = [dict(reversed(list(found["signatures"][0].items())))]
    assert (
        open_receipt(json.dumps(again, indent=4).encode(), known).predicate
        == open_receipt(receipt, known).predicate
    )


def test_another_spelling_of_the_same_base64_is_refused(sign, known, picture):
    _, receipt = sign(picture(3))
    found = json.loads(receipt)
    payload = found["payload"]
    for other in (
        payload + "=",
        payload.replace("=", ""),
        payload[:8] + "\n" + payload[8:],
        payload.replace("+", "-"),
        7,
        "",
    ):
        if other != payload:
            assert "receipt.payload" in refused(strict_json.write({**found, "payload": other}), known)


def test_what_is_not_signed_cannot_stand_beside_it(sign, known, picture):
    _, receipt = sign(picture(3))
    found = json.loads(receipt)
    assert (
        refused(strict_json.write({**found, "note": "paid"}), known) == "receipt.note: is not a known entry"
    )
    del found["payloadType"]
    assert refused(strict_json.write(found), known) == "receipt.payloadType: is missing"


def test_another_key_and_no_key(sign, known, picture):
    _, receipt = sign(picture(3), key=SigningKey.new())
    assert "by keys that are not among those given" in refused(receipt, known)
    assert open_receipt(receipt, None).signer is None


def test_a_key_that_is_named_but_did_not_sign(sign, known, picture):
    _, receipt = sign(picture(3))
    found = json.loads(receipt)
    found["signatures"][0]["keyid"] = list(known)[1]
    assert "changed after it was signed" in refused(strict_json.write(found), known)
    # A good signature beside it makes it no better.
    found["signatures"].append(json.loads(receipt)["signatures"][0])
    assert "changed after it was signed" in refused(strict_json.write(found), known)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe{}", "is not UTF-8 at byte 0"),
        (b"\xef\xbb\xbf{}", "is not JSON"),
        (b"[" * 1_000_000, "is nested too deeply"),
        (b'{"a":' * 1_000_000, "is nested too deeply"),
        (b"[]", "must be one JSON object"),
        (b'{"payload": "", "payload": ""}', "has the entry 'payload' twice"),
        (b'{"payload": NaN}', "holds NaN"),
        (b'{"payload": ' + b"9" * 10_000 + b"}", "is not JSON"),
        (b" " * (strict_json.MAX_BYTES + 1), "the limit is"),
        (b'{"payload":"AA==","payloadType":"text/plain","signatures":[]}', "receipt.payloadType"),
        (b'{"payload":"AA==","payloadType":"application/vnd.in-toto+json","signatures":[]}', "1 to 16"),
        (
            b'{"payload":"AA==","payloadType":"application/vnd.in-toto+json","signatures":[7]}',
            "must be an object",
        ),
    ],
)
def test_hostile_receipts_are_refused_in_words(data, said, known):
    assert said in refused(data, known)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"_type": "x"}, "statement._type"),
        ({"subject": []}, "statement.subject"),
        (
            {"subject": [{"name": "pixels", "digest": {"md5": "0"}}]},
            "statement.subject[0].digest.sha256: is missing",
        ),
        ({"subject": [{"name": "other", "digest": {"sha256": "0" * 64}}]}, "statement.subject"),
        ({"predicateType": "https://slsa.dev/provenance/v1"}, "is not known here"),
        ({"predicate": []}, "statement.predicate"),
        ({"predicate": {"time": "now"}}, "statement.predicate.bundle"),
        ({"more": 1}, "statement.more: is not a known entry"),
    ],
)
def test_signed_statements_of_another_form_are_refused(change, said, sign, key, known, picture):
    _, receipt = sign(picture(3))
    statement = json.loads(envelope.parse(receipt).payload)
    assert said in refused(envelope.seal(strict_json.write({**statement, **change}), key), known)


def test_shares_outside_their_range_are_refused_though_they_are_signed(sign, key, known, picture):
    _, receipt = sign(picture(3))
    statement = json.loads(envelope.parse(receipt).payload)
    for share in (1.5, -1, True, "much"):
        statement["predicate"]["answer"]["diffuse_share"] = share
        assert "diffuse_share: must be a share" in refused(
            envelope.seal(strict_json.write(statement), key), known
        )


def test_other_readers_of_dsse_and_in_toto_agree(sign, key, known, picture):
    """securesystemslib verifies our envelope, in-toto's own library reads our statement."""
    _, receipt = sign(picture(3), "a red ellipse")
    found = json.loads(receipt)
    for signature in found["signatures"]:
        signature["sig"] = base64.b64decode(signature["sig"]).hex()
    other = OtherEnvelope.from_dict(json.loads(receipt))
    assert other.pae() == envelope.encoded(envelope.parse(receipt).payload)
    theirs = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(key.public.raw), keyid=key.public.key_id)
    assert other.verify([theirs], 1)
    statement = Statement.copy_from_pb(json_format.Parse(other.payload, Statement([], "", {}).pb))
    statement.validate()
    assert statement.pb.subject[0].digest["sha256"] == open_receipt(receipt, known).subjects["picture"]
