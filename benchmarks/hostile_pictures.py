"""What another caller feels while one sends hostile pictures, and the most memory that the server takes meanwhile.

    python benchmarks/hostile_pictures.py --bundle out/bundle --pictures 20000 --save

Four connections of one token send pictures that are small and claim much, or make a parser walk; another token asks
with a good picture, twenty times a second, first alone and then beside them. Memory is the server's and its decoders'.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from common import ROOT, aim, arguments, emit

from attributary.client import Client
from attributary.errors import AttributaryError

PORT = 50_971
QUIET_S = 20.0


def hostile() -> list[bytes]:
    """One of each kind; sizes in bytes are small beside what they ask for."""
    bits = (5_000 - 1) | (4_999 - 1) << 14
    lossless = b"\x2f" + struct.pack("<I", bits) + b"\x88\x88\x08" + bytes(6)
    webp = (
        b"RIFF"
        + struct.pack("<I", 12 + len(lossless))
        + b"WEBPVP8L"
        + struct.pack("<I", len(lossless))
        + lossless
    )

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    def png(side: int) -> bytes:
        head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        rows = zlib.compress(bytes((side + 1) * side), 9)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

    return [
        webp,  # 25 million pixels in some 40 bytes
        webp.replace(struct.pack("<I", bits), struct.pack("<I", 6_999 | 6_999 << 14)),  # above the limit
        png(6_000),  # 36 million pixels of nothing
        b"\xff\xd8" + b"\xff\xe1\x00\x02" * 60_000 + b"\xff\xd9",  # empty segments
        b"\xff\xd8" + b"\xff" * 1_000_000 + b"\xd9",  # fill bytes
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00!\xfe" + b"\x01a" * 60_000 + b"\x00;",  # a comment in pieces
        b"\xff\xd8\xff\xe0" + np.random.default_rng(1).bytes(3_000),  # noise
    ]


@contextmanager
def server(bundle: Path) -> Iterator[psutil.Process]:
    """`attributary serve`, with two tokens."""
    with tempfile.TemporaryDirectory() as home:
        tokens = Path(home) / "tokens"
        tokens.write_text("hostile\nquiet\n")
        tokens.chmod(0o600)
        command = [sys.executable, "-m", "attributary.cli.main", "serve", str(bundle), "--port", str(PORT),
                   "--metrics-port", "-1", "--tokens-file", str(tokens), "--log-level", "error"]  # fmt: skip
        process = subprocess.Popen(command)
        try:
            yield psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(60)


def resident(process: psutil.Process) -> int:
    """Bytes of the server and its decoders."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def asked(
    process: psutil.Process, picture: bytes, until: threading.Event, least_s: float
) -> dict[str, float]:
    """Ask with a good picture until told to stop; milliseconds, counts, most memory."""
    took, failed, most = [], 0, 0
    started = time.monotonic()
    with Client(f"127.0.0.1:{PORT}", token="quiet", timeout_s=20, retry=False) as client:
        while not until.is_set() or time.monotonic() - started < least_s:
            begun = time.perf_counter()
            try:
                client.attribute(picture, top_k=5)
            except AttributaryError:
                failed += 1
            took.append((time.perf_counter() - begun) * 1e3)
            most = max(most, resident(process))
            time.sleep(0.05)
    p50, p99 = np.percentile(took, (50, 99))
    return {"asked": len(took), "failed": failed, "p50_ms": round(p50, 1), "p99_ms": round(p99, 1),
            "memory_gib": round(most / 2**30, 2)}  # fmt: skip


def attack(count: int, over: threading.Event, outcomes: collections.Counter[str], most_s: float) -> None:
    """Send until all are sent or the time is over, by four connections."""
    kinds, numbers, end = hostile(), itertools.count(), time.monotonic() + most_s

    def send() -> None:
        with Client(f"127.0.0.1:{PORT}", token="hostile", timeout_s=60, retry=False) as client:
            while (number := next(numbers)) < count and time.monotonic() < end:
                try:
                    client.attribute(kinds[number % len(kinds)], top_k=5)
                    outcomes["answered"] += 1
                except AttributaryError as error:
                    outcomes[type(error).__name__] += 1

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=ROOT / "out" / "bundle")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--most-s", type=float, default=3_600.0, help="stop sending after so many seconds")
    args = parser.parse_args()
    picture = next((ROOT / "models" / "demo-queries").glob("*.png")).read_bytes()
    outcomes: collections.Counter[str] = collections.Counter()
    with server(args.bundle) as process:
        with Client(f"127.0.0.1:{PORT}", token="quiet", timeout_s=120) as client:
            for _ in range(300):
                try:
                    client.attribute(picture)
                    break
                except AttributaryError:
                    time.sleep(0.2)
        done, over = threading.Event(), threading.Event()
        done.set()
        quiet = asked(process, picture, done, QUIET_S)
        sender = threading.Thread(target=attack, args=(args.pictures, over, outcomes, args.most_s))
        sender.start()
        beside = asked(process, picture, over, QUIET_S)
        sender.join()
    sent = sum(outcomes.values())
    ratio = beside["p99_ms"] / quiet["p99_ms"]
    aims = [
        aim("hostile pictures sent", sent, 20_000, "", sent >= 20_000),
        aim("another caller's p99 over its quiet p99", ratio, 3.0, "x", ratio <= 3.0),
        aim("another caller's calls that failed", beside["failed"], 0, "", beside["failed"] == 0),
        aim("memory", beside["memory_gib"], 4.0, "GiB", beside["memory_gib"] < 4.0),
    ]
    rows = [{"when": "quiet", **quiet}, {"when": "beside the attack", **beside}]
    tables = {"another caller": rows, "hostile": [{"sent": sent, **outcomes}]}
    emit("hostile_pictures", {"pictures": args.pictures, "connections": 4}, tables, aims, args.json)


if __name__ == "__main__":
    main()
