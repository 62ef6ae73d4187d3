"""Long work in pieces that outlives its processes: one supervisor, any number of resumable workers on one folder.

`Work` says what a piece is; `attempt` makes one; `serve` is a worker's main; `supervise` starts workers and waits.
"""

from attributary_train.jobs.supervisor import Crew, supervise
from attributary_train.jobs.work import MAX_STARTS, Orphaned, Work, attempt, starts_path
from attributary_train.jobs.worker import ORPHANED, STOPPED, serve, stop_on_sigterm

__all__ = [
    "MAX_STARTS",
    "ORPHANED",
    "STOPPED",
    "Crew",
    "Orphaned",
    "Work",
    "attempt",
    "serve",
    "starts_path",
    "stop_on_sigterm",
    "supervise",
]
