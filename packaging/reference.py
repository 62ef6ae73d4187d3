"""The reference pages of the site: the contract from its .proto files, the Python face from its docstrings."""

from __future__ import annotations

import enum
import inspect
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROTOS = ("attribution", "admin")


def pages() -> dict[str, str]:
    """Return the pages, Markdown by path in the site."""
    from attributary import client, errors
    from attributary.client import admin

    python = [
        "# Python reference\n\nWhat programs import: `attributary.client` to ask, `attributary.client.admin` to change "
        "what is served, `attributary.errors` for what can go wrong. Written from the docstrings.\n",
        *_module(client, client.__all__),
        *_module(admin, _own(admin)),
        *_module(errors, _own(errors)),
    ]
    return {
        "reference/python.md": "\n".join(python),
        **{f"reference/{name}.md": "\n".join(_contract(name)) for name in PROTOS},
    }


def _own(module: ModuleType) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


def _module(module: ModuleType, names: list[str]) -> Iterator[str]:
    yield f"## `{module.__name__}`\n\n{_text(module)}\n"
    for name in names:
        value = getattr(module, name)
        yield f"### {name}\n\n```text\n{_signature(name, value)}\n```\n\n{_text(value)}\n"
        if inspect.isclass(value) and not issubclass(value, enum.Enum):
            # What it has from others of this package is as much its own to whoever calls it.
            members = {
                inner: method for kind in reversed(value.__mro__) for inner, method in vars(kind).items()
            }
            for inner, method in members.items():
                if not inner.startswith("_") and (inspect.isfunction(method) or isinstance(method, property)):
                    called = method.fget if isinstance(method, property) else method
                    yield f"#### {name}.{inner}\n\n```text\n{_signature(inner, called)}\n```\n\n{_text(method)}\n"


def _signature(name: str, value: Any) -> str:
    try:
        told = inspect.signature(value)
    except (TypeError, ValueError):
        # A dictionary with known keys.
        fields = [f"    {key}: {_plain(kind)}" for key, kind in getattr(value, "__annotations__", {}).items()]
        return "\n".join([name, *fields])
    parts = [_plain(str(part)) for part in told.parameters.values()]
    star = next((at for at, one in enumerate(told.parameters.values()) if one.kind is one.KEYWORD_ONLY), None)
    if star is not None and not any(one.kind is one.VAR_POSITIONAL for one in told.parameters.values()):
        parts.insert(star, "*")
    back = told.return_annotation
    end = ")" if back in (inspect.Signature.empty, None, "None") else f") -> {_plain(str(back))}"
    line = f"{name}({', '.join(parts)}{end}"
    # Of many parts, one a line.
    return line if len(line) < 90 else "\n".join([f"{name}(", *(f"    {part}," for part in parts), end])


def _plain(told: Any) -> str:
    """Annotations are texts in these modules."""
    text = str(getattr(told, "__forward_arg__", told))
    return re.sub(r"^'(.*)'$", r"\1", re.sub(r": '([^']*)'", r": \1", text))


def _text(value: Any) -> str:
    told = inspect.getdoc(value) or ""
    # What dataclasses write for themselves is the signature again.
    return "" if re.match(r"^\w+\(.*\)( ->.*)?$", told, re.DOTALL) and told.count(":") else told


def _contract(name: str) -> Iterator[str]:
    contract, notes = _read(f"attributary/v1/{name}.proto")
    yield f"# Contract: {name}.proto\n\nWhat goes over the wire: package `{contract.package}`, from its comments.\n"
    for place, service in enumerate(contract.service):
        yield f"## {service.name}\n\n{notes.get((6, place), '')}\n"
        for number, method in enumerate(service.method):
            asked, got = (
                f"{'stream ' if streams else ''}{_short(kind)}"
                for kind, streams in (
                    (method.input_type, method.client_streaming),
                    (method.output_type, method.server_streaming),
                )
            )
            yield f"### {method.name}\n\n`{asked}` to `{got}`\n\n{notes.get((6, place, 2, number), '')}\n"
    for place, message in enumerate(contract.message_type):
        yield from _message(message, (4, place), notes, message.name)
    for place, values in enumerate(contract.enum_type):
        yield f"## {values.name}\n\n{notes.get((5, place), '')}\n"
        yield from (f"- `{value.name}` = {value.number}" for value in values.value)
        yield ""


def _message(
    message: Any, at: tuple[int, ...], notes: dict[tuple[int, ...], str], name: str
) -> Iterator[str]:
    if message.options.map_entry:
        return
    yield f"## {name}\n\n{notes.get(at, '')}\n"
    if message.field:
        yield "| field | number | type | |\n| --- | --- | --- | --- |"
        for place, field in enumerate(message.field):
            words = notes.get((*at, 2, place), "").replace("\n", " ").replace("|", "\\|")
            yield f"| `{field.name}` | {field.number} | {_kind(field)} | {words} |"
        yield ""
    for place, inner in enumerate(message.nested_type):
        yield from _message(inner, (*at, 3, place), notes, f"{name}.{inner.name}")


def _kind(field: Any) -> str:
    kind = (
        _short(field.type_name)
        if field.type_name
        else field.Type.Name(field.type).removeprefix("TYPE_").lower()
    )
    if field.label == field.LABEL_REPEATED:
        return f"repeated {kind}"
    return f"optional {kind}" if field.proto3_optional else kind


def _short(name: str) -> str:
    return name.removeprefix(".attributary.v1.").lstrip(".")


def _read(proto: str) -> tuple[Any, dict[tuple[int, ...], str]]:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        command = [
            "protoc",
            f"-I{ROOT / 'proto'}",
            "--include_source_info",
            f"--descriptor_set_out={out}",
            proto,
        ]
        if protoc.main(command):
            raise RuntimeError(f"{proto} cannot be read")
        [contract] = FileDescriptorSet.FromString(out.read_bytes()).file
    notes = {
        tuple(place.path): "\n".join(line.strip() for line in place.leading_comments.strip().splitlines())
        for place in contract.source_code_info.location
        if place.leading_comments
    }
    return contract, notes
