"""A worker's main: piece after piece on one thread, until nothing is left."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable

import torch

from attributary_train.errors import TrainError
from attributary_train.jobs.work import Orphaned, Work, attempt

# Exit statuses that the supervisor explains; 130 and 143 are a stop by Ctrl-C and SIGTERM.
ORPHANED, STOPPED = 3, 4
_WAIT_S = 1.0


def serve(open_work: Callable[[], Work]) -> int:
    """Settle every piece that no other process is at; returns the exit status. Run by a process of its own.

    `open_work` is called once, on one thread. What cannot be opened or written ends the worker: `STOPPED`, with the
    reason as the last line of its errors. A parent that is gone ends it with `ORPHANED`.
    """
    torch.set_num_threads(1)
    try:
        work = open_work()
        while [name for name in work.names() if not attempt(work, name)]:
            # The rest is in the hands of other workers; one of them may die and leave its piece behind.
            time.sleep(_WAIT_S)
    except Orphaned:
        return ORPHANED
    except KeyboardInterrupt:
        return 130
    except (OSError, TrainError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - read by the supervisor
        return STOPPED
    return 0


def stop_on_sigterm() -> None:
    """Let SIGTERM be an exception in this process, so that a stop is told from a death and locks are freed in order."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
