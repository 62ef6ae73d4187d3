"""What every command of `attributary-train` does alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from attributary.errors import FULL, AttributaryError


@contextmanager
def clear_errors() -> Iterator[None]:
    """Say what is wrong in one line; a traceback is for what nobody thought of. Also a decorator: `@clear_errors()`."""
    try:
        yield
    except AttributaryError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise click.ClickException(
            f"cannot write {error.filename or 'all of it'}: {error.strerror}"
        ) from error
