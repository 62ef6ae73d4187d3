"""Serve a bundle in a process of its own: serve_bundle.py '{"bundle": ..., "config": {...}, "limits": {...}}'.

"hold_s" makes every batch take that long, "hold_until" lets it wait for a file of that name; "fail" makes an engine
that fails for every picture.
"""

import json
import sys
import time
from pathlib import Path

from attributary.attribution.open import open_engine
from attributary.attribution.types import Limits
from attributary.delta.store import Store
from attributary.gateway.config import GatewayConfig
from attributary.gateway.opened import Opened
from attributary.gateway.running import serve


def main(text: str) -> int:
    asked = json.loads(text)
    limits = Limits(**asked.get("limits", {}))

    def opened(place):
        return open_engine(place, limits=limits)

    store = None
    if "admin_tokens_file" in asked.get("config", {}):
        store = Store(Path(asked["bundle"]), opened)
    engine = store.engine if store else opened(Path(asked["bundle"]))
    hold, release = asked.get("hold_s", 0), asked.get("hold_until")
    if hold or release:
        scored = engine.scored

        def held(batch):
            # One write: batches run in several threads, and print writes a line's end by itself.
            sys.stdout.write(json.dumps({"batch": len(batch)}) + "\n")
            sys.stdout.flush()
            time.sleep(hold)
            for _ in range(20_000 if release else 0):  # 200 s
                if Path(release).exists():
                    break
                time.sleep(0.01)
            return scored(batch)

        engine.scored = held
    paths = ("tls_cert", "tls_key", "tls_client_ca", "tokens_file", "admin_tokens_file", "receipt_key_file")
    settings = {
        name: Path(value) if name in paths else value for name, value in asked.get("config", {}).items()
    }
    config = GatewayConfig(**{"port": 0, "metrics_port": 0, **settings})
    return serve(engine, config, store=store, open_bundle=lambda place: Opened(opened(place)))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
