"""Bodies that are made to be read for ever are read once; nothing that was sent comes back whole."""

import json
import subprocess
import sys
import threading

import pytest

from attributary.errors import InvalidArgumentError
from attributary.gateway.http import bodies
from attributary.v1 import attribution_pb2 as pb
from tests.support.http_calls import JSON, form, violated

# In a process of its own: a regular expression that never ends can only be ended with its process.
READ = """
import sys
from attributary.gateway.http import bodies
from attributary.v1 import attribution_pb2 as pb
try:
    bodies._parsed([sys.stdin.buffer.read()], pb.AttributeRequest)
except bodies.InvalidArgumentError as error:
    print(error)
"""


@pytest.mark.parametrize("text", [" ", "\n", "A ", "=", "A=", "= "])
def test_a_picture_of_blanks_ends(text):
    body = json.dumps({"query": {"image": text * 1_000_000 + "!"}}).encode()
    done = subprocess.run(
        [sys.executable, "-c", READ], input=body, capture_output=True, check=True, timeout=120
    )
    assert done.stdout.startswith(b"query.image: must be base64")


@pytest.mark.parametrize(
    "text", ["", "QUJD", "QUI=", "QQ==", "QU\nJD", " QQ = = ".replace(" = = ", "==\n "), "Q-_+/A"]
)
def test_base64_of_either_alphabet_is_read(text):
    assert bodies._is_base64(text)


@pytest.mark.parametrize("text", ["data:image/png;base64,QUJD", "QQ==A", "Q!", "=A", "QQ= ="])
def test_what_is_no_base64_is_not(text):
    assert not bodies._is_base64(text)


class Counted(str):
    """A name that counts how often names are compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        type(self).compared += 1
        return str.__eq__(self, other)


def test_a_name_that_is_given_twice_is_found_at_once():
    names = [f"name{number}" for number in range(1000)]
    with pytest.raises(InvalidArgumentError, match="name999: must be given once"):
        bodies._each_once([(Counted(name), 1) for name in [*names, "name999"]])
    assert Counted.compared < 10 * len(names)


@pytest.mark.parametrize("value", ["9" * 100_000, "x" * 100_000, {"y" * 100_000: 1}])
def test_an_error_does_not_quote_a_long_value(value):
    with pytest.raises(InvalidArgumentError) as refused:
        bodies._parsed([json.dumps({"options": {"top_k": value}}).encode()], pb.AttributeRequest)
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("head", [b"X:a\r\n" * 1_000, b"X: " + b"a" * 100_000])
async def test_a_part_of_a_form_has_few_and_short_headers(site, head):
    # The parser bounds them since python-multipart 0.0.27; before, 16 MB of them took half a minute.
    _, _, ask = await site()
    body = (
        b'--edge\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n'
        + head
        + b"\r\n\r\nx\r\n--edge--\r\n"
    )
    status, _, text = await ask(
        "POST", "/v1/attribute", body, {"content-type": "multipart/form-data; boundary=edge"}
    )
    assert (status, violated(text)) == (400, "request")


@pytest.mark.parametrize("charset", ["punycode", "undefined", "idna", "utf-16", "latin-1", "nonsense"])
async def test_a_form_is_utf_8(site, charset):
    _, _, ask = await site()
    body, headers = form(image=b"x", prompt="a\\x-b" * 100)
    headers["content-type"] += f"; charset={charset}"
    status, _, text = await ask("POST", "/v1/attribute", body, headers)
    assert (status, violated(text)) == (400, "content-type")
    headers["content-type"] = headers["content-type"].replace(charset, '"UTF-8"')
    assert violated((await ask("POST", "/v1/attribute", body, headers))[2]) == "query.image"


async def test_a_field_that_is_no_utf_8_is_named(site):
    _, _, ask = await site()
    body, headers = form(image=b"\xff", prompt="caf\xe9")
    status, _, text = await ask(
        "POST", "/v1/attribute", body.replace("caf\xe9".encode(), b"caf\xe9"), headers
    )
    assert (status, violated(text)) == (400, "prompt") and b"UTF-8" in text
    assert violated((await ask("POST", "/v1/attribute", body, headers))[2]) == "query.image"


async def test_values_are_counted_as_they_come(site, monkeypatch):
    _, _, ask = await site()
    monkeypatch.setattr(bodies, "_MAX_VALUES", 1_000)
    monkeypatch.setattr(bodies, "_parsed", None)
    for sign in ",[{":
        status, _, text = await ask("POST", "/v1/attribute", sign * 100_000, JSON)
        assert (status, violated(text)) == (400, "request") and b"holds more than" in text


async def test_a_large_form_is_copied_in_the_threads_that_read_pictures(site, monkeypatch):
    _, _, ask = await site()
    asked, read = [], bodies._of_fields
    monkeypatch.setattr(
        bodies, "_of_fields", lambda *form: asked.append(threading.current_thread()) or read(*form)
    )
    for size in (1_000, 1 << 20):
        body, headers = form(image=b"x" * size)
        assert violated((await ask("POST", "/v1/attribute", body, headers))[2]) == "query.image"
    assert asked[0] is threading.main_thread() and asked[1].name.startswith("prepare")
