"""What another caller feels while one sends hostile pictures, and the most memory that the server takes meanwhile.

    python benchmarks/hostile_pictures.py --bundle out/bundle --save

A process with one token sends pictures that are small and claim much, or make a parser walk: `--rate` a second in turn
over four connections, whether earlier ones are answered or not, up to 256 at once. Another token asks with a good
picture, twenty times a second: alone, beside the attack, and alone again. Memory is the server's and its decoders'. The
attacker gives way to everything else on the machine, as if it ran on one of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import io
import itertools
import multiprocessing
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from common import ROOT, aim, arguments, emit
from PIL import Image

from attributary.client import AsyncClient, Client
from attributary.errors import AttributaryError

with socket.socket() as _found:
    _found.bind(("127.0.0.1", 0))
    # The attacker's process is to find the same.
    PORT = int(os.environ.setdefault("HOSTILE_PORT", str(_found.getsockname()[1])))
QUIET_S = 40.0
CONNECTIONS, AT_ONCE = 4, 256


def scans() -> bytes:
    """A JPEG of 36 megapixels, whose last scan comes 80 times: seconds of a decoder's time."""
    kept = io.BytesIO()
    Image.new("L", (6_000, 6_000)).save(kept, "JPEG", progressive=True)
    whole = kept.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * 80 + whole[-2:]


def hostile() -> dict[str, bytes]:
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

    beyond = struct.pack("<I", 6_999 | 6_999 << 14)
    return {
        "WebP, 34 bytes, 25 megapixels": webp,
        "WebP, 34 bytes, 49 megapixels": webp.replace(struct.pack("<I", bits), beyond),
        "PNG, 35 kB, 36 megapixels": png(6_000),
        "JPEG, 36 megapixels, 90 scans": scans(),
        "JPEG, 60,000 empty segments": b"\xff\xd8" + b"\xff\xe1\x00\x02" * 60_000 + b"\xff\xd9",
        "JPEG, 1 MB of fill bytes": b"\xff\xd8" + b"\xff" * 1_000_000 + b"\xd9",
        "GIF, a comment in 60,000 pieces": (
            b"GIF89a\x01\x00\x01\x00\x00\x00\x00!\xfe" + b"\x01a" * 60_000 + b"\x00;"
        ),
        "JPEG, noise": b"\xff\xd8\xff\xe0" + np.random.default_rng(1).bytes(3_000),
    }


@contextmanager
def server(bundle: Path) -> Iterator[psutil.Process]:
    """`attributary serve`, with two tokens."""
    with tempfile.TemporaryDirectory() as home:
        tokens = Path(home) / "tokens"
        tokens.write_text("hostile\nquiet\n")
        tokens.chmod(0o600)
        command = [sys.executable, "-m", "attributary.cli.main", "serve", str(bundle), "--port", str(PORT),
                   "--metrics-port", "-1", "--tokens-file", str(tokens), "--log-level", "error"]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
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


class Quiet:
    """The other caller: milliseconds that its questions took, and what failed."""

    def __init__(self, picture: bytes) -> None:
        self._picture = picture
        self.took: list[float] = []
        self.failed = 0

    def ask(self, until: Callable[[], bool]) -> None:
        """Ask until told to stop."""
        with Client(f"127.0.0.1:{PORT}", token="quiet", timeout_s=20, retry=False) as client:
            while not until():
                begun = time.perf_counter()
                try:
                    client.attribute(self._picture, top_k=5)
                except AttributaryError:
                    self.failed += 1
                self.took.append((time.perf_counter() - begun) * 1e3)
                time.sleep(0.05)

    def row(self, when: str) -> dict[str, Any]:
        """What was felt."""
        p50, p99 = np.percentile(self.took, (50, 99))
        return {"when": when, "asked": len(self.took), "failed": self.failed, "p50_ms": round(p50, 1),
                "p99_ms": round(p99, 1), "most_ms": round(max(self.took), 1)}  # fmt: skip


