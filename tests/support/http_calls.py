"""Calls over HTTP, for tests of the gateway."""

import http.client
import json

JSON = {"content-type": "application/json"}
ASK = {"query": {"embedding": {"values": [0.5, 0, 0, 0]}}}


def fetch(port, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        connection.close()


def form(**fields):
    """A multipart body: bytes are files, lists are repeated."""
    parts = []
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            extra = '; filename="x"' if isinstance(value, bytes) else ""
            data = value if isinstance(value, bytes) else value.encode()
            head = f'--edge\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
            parts.append(head.encode() + data + b"\r\n")
    return b"".join([*parts, b"--edge--\r\n"]), {"content-type": "multipart/form-data; boundary=edge"}


def violated(body):
    return json.loads(body)["details"][0]["field_violations"][0]["field"]
