"""Where pictures wait that another process decodes: one place for all bundles that a server serves."""

from __future__ import annotations

from collections.abc import Callable

from attributary.machine import cores
from attributary.pictures import allow

from .config import GatewayConfig
from .fairness import Backlog, FairPool, Path, caller_of

# CPU seconds of decoding that one caller's costly pictures may have waiting: as much as a full batch of pictures of 16
# megapixels. Whoever sends more is refused for it at once, and nobody else is.
COSTLY_BACKLOG_S = 30.0
_MOST_BY_DEFAULT = 2


class Costly:
    """Turns and bounds of costly pictures. What a picture may cost, told from its header, is charged as it begins."""

    def __init__(self, config: GatewayConfig) -> None:
        # Half of the cores: decoders give way to the server, but their caches and memory it shares with them.
        each = config.decode_processes or min(_MOST_BY_DEFAULT, max(1, cores() // 2))
        # One more, for a caller who has none at work; beside what additions and printed pages may have.
        allow(each + 1 + cores())
        self._pool = FairPool(each + 1, "costly", each=each)
        self._backlog = Backlog(COSTLY_BACKLOG_S)

    def submit(self, path: Path, work: Callable[[], None], seconds: float) -> float:
        """Queue a picture of so many CPU seconds; `work` must raise nothing.

        Where its caller has too much waiting, do not, and return how many seconds that is; else 0.
        """
        caller = caller_of(path)
        if waiting := self._backlog.add(caller, seconds):
            return waiting

        def done() -> None:
            try:
                work()
            finally:
                self._backlog.remove(caller, seconds)

        self._pool.submit(path, done, seconds)
        return 0.0

    def close(self) -> None:
        """Do what is queued, then end the threads."""
        self._pool.shutdown()
