"""Followers of several bundles: one whose volume does not answer says so, and holds up no other's opt-out."""

import shutil
import threading

from attributary.attribution.open import open_engine
from attributary.delta.follower import Follower
from attributary.delta.selection import Selection
from attributary.delta.store import Store
from attributary.gateway import following
from attributary.gateway.following import Following
from attributary.gateway.metrics import Metrics


async def test_a_volume_that_does_not_answer_holds_up_no_other(tiny_bundle_dir, tmp_path, monkeypatch):
    stuck, other = (open_engine(shutil.copytree(tiny_bundle_dir, tmp_path / name)) for name in ("a", "b"))
    answers, told, more = threading.Event(), [], Follower._more

    def slowly(follower):
        if follower.engine is stuck:
            answers.wait(60)
        return more(follower)

    monkeypatch.setattr(Follower, "_more", slowly)
    monkeypatch.setattr("attributary.delta.follower._STUCK_S", 0.0)
    monkeypatch.setattr(following, "LATE_S", 0.5)
    follow = Following(
        lambda: [stuck, other], lambda *_: None, told.append, Metrics(), poll_s=1.0, reopen=None
    )
    try:
        await follow.look()
        assert follow.status.state == "behind"
        with Store(other.bundle.directory) as store:
            store.delete(Selection(creator="Bo"), who="kim", why="opted out")
        while other.snapshot.revision != 1:
            await follow.look()
        answers.set()
        while follow.status.state != "following":
            await follow.look()
    finally:
        answers.set()
        await follow.close()
    assert other.filters.count_of("Bo") == 0
