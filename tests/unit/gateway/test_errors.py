import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from attributary.client import ServerError
from attributary.client.errors import from_result, from_rpc
from attributary.errors import (
    BundleError,
    DeadlineError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from attributary.gateway.errors import DefectError, presentable, to_result, to_status

CASES = [
    (InvalidArgumentError("query.image", "too large"), "INVALID_ARGUMENT"),
    (NotFoundError("bundle", "x"), "NOT_FOUND"),
    (OverloadedError("full", retry_after_s=1.5), "RESOURCE_EXHAUSTED"),
    (DeadlineError("late"), "DEADLINE_EXCEEDED"),
    (UnavailableError("draining"), "UNAVAILABLE"),
]


class Failed(grpc.RpcError):
    """A call that ended with a status, as the client sees it."""

    def __init__(self, status):
        self._status = rpc_status.to_status(status)

    def code(self):
        return self._status.code

    def details(self):
        return self._status.details

    def trailing_metadata(self):
        return self._status.trailing_metadata


@pytest.mark.parametrize(("error", "code"), CASES)
def test_errors_survive_the_wire(error, code):
    failed = Failed(to_status(error))
    assert failed.code().name == code
    back = from_rpc(failed, "127.0.0.1:1")
    assert type(back) is type(error)
    assert vars(back) == vars(error)


@pytest.mark.parametrize("error", [error for error, _ in CASES])
def test_errors_of_one_among_several_survive(error):
    back = from_result(to_result(error))
    assert type(back) is type(error)
    assert str(back) == str(error)


@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), BundleError("x", "secret"), MemoryError()])
def test_defects_are_opaque_and_logged_under_a_reference(error):
    shown = presentable(error, "here")
    assert isinstance(shown, DefectError)
    status = to_status(shown)
    assert "secret" not in str(status)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.metadata["reference"] in status.message
    assert isinstance(from_rpc(Failed(status), "127.0.0.1:1"), ServerError)


def test_a_quote_of_the_request_cannot_fill_the_trailers():
    status = to_status(NotFoundError("bundle", "\ud800" + "x" * 100_000))
    assert status.ByteSize() < 4000


def test_grpc_refusing_a_large_message_is_not_an_overload():
    class TooLarge(Failed):
        def details(self):
            return "Received message larger than max (5 vs. 4)"

        def trailing_metadata(self):
            return ()

    error = from_rpc(TooLarge(to_status(OverloadedError("x"))), "127.0.0.1:1")
    assert isinstance(error, InvalidArgumentError)
    assert error.field == "request"
