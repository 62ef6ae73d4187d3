"""Who may do what: one function for every door. Roles, quotas, signed tokens, what answers hide, the query log."""

import base64
import hmac
import json
import time

import numpy as np
import pytest

from attributary.client import AsyncClient, Filter, query
from attributary.errors import (
    InvalidArgumentError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from attributary.gateway.access import Gate
from attributary.gateway.config import GatewayConfig
from attributary.gateway.query_log import redact
from attributary.gateway.tokens import read_keys
from attributary.v1 import attribution_pb2 as pb

jwt = pytest.importorskip("jwt")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec")


def tokens(tmp_path, text, name="tokens"):
    path = tmp_path / name
    path.write_text(text)
    path.chmod(0o600)
    return path


def gate(**settings):
    return Gate(GatewayConfig(**settings))


def test_a_gate_without_tokens_lets_everybody_query_and_nobody_change():
    open_gate = gate()
    for need in ("query", "embeddings", "read-items", "any", "open"):
        assert open_gate.admit(need, "", "certificate ann").name == "certificate ann"
    for need in ("contribute", "admin"):
        with pytest.raises(UnauthenticatedError):
            open_gate.admit(need, "Bearer x")


def test_old_files_mean_what_they_meant(tmp_path):
    queries = tokens(tmp_path, "ann secret\n")
    admins = tokens(tmp_path, "kim hidden\n", "admins")
    both = gate(tokens_file=queries, admin_tokens_file=admins)
    for need in ("query", "embeddings", "read-items", "any"):
        assert both.admit(need, "Bearer secret").name == "ann"
    for need in ("contribute", "admin"):
        assert both.admit(need, "bearer hidden").name == "kim"
        with pytest.raises(UnauthenticatedError):
            both.admit(need, "Bearer secret")
    with pytest.raises(UnauthenticatedError):
        both.admit("query", "Bearer hidden")


@pytest.mark.parametrize(
    ("roles", "may", "may_not"),
    [
        ("query", "query", "embeddings"),
        ("query", "query", "read-items"),
        ("read-items", "read-items", "query"),
        ("query,embeddings", "embeddings", "read-items"),
    ],
)
def test_a_token_does_what_its_roles_say(tmp_path, roles, may, may_not):
    one = gate(tokens_file=tokens(tmp_path, f"ann secret roles={roles} rate=1000\n"))
    assert one.admit(may, "Bearer secret").name == "ann"
    assert one.admit("any", "Bearer secret").name == "ann"
    with pytest.raises(PermissionDeniedError) as refused:
        one.admit(may_not, "Bearer secret")
    assert refused.value.role == may_not


def test_a_contributor_is_no_admin(tmp_path):
    one = gate(admin_tokens_file=tokens(tmp_path, "eve secret roles=contribute items=5\nkim hidden\n"))
    owner = one.admit("contribute", "Bearer secret")
    assert (owner.may("admin"), owner.items) == (False, 5)
    with pytest.raises(PermissionDeniedError):
        one.admit("admin", "Bearer secret")
    assert one.admit("contribute", "Bearer hidden").may("admin")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a b roles=admin", "of the roles embeddings, query, read-items"),
        ("a b roles=", "of the roles"),
        ("a b quota=1.5", "whole number above 0"),
        ("a b items=-1", "whole number above 0"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path, line, problem):
    with pytest.raises(InvalidArgumentError, match=problem):
        gate(tokens_file=tokens(tmp_path, line))


def test_a_quota_holds_for_a_day(tmp_path, monkeypatch):
    from attributary.gateway import tokens as module

    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    one = gate(tokens_file=tokens(tmp_path, "ann secret quota=2\n"))
    for _ in range(2):
        one.admit("query", "Bearer secret")
    with pytest.raises(OverloadedError, match="2 calls a day") as refused:
        one.admit("query", "Bearer secret")
    assert refused.value.retry_after_s == 86_400
    now[0] = 86_400.0
    one.admit("query", "Bearer secret")


@pytest.fixture(scope="module")
def key():
    return ec.generate_private_key(ec.SECP256R1())


def key_set(*keys):
    entries = []
    for name, one in keys:
        entry = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(one.public_key()))
        entries.append(entry | {"kid": name, "alg": "ES256", "use": "sig"})
    return json.dumps({"keys": entries})


