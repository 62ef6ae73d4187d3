"""Queues that are shared fairly: by kind of call, within it by caller, within that by connection.

Start-time fair queueing (Goyal, Vin, Cheng 1996) over a tree: whoever has been served least comes next, one who was
away starts level with the rest, and what a piece of work turns out to cost is charged to whoever brought it. So a
caller who sends much, or sends what is slow, waits behind its own work and not in front of anybody else's. Work that
has begun is not interrupted; so a pool of threads keeps one for callers who have none at work.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from time import perf_counter
from typing import Generic, NamedTuple, TypeVar

from .callers import WEIGHTS

T = TypeVar("T")
Path = Sequence[str]

# Where a path has its caller.
_CALLER = 1
# Empty branches that still owe time; beyond it they are forgiven.
_MAX_DEBTORS = 1_024
# What a piece of work is taken to cost until it is done, in seconds.
_GUESS_S = 0.001


class _Branch(Generic[T]):
    """A caller, or a kind of caller. `served` is how much it has had, in its parent's time."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight
        self.served = 0.0
        self.clock = 0.0  # `served` of the child that was picked last
        self.size = 0
        self.items: deque[T] = deque()
        self.busy: dict[str, _Branch[T]] = {}
        self.empty: dict[str, _Branch[T]] = {}

    def child(self, name: str) -> _Branch[T]:
        """Return a child that is about to get an item."""
        found = self.busy.get(name)
        if found is None:
            found = self.empty.pop(name, None) or _Branch(WEIGHTS.get(name, 1.0))
            found.served = max(found.served, self.clock)
            self.busy[name] = found
        return found

    def settle(self, name: str) -> None:
        """Put a child that may have become empty in its place."""
        child = self.busy[name]
        if child.size:
            return
        del self.busy[name]
        self.empty[name] = child
        if len(self.empty) > _MAX_DEBTORS:
            self.empty = {key: kept for key, kept in self.empty.items() if kept.served > self.clock}
            if len(self.empty) > _MAX_DEBTORS:
                self.empty.clear()


class FairQueue(Generic[T]):
    """A queue of items under paths of names. Not locked: used from one thread, or under its owner's lock."""

    def __init__(self) -> None:
        self._root: _Branch[T] = _Branch()

    def __len__(self) -> int:
        return self._root.size

    def __iter__(self) -> Iterator[T]:
        yield from _items(self._root)

    def put(self, path: Path, item: T) -> None:
        """Queue an item behind those of the same path."""
        branch = self._root
        branch.size += 1
        for name in path:
            branch = branch.child(name)
            branch.size += 1
        branch.items.append(item)

    def pop(self, cost: float = 1.0, barred: Collection[str] = ()) -> T:
        """Take the item whose turn it is; `cost` is charged to its path. Raises IndexError if there is none.

        Items of callers that are `barred` are passed over.
        """
        way = _way(self._root, barred)
        if way is None:
            raise IndexError("the queue is empty")
        trail: list[tuple[_Branch[T], str]] = []
        branch = self._root
        for name in way:
            child = branch.busy[name]
            branch.clock = child.served
            child.served += cost / child.weight
            trail.append((branch, name))
            branch = child
        item = branch.items.popleft()
        branch.size -= 1
        for parent, name in reversed(trail):
            parent.size -= 1
            parent.settle(name)
        return item

    def peek(self) -> T:
        """Return what `pop` would take, and leave it."""
        way = _way(self._root)
        if way is None:
            raise IndexError("the queue is empty")
        branch = self._root
        for name in way:
            branch = branch.busy[name]
        return branch.items[0]

    def charge(self, path: Path, cost: float) -> None:
        """Charge what work turned out to cost beyond what `pop` took for it."""
        branch = self._root
        for name in path:
            found = branch.busy.get(name) or branch.empty.get(name)
            if found is None:
                return
            found.served += cost / found.weight
            branch = found


