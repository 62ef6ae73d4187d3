"""What the page has beside the contract: an answer in print, pictures that it generates, which views there are."""

import io
import json
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from attributary.errors import InvalidArgumentError, OverloadedError
from attributary.gateway.config import GatewayConfig
from attributary.gateway.http import answer_pdf, making
from attributary.v1 import attribution_pb2 as pb
from tests.support.http_calls import form

PDF = {"accept": "application/pdf"}


def answer_of(items=12, creators=12, name="Ann", caption="a red apple"):
    answer = pb.Attribution(diffuse_share=0.2, withheld_share=0.2, bundle_id="ab" * 8, revision=3)
    for place in range(items):
        answer.items.add(id=10**18 + place, rank=place + 1, share=0.05, caption=caption, creator=name)
    for place in range(creators):
        answer.creators.add(creator=f"{name} {place}", share=0.6 / creators, low=0.0, high=0.2)
    return answer


def pages(data):
    return data.count(b"/Type /Page\n")


def test_the_longest_answer_is_one_page_and_always_the_same():
    answer = answer_of(100, 100, name="<b>漢\u202e" * 200, caption="<img src=x> & Ω" * 300)
    pixels = np.zeros((320, 320, 3), np.uint8)
    out = io.BytesIO()
    Image.new("RGB", (160, 90)).save(out, "WEBP")
    made = [answer_pdf.pdf_bytes(answer, "x" * 4000, pixels, lambda _: out.getvalue()) for _ in range(2)]
    assert made[0] == made[1] and made[0].startswith(b"%PDF") and pages(made[0]) == 1


@pytest.mark.parametrize("creators", [0, 3, 8, 40])
def test_the_parts_of_a_bar_add_up(creators):
    answer = answer_of(creators=max(creators, 1))
    if not creators:
        del answer.creators[:]
        answer.diffuse_share, answer.withheld_share = 1.0, 0.0
    parts = answer_pdf.parts_of(answer)
    assert abs(sum(share for _, share, _ in parts) - 1) < 1e-3
    assert parts[-1][0] == "nobody in particular"


async def test_an_answer_is_printed_for_those_who_ask_for_it(site, tiny_engine, picture):
    _, _, ask = await site(tiny_engine)
    body, headers = form(image=picture(3), prompt="a orange rectangle")
    status, got, data = await ask("POST", "/v1/attribute", body, {**headers, **PDF})
    assert (status, got["content-type"]) == (200, "application/pdf")
    assert pages(data) == 1 and "attribution.pdf" in got["content-disposition"]
    status, got, data = await ask("POST", "/v1/attribute", {"query": {"image": "eA=="}}, PDF)
    assert status == 400 and got["content-type"] == "application/json"


async def test_without_reportlab_it_says_what_is_missing(site, tiny_engine, picture, monkeypatch):
    monkeypatch.delitem(sys.modules, "attributary.gateway.http.answer_pdf")
    monkeypatch.delattr("attributary.gateway.http.answer_pdf")
    monkeypatch.setitem(sys.modules, "reportlab.lib", None)
    _, _, ask = await site(tiny_engine)
    body, headers = form(image=picture(3))
    status, _, data = await ask("POST", "/v1/attribute", body, {**headers, **PDF})
    assert status == 501 and "attributary[pdf]" in json.loads(data)["message"]


@pytest.fixture(scope="module")
def generator(tiny, tmp_path_factory):
    return tiny.write_generator(tmp_path_factory.mktemp("generator"))


async def made(ask, wish):
    """Ask for a picture until it is there: (reply of the first call, the last reply)."""
    status, _, data = await ask("POST", "/generator/pictures", wish)
    if status != 200:
        return status, json.loads(data)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        _, got, picture = await ask("GET", f"/generator/pictures/{json.loads(data)['id']}")
        if got["content-type"] == "image/png" or json.loads(picture)["failure"]:
            return status, picture
    raise AssertionError("no picture within a minute")


async def test_a_picture_is_generated_step_by_step(site, generator):
    _, _, ask = await site(ui=True, ui_generator=generator)
    assert json.loads((await ask("GET", "/page.json"))[2]) == {"report": False, "generator": True}
    assert json.loads((await ask("GET", "/generator"))[2])["weights"] == "ab" * 32
    _, first = await made(ask, {"prompt": "a red ellipse", "seed": 4, "steps": 5})
    _, again = await made(ask, {"prompt": "a red ellipse", "seed": 4, "steps": 5})
    _, other = await made(ask, {"prompt": "a red ellipse", "seed": 5, "steps": 5})
    assert first == again != other
    assert Image.open(io.BytesIO(first)).size == (16, 16)


@pytest.mark.parametrize(
    ("field", "wish"),
    [
        ("prompt", {}), ("prompt", {"prompt": 3}), ("steps", {"prompt": "", "steps": 10**6}),
        ("seed", {"prompt": "", "seed": True}), ("model", {"prompt": "", "model": "x"}),
    ],
)  # fmt: skip
async def test_a_wish_that_cannot_be_had_names_its_field(site, generator, field, wish):
    _, _, ask = await site(ui=True, ui_generator=generator)
    status, told = await made(ask, wish)
    assert status == 400 and told["details"][0]["field_violations"][0]["field"] == field


async def test_a_picture_of_nobody_is_not_found_and_a_token_is_needed(site, generator, tmp_path):
    (tmp_path / "tokens").write_text("ada secret\n")
    _, _, ask = await site(ui=True, ui_generator=generator, tokens_file=tmp_path / "tokens")
    for method, path in (
        ("GET", "/generator"),
        ("POST", "/generator/pictures"),
        ("GET", "/generator/pictures/x"),
    ):
        assert (await ask(method, path, {"prompt": ""} if method == "POST" else None))[0] == 401
    assert (await ask("GET", "/generator/pictures/x", None, {"authorization": "Bearer secret"}))[0] == 404


async def test_one_caller_s_pictures_leave_room_for_others():
    gate = threading.Event()
    sampler = SimpleNamespace(picture=lambda *_: gate.wait(60) and np.zeros((8, 8, 3), np.uint8))
    maker = making.Making(sampler, SimpleNamespace(answer=lambda *_: None))
    ada, bob = (SimpleNamespace(caller=SimpleNamespace(name=name)) for name in ("ada", "bob"))
    try:
        for _ in range(4):
            await maker._begin(b'{"prompt": "a cat"}', ada)
        with pytest.raises(OverloadedError, match="you wait for 4"):
            await maker._begin(b'{"prompt": "a cat"}', ada)
        await maker._begin(b'{"prompt": "a dog"}', bob)
    finally:
        gate.set()


def test_a_generator_needs_the_page(tmp_path):
    with pytest.raises(InvalidArgumentError, match="needs ui"):
        GatewayConfig(ui_generator=tmp_path)
