"""A gateway as a process: serve until SIGTERM or SIGINT, drain, end."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Coroutine
from typing import Any, Unpack

import structlog

from attributary.attribution.prepare import Preparer
from attributary.delta.store import Store

from . import logs
from .config import GatewayConfig
from .processes import announce
from .remote import Link
from .server import Gateway, More
from .transport import allow_files, keep_memory

log = structlog.get_logger(__name__)

_SWITCH_S = 0.0005
# Beside connections: vectors, logs, decoders, libraries.
_OTHER_FILES = 512


def serve(
    engine: Preparer,
    config: GatewayConfig,
    link: Link | None = None,
    store: Store | None = None,
    **more: Unpack[More],
) -> int:
    """Serve an engine until SIGTERM or SIGINT, then drain; return 0. Blocks.

    `link` is where an engine on the network comes from; the server is ready before that engine is there, and says so
    through its health. `store` is what the admin service changes, if the config turns it on; it is closed at the end.
    Changes by other processes are followed for bundles without one. `more` is further bundles.

    One JSON line on standard output says when the server is ready:
    {"ready": true, "port": ..., "metrics_port": ...}.
    Raises InvalidArgumentError naming the setting, if it cannot start with this config.
    """
    logs.configure(config)
    # Taking a call costs the event loop several turns, and it waits for the interpreter's lock in each.
    sys.setswitchinterval(_SWITCH_S)
    return run(_serve(engine, config, link, store, **more), config.event_loop)


def run(main: Coroutine[Any, Any, int], event_loop: str) -> int:
    """Run a coroutine on the event loop that the config names."""
    if event_loop == "uvloop":
        import uvloop

        return int(uvloop.run(main))
    return asyncio.run(main)


async def _serve(
    engine: Preparer, config: GatewayConfig, link: Link | None, store: Store | None, **more: Unpack[More]
) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.loop_problem)
    keep_memory()
    allow_files(2 * config.max_connections + _OTHER_FILES)
    gateway = Gateway(engine, config, link, store, **more)
    await gateway.start()
    # What is there now stays: garbage is looked for among what comes after it, which takes a fraction of the time.
    gc.collect()
    gc.freeze()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ready = {"ready": True, "port": gateway.port, "metrics_port": gateway.metrics_port}
    if gateway.http_port is not None:
        ready["http_port"] = gateway.http_port
    more.get("ready", announce)(ready)
    log.info("ready", bundle_id=gateway.registry.current.bundle_id, **ready)
    await stop.wait()
    log.info("draining", inside=gateway.admission.in_use, grace_s=config.drain_s)
    stop.clear()
    draining = asyncio.create_task(gateway.drain())
    impatient = asyncio.create_task(stop.wait())
    await asyncio.wait((draining, impatient), return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        # A second signal ends the grace.
        await gateway.cut()
    impatient.cancel()
    await draining
    log.info("ended")
    return 0
