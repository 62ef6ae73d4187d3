"""What every command of `attributary-train` does alike."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from attributary.errors import AttributaryError


@contextmanager
def clear_errors() -> Iterator[None]:
    """Say what is wrong in one line; a traceback is for what nobody thought of. Also a decorator: `@clear_errors()`."""
    try:
        yield
    except AttributaryError as error:
        raise click.ClickException(str(error)) from error


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
