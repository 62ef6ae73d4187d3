"""Record the wire contract as released: python proto/release.py. Run it in the commit that tags a release."""

from pathlib import Path

from google.protobuf import descriptor_pb2, text_format

from attributary.v1 import attribution_pb2


def main() -> None:
    """Write proto/released/attributary.v1.txtpb from the built protocol classes."""
    found = descriptor_pb2.FileDescriptorProto()
    attribution_pb2.DESCRIPTOR.CopyToProto(found)
    target = Path(__file__).parent / "released" / "attributary.v1.txtpb"
    target.parent.mkdir(exist_ok=True)
    target.write_text("# proto-file: google/protobuf/descriptor.proto\n" + text_format.MessageToString(found))


if __name__ == "__main__":
    main()
