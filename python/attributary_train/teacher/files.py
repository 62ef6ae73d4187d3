"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from attributary_train.teacher.errors import TeacherError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a file beside `path` to be written; it takes its place once the block is through, also if the power fails.

    Raises `TeacherError` naming `path` if it cannot be written: a full disk, a folder without permission.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise TeacherError(
            str(path), f"cannot be written: {error}; free space and start again to go on"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
