"""The wire contract only grows: every message, field, number, type and method of the last release is still there."""

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, text_format

from attributary.v1 import admin_pb2, attribution_pb2

RELEASED = Path(__file__).parents[2] / "proto" / "released"
FILES = {"attributary.v1.txtpb": attribution_pb2, "attributary.v1.admin.txtpb": admin_pb2}
Field = descriptor_pb2.FieldDescriptorProto


@pytest.fixture(params=FILES)
def name(request) -> str:
    """A file of the last release."""
    return request.param


def current(name: str) -> descriptor_pb2.FileDescriptorProto:
    found = descriptor_pb2.FileDescriptorProto()
    FILES[name].DESCRIPTOR.CopyToProto(found)
    return found


def released(name: str) -> descriptor_pb2.FileDescriptorProto:
    return text_format.Parse((RELEASED / name).read_text(), descriptor_pb2.FileDescriptorProto())


def breaks(old: descriptor_pb2.FileDescriptorProto, new: descriptor_pb2.FileDescriptorProto) -> list[str]:
    """What a client of `old` would lose with a server of `new`."""
    found = [] if old.package == new.package else [f"package {old.package} became {new.package}"]
    messages = {message.name: message for message in new.message_type}
    for message in old.message_type:
        if message.name not in messages:
            found.append(f"message {message.name} is gone")
        else:
            found += _field_breaks(message, messages[message.name])
    services = {service.name: service for service in new.service}
    for service in old.service:
        methods = {m.name: m for m in services[service.name].method} if service.name in services else {}
        for method in service.method:
            if methods.get(method.name) != method:
                found.append(f"method {service.name}.{method.name} is gone or changed")
    return found


def _field_breaks(old, new) -> list[str]:
    found = []
    numbers = {field.number: field for field in new.field}
    reserved = [number for span in new.reserved_range for number in range(span.start, span.end)]
    for field in old.field:
        name = f"{old.name}.{field.name} = {field.number}"
        now = numbers.get(field.number)
        if now is None:
            found.append(f"{name} is gone" + (" (reserved)" if field.number in reserved else ""))
            continue
        for part in ("name", "type", "label", "type_name", "oneof_index", "proto3_optional"):
            if getattr(now, part) != getattr(field, part) or now.HasField(part) != field.HasField(part):
                found.append(f"{name}: {part} changed from {getattr(field, part)} to {getattr(now, part)}")
    return found


def test_every_file_of_the_contract_is_held_to_a_release():
    protos = (RELEASED.parent / "attributary" / "v1").glob("*.proto")
    assert {path.name for path in protos} == {Path(module.DESCRIPTOR.name).name for module in FILES.values()}
    assert {path.name for path in RELEASED.iterdir()} == set(FILES)


def test_nothing_of_the_last_release_is_lost(name):
    assert breaks(released(name), current(name)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.message_type.pop(),
        lambda file: file.message_type[0].field.pop(),
        lambda file: setattr(file.message_type[0].field[0], "number", 99),
        lambda file: setattr(file.message_type[0].field[0], "type", Field.TYPE_GROUP),
        lambda file: setattr(file.message_type[0].field[0], "name", "renamed"),
        lambda file: setattr(file.message_type[1].field[0], "label", Field.LABEL_REPEATED),
        lambda file: file.service[0].method.pop(),
        lambda file: file.service[0].method[0].ClearField("input_type"),
        lambda file: setattr(file.service[0].method[-1], "server_streaming", True),
        lambda file: setattr(file, "package", "attributary.v2"),
    ],
)
def test_the_check_sees_each_kind_of_break(name, change):
    broken = released(name)
    change(broken)
    assert breaks(released(name), broken)


def test_added_fields_are_allowed(name):
    grown = current(name)
    grown.message_type[0].field.add(
        name="extra", number=1000, type=Field.TYPE_INT32, label=Field.LABEL_OPTIONAL
    )
    assert breaks(released(name), grown) == []
