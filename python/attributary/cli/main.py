"""The command line's root: verbs are loaded when they are called, errors become one line."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Final, NoReturn

import click
from click.shell_completion import get_completion_class

from attributary import __version__
from attributary.errors import FULL, PLACE, AttributaryError, said_of
from attributary.plain import plain

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
_VERBS = {
    "demo": "attributary.cli.demo:demo_command",
    "serve": "attributary.cli.serve:serve_command",
    "ui": "attributary.cli.serve:ui_command",
    "query": "attributary.cli.query:query_command",
    "describe": "attributary.cli.query:describe_command",
    "item": "attributary.cli.query:item_command",
    "score": "attributary.cli.score:score_command",
    "report": "attributary.cli.report:report_command",
    "bundle": "attributary.cli.bundle:bundle_group",
    "verify-receipt": "attributary.cli.receipts:verify_receipt_command",
    "receipts": "attributary.cli.receipts:receipts_group",
    "payout": "attributary.cli.payout:payout_command",
    "index": "attributary.cli.index:index_group",
    "triton": "attributary.cli.triton:triton_group",
    "doctor": "attributary.cli.doctor:doctor_command",
    "completion": "attributary.cli.main:completion_command",
}


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


class _LazyGroup(click.Group):
    """Imports a verb's module only when that verb is asked for: `query` needs no FAISS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module, name = _VERBS[cmd_name].split(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return with_examples(command, cmd_name)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Which training images made this picture, and whose are they?

    Every option is also an environment variable: ATTRIBUTARY_MAX_BATCH for `serve --max-batch`,
    ATTRIBUTARY_QUERY_TOP_K for `query --top-k`.
    """


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a SHELL; put it where that shell looks for them."""
    kind = get_completion_class(shell)
    assert kind is not None
    root = ctx.find_root()
    click.echo(kind(root.command, {}, "attributary", "_ATTRIBUTARY_COMPLETE").source())


def main() -> None:
    """Run the command line."""
    run(cli, auto_envvar_prefix="ATTRIBUTARY")


def run(command: click.Command, **settings: Any) -> None:
    """Run a command; errors of this package, a full disk, a place that cannot be written are one line, status 2."""
    try:
        command(**settings)
    except (AttributaryError, FileExistsError) as error:
        _stop(plain(str(error)))
    except OSError as error:
        # Where standard output is a file, nobody else has a word for it; other kinds are faults of this package.
        if error.errno not in PLACE:
            raise
        if error.errno in FULL:
            # What is still to be written would be tried again at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _stop(plain(said_of(error)))


def _stop(said: str) -> NoReturn:
    click.echo(f"attributary: {said}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
