"""What a receipt is compared with, and that it is said what differs."""

import json
from dataclasses import asdict, dataclass

import numpy as np
import pytest

from attributary.attribution.types import CreatorShare, Filter, Options, Query
from attributary.errors import InvalidArgumentError
from attributary.pictures import decode, pixels_digest
from attributary.receipts import statement
from attributary.receipts.verify import compare_answer, compare_bundle, compare_picture, open_receipt


@pytest.fixture
def opened(sign, known, picture):
    return open_receipt(sign(picture(3), "a red ellipse")[1], known)


def test_a_receipt_says_what_was_asked_and_what_answered(sign, known, picture, tiny_engine):
    answer, receipt = sign(picture(3), "a red ellipse", filter=Filter(exclude_creators=("Ann",)))
    told = open_receipt(receipt, known)
    manifest = tiny_engine.bundle.manifest
    assert told.predicate["bundle"]["id"] == manifest.bundle_id == manifest.digest[:16]
    assert told.predicate["bundle"]["manifest_sha256"] == manifest.digest
    assert told.predicate["bundle"]["calibration"]["method"] == manifest.calibration.method
    assert told.predicate["query"]["filter"]["exclude_creators"] == ["Ann"]
    assert told.predicate["query"]["prompt_sha256"] == statement.prompt_digest("a red ellipse")
    assert "a red ellipse" not in json.dumps(told.predicate["query"])
    found = told.predicate["answer"]
    assert (found["withheld_share"], found["revision"]) == (answer.withheld_share, answer.revision)
    assert [(one["creator"], one["share"]) for one in found["creators"]] == [
        (one.creator, one.share) for one in answer.creators
    ]
    assert "timings" not in found


def test_entries_that_answers_get_later_are_signed_too(sign, picture):
    """An interval is told where a creator's share has one, whatever it is called."""

    @dataclass(frozen=True)
    class WithInterval(CreatorShare):
        interval: tuple[float, float] | None = None

    answer, _ = sign(picture(3))
    object.__setattr__(
        answer, "creators", (WithInterval("Ann", 0.5, 1, interval=(0.25, 0.75)), WithInterval("Bo", 0.1, 1))
    )
    told = statement.answer_facts(answer)["creators"]
    assert told == [
        {"creator": "Ann", "share": 0.5, "item_count": 1, "interval": [0.25, 0.75]},
        {"creator": "Bo", "share": 0.1, "item_count": 1},
    ]


def test_the_picture_is_known_by_its_bytes_and_by_its_pixels(opened, picture, written_again):
    assert compare_picture(opened, picture(3)).state == "ok"
    again = compare_picture(opened, written_again(picture(3), compress_level=0))
    assert again.state == "ok"
    assert "same pixels in another file" in again.text
    assert compare_picture(opened, written_again(picture(3), "BMP")).state == "ok"
    lossy = compare_picture(opened, written_again(picture(3), "JPEG"))
    assert lossy.state == "differs"
    assert "another picture: neither the file" in lossy.text
    assert compare_picture(opened, picture(4)).state == "differs"
    assert "no picture that can be read" in compare_picture(opened, b"text").text


def test_pixels_have_a_receipt_and_an_embedding_has_none(tiny_engine, picture):
    pixels = decode(picture(3))
    answer = tiny_engine.attribute(Query(pixels=pixels), Options(digests=True))
    assert (answer.picture.data, answer.picture.pixels) == ("", pixels_digest(pixels))
    vector = tiny_engine.embed([tiny_engine.prepare(Query(pixels=pixels))])[0]
    with pytest.raises(InvalidArgumentError, match=r"query\.embedding: is no picture"):
        tiny_engine.attribute(Query(embedding=vector), Options(digests=True))


def test_pictures_that_another_process_decodes_have_the_same_digest(picture, written_again, monkeypatch):
    from attributary.pictures import pool

    data = picture(3)
    here = pool.read(data, 32, digest=True)
    monkeypatch.setattr(pool, "COSTLY_MS", -1.0)
    there = pool.read(data, 32, digest=True)
    assert here.digest == there.digest == pixels_digest(decode(data))
    assert pool.read(data, 32).digest == ""


def test_another_bundle_is_named(opened):
    assert compare_bundle(opened, {"id": opened.predicate["bundle"]["id"]}).state == "ok"
    finding = compare_bundle(opened, {"id": "00000000000000aa", "model": "none"})
    assert finding.state == "differs"
    assert "bundle.id: " in finding.text
    assert "'00000000000000aa' in the other" in finding.text


def test_an_answer_that_was_changed_is_told_by_its_place(sign, known, picture):
    answer, receipt = sign(picture(3))
    told = open_receipt(receipt, known)
    given = json.loads(json.dumps(asdict(answer)))
    assert compare_answer(told, given).state == "ok"
    given["creators"][0]["share"] = 0.99
    assert "answer.creators[0].share: " in compare_answer(told, given).text
    given["creators"].pop()
    assert "answer.creators: " in compare_answer(told, given).text
    del given["items"]
    assert "answer.items: only in the receipt" in compare_answer(told, given).text


def test_an_answer_over_http_is_the_one_that_was_signed(sign, known, picture):
    answer, receipt = sign(picture(3))
    told = open_receipt(receipt, known)

    def as_http(value):
        """64-bit numbers are text, others have as many digits as tell a float32."""
        if isinstance(value, dict):
            wide = ("id", "near_dup_group", "revision")
            return {name: str(one) if name in wide else as_http(one) for name, one in value.items()}
        if isinstance(value, list):
            return [as_http(one) for one in value]
        return float(str(np.float32(value))) if isinstance(value, float) else value

    given = as_http(json.loads(json.dumps(asdict(answer))))
    assert compare_answer(told, given).state == "ok"
    for name, value in (
        ("share", given["items"][0]["share"] + 1e-6),
        ("id", "7"),
        ("id", True),
        ("share", "0.5"),
    ):
        changed = {**given, "items": [{**given["items"][0], name: value}, *given["items"][1:]]}
        assert f"answer.items[0].{name}: " in compare_answer(told, changed).text
