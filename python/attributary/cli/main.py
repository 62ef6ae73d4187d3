"""The command line's root: verbs are loaded when they are called, errors become one line."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import click
from click.shell_completion import get_completion_class

from attributary import __version__
from attributary.errors import FULL, AttributaryError
from attributary.plain import plain

from .examples import with_examples

_VERBS = {
    "demo": "attributary.cli.demo:demo_command",
    "serve": "attributary.cli.serve:serve_command",
    "ui": "attributary.cli.serve:ui_command",
    "query": "attributary.cli.query:query_command",
    "describe": "attributary.cli.ask:describe_command",
    "item": "attributary.cli.ask:item_command",
    "score": "attributary.cli.score:score_command",
    "report": "attributary.cli.report:report_command",
    "bundle": "attributary.cli.bundle:bundle_group",
    "verify-receipt": "attributary.cli.verify_receipt:verify_receipt_command",
    "receipts": "attributary.cli.receipts:receipts_group",
    "payout": "attributary.cli.payout:payout_command",
    "index": "attributary.cli.index:index_group",
    "triton": "attributary.cli.triton:triton_group",
    "doctor": "attributary.cli.doctor:doctor_command",
    "completion": "attributary.cli.main:completion_command",
}


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
    """Run a command; what this package raises on purpose, and a full disk, is one line on standard error, status 2."""
    try:
        command(**settings)
    except (AttributaryError, FileExistsError) as error:
        _stop(plain(str(error)))
    except OSError as error:
        # Where standard output is a file, nobody else has a word for it; other kinds are faults of this package.
        if error.errno not in FULL:
            raise
        # What is still to be written would be tried again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _stop(f"cannot write {error.filename or 'all of it'}: {error.strerror}")


def _stop(said: str) -> NoReturn:
    click.echo(f"attributary: {said}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