def after(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds have passed from now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def watch(process: psutil.Process, over: threading.Event, found: list[int]) -> None:
    """Note the most memory, twice a second."""
    while not over.wait(0.5):
        found[0] = max(found[0], resident(process))


def attack(count: int, rate: float, most_s: float, told: Any) -> None:
    """Send; to be run in a process of its own. Tells outcomes by kind."""
    os.nice(19)
    told.send(asyncio.run(_attack(count, rate, most_s)))


async def _attack(count: int, rate: float, most_s: float) -> dict[str, dict[str, int]]:
    kinds = hostile()
    outcomes: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in kinds}
    turns, began, free = itertools.cycle(kinds), time.monotonic(), asyncio.Semaphore(AT_ONCE)

    async def send(client: AsyncClient, name: str) -> None:
        try:
            await client.attribute(kinds[name], top_k=5)
            outcomes[name]["answered"] += 1
        except AttributaryError as error:
            outcomes[name][type(error).__name__] += 1
        finally:
            free.release()

    clients = [
        AsyncClient(f"127.0.0.1:{PORT}", token="hostile", timeout_s=60, retry=False)
        for _ in range(CONNECTIONS)
    ]
    running = set()
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        await free.acquire()
        if time.monotonic() - began > most_s:
            break
        task = asyncio.create_task(send(clients[number % CONNECTIONS], next(turns)))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    for client in clients:
        await client.close()
    return {name: dict(found) for name, found in outcomes.items()}


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=ROOT / "out" / "bundle")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=100.0, help="hostile pictures a second")
    parser.add_argument("--most-s", type=float, default=3_600.0, help="stop sending after so many seconds")
    args = parser.parse_args()
    picture = next((ROOT / "models" / "demo-queries").glob("*.png")).read_bytes()
    most, over = [0], threading.Event()
    quiet, beside = Quiet(picture), Quiet(picture)
    with server(args.bundle) as process:
        with Client(f"127.0.0.1:{PORT}", token="quiet", timeout_s=120) as client:
            for _ in range(300):
                try:
                    client.attribute(picture)
                    break
                except AttributaryError:
                    time.sleep(0.2)
        watching = threading.Thread(target=watch, args=(process, over, most))
        watching.start()
        quiet.ask(after(QUIET_S))
        begun = time.monotonic()
        spawn = multiprocessing.get_context("spawn")
        hears, tells = spawn.Pipe(duplex=False)
        attacker = spawn.Process(target=attack, args=(args.pictures, args.rate, args.most_s, tells))
        attacker.start()
        beside.ask(hears.poll)
        outcomes = hears.recv()
        seconds = time.monotonic() - begun
        attacker.join()
        quiet.ask(after(QUIET_S))
        over.set()
        watching.join()
    rows = [quiet.row("quiet, before and after"), beside.row("beside the attack")]
    sent = sum(sum(found.values()) for found in outcomes.values())
    ratio = rows[1]["p99_ms"] / rows[0]["p99_ms"]
    memory = most[0] / 2**30
    aims = [
        aim("hostile pictures sent", sent, 20_000, "", sent >= 20_000),
        aim("another caller's p99 over its quiet p99", ratio, 3.0, "x", ratio <= 3.0),
        aim("another caller's calls that failed", beside.failed, 0, "", beside.failed == 0),
        aim("memory", memory, 4.0, "GiB", memory < 4.0),
    ]
    columns = sorted({outcome for found in outcomes.values() for outcome in found})
    kinds = [
        {"kind": name, **{one: found.get(one, 0) for one in columns}} for name, found in outcomes.items()
    ]
    config = {
        "pictures": args.pictures,
        "rate": args.rate,
        "connections": CONNECTIONS,
        "seconds": round(seconds),
    }
    emit("hostile_pictures", config, {"another caller": rows, "hostile": kinds}, aims, args.json)


if __name__ == "__main__":
    main()
