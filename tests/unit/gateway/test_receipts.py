"""Signed answers over a real socket: asked for in every kind of call, by keys that rotate under a running server."""

import json
import os
import time
from dataclasses import asdict, replace

import pytest

from attributary.attribution.open import open_engine
from attributary.client import Filter, query
from attributary.errors import InvalidArgumentError, PreconditionError
from attributary.receipts import keys
from attributary.receipts.keys import parse_public_keys
from attributary.receipts.verify import compare_answer, compare_picture, open_receipt


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "keys.pem"
    keys.create(path)
    return path


async def known(client):
    pem = "".join(key.pem for key in await client.list_receipt_keys())
    return parse_public_keys(pem)


def told(answer):
    """The answer as JSON has it."""

    return json.loads(
        json.dumps({name: value for name, value in asdict(answer).items() if name != "receipt"})
    )


async def test_every_kind_of_call_gives_receipts(serve, tiny_bundle_dir, key_file, picture):
    _, client = await serve(open_engine(tiny_bundle_dir), receipt_key_file=key_file)
    public = await known(client)
    answers = [await client.attribute(picture(3), prompt="a red ellipse", receipt=True)]
    answers += await client.attribute_batch(
        [query(picture(3)), query(b"none"), query(picture(5))], receipt=True
    )
    async for answer in client.attribute_stream([query(picture(3))], receipt=True, filter=Filter(("Ann",))):
        answers.append(answer)
    assert isinstance(answers.pop(2), InvalidArgumentError)
    for answer, number in zip(answers, (3, 3, 5, 3), strict=True):
        receipt = open_receipt(answer.receipt, public)
        assert compare_picture(receipt, picture(number)).state == "ok"
        assert compare_answer(receipt, told(answer)).state == "ok"
        assert receipt.predicate["bundle"]["id"] == answer.bundle_id
    assert receipt.predicate["query"]["filter"]["include_creators"] == ["Ann"]
    assert (await client.attribute(picture(3))).receipt == b""


async def test_intervals_have_as_many_digits_in_the_receipt_as_in_the_reply(
    serve, tiny_bundle_dir, key_file, picture
):
    engine = open_engine(tiny_bundle_dir)
    manifest = engine.bundle.manifest
    interval = ((0.0, 0.0, 0.1234567891), (0.5, 0.1111111111, 0.7777777777))
    calibration = replace(
        manifest.calibration,
        image=replace(manifest.calibration.image, interval=interval),
        image_and_prompt=replace(manifest.calibration.image_and_prompt, interval=interval),
    )
    bundle = replace(engine.bundle, manifest=replace(manifest, calibration=calibration))
    engine.snapshot = replace(engine.snapshot, bundle=bundle)
    _, client = await serve(engine, receipt_key_file=key_file)
    answer = await client.attribute(picture(3), receipt=True)
    assert answer.creators[0].high is not None
    assert compare_answer(open_receipt(answer.receipt, await known(client)), told(answer)).text.endswith(
        "as signed"
    )


async def test_a_server_without_keys_says_so_before_it_works(serve, engine, vector):
    _, client = await serve(engine)
    assert await client.list_receipt_keys() == ()
    for call in (
        client.attribute(embedding=vector(0.5), receipt=True),
        client.attribute_batch([query(embedding=vector(0.5))], receipt=True),
    ):
        with pytest.raises(PreconditionError, match="--receipt-key-file"):
            await call
    assert engine.batches == []


async def test_an_embedding_has_no_receipt(serve, tiny_bundle_dir, key_file, picture):
    _, client = await serve(open_engine(tiny_bundle_dir), receipt_key_file=key_file)
    made = await client.embed(picture(3))
    with pytest.raises(InvalidArgumentError, match="is no picture"):
        await client.attribute(embedding=made.vector, receipt=True)


async def test_keys_rotate_and_receipts_of_the_old_one_still_verify(
    serve, tiny_bundle_dir, key_file, picture
):
    gateway, client = await serve(open_engine(tiny_bundle_dir), receipt_key_file=key_file)
    first = (await client.attribute(picture(3), receipt=True)).receipt
    before = await client.list_receipt_keys()
    made = keys.rotate(key_file)
    gateway._service.receipts._keys.refresh()
    now = await client.list_receipt_keys()
    assert [(key.key_id, key.signs) for key in now] == [(made.public.key_id, True), (before[0].key_id, False)]
    second = (await client.attribute(picture(3), receipt=True)).receipt
    public = await known(client)
    assert open_receipt(first, public).signer.key_id == before[0].key_id
    assert open_receipt(second, public).signer.key_id == made.public.key_id


async def test_a_key_file_that_goes_bad_changes_nothing(serve, tiny_bundle_dir, key_file, picture):
    gateway, client = await serve(open_engine(tiny_bundle_dir), receipt_key_file=key_file)
    before = await client.list_receipt_keys()
    for change in (lambda: key_file.write_text("nothing"), lambda: key_file.chmod(0o644), key_file.unlink):
        change()
        if key_file.exists():
            os.utime(key_file, ns=(time.time_ns(), time.time_ns()))
        gateway._service.receipts._keys.refresh()
        assert await client.list_receipt_keys() == before
        open_receipt((await client.attribute(picture(3), receipt=True)).receipt, await known(client))


async def test_a_server_does_not_start_with_keys_that_others_may_read(serve, engine, key_file):
    key_file.chmod(0o644)
    with pytest.raises(InvalidArgumentError, match="receipt_key_file"):
        await serve(engine, receipt_key_file=key_file)


async def test_an_answer_that_cannot_be_signed_fails_alone(
    serve, tiny_bundle_dir, key_file, picture, monkeypatch
):
    gateway, client = await serve(open_engine(tiny_bundle_dir), receipt_key_file=key_file)
    sign, signed = gateway._service.receipts.sign, []

    async def second_fails(*asked):
        signed.append(asked)
        if len(signed) == 2:
            raise RuntimeError("secret of the server")
        return await sign(*asked)

    monkeypatch.setattr(gateway._service.receipts, "sign", second_fails)
    first, failed, last = await client.attribute_batch([query(picture(n)) for n in (3, 4, 5)], receipt=True)
    assert first.receipt and last.receipt
    assert "secret" not in str(failed) and failed.code == "INTERNAL"
