"""Write the OpenAPI description of the HTTP paths from the contract and its comments: openapi.py [OUT].

The paths are those of attributary.gateway.http.routes. A test holds the committed file to what this writes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from attributary.gateway.http.replies import ARROW, PARQUET, PDF
from attributary.gateway.http.routes import ROUTES, Route

ROOT = Path(__file__).parent
OUT = ROOT.parent / "python" / "attributary" / "gateway" / "http" / "openapi.json"
PROTO = "attributary/v1/attribution.proto"
PACKAGE = ".attributary.v1."
SCALARS: dict[int, dict[str, Any]] = {
    Field.TYPE_STRING: {"type": "string"},
    Field.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    Field.TYPE_BOOL: {"type": "boolean"},
    Field.TYPE_FLOAT: {"type": "number", "format": "float"},
    Field.TYPE_DOUBLE: {"type": "number", "format": "double"},
    Field.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    Field.TYPE_INT32: {"type": "integer", "format": "int32"},
    # As text: numbers of JSON do not reach so far in every language.
    Field.TYPE_INT64: {"type": "string", "format": "int64"},
    Field.TYPE_UINT64: {"type": "string", "format": "uint64"},
}
STATUS = {
    "type": "object",
    "description": "google.rpc.Status: code is one of google.rpc.Code; details are BadRequest, ErrorInfo, RetryInfo.",
    "properties": {
        "code": {"type": "integer"},
        "message": {"type": "string"},
        "details": {"type": "array", "items": {"type": "object", "required": ["@type"]}},
    },
}
FORM_TEXT = {
    "prompt": "The text that the picture was generated from; in a batch once for all, or once for each picture.",
    "bundle_id": "Alias or id of the bundle that must answer; empty for the default.",
}
FORM_OPTIONS: dict[str, dict[str, Any]] = {
    "top_k": {"type": "integer"},
    "top_creators": {"type": "integer"},
    "timings": {"type": "string", "enum": ["true", "false"]},
    "receipt": {"type": "string", "enum": ["true", "false"]},
    **{
        name: {"type": "array", "items": {"type": "string"}}
        for name in ("include_creators", "exclude_creators", "include_licences", "exclude_licences")
    },
}


def main() -> int:
    """Write the description."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    out.write_text(json.dumps(describe(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def describe() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    contract, notes = _read()
    schemas = {
        message.name: _message(contract, index, notes) for index, message in enumerate(contract.message_type)
    }
    used = _used({route.request.DESCRIPTOR.name for route in ROUTES}, schemas)
    used |= _used({route.response.DESCRIPTOR.name for route in ROUTES}, schemas)
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, contract, notes, schemas)
    paths["/healthz"] = {
        "get": {
            "operationId": "Health",
            "security": [],
            "responses": {"200": {"description": "serving"}, "503": {"description": "not serving"}},
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Attributary",
            "version": "v1",
            "description": notes.get((12,), "").split("\n\n")[0]
            or "Which training images made this picture, and whose are they?",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {**{name: schemas[name] for name in sorted(used)}, "Status": STATUS},
        },
    }


def _read() -> tuple[Any, dict[tuple[int, ...], str]]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        well_known = files("grpc_tools") / "_proto"
        arguments = [
            f"-I{ROOT}",
            f"-I{well_known}",
            "--include_source_info",
            f"--descriptor_set_out={out}",
            PROTO,
        ]
        if protoc.main(["protoc", *arguments]):
            raise SystemExit("protoc failed")
        contract = FileDescriptorSet.FromString(out.read_bytes()).file[-1]
    notes = {}
    for place in contract.source_code_info.location:
        if text := (place.leading_comments or place.trailing_comments):
            lines = [line.removeprefix(" ") for line in text.strip("\n").split("\n")]
            notes[tuple(place.path)] = "\n".join(lines).strip()
    return contract, notes


def _message(contract: Any, index: int, notes: dict[tuple[int, ...], str]) -> dict[str, Any]:
    message = contract.message_type[index]
    maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    properties = {}
    for number, field in enumerate(message.field):
        properties[field.name] = _field(field, maps, notes.get((4, index, 2, number), ""))
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if note := notes.get((4, index), ""):
        schema["description"] = note
    return schema


def _field(field: Any, maps: dict[str, Any], note: str) -> dict[str, Any]:
    described = {"description": note} if note else {}
    if field.type == Field.TYPE_MESSAGE:
        name = field.type_name.rpartition(".")[2]
        if name in maps:
            return {
                "type": "object",
                "additionalProperties": dict(SCALARS[maps[name].field[1].type]),
                **described,
            }
        kind: dict[str, Any] = {"$ref": f"#/components/schemas/{name}"}
    else:
        kind = dict(SCALARS[field.type])
    if field.label == Field.LABEL_REPEATED:
        kind = {"type": "array", "items": kind}
    return {**kind, **described}


def _used(names: set[str], schemas: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        text = json.dumps(schemas[name])
        waiting += [other for other in schemas if f'"#/components/schemas/{other}"' in text]
    return found


def _operation(
    route: Route, contract: Any, notes: dict[tuple[int, ...], str], schemas: dict[str, Any]
) -> dict[str, Any]:
    methods = [method.name for method in contract.service[0].method]
    response = {"schema": {"$ref": f"#/components/schemas/{route.response.DESCRIPTOR.name}"}}
    content: dict[str, Any] = {"application/json": response}
    if route.picture:
        content = {"image/webp": {"schema": {"type": "string", "format": "binary"}}}
    if route.table:
        content |= {kind: {"schema": {"type": "string", "format": "binary"}} for kind in (ARROW, PARQUET)}
    if route.name == "Attribute":
        content[PDF] = {"schema": {"type": "string", "format": "binary"}}
    status = {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}}
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": notes.get((6, 0, 2, methods.index(route.name)), ""),
        "parameters": _parameters(route, schemas),
        "responses": {
            "200": {"description": "the answer", "content": content},
            "default": {"description": "an error", "content": status},
        },
    }
    if route.method == "POST":
        operation["requestBody"] = {"required": True, "content": _bodies(route)}
    return operation


def _parameters(route: Route, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    timeout = {
        "name": "X-Timeout-Seconds",
        "in": "header",
        "description": "How long the caller waits for the answer.",
        "schema": {"type": "number"},
    }
    if route.method == "POST":
        return [timeout]
    properties = schemas[route.request.DESCRIPTOR.name]["properties"]
    found = []
    for name, schema in properties.items():
        inside = "{" + name + "}" in route.path
        plain = {key: value for key, value in schema.items() if key != "description"}
        found.append({"name": name, "in": "path" if inside else "query", "required": inside, "schema": plain})
        if note := schema.get("description"):
            found[-1]["description"] = note
    return [*found, timeout]


def _bodies(route: Route) -> dict[str, Any]:
    bodies: dict[str, Any] = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{route.request.DESCRIPTOR.name}"}}
    }
    if route.form:
        picture: dict[str, Any] = {"type": "string", "format": "binary"}
        texts: dict[str, Any] = {
            name: {"type": "string", "description": note} for name, note in FORM_TEXT.items()
        }
        if route.name == "AttributeBatch":
            picture = {"type": "array", "items": picture}
            texts["prompt"] = {
                "type": "array",
                "items": {"type": "string"},
                "description": FORM_TEXT["prompt"],
            }
        options = FORM_OPTIONS if route.name != "Embed" else {}
        form = {"type": "object", "required": ["image"], "properties": {"image": picture, **texts, **options}}
        bodies["multipart/form-data"] = {"schema": form}
    return bodies


if __name__ == "__main__":
    raise SystemExit(main())
