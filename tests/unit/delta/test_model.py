"""Random histories of additions, deletions, compactions and restarts, against a dictionary."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from attributary.attribution.open import open_engine
from attributary.attribution.types import Filter, Options, Query
from attributary.delta.entry import Terms
from attributary.delta.items import NewItem
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.errors import AlreadyExistsError, DeletedError, InvalidArgumentError, NotFoundError
from attributary.pictures.looks import Newcomer
from tests.support import answers

CREATORS = ("Ann", "Bo", "Cy", "Dee", "Eve", "Flo")
LICENCES = ("CC0-1.0", "MIT", "CC-BY-4.0")


class History(RuleBasedStateMachine):
    """`items`: id -> (vector, creator, group, licence, uri); `gone`: every id that was ever deleted."""

    source = None  # a bundle
    picture = None  # number -> bytes

    @initialize()
    def start(self):
        self.home = Path(tempfile.mkdtemp())
        self.place = shutil.copytree(self.source, self.home / "bundle")
        self.store = Store(self.place, open_engine)
        bundle = self.store.engine.bundle
        self.items = {
            bundle.items.id_of(row): (
                np.array(bundle.vectors[row]),
                bundle.items.creator(row),
                bundle.items.near_dup_group(row),
                bundle.items.licence(row),
                bundle.items.uri(row),
            )
            for row in range(len(bundle.items))
        }
        self.gone = set()
        self.given = {}  # id -> what was added
        self.names = {item[1] for item in self.items.values()} | {item[3] for item in self.items.values()}
        self.hidden = {}  # deleted: counted, not shown
        self.entries = []
        self.left = {""}

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.home)

    @rule(
        ids=st.lists(st.integers(1055, 1090), min_size=1, max_size=5),
        number=st.integers(60, 290),
        creator=st.sampled_from(CREATORS),
        licence=st.sampled_from(LICENCES),
        like=st.none() | st.integers(1000, 1090),
    )
    def add(self, ids, number, creator, licence, like):
        batch = [
            NewItem(
                item_id,
                self.picture(number + place) if place != 3 else b"no picture",
                "a blue rectangle",
                creator,
                licence=licence,
                uri=f"new/{item_id % 3}/{item_id}",
                near_dup_of=like,
            )
            for place, item_id in enumerate(ids)
        ]
        result = self.store.add(batch, who="model", why="a test", terms=Terms(bring_back=True))
        accepted = []
        for item, outcome in zip(batch, result.outcomes, strict=True):
            fits = item.id not in self.items and item.id not in self.gone and item.picture != b"no picture"
            fits = fits and (like is None or like in self.items)
            if item.id in self.items and item == self.given.get(item.id):
                # Repeated as it was: answered as it was, and nothing changes.
                assert outcome is None
                continue
            if not fits and outcome is None:
                # Only what it is a near duplicate of can look the same in two ways.
                assert replace(item, near_dup_of=None) == replace(self.given[item.id], near_dup_of=None)
                continue
            assert (outcome is None) == fits, outcome
            if not fits:
                assert isinstance(outcome, InvalidArgumentError | AlreadyExistsError)
                continue
            self.names |= {creator, licence}
            self.given[item.id] = item
            snapshot = self.store.snapshot
            row = snapshot.row_of(item.id)
            group = snapshot.bundle.items.near_dup_group(row)
            if like is None:
                assert group == self._expected_group(item, group)
            else:
                assert group == self.items[like][2]
            vector = np.array(snapshot.vectors_of(np.array([row]))[0])
            embedder = self.store._embedder
            assert np.array_equal(vector, embedder.embed([embedder.prepare(item)])[0])
            self.items[item.id] = (vector, creator, group, licence, item.uri)
            back = [
                gone
                for gone, there in self.hidden.items()
                if there[1] == creator and there[0].astype(np.float32) @ vector.astype(np.float32) > 0.9995
            ]
            for gone in sorted(back, key=snapshot.bundle.items.row_of)[:1]:
                del self.hidden[gone]
            accepted.append(item.id)
        if accepted:
            self.entries.append(("add", tuple(accepted)))

    def _expected_group(self, item, group):
        """That of the oldest row before the item's own that it looks like; without one it is the first of its group."""
        snapshot, entrance = self.store.snapshot, self.store._entrance
        row, items = snapshot.row_of(item.id), snapshot.bundle.items
        picture, _ = self.store._embedder.prepare(item)
        newcomer = Newcomer(picture.pixels)
        full = snapshot.vectors_of(np.array([row]))[0].astype(np.float32)
        older = {
            match.row
            for match in newcomer.among(entrance.looks[:row])
            if match.upright or items.creator(match.row) != item.creator
        }
        vectors = snapshot.vectors_of(np.arange(row)).astype(np.float32)
        older |= set(np.flatnonzero(vectors @ full >= 0.9995).tolist())
        if older:
            return items.near_dup_group(min(older))
        assert group not in {items.near_dup_group(before) for before in range(row)}
        return group

    @rule(ids=st.lists(st.integers(995, 1090), min_size=1, max_size=6), dry=st.booleans())
    def delete_ids(self, ids, dry):
        chosen = {item_id for item_id in ids if item_id in self.items}
        result = self._delete(Selection(ids=tuple(ids)), chosen, dry)
        if result is not None:
            assert set(result.already) == {item_id for item_id in ids if item_id in self.gone} - chosen
            assert set(result.unknown) == set(ids) - chosen - set(result.already)

    @rule(creator=st.sampled_from(CREATORS))
    def delete_creator(self, creator):
        self._delete(Selection(creator=creator), {i for i, item in self.items.items() if item[1] == creator})

    @rule(licence=st.sampled_from(LICENCES))
    def delete_licence(self, licence):
        self._delete(Selection(licence=licence), {i for i, item in self.items.items() if item[3] == licence})

    @rule(source=st.sampled_from(("new/0/", "new/1", "file:pictures/1", "elsewhere")))
    def delete_source(self, source):
        chosen = {i for i, item in self.items.items() if item[4].startswith(source)}
        self._delete(Selection(source=source), chosen)

    def _delete(self, selection, chosen, dry=False):
        if chosen and len(chosen) == len(self.items):
            with pytest.raises(InvalidArgumentError, match="would delete all"):
                self.store.delete(selection, who="model", why="a test", dry_run=dry)
            return None
        try:
            result = self.store.delete(selection, who="model", why="a test", dry_run=dry)
        except InvalidArgumentError as error:
            # Nothing of the kind was ever there; a compaction forgets what it left out, but for its ids.
            assert "nothing is deleted" in str(error) and not chosen
            assert not set(selection.ids) & self.gone
            return None
        assert set(result.ids) == chosen
        if not dry:
            for item_id in chosen:
                self.hidden[item_id] = self.items.pop(item_id)
            self.gone |= chosen
            # Who leaves by name has left, also where nothing of theirs was there any more.
            if chosen or (selection.creator and selection.creator not in self.left):
                self.entries.append(("delete", result.ids))
            self.left |= {selection.creator}
        return result

    @rule()
    def compact(self):
        before = self.store.bundle_id
        result = self.store.compact(who="model", why="a test")
        assert result.bundle_id == self.store.bundle_id
        if result.parent:
            self.entries.append(("compact", ()))
            self.hidden = {
                item_id: (item[0], None, *item[2:]) for item_id, item in self.hidden.items()
            }  # Nobody knows any more whose they were.
            assert result.parent == before
        assert not len(self.store.snapshot.added)
        assert (self.store.snapshot.alive is None) == (not self.hidden)

    @rule()
    def restart(self):
        self.store.close()
        self.store = Store(self.place, open_engine)

    @rule(number=st.integers(0, 299), prompt=st.booleans(), top_k=st.sampled_from((1, 10, 50)))
    def ask(self, number, prompt, top_k):
        engine = self.store.engine
        query = Query(image=self.picture(number), prompt="a red ellipse" if prompt else "")
        top_k = min(top_k, engine.snapshot.candidate_count)
        prepared = engine.prepare(query, Options(top_k=top_k))
        embedding = engine.embed([prepared])[0]
        calibration = engine.bundle.manifest.calibration.of(prompt)
        candidates = engine.bundle.manifest.index.candidates
        shown, hidden = (
            {item_id: item[:3] for item_id, item in known.items()} for known in (self.items, self.hidden)
        )
        answers.check(engine.run([prepared])[0], shown, hidden, embedding, calibration, candidates, top_k)

    @rule(number=st.integers(0, 299), creator=st.sampled_from(CREATORS), licence=st.sampled_from(LICENCES))
    def ask_with_a_filter(self, number, creator, licence):
        engine = self.store.engine
        given = Filter(exclude_creators=(creator,), include_licences=(licence,))
        options = Options(top_k=1, filter=given)
        # A name that was ever there goes on being known: through deletions, compactions and restarts.
        if not {creator, licence} <= self.names:
            with pytest.raises(InvalidArgumentError, match="no item has the"):
                engine.prepare(Query(image=self.picture(number)), options)
            return
        answer = engine.attribute(Query(image=self.picture(number)), options)
        passing = {i for i, item in self.items.items() if item[1] != creator and item[3] == licence}
        assert {item.id for item in answer.items} <= passing
        assert bool(answer.items) == bool(passing)

    @invariant()
    def counts_and_audit(self):
        if not hasattr(self, "store"):
            return
        snapshot = self.store.snapshot
        assert snapshot.item_count == len(self.items)
        assert snapshot.creator_count == len({item[1] for item in self.items.values()})
        assert [(entry.kind, entry.ids) for entry in self.store.history] == self.entries
        for item_id in range(1050, 1091):
            if item_id in self.items:
                assert snapshot.bundle.items.creator(snapshot.row_of(item_id)) == self.items[item_id][1]
            elif item_id in self.gone:
                with pytest.raises(DeletedError):
                    snapshot.row_of(item_id)
            else:
                with pytest.raises(NotFoundError) as caught:
                    snapshot.row_of(item_id)
                assert not isinstance(caught.value, DeletedError)


@pytest.mark.parametrize("steps", [25])
def test_every_history_is_that_of_a_dictionary(small_bundle_dir, picture, steps):
    machine = type("Machine", (History,), {"source": small_bundle_dir, "picture": staticmethod(picture)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.slow
def test_long_histories(small_bundle_dir, picture):
    machine = type("Machine", (History,), {"source": small_bundle_dir, "picture": staticmethod(picture)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
