"""Answers over gRPC that their callers leave lying: gRPC keeps each for as long as there is somebody to take it."""

from __future__ import annotations

import asyncio

from attributary.errors import OverloadedError

from .admission import Pool
from .callers import Caller
from .sockets import hang_up_on


def count_answer(pool: Pool, size: int, caller: Caller, seconds: float) -> None:
    """Count an answer of `size` bytes until the task that is under way ends, which gRPC ends when it has been taken.

    Hangs up on its caller where that takes more than `seconds`. Raises OverloadedError for one who leaves too much.
    """
    task = asyncio.current_task()
    assert task is not None
    if not pool.has_room(size, caller.name):
        raise OverloadedError("too many answers have not been taken yet", retry_after_s=1.0)
    pool.move(size, caller)
    loop = asyncio.get_running_loop()
    late = loop.call_later(seconds, loop.run_in_executor, None, hang_up_on, caller.connection)

    def taken(_: object) -> None:
        late.cancel()
        pool.move(-size, caller)

    task.add_done_callback(taken)
