"""From JSON, a form or a query string to a message of the contract. What costs much is refused before it is done."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from attributary.errors import InvalidArgumentError
from attributary.v1 import attribution_pb2 as pb

from ..translate import FILTERS
from .context import chunks
from .routes import Route

# A batch of embeddings has about as many values; lists of nothing would take a hundred times their size.
_MAX_VALUES: Final = 1 << 18
_MAX_FIELDS: Final = 1_024
_MAX_FIELD_BYTES: Final = 1 << 20
# Parsing less than this takes a fraction of a millisecond; of a form, whose pictures are copied alone, copying.
_AT_ONCE_BYTES: Final = 4_096
_AT_ONCE_FORM_BYTES: Final = 1 << 18
# So much of a form with more lines than pictures have is read in one turn: its parser is Python, a part takes 15 us.
_FEW_LINES: Final = 64
_DENSE_BYTES: Final = 4_096
_MAX_QUERY_BYTES: Final = 16 << 10
_MAX_QUOTED: Final = 200
_WITHIN: Final = re.compile(r"Failed to parse (\w+) field: ")
# Where protobuf says it, the whole path.
_AT: Final = re.compile(r" at \w+\.([\w.\[\]]+)")
# Either alphabet, in lines or not. Nothing is given back: with a long text, trying again would never end.
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_\s-]*+")
_PADDING: Final = re.compile(r"(?:=++\s*+)?")
# Between two such looks another thread has its turn.
_PIECE: Final = 1 << 20
_UNKNOWN: Final = re.compile(r'has no field named "([^"]{1,80})')
# What protobuf says, and what it means to the caller.
_PLAINLY: Final = {
    "invalid literal for int": "must be a whole number",
    "Couldn't parse integer": "must be a whole number",
    "Bool value": "must be a whole number",
    "Couldn't parse float": "must be numbers",
    "repeated field": "must be a list",
    "expected string or bytes-like object": "must be text",
}
_NUMBERS: Final = ("top_k", "top_creators")
_FLAGS: Final = ("timings", "receipt")
_FORM: Final = ("image", "prompt", "bundle_id", *_FLAGS, *_NUMBERS, *FILTERS)


# Does what takes time when it is the caller's turn.
InTurn: TypeAlias = Callable[[Callable[[], bytes]], Awaitable[bytes]]


async def read_message(request: Request, route: Route, limit: int, most_files: int, in_turn: InTurn) -> bytes:
    """Return the message of a request; raises InvalidArgumentError. `limit` is of the message, in bytes."""
    if route.method == "GET":
        return _sent(_of_query(request, route.request), limit)
    if name := next(iter(request.query_params), None):
        # A filter there would filter nothing.
        raise InvalidArgumentError(name[:80], "must be in the body, not in the address")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    work: Callable[[], Message]
    if kind == "application/json":
        # base64 makes a picture longer by a third.
        parts = await _json_body(request, limit + limit // 3)
        work, at_once = partial(_parsed, parts, route.request), sum(map(len, parts)) <= _AT_ONCE_BYTES
    elif kind == "multipart/form-data" and route.form:
        form, size = await _form_body(request, limit, most_files if route.name == "AttributeBatch" else 1)
        work, at_once = partial(_of_fields, form, route), size <= _AT_ONCE_FORM_BYTES
    else:
        kinds = "application/json or multipart/form-data" if route.form else "application/json"
        raise InvalidArgumentError("content-type", f"must be {kinds}, got {kind[:80]!r}")

    def read() -> bytes:
        return _sent(work(), limit)

    return read() if at_once else await in_turn(read)


def _sent(message: Message, limit: int) -> bytes:
    """A message as gRPC would have brought it; raises InvalidArgumentError beyond `limit` bytes."""
    size = message.ByteSize()
    if size > limit:
        raise InvalidArgumentError("request", f"has {size} bytes, the limit is {limit}")
    return message.SerializeToString()


def _of_query(request: Request, kind: type[Message]) -> Message:
    if len(request.scope.get("query_string", b"")) > _MAX_QUERY_BYTES:
        raise InvalidArgumentError("request", f"has a query string of more than {_MAX_QUERY_BYTES} bytes")
    return _filled(kind, _each_once([*request.path_params.items(), *request.query_params.multi_items()]))


async def _json_body(request: Request, limit: int) -> list[bytes]:
    parts, values = list[bytes](), 0
    async for chunk in chunks(request, limit):
        # As it comes: in a whole body of 20 MB that would hold the event loop up for 50 ms.
        values += len(chunk) - len(chunk.translate(None, b",[{"))
        if values > _MAX_VALUES:
            raise InvalidArgumentError("request", f"holds more than {_MAX_VALUES} values")
        parts.append(chunk)
    return parts


def _parsed(parts: list[bytes], kind: type[Message]) -> Message:
    try:
        value = json.loads(b"".join(parts).decode("utf-8"), object_pairs_hook=_each_once)
    except UnicodeDecodeError:
        raise InvalidArgumentError("request", "must be UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError("request", f"is no JSON that can be read: {error}") from None
    if not isinstance(value, dict):
        raise InvalidArgumentError("request", "must be a JSON object")
    return _filled(kind, value)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # The later of two filters would be the only one.
    found = dict(pairs)
    if len(found) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise InvalidArgumentError(name[:80], "must be given once")
    return found


def _filled(kind: type[Message], values: Mapping[str, Any]) -> Message:
    _check_kinds(kind.DESCRIPTOR, values)
    try:
        return json_format.ParseDict(dict(values), kind())
    except json_format.ParseError as error:
        raise _misfit(str(error)) from None
    except (ValueError, TypeError, RecursionError, AttributeError) as error:
        # A string with half a surrogate pair, a number beyond its type: what protobuf's own checks let through.
        raise InvalidArgumentError("request", f"does not fit {kind.DESCRIPTOR.name}: {error}") from None


def _check_kinds(kind: Any, values: Mapping[str, Any], within: str = "") -> None:
    """Raise InvalidArgumentError for what protobuf would pass over, or say in Python's words.

    Of bytes it reads the base64 and leaves out every other character.
    """
    for name, value in values.items():
        field = kind.fields_by_name.get(name) or kind.fields_by_camelcase_name.get(name)
        if field is None:
            continue
        many = isinstance(value, list)
        for number, one in enumerate(value if many else [value]):
            path = f"{within}{field.name}" + (f"[{number}]" if many else "")
            if field.message_type is not None and isinstance(one, Mapping):
                _check_kinds(field.message_type, one, f"{path}.")
            elif field.message_type is not None and isinstance(one, int | float):
                raise InvalidArgumentError(path, "must be a JSON object")
            elif field.type == FieldDescriptor.TYPE_BYTES and not _is_base64(one):
                raise InvalidArgumentError(path, "must be base64, without anything before or behind it")


def _is_base64(value: object) -> bool:
    if not isinstance(value, str):
        return value is None
    at = 0
    while (found := _BASE64.match(value, at, at + _PIECE)) and found.end() > at:
        at = found.end()
    return _PADDING.fullmatch(value, at) is not None


def _misfit(text: str) -> InvalidArgumentError:
    """Name the field that protobuf's words are about."""
    path = _WITHIN.findall(text)
    if unknown := _UNKNOWN.search(text):
        return InvalidArgumentError(".".join([*path, unknown[1]]), "is no field of this message")
    problem = _WITHIN.sub("", text).rstrip(".")
    if at := _AT.search(problem):
        path, problem = max(path, at[1].split("."), key=len), problem.replace(at[0], "")
    for words, plainly in _PLAINLY.items():
        if problem.startswith(words):
            problem = plainly
    # It may quote what was sent.
    return InvalidArgumentError(".".join(path) or "request", problem[:_MAX_QUOTED])


