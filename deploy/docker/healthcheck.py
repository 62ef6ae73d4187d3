"""Exit 0 if the gateway in this container says SERVING; for the image's HEALTHCHECK.

With TLS on it only checks that the port is open: the container's own address is in no certificate.
"""

from __future__ import annotations

import os
import socket
import sys

TIMEOUT_S = 3.0


def serving(port: int, tls: bool) -> bool:
    """Ask the gateway on this host."""
    if tls:
        try:
            socket.create_connection(("127.0.0.1", port), TIMEOUT_S).close()
        except OSError:
            return False
        return True
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S
            )
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    up = serving(
        int(os.environ.get("ATTRIBUTARY_PORT", "50051")), bool(os.environ.get("ATTRIBUTARY_TLS_CERT"))
    )
    sys.exit(0 if up else 1)
