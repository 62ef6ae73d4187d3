"""Token files: names, hashes, rates."""

import hashlib

import pytest

from attributary.client import AsyncClient
from attributary.errors import InvalidArgumentError, OverloadedError
from attributary.gateway import tokens
from attributary.gateway.tokens import Owner, Rates, digest_of_token, read_owners


def file(tmp_path, text):
    path = tmp_path / "tokens"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_every_way_to_write_a_line(tmp_path):
    hashed = hashlib.sha256(b"third").hexdigest()
    path = file(tmp_path, f"# callers\nfirst\nann second\nbo sha256:{hashed.upper()} rate=2.5\n\n")
    first = digest_of_token("first")
    assert read_owners(path, "tokens_file") == {
        first: Owner(f"token {first.hex()[:8]}"),
        digest_of_token("second"): Owner("ann"),
        digest_of_token("third"): Owner("bo", 2.5),
    }


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a b c", "must be: "),
        ("a sha256:12", "64 hexadecimal digits"),
        ("a b rate=0", "above 0"),
        ("a b rate=nan", "above 0"),
        ("a b rate=x", "above 0"),
        ("ann good", "gives ann the token of token "),
        ("good items=5", "or other limits"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, problem):
    with pytest.raises(InvalidArgumentError, match=f"tokens_file: line 2 of .*{problem}"):
        read_owners(file(tmp_path, f"good\n{line}\n"), "tokens_file")


def test_a_line_that_is_there_twice_is_one(tmp_path):
    assert (
        len(read_owners(file(tmp_path, "ann first items=5\nann first items=5\nann second\n"), "tokens_file"))
        == 2
    )


def test_a_rate_lets_so_many_through_and_says_when_the_next_is_due(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(tokens, "monotonic", lambda: now[0])
    rates, owner = Rates(), Owner("ann", 4.0)
    for _ in range(8):
        rates.take(owner)
    with pytest.raises(OverloadedError) as caught:
        rates.take(owner)
    assert caught.value.retry_after_s == 0.25
    now[0] += 0.25
    rates.take(owner)
    rates.take(Owner("bo"))
    with pytest.raises(OverloadedError):
        rates.take(owner)


async def test_a_callers_rate_is_its_own(serve, engine, vector, tmp_path):
    path = file(tmp_path, "ann secret rate=0.001\nbo other\n")
    gateway, _ = await serve(engine, tokens_file=path)
    address = f"127.0.0.1:{gateway.port}"
    async with AsyncClient(address, token="secret") as ann, AsyncClient(address, token="other") as bo:
        await ann.attribute(embedding=vector(1))
        with pytest.raises(OverloadedError, match="calls a second"):
            await ann.attribute(embedding=vector(1))
        for _ in range(5):
            await bo.attribute(embedding=vector(1))