CLAIMS = {"iss": "https://id.example", "aud": "attributary", "sub": "ann"}


def signed(key, kid="one", algorithm="ES256", **claims):
    given = CLAIMS | {"exp": time.time() + 60} | claims
    given = {name: value for name, value in given.items() if value is not None}
    return "Bearer " + jwt.encode(given, key, algorithm, headers={"kid": kid})


@pytest.fixture
def jwt_gate(tmp_path, key):
    path = tokens(tmp_path, key_set(("one", key)), "keys.json")
    return gate(jwt_jwks=str(path), jwt_issuer=CLAIMS["iss"], jwt_audience=CLAIMS["aud"])


def test_a_signed_token_names_its_caller_and_roles(jwt_gate, key):
    assert jwt_gate.admit("query", signed(key)).name == "ann"
    assert jwt_gate.has_admins
    assert jwt_gate.admit("admin", signed(key, roles=["admin"])).may("contribute")
    reader = signed(key, roles="read-items nonsense")
    assert jwt_gate.admit("read-items", reader).roles == {"read-items"}
    for need in ("query", "admin"):
        with pytest.raises(PermissionDeniedError):
            jwt_gate.admit(need, reader)


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"exp": None},
        {"aud": "somebody else"},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "ann\nkim"},
        {"sub": "x" * 300},
        {"nbf": 4e9},
        {"roles": 5},
        {"roles": [["admin"]]},
        {"kid": "two"},
    ],
)
def test_a_token_that_is_not_for_this_server_is_none(jwt_gate, key, claims):
    with pytest.raises(UnauthenticatedError):
        jwt_gate.admit("query", signed(key, **claims))


def hmac_signed(secret):
    """A token whose secret is the public key, as a library that trusts the header would check it."""
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "kid": "one"}, CLAIMS | {"exp": time.time() + 60})
    )
    mac = hmac.digest(secret.encode(), head + b"." + body, "sha256")
    return "Bearer " + b".".join([head, body, base64.urlsafe_b64encode(mac).rstrip(b"=")]).decode()


def test_forged_tokens_are_none(jwt_gate, key, tmp_path):
    other = ec.generate_private_key(ec.SECP256R1())
    public = (tmp_path / "keys.json").read_text()
    bare = jwt.encode(CLAIMS | {"exp": time.time() + 60}, None, "none", headers={"kid": "one"})
    good = signed(key)
    forged = [
        signed(other),
        hmac_signed(public),
        f"Bearer {bare}",
        good[:-4] + "AAAA",
        "Bearer a.b.c",
        "Bearer " + "." * 2,
        "Bearer " + "x." * 5_000,
        "Basic " + good[7:],
        good.replace("Bearer", "Bearer "),
    ]
    for text in forged:
        with pytest.raises(UnauthenticatedError):
            jwt_gate.admit("query", text)
    assert jwt_gate.admit("query", good).name == "ann"


