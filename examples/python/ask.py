"""Ask over gRPC with generated stubs, and read what a refusal says: ask.py HOST:PORT PICTURE [PROMPT] [TOP_K]

`attributary.client.Client` does all of this for you; this is how it looks without it.
"""

import sys
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from attributary.v1 import attribution_pb2 as pb
from attributary.v1 import attribution_pb2_grpc as rpc

DETAILS = (error_details_pb2.BadRequest, error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo)


def main(address: str, picture: str, prompt: str = "", top_k: str = "3") -> int:
    """Print the sources of a picture, or why there are none."""
    query = pb.Query(image=Path(picture).read_bytes(), prompt=prompt)
    request = pb.AttributeRequest(query=query, options=pb.Options(top_k=int(top_k)))
    with grpc.insecure_channel(address) as channel:
        try:
            found = rpc.AttributionServiceStub(channel).Attribute(request, timeout=10).attribution
        except grpc.RpcError as error:
            return refused(error)
    for item in found.items:
        sys.stdout.write(f"{item.rank} {item.id} {item.share:.1%} {item.creator} {item.caption}\n")
    sys.stdout.write(f"nobody in particular {found.diffuse_share:.1%}\n")
    return 0


def refused(error: grpc.RpcError) -> int:
    """Print a status with its details."""
    sys.stderr.write(f"{error.code().name}: {error.details()}\n")
    status = rpc_status.from_call(error)
    for packed in status.details if status else ():
        for kind in DETAILS:
            if packed.Is(kind.DESCRIPTOR):
                detail = kind()
                packed.Unpack(detail)
                sys.stderr.write(f"{kind.DESCRIPTOR.name} {detail}")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
