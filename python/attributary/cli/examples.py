"""An example or two of every verb, shown at the end of its help."""

from __future__ import annotations

from typing import Final

import click

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "demo": ("attributary demo", "attributary demo --bundle out/bundle --corpus out/corpus --out out/demo"),
    "serve": (
        "attributary serve out/bundle",
        "attributary serve next=out/new stable=out/bundle --default stable --ui",
    ),
    "ui": ("attributary ui out/bundle",),
    "query": (
        'attributary query picture.png --prompt "a red apple"',
        "attributary query *.png --json > answers.jsonl",
    ),
    "describe": ("attributary describe", "attributary describe --address host:50051 --json"),
    "item": ("attributary item 1003 1004",),
    "doctor": ("attributary doctor", "attributary doctor --json"),
    "completion": ("attributary completion bash > ~/.local/share/bash-completion/completions/attributary",),
    "score": ("attributary score logs/ --bundle out/bundle --out runs/november",),
    "report": ("attributary report runs/november --inputs logs/",),
    "bundle build": ("attributary bundle build --corpus out/corpus --encoder out/encoder --out out/bundle",),
    "bundle items": (
        "attributary bundle items --student out/student --corpus out/corpus --out items.parquet",
    ),
    "bundle verify": ("attributary bundle verify out/bundle",),
    "bundle inspect": ("attributary bundle inspect out/bundle",),
    "bundle add": ("attributary bundle add out/bundle --corpus additions/ --why 'licensed in May'",),
    "bundle held": ("attributary bundle held out/bundle --release 7 --why 'their own'",),
    "bundle delete": ("attributary bundle delete out/bundle --creator Ada --why 'opted out'",),
    "bundle compact": ("attributary bundle compact out/bundle --why 'monthly'",),
    "bundle adopt": ("attributary bundle adopt out/bundle",),
    "bundle log": ("attributary bundle log out/bundle",),
    "bundle load": ("attributary bundle load newer --alias next --why 'trained on May'",),
    "bundle unload": ("attributary bundle unload next --why 'served as stable'",),
    "bundle alias": ("attributary bundle alias stable next --why 'next holds'",),
    "bundle served": ("attributary bundle served --address host:50051",),
    "payout": ("attributary payout runs/november --pool 1000 --currency EUR",),
    "verify-receipt": ("attributary verify-receipt receipt.json --keys keys.pem",),
    "receipts new-key": ("attributary receipts new-key receipt.key",),
    "receipts rotate-key": ("attributary receipts rotate-key receipt.key",),
    "receipts keys": ("attributary receipts keys receipt.key",),
    "receipts sign-run": ("attributary receipts sign-run runs/november --receipt-key-file receipt.key",),
    "receipts prove": ("attributary receipts prove runs/november generation-17",),
    "receipts embed": (
        "attributary receipts embed picture.png --receipt r.json --cert chain.pem --key key.pem --out signed.png",
    ),
    "receipts extract": ("attributary receipts extract signed.png --out receipt.json",),
    "bundle opt-out": ("attributary bundle opt-out out/bundle --signals out/corpus --dry-run",),
    "triton build-engine": ("attributary triton build-engine --bundle out/bundle --out engines",),
    "triton load": ("attributary triton load --bundle out/new --repository models --url host:8001",),
    "triton materialize": ("attributary triton materialize --bundle out/bundle --out models",),
    "index push": ("attributary index push out/bundle --milvus-uri http://milvus:19530",),
    "index status": ("attributary index status out/bundle --milvus-uri http://milvus:19530",),
    "index drop": ("attributary index drop --milvus-uri http://milvus:19530 --milvus-collection old",),
}


def with_examples(command: click.Command, name: str) -> click.Command:
    """Give a verb, and those below it, their examples at the end of the help text."""
    if isinstance(command, click.Group):
        for below, inner in command.commands.items():
            with_examples(inner, f"{name} {below}")
    elif name in EXAMPLES and command.epilog is None:
        command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[name])
    return command
