"""From a picture's bytes to an encoder's pixels: in this process, or, where it may cost much, in another."""

from __future__ import annotations

import atexit
import json
import math
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from time import perf_counter
from typing import Any

import numpy as np

from ..errors import InvalidArgumentError, UnavailableError
from ..machine import cores
from .decode import ReadPicture, decode_walked, prepared
from .formats import MAX_BYTES, MAX_CPU_S, MAX_MEMORY, MAX_PIXELS, cost_ms, inspect
from .margins import SIDE as MARGINS_SIDE
from .walk import QUICK_PARTS, TooManyPartsError

# CPU milliseconds above which a picture goes to another process, which takes it a millisecond or two. What image
# generators make, about a megapixel, stays below.
COSTLY_MS = 40.0
# What is assumed of a picture whose size is not known here: of too many parts to be walked, or a video's key frame.
_UNKNOWN_S = 0.1
# Seconds for the CPU time that a picture may take, on a machine that has other things to do.
_MAX_WALL_S = 60.0


class CostlyPicture(Exception):  # noqa: N818 - says what it is, and is no error of anybody
    """The picture would go to another process, and the caller said that it would not wait for one.

    `seconds` is what it may take there, of CPU time.
    """

    def __init__(self, field: str, seconds: float) -> None:
        super().__init__(field)
        self.seconds = seconds


def read(
    data: bytes,
    size: int,
    *,
    max_bytes: int = MAX_BYTES,
    max_pixels: int = MAX_PIXELS,
    field: str = "query.image",
    wait: bool = True,
    digest: bool = False,
    margins: bool = False,
) -> ReadPicture:
    """`decode` and `prepare_pixels` in bounded time and memory; safe to call from several threads.

    `digest` asks for the digest of all pixels, too, `margins` for the overview of a picture that may have some.

    Raises `InvalidArgumentError` as they do, and for a picture that takes more than `formats.MAX_CPU_S` seconds of CPU
    time or `formats.MAX_MEMORY` bytes, or brings its decoder down; `UnavailableError` where no process is to be had;
    `CostlyPicture` instead of waiting for a process if `wait` is false.
    """
    started = perf_counter()
    data = bytes(data)
    try:
        kind, walked = inspect(data, max_bytes, max_pixels, field, QUICK_PARTS)
        milliseconds = cost_ms(kind, walked)
        costly = milliseconds > COSTLY_MS
        seconds = min(milliseconds / 1e3, MAX_CPU_S) if walked.width else _UNKNOWN_S
    except TooManyPartsError:
        costly, seconds = True, _UNKNOWN_S
    if costly:
        if not wait:
            raise CostlyPicture(field, seconds)
        return _pool.read(data, size, max_bytes, max_pixels, field, digest, margins)
    return prepared(decode_walked(kind, walked, max_pixels, field), size, started, digest, margins)


class _Worker:
    """One decoding process, started here."""

    def __init__(self, memory: int) -> None:
        try:
            self.process = subprocess.Popen(
                # -P: what lies in the current folder is not imported.
                [sys.executable, "-P", "-m", f"{__package__}.worker", str(memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        except OSError as error:
            raise UnavailableError(f"no process can be started to decode a picture: {error}") from error
        if not self.process.stdout.readline():  # type: ignore[union-attr]
            self.kill()
            raise UnavailableError("a process that was started to decode a picture did not get ready")

    def ask(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        """Return the reply and its bytes of pixels; raises OSError or ValueError where the process ends first."""
        size = request["size"]
        most = 3 * (size**2 + MARGINS_SIDE**2)
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(request).encode() + b"\n")
        stdin.write(data)
        stdin.flush()
        reply = json.loads(stdout.readline())
        pixels = sum(math.prod(shape) for shape in reply.get("shapes", ()))
        found = stdout.read(pixels) if pixels <= most else b""
        if len(found) != pixels:
            raise ValueError("the reply was cut off")
        return reply, found

    def kill(self) -> int:
        """End the process and return its exit code, negative for a signal."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # what was still to be written
                pipe.close()  # type: ignore[union-attr]
        return self.process.wait()


class DecodePool:
    """Decoding processes, as many at once as asked for, started when they are needed and kept."""

    def __init__(self, most: int, cpu_s: float = MAX_CPU_S, memory: int = MAX_MEMORY) -> None:
        """`cpu_s` bounds one picture's CPU time, `memory` what a process may take beyond what it starts with, bytes."""
        self._cpu_s, self._memory = cpu_s, memory
        self._most, self._turns = most, threading.Semaphore(most)
        self._idle: list[_Worker] = []

    def allow(self, most: int) -> None:
        """Let at least so many processes be at work at once."""
        if more := max(0, most - self._most):
            self._most = most
            self._turns.release(more)

    def read(
        self, data: bytes, size: int, max_bytes: int, max_pixels: int, field: str, digest: bool = False,
        margins: bool = False,
    ) -> ReadPicture:  # fmt: skip
        """`read` in a process of its own, in turn."""
        request = {
            "bytes": len(data), "cpu_s": self._cpu_s, "size": size,
            "max_bytes": max_bytes, "max_pixels": max_pixels, "field": field, "digest": digest, "margins": margins,
        }  # fmt: skip
        with self._turns:
            worker = self._take()
            started = perf_counter()
            watch = threading.Timer(_MAX_WALL_S, worker.process.kill)
            watch.daemon = True
            watch.start()
            try:
                reply, found = worker.ask(request, data)
            except (OSError, ValueError):
                raise self._ended(worker, perf_counter() - started >= _MAX_WALL_S, field) from None
            finally:
                watch.cancel()
            self._idle.append(worker)
        if "refused" in reply:
            raise InvalidArgumentError(field, reply["refused"])
        square, *seen = (tuple(shape) for shape in reply["shapes"])
        pixels = np.frombuffer(found, np.uint8)
        count = math.prod(square)
        return ReadPicture(
            pixels[:count].reshape(square),
            reply["decode_ms"],
            reply["resize_ms"],
            reply["digest"],
            pixels[count:].reshape(seen[0]) if seen else None,
        )

    def _take(self) -> _Worker:
        try:
            return self._idle.pop()
        except IndexError:
            return _Worker(self._memory)

    def _ended(self, worker: _Worker, late: bool, field: str) -> Exception:
        """What the end of a process in the middle of a picture means."""
        try:
            code = worker.process.wait(_MAX_WALL_S)
        except subprocess.TimeoutExpired:
            late, code = True, 0
        worker.kill()
        if late:
            return UnavailableError(
                f"a picture was not decoded within {_MAX_WALL_S:.0f} s: the machine is overloaded"
            )
        if code == -signal.SIGPROF:
            return InvalidArgumentError(
                field, f"takes more than {self._cpu_s} s of processor time to decode, the limit"
            )
        if code < 0:
            name = signal.Signals(-code).name
            return InvalidArgumentError(field, f"cannot be decoded: its decoder was ended by {name}")
        return RuntimeError(f"a decoding process ended with exit code {code}; its error is on standard error")

    def close(self) -> None:
        """End the processes that wait for work."""
        while self._idle:
            self._idle.pop().kill()


def allow(processes: int) -> None:
    """Let at least so many processes decode for `read` at once; without it, as many as there are cores."""
    _pool.allow(processes)


def _start_afresh() -> None:
    """After a fork: the processes belong to the parent."""
    global _pool
    _pool = DecodePool(cores())


_pool = DecodePool(cores())
atexit.register(lambda: _pool.close())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh)
