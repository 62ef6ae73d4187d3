"""gRPC statuses back to the errors that the server raised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from attributary.errors import (
    AlreadyExistsError,
    AttributaryError,
    DeadlineError,
    DeletedError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    PreconditionError,
    UnavailableError,
)
from attributary.proxy import blamed, proxy_of
from attributary.v1 import attribution_pb2 as pb

M = TypeVar("M", bound=Message)

_DETAILS = "grpc-status-details-bin"


class ServerError(AttributaryError):
    """What no other error stands for: INTERNAL, UNAUTHENTICATED, ...; `code` is gRPC's name for it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def from_rpc(error: grpc.RpcError, address: str = "this address") -> AttributaryError:
    """Return the error that a failed call to `address` stands for."""
    # Every RpcError that a call raises has these; the type stubs do not know.
    call: Any = error
    code, details = call.code().name, str(call.details() or "")
    if code == "UNAVAILABLE":
        details = unreachable(details, address) or details
    if code == "DEADLINE_EXCEEDED" and details == "Deadline Exceeded":
        # gRPC's own words: nothing was heard in time, not even that nobody is there.
        details = f"there was no answer from {address} in time; is a server running there?"
    if code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        details = blamed(details, proxy_of(address))
    return _error(code, details, _status(call.trailing_metadata()))


def unreachable(details: str, address: str) -> str:
    """Say in words why nobody answers at an address; empty if somebody does.

    `details` is gRPC's own text, the only thing that tells a server's UNAVAILABLE from that of a missing one.
    """
    if "DNS resolution failed" in details or "Name resolution failed" in details:
        return f"no host is known by the name in {address!r}; an address is host:port"
    if "failed to connect to all addresses" not in details:
        return ""
    if "Connection refused" in details:
        return f"no server is running at {address}; start one with `attributary serve BUNDLE`"
    return f"no server answers at {address}: {details.rpartition('last error: ')[2]}"


def from_result(error: pb.Error) -> AttributaryError:
    """Return the error of one query among several."""
    if error.code == code_pb2.INVALID_ARGUMENT:
        return InvalidArgumentError(error.field, error.message)
    if error.code == code_pb2.NOT_FOUND:
        kind = error.field.removesuffix("_id")
        return NotFoundError(kind, error.message.removeprefix(f"no such {kind}: "))
    if error.code == code_pb2.ALREADY_EXISTS:
        kind = error.field.removesuffix("_id")
        name, _, what = error.message.removeprefix(f"{kind} ").partition(" exists already: ")
        return AlreadyExistsError(kind, name, what)
    if error.code == code_pb2.FAILED_PRECONDITION:
        return PreconditionError(error.field, error.message)
    if error.code == code_pb2.PERMISSION_DENIED:
        return PermissionDeniedError(error.message.removeprefix("the role '").removesuffix("' is needed"))
    return _error(str(code_pb2.Code.Name(error.code)), error.message, status_pb2.Status())


def _error(code: str, message: str, status: status_pb2.Status) -> AttributaryError:
    if code == "INVALID_ARGUMENT":
        request = _detail(status, error_details_pb2.BadRequest)
        if request is not None and request.field_violations:
            violation = request.field_violations[0]
            return InvalidArgumentError(violation.field, violation.description)
        return InvalidArgumentError("request", message)
    info = _detail(status, error_details_pb2.ErrorInfo) or error_details_pb2.ErrorInfo()
    facts = info.metadata
    if code == "NOT_FOUND" and info.reason == "ITEM_DELETED":
        return DeletedError(facts.get("name", ""), facts.get("at", ""))
    if code == "NOT_FOUND" and facts.get("kind"):
        return NotFoundError(facts["kind"], facts.get("name", ""))
    if code == "ALREADY_EXISTS" and facts.get("kind"):
        return AlreadyExistsError(facts["kind"], facts.get("name", ""), facts.get("what", ""))
    if code == "PERMISSION_DENIED" and info.reason == "ROLE_MISSING":
        return PermissionDeniedError(facts.get("role", ""))
    if code == "RESOURCE_EXHAUSTED":
        retry = _detail(status, error_details_pb2.RetryInfo)
        if retry is not None:
            return OverloadedError(message, retry.retry_delay.ToMilliseconds() / 1e3)
        if "larger than max" in message:
            # gRPC's own refusal: asking again would not help.
            return InvalidArgumentError("request", message)
        return OverloadedError(message)
    if code == "DEADLINE_EXCEEDED":
        return DeadlineError(message)
    if code == "FAILED_PRECONDITION":
        failure = _detail(status, error_details_pb2.PreconditionFailure)
        if failure is not None and failure.violations:
            return PreconditionError(failure.violations[0].subject, failure.violations[0].description)
    if code == "UNAVAILABLE":
        if "DNS resolution failed" in message or "errors resolving" in message:
            return UnavailableError(f"the address names no host that is known here ({message})")
        return UnavailableError(message)
    return ServerError(code, message)


def _status(metadata: Iterable[tuple[str, str | bytes]] | None) -> status_pb2.Status:
    for key, value in metadata or ():
        if key == _DETAILS and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _detail(status: status_pb2.Status, kind: type[M]) -> M | None:
    for packed in status.details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None