class Turns:
    """Lets one go on in each turn of the event loop, callers by turns. Used from the event loop only.

    For connections and requests that wait to begin, and pieces of large bodies. What has begun takes some turns of the
    loop, and every turn takes as long as all that has begun: a thousand requests that begin together would keep
    another's waiting for seconds.
    """

    def __init__(self) -> None:
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()

    def queue(self, path: Path) -> asyncio.Future[None]:
        """Queue for whoever `path` names; the future is done when it may go on. What is done before is left out."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._next)
        turn = loop.create_future()
        self._waiting.put(path, turn)
        return turn

    def _next(self) -> None:
        while self._waiting:
            turn = self._waiting.pop()
            if not turn.done():
                turn.set_result(None)
                break
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)


class Threads:
    """Threads that do `work` each, which returns when all is done and `_closed` is set; `_changed` tells it of both."""

    def __init__(self, name: str, count: int, work: Callable[[], None]) -> None:
        self._changed, self._closed = threading.Condition(), False
        self._threads = [
            threading.Thread(target=work, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Do what is queued, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()


class FairPool(Threads):
    """Threads that take work by turns: a turn costs a caller the seconds that its work takes.

    No caller has more than `each` at work at once (all threads, unless it is given). With one thread more than that,
    however slow the work of one caller is, another's begins at once.
    """

    def __init__(self, threads: int, name: str, each: int | None = None) -> None:
        self._queue: FairQueue[_Work] = FairQueue()
        self._each = each or threads
        self._at_work: Counter[str] = Counter()
        super().__init__(name, threads, self._run)

    def submit(self, path: Path, work: Callable[[], None], cost: float = _GUESS_S) -> None:
        """Queue work for whoever `path` names; it must raise nothing. `cost` is what it may take, in seconds."""
        with self._changed:
            self._queue.put(path, _Work(path, work, cost))
            self._changed.notify()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            begun = perf_counter()
            taken.work()
            spent = perf_counter() - begun
            with self._changed:
                caller = caller_of(taken.path)
                self._at_work[caller] -= 1
                if not self._at_work[caller]:
                    del self._at_work[caller]
                self._queue.charge(taken.path, spent - taken.cost)
                if self._closed:
                    # Others may wait for what this caller was not allowed before.
                    self._changed.notify_all()
            # This name would hold a picture until the next one comes.
            del taken

    def _take(self) -> _Work | None:
        """Wait for work that may begin, and take it; None at the end."""
        with self._changed:
            while True:
                barred = {caller for caller, count in self._at_work.items() if count >= self._each}
                try:
                    taken = self._queue.pop(0.0, barred)
                except IndexError:
                    if self._closed and not self._queue:
                        return None
                    self._changed.wait()
                    continue
                # At once, not at the end: what its caller has at work counts when the next turn is given.
                self._queue.charge(taken.path, taken.cost)
                self._at_work[caller_of(taken.path)] += 1
                return taken


class _Work(NamedTuple):
    path: Path
    work: Callable[[], None]
    cost: float


def caller_of(path: Path) -> str:
    """Whose work it is, whatever kind of call and connection it came by."""
    return path[_CALLER] if len(path) > _CALLER else ""


def _way(branch: _Branch[T], barred: Collection[str] = (), depth: int = 0) -> list[str] | None:
    """Names from a branch down to the items whose turn it is; None if there are none."""
    if branch.items:
        return []
    left = branch.busy
    if barred and depth == _CALLER:
        left = {name: child for name, child in left.items() if name not in barred}
    while left:
        name, child = min(left.items(), key=_served)
        below = _way(child, barred, depth + 1)
        if below is not None:
            return [name, *below]
        left = {other: child for other, child in left.items() if other != name}
    return None


def _served(entry: tuple[str, _Branch[T]]) -> float:
    return entry[1].served


def _items(branch: _Branch[T]) -> Iterator[T]:
    yield from branch.items
    for child in branch.busy.values():
        yield from _items(child)
