"""Random histories of loads, swaps, aliases, unloads, deletions and pinned calls, against a few dictionaries."""

import asyncio
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from attributary.delta.journal.records import NOBODY
from attributary.errors import NotFoundError, PreconditionError
from attributary.gateway.registry import Registry

ALIASES = ("default", "next", "spare")
PINNED_S = st.sampled_from((0.0, 3600.0))
MAX_DRAINING = 2


def hex_id(number):
    return f"{number:016x}"


NAMES = st.sampled_from((*ALIASES, *map(hex_id, range(5)), *(hex_id(101 + number) for number in range(3))))


@dataclass(frozen=True)
class Items:
    """Ids in their order; the same id is the same creator's item in every bundle."""

    ids: tuple[int, ...]

    def row_of(self, item_id):
        return self.ids.index(item_id) if item_id in self.ids else None

    def creator(self, row):
        return f"hand {self.ids[row]}"


@dataclass(frozen=True)
class Snapshot:
    """What the registry asks of a snapshot. Nobody was deleted by name."""

    filters = SimpleNamespace(former=NOBODY)

    bundle: SimpleNamespace
    deleted: dict[int, str] = field(default_factory=dict)
    revision: int = 0

    @property
    def item_count(self):
        return len(set(self.bundle.items.ids).difference(self.deleted))

    def apply(self, changes):
        return replace(self, deleted={**self.deleted, **changes.deleted}, revision=self.revision + 1)


class Engine:
    """A bundle that was opened: another object at each opening."""

    def __init__(self, bundle_id, ids, deleted=(), compacted_from=None):
        notes = {} if compacted_from is None else {"compacted_from": compacted_from}
        encoder = SimpleNamespace(dim=4)
        manifest = SimpleNamespace(bundle_id=bundle_id, version="1", notes=notes, encoder=encoder)
        self.bundle = SimpleNamespace(items=Items(tuple(ids)), manifest=manifest)
        self.snapshot = Snapshot(self.bundle, dict.fromkeys(deleted, "now"))
        self.id, self.compacted_from = bundle_id, compacted_from


class Pipeline:
    """Counts calls; closes when none is inside."""

    def __init__(self, engine):
        self.engine, self.bundle_id = engine, engine.bundle.manifest.bundle_id
        self.calls, self.closed, self._left = 0, False, asyncio.Event()
        self._left.set()

    def enter(self):
        assert not self.closed
        self.calls += 1
        self._left.clear()

    def leave(self):
        self.calls -= 1
        if not self.calls:
            self._left.set()

    def retire(self):
        pass

    async def close(self):
        await self._left.wait()
        assert not self.calls
        self.closed = True