def test_keys_turn_and_a_removed_key_no_longer_opens(jwt_gate, key, tmp_path):
    old = signed(key)
    jwt_gate.admit("query", old)
    newer = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "keys.json").write_text(key_set(("two", newer)))
    keys = jwt_gate._jwt._keys.__closure__[0].cell_contents
    keys.refresh()
    assert jwt_gate.admit("query", signed(newer, kid="two")).name == "ann"
    with pytest.raises(UnauthenticatedError):
        jwt_gate.admit("query", old)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"keys": []}', b'{"keys": [{"kty": "oct", "k": "AA", "kid": "x"}]}']
)
def test_a_set_without_public_keys_is_refused(data):
    with pytest.raises(InvalidArgumentError, match="jwt_jwks"):
        read_keys(data)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"jwt_issuer": ""}, "jwt_issuer"),
        ({"jwt_audience": ""}, "jwt_audience"),
        ({"jwt_jwks": "http://id.example/keys"}, "jwt_jwks: must be https"),
        ({"jwt_jwks": "/nowhere/keys.json"}, "jwt_jwks"),
    ],
)
def test_half_a_setting_is_refused(settings, field):
    usual = {"jwt_jwks": "keys.json", "jwt_issuer": "i", "jwt_audience": "a"}
    with pytest.raises(InvalidArgumentError, match=field):
        gate(**{**usual, **settings})


def test_the_gate_knows_no_transport():
    import subprocess
    import sys

    code = "import sys, attributary.gateway.access; sys.exit('grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


PIXELS = np.zeros((4, 4, 3), np.uint8)


async def test_roles_hold_at_the_door(serve, engine, vector, tmp_path):
    path = tokens(tmp_path, "ann narrow roles=query\nbo wide\n")
    gateway, _ = await serve(engine, tokens_file=path, redact="uri,caption,creator")
    address = f"127.0.0.1:{gateway.port}"
    async with AsyncClient(address, token="narrow", retry=False) as narrow:
        for call in (
            lambda: narrow.attribute(embedding=vector(1)),
            lambda: narrow.get_item(7),
            lambda: narrow.list_items(),
            lambda: narrow.list_creators(),
            # Where names are hidden they cannot be guessed either.
            lambda: narrow.attribute(PIXELS, filter=Filter(include_creators=("Ann",))),
        ):
            with pytest.raises(PermissionDeniedError):
                await call()
        answer = await narrow.attribute(PIXELS)
        assert (answer.items[0].caption, answer.items[0].creator, answer.items[0].uri) == ("", "", "")
        assert (answer.items[0].share, answer.creators[0].creator) == (0.25, "")
    async with AsyncClient(address, token="wide", retry=False) as wide:
        answer = await wide.attribute(embedding=vector(1))
        assert (answer.items[0].caption, answer.creators[0].creator) == ("a cat", "Ann")


@pytest.mark.parametrize("way", ["batch", "stream"])
async def test_one_query_without_its_role_is_an_error_of_its_own(serve, engine, vector, tmp_path, way):
    path = tokens(tmp_path, "ann narrow roles=query\n")
    gateway, _ = await serve(engine, tokens_file=path, redact="creator")
    queries = [query(PIXELS), query(embedding=vector(1)), query(PIXELS)]
    async with AsyncClient(f"127.0.0.1:{gateway.port}", token="narrow", retry=False) as narrow:
        if way == "batch":
            first, refused, last = await narrow.attribute_batch(queries)
        else:
            first, refused, last = [result async for result in narrow.attribute_stream(queries)]
        assert isinstance(refused, PermissionDeniedError) and refused.role == "embeddings"
        assert first.items and last.items
        # What the options ask for concerns every query.
        with pytest.raises(PermissionDeniedError, match="read-items"):
            await narrow.attribute_batch(queries, filter=Filter(include_creators=("Ann",)))


def test_what_is_hidden_is_gone_and_shares_stay():
    item = pb.AttributedItem(
        id=1, share=0.5, caption="a fox", creator="Ann", creator_url="u", uri="x", licence="MIT"
    )
    reply = pb.Attribution(items=[item], creators=[pb.CreatorShare(creator="Ann", share=0.5)])
    redact(reply, frozenset({"uri", "caption", "creator"}))
    assert reply.items[0] == pb.AttributedItem(id=1, share=0.5, licence="MIT")
    assert reply.creators[0] == pb.CreatorShare(share=0.5)
