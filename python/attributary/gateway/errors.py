"""The one mapping from this package's errors to gRPC statuses with google.rpc details."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, NoReturn

import structlog
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio
from grpc_status import rpc_status

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
    UnauthenticatedError,
    UnavailableError,
)
from attributary.v1 import attribution_pb2 as pb

log = structlog.get_logger(__name__)

DOMAIN = "attributary.dev"
# A status travels in HTTP/2 trailers, which peers cut at 8 KiB; quotes of a request must not fill them.
_MAX_TEXT = 500


_CODES: dict[type[AttributaryError], int] = {
    InvalidArgumentError: code_pb2.INVALID_ARGUMENT,
    NotFoundError: code_pb2.NOT_FOUND,
    AlreadyExistsError: code_pb2.ALREADY_EXISTS,
    OverloadedError: code_pb2.RESOURCE_EXHAUSTED,
    DeadlineError: code_pb2.DEADLINE_EXCEEDED,
    UnavailableError: code_pb2.UNAVAILABLE,
    PreconditionError: code_pb2.FAILED_PRECONDITION,
    UnauthenticatedError: code_pb2.UNAUTHENTICATED,
    PermissionDeniedError: code_pb2.PERMISSION_DENIED,
}


class DefectError(Exception):
    """A bug met on the way: the caller learns only `reference`, the log holds the traceback under it."""

    def __init__(self) -> None:
        self.reference = secrets.token_hex(6)
        super().__init__(f"internal error; the server's log has it as {self.reference}")


class StatusError(Exception):
    """A call that has ended with a status, here or in another process of this server: passed on as it is."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


def is_expected(error: BaseException) -> bool:
    """Say whether the caller is told what went wrong; everything else is a defect."""
    return isinstance(error, (*_CODES, StatusError))


def presentable(error: Exception, where: str) -> Exception:
    """Return an error fit for the caller, without frames; a defect is logged and hidden behind a reference."""
    if is_expected(error) or isinstance(error, DefectError):
        return _without_frames(error)
    return _defect(error, where)


def of_engine(error: Exception, where: str) -> Exception:
    """Return an error that came up while an engine ran, fit for the caller.

    What a caller sent has been checked before an engine sees it. So whatever it is called, it is a defect of the
    server and never the caller's fault; only what says "not now" passes.
    """
    if isinstance(error, DeadlineError | OverloadedError | UnavailableError | DefectError):
        return _without_frames(error)
    return _defect(error, where)


def to_status(error: Exception) -> status_pb2.Status:
    """Return the google.rpc.Status of an error; anything unexpected is an opaque INTERNAL."""
    if isinstance(error, StatusError):
        return error.status
    code = _code_of(error)
    if code == code_pb2.INTERNAL and not isinstance(error, DefectError):
        error = DefectError()
    status = status_pb2.Status(code=code, message=_clip(str(error)))
    if (detail := _detail(error)) is not None:
        status.details.add().Pack(detail)
    return status


def to_result(error: Exception) -> pb.Error:
    """Return the error of one query among several."""
    status, field = to_status(error), ""
    if isinstance(error, InvalidArgumentError | PreconditionError):
        field = error.field if isinstance(error, InvalidArgumentError) else error.subject
        status.message = _clip(error.message)
    elif isinstance(error, NotFoundError | AlreadyExistsError):
        field = f"{error.kind}_id"
    return pb.Error(code=status.code, message=status.message, field=_clip(field))


def code_name(error: BaseException) -> str:
    """Return the gRPC code's name, for metrics and logs."""
    return str(code_pb2.Code.Name(_code_of(error)))


def _code_of(error: BaseException) -> int:
    if isinstance(error, StatusError):
        return int(error.status.code)
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), code_pb2.INTERNAL)


async def abort(context: aio.ServicerContext[bytes, bytes], status: status_pb2.Status) -> NoReturn:
    """End the call with a status and its details."""
    packed = rpc_status.to_status(status)
    try:
        await context.abort(packed.code, packed.details, packed.trailing_metadata)
    except aio.AbortError:
        raise
    except aio.BaseError:
        # Whoever it was for has gone.
        raise asyncio.CancelledError from None
    raise AssertionError("abort returned")


def _defect(error: Exception, where: str) -> DefectError:
    defect = DefectError()
    log.error("defect", where=where, reference=defect.reference, exc_info=error)
    return defect


def _without_frames(error: Exception) -> Exception:
    """Forget where an error was raised.

    A future, or the frame that answers, keeps the error; the error keeps the frames that it came through, these
    keep the future, the message and the picture. Such a circle stays until the garbage collector comes: some
    hundred MB of refused pictures, in memory that each next message has to ask the system for.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def _detail(error: Exception) -> Message | None:
    detail: Any = None
    match error:
        case InvalidArgumentError():
            detail = error_details_pb2.BadRequest()
            detail.field_violations.add(field=_clip(error.field), description=_clip(error.message))
        case PreconditionError():
            detail = error_details_pb2.PreconditionFailure()
            what = {"subject": _clip(error.subject), "description": _clip(error.message)}
            detail.violations.add(type="STATE", **what)
        case DeletedError():
            detail = _info("ITEM_DELETED", kind=error.kind, name=error.name, at=error.at)
        case NotFoundError():
            detail = _info(f"{error.kind.upper()}_NOT_FOUND", kind=error.kind, name=error.name)
        case AlreadyExistsError():
            facts = {"kind": error.kind, "name": error.name, "what": error.message}
            detail = _info(f"{error.kind.upper()}_EXISTS", **facts)
        case OverloadedError():
            detail = error_details_pb2.RetryInfo()
            detail.retry_delay.FromMilliseconds(round(error.retry_after_s * 1e3))
        case PermissionDeniedError():
            detail = _info("ROLE_MISSING", role=error.role)
        case DefectError():
            detail = _info("DEFECT", reference=error.reference)
    return detail  # type: ignore[no-any-return]


def _info(reason: str, **facts: str) -> Message:
    metadata = {name: _clip(value) for name, value in facts.items()}
    return error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)  # type: ignore[no-any-return]


def _clip(text: str) -> str:
    # Lone surrogates cannot be sent.
    text = text.encode("utf-8", errors="replace").decode()
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 3] + "..."