class Bundles(RuleBasedStateMachine):
    """Engines by what names them, and those that drain, the first to go first.

    `led` says what took an engine's place, `gone` which of its items were deleted, from it or from what came after it.
    Item 0 is in every bundle and never deleted: one of which nothing is left is a test of its own.
    """

    @initialize()
    def start(self):
        self.loop = asyncio.new_event_loop()
        self.pipelines, self.inside, self.made = {}, [], 0
        self.aliases, self.found, self.draining, self.led, self.gone = {}, {}, [], {}, {}

        def pipeline(engine):
            self.pipelines[engine] = Pipeline(engine)
            return self.pipelines[engine]

        self.registry = Registry(pipeline, pinned_s=3600.0, max_draining=MAX_DRAINING)
        self.swap("default", 0, 0.0)

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        for _, used in self.inside:
            self._do(lambda used=used: used.__exit__(None, None, None))
        self.loop.run_until_complete(self.registry.close())
        self.loop.close()
        assert all(pipeline.closed for pipeline in self.pipelines.values())

    @rule(alias=st.sampled_from(ALIASES), number=st.integers(0, 4), pinned=PINNED_S)
    def swap(self, alias, number, pinned):
        """Some bundle is loaded, perhaps one that is there already, and takes an alias."""
        engine = self._opened(number)
        self._do(lambda: self.registry.swap(alias, engine, pinned_s=pinned))
        self._add(engine)
        before = self.aliases.get(alias)
        if before is None:
            self.aliases[alias] = engine
        elif before is not engine:
            self._retire(before, engine, pinned)
        self._spread()

    @rule(number=st.integers(0, 4))
    def load(self, number):
        engine = self._opened(number)
        self._do(lambda: self.registry.add(engine))
        self._add(engine)
        self._spread()

    @rule(alias=st.sampled_from(ALIASES), name=NAMES, pinned=PINNED_S)
    def set_alias(self, alias, name, pinned):
        engine = self._named(name)
        if engine is None:
            with pytest.raises(NotFoundError):
                self._do(lambda: self.registry.set_alias(alias, name))
            return
        self._do(lambda: self.registry.set_alias(alias, name, pinned_s=pinned))
        before = self.aliases.get(alias)
        self.aliases[alias] = engine
        if engine in self.draining:
            self.draining.remove(engine)
            del self.led[engine]
        if before not in (None, engine, *self.aliases.values()):
            self._retire(before, engine, pinned)
        self._spread()

    @rule(name=NAMES, pinned=PINNED_S)
    def unload(self, name, pinned):
        engine = self._named(name)
        if engine is None or engine is self.aliases["default"]:
            with pytest.raises(NotFoundError if engine is None else PreconditionError):
                self._do(lambda: self.registry.remove(name))
            return
        self._do(lambda: self.registry.remove(name, pinned_s=pinned))
        self.aliases = {alias: one for alias, one in self.aliases.items() if one is not engine}
        self._retire(engine, None, pinned)

    @rule(name=NAMES)
    def compact(self, name):
        """A new bundle without the deleted items takes the place of one that serves."""
        before = self._named(name)
        if before is None or before in self.draining:
            return
        self.made += 1
        snapshot, gone = before.snapshot, self.gone[before]
        left = set(snapshot.bundle.items.ids) - gone
        engine = Engine(hex_id(100 + self.made), sorted(left), gone, before.id)
        self._do(lambda: self.registry.replace(before, engine))
        self._add(engine)
        self._retire(before, engine, None)
        self._spread()

    @rule(name=NAMES, item=st.integers(1, 5))
    def delete(self, name, item):
        """From a bundle that serves, as its writer shows it."""
        engine = self._named(name)
        if engine is None or engine in self.draining or item not in engine.bundle.items.ids:
            return
        engine.snapshot = engine.snapshot.apply(SimpleNamespace(deleted={item: "now"}))
        self.gone[engine].add(item)
        self._spread()

    @rule(name=NAMES)
    def call(self, name):
        """A call begins, and is inside until `hang_up`."""
        used = self.registry.use(name)
        if self._named(name) is None:
            with pytest.raises(NotFoundError):
                self._do(used.__enter__)
            return
        assert self._do(used.__enter__).engine is self._named(name)
        self.inside.append((self._named(name), used))

    @rule(which=st.integers(0, 5))
    def hang_up(self, which):
        if self.inside:
            _, used = self.inside.pop(which % len(self.inside))
            self._do(lambda: used.__exit__(None, None, None))

    @rule(name=NAMES)
    def look(self, name):
        """Not after every step: what nobody asked for meanwhile must be up to date as well."""
        engine = self._named(name)
        if engine is None:
            with pytest.raises(NotFoundError):
                self.registry.find(name)
            return
        served, ids = self.registry.find(name), set(engine.bundle.items.ids)
        assert served.pipeline.engine is engine
        assert set(engine.snapshot.deleted) & ids == self.gone[engine] & ids

    @invariant()
    def what_is_there(self):
        if not hasattr(self, "loop"):
            return
        there = {served.pipeline.engine: served for served in self.registry.bundles}
        assert set(there) == set(self.found.values())
        for engine, served in there.items():
            assert served.draining == (engine in self.draining)
            named = sorted(alias for alias, one in self.aliases.items() if one is engine)
            assert self.registry.aliases_of(served) == named
        assert len(self.draining) <= MAX_DRAINING

    @invariant()
    def what_is_closed(self):
        if hasattr(self, "loop"):
            used = {engine for engine, _ in self.inside} | set(self.found.values())
            assert {engine for engine, one in self.pipelines.items() if not one.closed} == used

    def _do(self, act):
        """On the loop, and whatever follows at once."""

        async def run():
            try:
                return act()
            finally:
                for _ in range(20):
                    await asyncio.sleep(0)

        return self.loop.run_until_complete(run())

    def _opened(self, number):
        return Engine(hex_id(number), (0, *range(1 + number % 3, 4 + number % 3)))

    def _named(self, name):
        return self.aliases.get(name) or self.found.get(name)

    def _add(self, engine):
        before = self.found.get(engine.id)
        self.found[engine.id] = engine
        self.gone[engine] = set(engine.snapshot.deleted)
        if before is not None:
            # A copy that was opened anew does not bring back what was deleted in memory.
            self.gone[engine] |= self.gone[before] & set(engine.bundle.items.ids)
            self._retire(before, engine, 0.0)

    def _retire(self, engine, successor, pinned):
        for alias in [alias for alias, one in self.aliases.items() if one is engine]:
            self.aliases[alias] = successor
        if engine not in self.draining:
            self.led[engine] = successor
            self.draining.append(engine)
        elif pinned != 0.0:
            return
        going = [engine] if pinned == 0.0 else []
        self.draining = [one for one in self.draining if one not in going]
        going += self.draining[: max(0, len(self.draining) - MAX_DRAINING)]
        self.draining = [one for one in self.draining if one not in going]
        self.found = {name: one for name, one in self.found.items() if one not in going}

    def _spread(self):
        """A deletion holds in whatever the bundle took the place of."""
        for engine in self.draining:
            last, compacted = engine, True
            while self.led.get(last) is not None:
                compacted &= self.led[last].compacted_from == last.id
                last = self.led[last]
            same = set(engine.bundle.items.ids) if compacted else set(last.bundle.items.ids)
            self.gone[engine] |= self.gone[last] & same & set(engine.bundle.items.ids)


def run(examples, steps):
    machine = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Bundles, settings=machine)


def test_every_history_is_that_of_a_few_dictionaries():
    run(60, 30)


@pytest.mark.slow
def test_long_histories():
    run(1_000, 60)
