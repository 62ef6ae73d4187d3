"""What Milvus refuses: a wrong setting while connecting, away during a search, never a caller's fault."""

import grpc
import pytest
from pymilvus import MilvusException

from attributary.errors import InvalidArgumentError, UnavailableError
from attributary.index import milvus_client
from attributary.index.milvus_client import MilvusServer


class Refusing:
    """pymilvus's client, before a Milvus that answers every call with one error."""

    error: Exception

    def __init__(self, *_, **__):
        pass

    def get_server_version(self):
        return "2.6"

    def search(self, *_, **__):
        raise self.error


class RpcError(grpc.RpcError):
    def __init__(self, code):
        self._code = code

    def code(self):
        return self._code

    def details(self):
        return "from milvus-7.inside"


AUTH = MilvusException(code=1800, message="auth check failure, please check api key is correct")
AUTHOR = MilvusException(code=1100, message="cannot parse expression: author == 3")


@pytest.mark.parametrize(
    "error",
    [AUTH, AUTHOR, RpcError(grpc.StatusCode.UNAUTHENTICATED), RpcError(grpc.StatusCode.DEADLINE_EXCEEDED)],
)
def test_what_milvus_refuses_during_a_search_is_no_callers_fault(monkeypatch, error):
    monkeypatch.setattr(milvus_client, "MilvusClient", Refusing)
    monkeypatch.setattr(Refusing, "error", error, raising=False)
    server = MilvusServer("http://milvus-7.inside:19530")
    with pytest.raises(UnavailableError):
        server.search("c")
    server._pool.shutdown()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AUTH, InvalidArgumentError),
        (RpcError(grpc.StatusCode.UNAUTHENTICATED), InvalidArgumentError),
        (AUTHOR, UnavailableError),
        (MilvusException(message="no connection to auth.inside"), UnavailableError),
    ],
)
def test_a_token_that_is_not_taken_is_a_wrong_setting(monkeypatch, error, kind):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(milvus_client, "MilvusClient", refuse)
    with pytest.raises(kind, match=r"milvus-7\.inside"):
        MilvusServer("http://milvus-7.inside:19530", "wrong")
