"""What every command of `attributary-train` does alike."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from attributary.errors import PLACE, AttributaryError, said_of

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUT_FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUT = click.Path(dir_okay=False, path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])


@contextmanager
def clear_errors() -> Iterator[None]:
    """Say what is wrong in one line; a traceback is for what nobody thought of. Also a decorator: `@clear_errors()`."""
    try:
        yield
    except AttributaryError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        if error.errno not in PLACE:
            raise
        raise click.ClickException(said_of(error)) from error


def on_threads(command: Callable[..., None]) -> Callable[..., None]:
    """Run a command on as many cores as its `--threads` says, else one, with `clear_errors`."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        import torch

        # Sums in another order change the last bits; the workers take one thread each as well.
        torch.set_num_threads(kwargs.pop("threads", 1))
        with clear_errors():
            command(*args, **kwargs)

    return run


def options(*given: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order in which a command's help shows them."""

    def add(command: Command) -> Command:
        for option in reversed(given):
            command = option(command)
        return command

    return add
