"""What another caller feels while one sends hostile pictures, and the most memory that the server takes meanwhile.

    python benchmarks/hostile_pictures.py --bundle out/bundle --save

A process with one token sends pictures that are small and claim much, or make a parser walk: `--rate` a second in turn
over 24 connections, refused or not, whether earlier ones are answered or not, up to 2,048 at once. Another token asks
with a good picture, twenty times a second: alone, beside the attack, and alone again; and, as a control, while the same
process sends the same pictures as fast to a server that reads them and refuses, so that what the attacker and the
network take of this machine is known. Memory is the server's and its decoders'. The attacker gives way to the server
and to whoever asks, but not to decoders, so it keeps its rate. A report is printed however it ends; `--most-s` bounds
the attack.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import itertools
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import psutil
from common import ROOT, aim, arguments, emit
from hostile_kinds import below, hostile, large
from resident import resident

from attributary.client import Client
from attributary.errors import AttributaryError
from attributary.v1 import attribution_pb2 as pb
from attributary.v1 import attribution_pb2_grpc as rpc

with socket.socket() as _found:
    _found.bind(("127.0.0.1", 0))
    # The attacker's process is to find the same.
    PORT = int(os.environ.setdefault("HOSTILE_PORT", str(_found.getsockname()[1])))
QUIET_S, CONTROL_S = 40.0, 60.0
CONNECTIONS, AT_ONCE = 24, 2_048
# How long the attacker waits for one answer, and at the end for all.
PATIENCE_S = 60.0
REFUSALS = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")


@contextlib.contextmanager
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


class Quiet:
    """The other caller: milliseconds that its answers took, and how many questions failed."""

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
                    self.took.append((time.perf_counter() - begun) * 1e3)
                except AttributaryError:
                    self.failed += 1
                time.sleep(0.05)

    def row(self, when: str) -> dict[str, Any]:
        """What was felt."""
        p50, p90, p99, most = np.percentile(self.took or [np.nan], (50, 90, 99, 100))
        return {"when": when, "answered": len(self.took), "failed": self.failed, "p50_ms": round(p50, 1),
                "p90_ms": round(p90, 1), "p99_ms": round(p99, 1), "most_ms": round(most, 1)}  # fmt: skip


def after(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds have passed from now."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def watch(process: psutil.Process, over: threading.Event, found: list[int]) -> None:
    """Note the most memory, four times a second."""
    while not over.wait(0.25):
        found[0] = max(found[0], resident(process.pid))


class Attacker:
    """A process that sends hostile pictures to a port; `outcomes` are counts by kind and gRPC code, as last told."""

    def __init__(self, port: int, count: int, rate: float, most_s: float, only: str = "") -> None:
        spawn = multiprocessing.get_context("spawn")
        self._hears, tells = spawn.Pipe(duplex=False)
        self._process = spawn.Process(
            target=attack, args=(port, count, rate, most_s, only, tells), daemon=True
        )
        self._process.start()
        tells.close()
        self._end = time.monotonic() + most_s + 2 * PATIENCE_S
        self.outcomes: dict[str, dict[str, int]] = {}
        self.seconds = 0.0  # while it sent

    def over(self) -> bool:
        """Whether it has ended, by itself or because it took too long."""
        try:
            while self._hears.poll():
                self.seconds, self.outcomes, ended = self._hears.recv()
                if ended:
                    return True
        except EOFError:
            return True
        return time.monotonic() > self._end

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.join(PATIENCE_S)


def attack(port: int, count: int, rate: float, most_s: float, only: str, told: Any) -> None:
    """Send; to be run in a process of its own. Tells outcomes by kind every second."""
    os.nice(5)
    asyncio.run(_attack(port, count, rate, most_s, only, told))


async def _attack(port: int, count: int, rate: float, most_s: float, only: str, told: Any) -> None:
    known = {**hostile(), **below()} if only else hostile()
    kinds = {name: data for name, data in known.items() if only in name}
    options, token = pb.Options(top_k=5), (("authorization", "Bearer hostile"),)
    asked = {
        name: pb.AttributeRequest(query=pb.Query(image=data), options=options) for name, data in kinds.items()
    }
    outcomes: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in kinds}
    turns, began, free = itertools.cycle(kinds), time.monotonic(), asyncio.Semaphore(AT_ONCE)
    sending = 0.0

    async def send(stub: rpc.AttributionServiceAsyncStub, name: str) -> None:
        code = "UNANSWERED"
        try:
            await stub.Attribute(asked[name], timeout=PATIENCE_S, metadata=token)
            code = "OK"
        except grpc.aio.AioRpcError as error:
            code = error.code().name
        finally:
            outcomes[name][code] += 1
            free.release()

    def tell(ended: bool = False) -> None:
        seconds = sending or time.monotonic() - began
        told.send((seconds, {name: dict(found) for name, found in outcomes.items()}, ended))

    async def keep_telling() -> None:
        while True:
            await asyncio.sleep(1.0)
            tell()

    telling = asyncio.create_task(keep_telling())
    # Else all channels of a process share one connection, and its limit on calls holds most of the attack back.
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", own) for _ in range(CONNECTIONS)]
    stubs = [rpc.AttributionServiceStub(channel) for channel in channels]
    running = set()
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        await free.acquire()
        if time.monotonic() - began > most_s:
            break
        task = asyncio.create_task(send(stubs[number % CONNECTIONS], next(turns)))
        running.add(task)
        task.add_done_callback(running.discard)
    sending = time.monotonic() - began
    if running:
        _, late = await asyncio.wait(running, timeout=PATIENCE_S)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
    telling.cancel()
    tell(ended=True)
    for channel in channels:
        await channel.close()


def refuse_all(told: Any) -> None:
    """The control's server: reads every message and refuses it; to be run in a process of its own."""
    os.nice(5)

    async def refuse(_message: bytes, context: Any) -> None:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "read and refused")

    class Every(grpc.GenericRpcHandler):
        def service(self, _details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(refuse)

    async def serve() -> None:
        running = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
        running.add_generic_rpc_handlers((Every(),))
        told.send(running.add_insecure_port("127.0.0.1:0"))
        await running.start()
        await running.wait_for_termination()

    asyncio.run(serve())


@contextlib.contextmanager
def refusing() -> Iterator[int]:
    """The port of the control's server."""
    spawn = multiprocessing.get_context("spawn")
    hears, tells = spawn.Pipe(duplex=False)
    process = spawn.Process(target=refuse_all, args=(tells,), daemon=True)
    process.start()
    try:
        yield hears.recv()
    finally:
        process.terminate()
        process.join(PATIENCE_S)


class ServerEndedError(Exception):
    """There is nothing left to measure."""


def _fail_unless(up: bool) -> bool:
    if not up:
        raise ServerEndedError
    return False


class Run:
    """What has been measured so far."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        picture = next((ROOT / "models" / "demo-queries").glob("*.png")).read_bytes()
        self._picture = large() if args.large else picture
        self.quiet, self.control, self.beside = (Quiet(self._picture) for _ in range(3))
        self.most = [0]
        self.attacker: Attacker | None = None
        self.ended = "early"

    def measure(self) -> None:
        """Run all of it."""
        args, over = self._args, threading.Event()
        with server(args.bundle) as process:
            self._wait()
            watching = threading.Thread(target=watch, args=(process, over, self.most))
            watching.start()

            def while_up(over: Callable[[], bool]) -> Callable[[], bool]:
                """`over`, but for a server that has ended: nothing is measured then."""
                return lambda: over() or _fail_unless(process.status() != psutil.STATUS_ZOMBIE)

            try:
                self.quiet.ask(while_up(after(QUIET_S)))
                with refusing() as port:
                    attacker = Attacker(port, sys.maxsize, args.rate, CONTROL_S, args.only)
                    self.control.ask(while_up(after(CONTROL_S)))
                    attacker.stop()
                self.attacker = Attacker(PORT, args.pictures, args.rate, args.most_s, args.only)
                self.beside.ask(while_up(self.attacker.over))
                self.attacker.stop()
                self.quiet.ask(while_up(after(QUIET_S)))
                self.ended = "all phases done"
            finally:
                over.set()
                watching.join()

    def _wait(self) -> None:
        with Client(f"127.0.0.1:{PORT}", token="quiet", timeout_s=120) as client:
            for _ in range(300):
                try:
                    client.attribute(self._picture)
                    return
                except AttributaryError:
                    time.sleep(0.2)

    def report(self) -> None:
        """Print what there is."""
        args, outcomes = self._args, self.attacker.outcomes if self.attacker else {}
        rows = [self.quiet.row("quiet, before and after"), self.control.row("beside the control"),
                self.beside.row("beside the attack")]  # fmt: skip
        columns = sorted({code for found in outcomes.values() for code in found})
        kinds = [
            {"kind": name, **{one: found.get(one, 0) for one in columns}} for name, found in outcomes.items()
        ]
        total = {one: sum(found.get(one, 0) for found in outcomes.values()) for one in columns}
        sent, answered = sum(total.values()), total.get("OK", 0)
        refused = sum(total.get(code, 0) for code in REFUSALS)
        seconds = self.attacker.seconds if self.attacker else 0.0
        by_code = {f"refused {code}": total.get(code, 0) for code in REFUSALS}
        hostile_row = {"sent": sent, "answered": answered, **by_code,
                       "failed": sent - answered - refused, "seconds": round(seconds),
                       "a_second": round(sent / max(seconds, 1e-9), 1)}  # fmt: skip
        memory = self.most[0] / 2**30
        failed = self.quiet.failed + self.control.failed + self.beside.failed
        quiet, control, beside = (row["p99_ms"] for row in rows)
        aims = [
            aim("hostile pictures sent", sent, 20_000, "", sent >= 20_000),
            aim(
                "another caller's p99 over its quiet p99",
                beside / quiet,
                3.0,
                "x",
                beside / quiet <= 3.0 and not failed,
            ),
            aim("another caller's calls that failed", failed, 0, "", failed == 0),
            aim("memory", memory, 4.0, "GiB", memory < 4.0),
        ]
        ratios = {
            "p99_over_control": round(beside / control, 2),
            "control_over_quiet": round(control / quiet, 2),
        }
        tables = {"another caller": rows, "hostile": [hostile_row], "hostile by kind": kinds}
        config = {"pictures": args.pictures, "rate": args.rate, "connections": CONNECTIONS, "ended": self.ended,
                  "only": args.only, "asks_with": "a JPEG of 12 megapixels" if args.large else "a generated picture",
                  **ratios}  # fmt: skip
        emit("hostile_pictures", config, tables, aims, args.json)


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=ROOT / "out" / "bundle")
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=100.0, help="hostile pictures a second")
    parser.add_argument("--most-s", type=float, default=600.0, help="stop sending after so many seconds")
    parser.add_argument(
        "--only",
        default="",
        help="send only kinds that hold this, of `below`, too",
    )
    parser.add_argument("--large", action="store_true", help="the other caller asks with a large picture")
    args = parser.parse_args()
    # As Ctrl-C does: what has been measured is told.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = Run(args)
    try:
        run.measure()
    except KeyboardInterrupt:
        run.ended = "interrupted"
    except ServerEndedError:
        run.ended = "the server has ended"
    finally:
        run.report()


if __name__ == "__main__":
    main()