class _InMemory(MultiPartParser):
    # The body is bounded, and a disk is not faster.
    spool_max_size = 1 << 40

    def on_part_end(self) -> None:
        """Refuse text that would be read as Latin-1 for want of a better guess."""
        part = self._current_part
        try:
            _ = part.file or part.data.decode()
        except UnicodeDecodeError:
            raise InvalidArgumentError(part.field_name[:80], "must be valid UTF-8") from None
        super().on_part_end()


async def _form_body(request: Request, limit: int, most_files: int) -> tuple[FormData, int]:
    """The fields of a form, and how many bytes its files have."""
    charset = parse_options_header(request.headers["content-type"])[1].get(b"charset", b"utf-8")
    if charset.lower() not in {b"utf-8", b"utf8"}:
        # The caller's choice among all that Python has: punycode takes the square of a text's length.
        raise InvalidArgumentError("content-type", "must have the charset utf-8, or none")
    parser = _InMemory(
        request.headers,
        _in_pieces(request, limit),  # type: ignore[arg-type]  # any asynchronous iterator does
        max_files=most_files,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidArgumentError("request", f"is a form that cannot be read: {error.message}") from None
    return form, sum(value.size or 0 for _, value in form.multi_items() if isinstance(value, UploadFile))


async def _in_pieces(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body of a form, as it arrives; a thousand small parts would hold the event loop up for 15 ms."""
    async for chunk in chunks(request, limit):
        size = len(chunk) if chunk.count(b"\r\n") <= _FEW_LINES else _DENSE_BYTES
        for at in range(0, len(chunk), size):
            if at:
                await request.state.turn()
            yield chunk[at : at + size]


def _of_fields(form: FormData, route: Route) -> Message:
    known = _FORM if route.name != "Embed" else _FORM[:3]
    for name in form:
        if name not in known:
            raise InvalidArgumentError(name[:80], f"is no field of this form: {', '.join(known)}")
    queries = _queries(form)
    rest: dict[str, Any] = {}
    if bundle := _once(form, "bundle_id"):
        rest["bundle_id"] = bundle
    if options := _options(form):
        rest["options"] = options
    message = _filled(route.request, rest)
    if isinstance(message, pb.AttributeBatchRequest):
        message.queries.extend(queries)
    elif isinstance(message, pb.AttributeRequest | pb.EmbedRequest):
        message.query.CopyFrom(queries[0])
    return message


def _queries(form: FormData) -> list[pb.Query]:
    pictures = []
    for value in form.getlist("image"):
        if not isinstance(value, UploadFile):
            raise InvalidArgumentError("image", "must be a file: curl -F image=@picture.png")
        pictures.append(value.file.read())
    if not pictures:
        raise InvalidArgumentError("image", "must be given: curl -F image=@picture.png")
    prompts = [_text("prompt", value) for value in form.getlist("prompt")] or [""]
    if len(prompts) not in (1, len(pictures)):
        raise InvalidArgumentError(
            "prompt", f"must be given once, or once for each of {len(pictures)} pictures, got {len(prompts)}"
        )
    if len(prompts) == 1:
        prompts *= len(pictures)
    return [pb.Query(image=data, prompt=prompt) for data, prompt in zip(pictures, prompts, strict=True)]


def _options(form: FormData) -> dict[str, Any]:
    options: dict[str, Any] = {name: value for name in _NUMBERS if (value := _once(form, name))}
    for name in _FLAGS:
        if given := _once(form, name):
            if given not in {"true", "false"}:
                raise InvalidArgumentError(name, f"must be true or false, got {given[:40]!r}")
            options[name] = given == "true"
    lists = {name: [_text(name, value) for value in form.getlist(name)] for name in FILTERS}
    if any(lists.values()):
        options["filter"] = {name: values for name, values in lists.items() if values}
    return options


def _once(form: FormData, name: str) -> str:
    values = form.getlist(name)
    if len(values) > 1:
        raise InvalidArgumentError(name, "must be given once")
    return _text(name, values[0]) if values else ""


def _text(name: str, value: str | UploadFile) -> str:
    if isinstance(value, UploadFile):
        raise InvalidArgumentError(name, "must be text, not a file")
    return value
