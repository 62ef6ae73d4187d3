"""Record the wire contract as released: python proto/release.py. Run it in the commit that tags a release."""

from pathlib import Path

from google.protobuf import descriptor_pb2, text_format

from attributary.v1 import admin_pb2, attribution_pb2

# The file of a release -> the protocol classes that it records.
FILES = {"attributary.v1.txtpb": attribution_pb2, "attributary.v1.admin.txtpb": admin_pb2}


def main() -> None:
    """Write proto/released/ from the built protocol classes."""
    folder = Path(__file__).parent / "released"
    folder.mkdir(exist_ok=True)
    for name, module in FILES.items():
        found = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(found)
        text = "# proto-file: google/protobuf/descriptor.proto\n" + text_format.MessageToString(found)
        (folder / name).write_text(text)


if __name__ == "__main__":
    main()
