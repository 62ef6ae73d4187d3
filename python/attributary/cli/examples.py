"""An example or two of every verb, shown at the end of its help."""

from __future__ import annotations

from typing import Final

import click

_GROUPS: Final = ("bundle", "receipts", "triton", "index")
_LINES: Final = """
attributary demo
attributary demo --bundle out/bundle --corpus out/corpus --out out/demo
attributary serve out/bundle
attributary serve next=out/new stable=out/bundle --default stable --ui
attributary ui out/bundle
attributary query picture.png --prompt "a red apple"
attributary query *.png --json > answers.jsonl
attributary describe
attributary describe --address host:50051 --json
attributary item 1003 1004
attributary doctor
attributary doctor --json
attributary completion bash > ~/.local/share/bash-completion/completions/attributary
attributary score logs/ --bundle out/bundle --out runs/november
attributary report runs/november --inputs logs/
attributary bundle build --corpus out/corpus --encoder out/encoder --out out/bundle
attributary bundle items --student out/student --corpus out/corpus --out items.parquet
attributary bundle verify out/bundle
attributary bundle inspect out/bundle
attributary bundle add out/bundle --corpus additions/ --why 'licensed in May'
attributary bundle held out/bundle --release 7 --why 'their own'
attributary bundle delete out/bundle --creator Ada --why 'opted out'
attributary bundle compact out/bundle --why 'monthly'
attributary bundle adopt out/bundle
attributary bundle log out/bundle
attributary bundle load newer --alias next --why 'trained on May'
attributary bundle unload next --why 'served as stable'
attributary bundle alias stable next --why 'next holds'
attributary bundle served --address host:50051
attributary bundle opt-out out/bundle --signals out/corpus --dry-run
attributary payout runs/november --pool 1000 --currency EUR
attributary verify-receipt receipt.json --keys keys.pem
attributary receipts new-key receipt.key
attributary receipts rotate-key receipt.key
attributary receipts keys receipt.key
attributary receipts sign-run runs/november --receipt-key-file receipt.key
attributary receipts prove runs/november generation-17
attributary receipts embed picture.png --receipt r.json --cert chain.pem --key key.pem --out signed.png
attributary receipts extract signed.png --out receipt.json
attributary triton build-engine --bundle out/bundle --out engines
attributary triton load --bundle out/new --repository models --url host:8001
attributary triton materialize --bundle out/bundle --out models
attributary index push out/bundle --milvus-uri http://milvus:19530
attributary index status out/bundle --milvus-uri http://milvus:19530
attributary index drop --milvus-uri http://milvus:19530 --milvus-collection old
"""


def _by_verb() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in _LINES.split("\n")[1:-1]:
        _, verb, *rest = line.split()
        found.setdefault(f"{verb} {rest[0]}" if verb in _GROUPS else verb, []).append(line)
    return found


EXAMPLES: Final = _by_verb()


def with_examples(command: click.Command, name: str) -> click.Command:
    """Give a verb, and those below it, their examples at the end of the help text."""
    if isinstance(command, click.Group):
        for below, inner in command.commands.items():
            with_examples(inner, f"{name} {below}")
    elif name in EXAMPLES and command.epilog is None:
        command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[name])
    return command
