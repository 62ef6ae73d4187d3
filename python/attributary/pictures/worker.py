"""A process that decodes one picture after another, each within CPU seconds and memory. `pool` starts and feeds it.

Its argument is the memory that it may take beyond what it starts with, bytes. A request is a line of JSON and the
picture's bytes; a reply is a line of JSON and, where all went well, the pixels uint8 [size, size, 3], and those
of the overview where there is one; their shapes are in the line. The process ends
when its input does, or by SIGPROF when a picture takes more CPU time than it may, or as hostile bytes make it end;
the process that feeds it sees the signal.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import IO, Any

from ..errors import InvalidArgumentError
from .decode import decode, prepared


def main() -> None:
    """Serve standard input until it ends."""
    # What ends the server ends this by its closed input, once the picture in hand is answered.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    # Costly pictures make room for all else on the machine.
    os.nice(10)
    _limit_memory(int(sys.argv[1]))
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints does not get between the replies
    _reply(replies, {"ready": True})
    while line := sys.stdin.buffer.readline():
        request = json.loads(line)
        data = sys.stdin.buffer.read(request.pop("bytes"))
        signal.setitimer(signal.ITIMER_PROF, request.pop("cpu_s"))
        reply, pixels = answer(data, **request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _reply(replies, reply, pixels)


def answer(
    data: bytes,
    size: int,
    max_bytes: int,
    max_pixels: int,
    field: str,
    digest: bool = False,
    margins: bool = False,
) -> tuple[dict[str, Any], bytes]:
    """Decode and resize one picture; returns (reply, pixels, empty where the picture is refused)."""
    started = perf_counter()
    try:
        pixels = decode(data, max_bytes=max_bytes, max_pixels=max_pixels, field=field)
        found = prepared(pixels, size, started, digest, margins)
    except InvalidArgumentError as error:
        return {"refused": error.message}, b""
    except MemoryError:
        limit = int(sys.argv[1]) >> 20
        return {"refused": f"needs more than {limit} MiB of memory to be decoded, the limit"}, b""
    arrays = [found.pixels] if found.overview is None else [found.pixels, found.overview]
    facts = {
        "decode_ms": found.decode_ms, "resize_ms": found.resize_ms, "digest": found.digest,
        "shapes": [array.shape for array in arrays],
    }  # fmt: skip
    return facts, b"".join(array.tobytes() for array in arrays)


def _reply(replies: IO[bytes], reply: dict[str, Any], pixels: bytes = b"") -> None:
    replies.write(json.dumps(reply).encode() + b"\n" + pixels)
    replies.flush()


def _limit_memory(beyond: int) -> None:
    """Bound the address space; systems that know no such limit have the limits on pixels."""
    with suppress(OSError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + beyond,) * 2)


if __name__ == "__main__":
    main()
