"""Who comes next: turns by kind, caller and connection; what work costs is charged to whoever brought it."""

import threading

import pytest

from attributary.gateway.callers import Caller, address_of
from attributary.gateway.fairness import FairPool, FairQueue


def taken(queue, number):
    return [queue.pop() for _ in range(number)]


def test_callers_take_turns_however_much_they_sent():
    queue = FairQueue()
    for number in range(100):
        queue.put(("single", "loud", "c"), f"loud{number}")
    queue.put(("single", "quiet", "c"), "quiet0")
    queue.put(("single", "quiet", "c"), "quiet1")
    assert taken(queue, 5) == ["loud0", "quiet0", "loud1", "quiet1", "loud2"]
    assert len(queue) == 97
    assert len(list(queue)) == 97


def test_connections_of_one_caller_share_its_part():
    queue = FairQueue()
    for connection in "abc":
        for _ in range(4):
            queue.put(("single", "many", connection), "many")
    for _ in range(4):
        queue.put(("single", "one", "d"), "one")
    assert taken(queue, 8).count("one") == 4


def test_single_calls_get_four_turns_to_one_of_bulk_and_bulk_is_not_starved():
    queue = FairQueue()
    for _ in range(50):
        queue.put(Caller("a", "c", bulk=True).path, "bulk")
        queue.put(Caller("b", "c").path, "single")
    first = taken(queue, 25)
    assert first.count("bulk") == 5


def test_one_who_was_away_neither_saved_turns_up_nor_lost_its_debt():
    queue = FairQueue()
    for _ in range(10):
        queue.put(("x", "a", ""), "a")
    taken(queue, 6)
    queue.put(("x", "b", ""), "b")
    queue.put(("x", "b", ""), "b")
    assert sorted(taken(queue, 4)) == ["a", "a", "b", "b"]
    # What b's work turned out to cost is remembered while b has nothing queued.
    queue.charge(("x", "b", ""), 100.0)
    queue.put(("x", "b", ""), "b")
    queue.put(("x", "a", ""), "a")
    assert taken(queue, 4) == ["a", "a", "a", "b"]


def test_an_empty_queue_says_so():
    with pytest.raises(IndexError):
        FairQueue().pop()
    with pytest.raises(IndexError):
        FairQueue().peek()


def test_debtors_are_bounded():
    queue = FairQueue()
    for number in range(5_000):
        queue.put(("x", str(number), ""), number)
        queue.pop()
        queue.charge(("x", str(number), ""), 1e9)
    assert len(queue._root.empty["x"].empty) <= 1_025


def test_a_pool_does_what_is_queued_by_turns_and_ends():
    pool = FairPool(1, "test")
    gate, busy, done = threading.Event(), threading.Event(), []

    def hold():
        busy.set()
        gate.wait(30)

    pool.submit(("x", "loud", ""), hold)
    assert busy.wait(30)
    for number in range(3):
        pool.submit(("x", "loud", ""), lambda number=number: done.append(f"loud{number}"))
    pool.submit(("x", "quiet", ""), lambda: done.append("quiet"))
    gate.set()
    pool.close()
    assert done == ["quiet", "loud0", "loud1", "loud2"]


def test_who_may_not_have_more_is_passed_over_in_every_kind_of_call():
    queue = FairQueue()
    for kind in ("single", "bulk"):
        queue.put((kind, "loud", "c"), f"loud {kind}")
    queue.put(("bulk", "quiet", "c"), "quiet")
    assert queue.pop(barred={"loud"}) == "quiet"
    with pytest.raises(IndexError):
        queue.pop(barred={"loud"})
    # A name of a kind is no caller's.
    assert queue.pop(barred={"single", "bulk"}) == "loud single"
    assert len(queue) == 1


def test_a_pool_keeps_a_thread_for_who_has_none_at_work():
    pool = FairPool(2, "test", each=1)
    gate, busy, asked, done = threading.Event(), threading.Event(), threading.Event(), []

    def hold():
        busy.set()
        gate.wait(30)
        done.append("loud0")

    def quiet():
        done.append("quiet")
        asked.set()

    pool.submit(("single", "loud", ""), hold)
    assert busy.wait(30)
    for number in range(1, 4):
        # By a stream, too, and on another connection: it is the same caller.
        path = ("bulk" if number == 3 else "single", "loud", str(number))
        pool.submit(path, lambda number=number: done.append(f"loud{number}"))
    pool.submit(("bulk", "quiet", ""), quiet)
    assert asked.wait(30)
    assert done == ["quiet"]
    gate.set()
    pool.close()
    assert sorted(done) == ["loud0", "loud1", "loud2", "loud3", "quiet"]


def test_what_work_may_cost_counts_from_its_beginning():
    pool = FairPool(2, "test")
    gates, busy = [threading.Event() for _ in range(2)], [threading.Event() for _ in range(2)]
    done = []

    def hold(number):
        busy[number].set()
        gates[number].wait(30)

    # Each has one at work, and two threads are busy; what the loud one has begun may take long.
    pool.submit(("x", "loud", ""), lambda: hold(0), 100.0)
    assert busy[0].wait(30)
    pool.submit(("x", "quiet", ""), lambda: hold(1), 1.0)
    assert busy[1].wait(30)
    pool.submit(("x", "loud", ""), lambda: done.append("loud"), 100.0)
    pool.submit(("x", "quiet", ""), lambda: done.append("quiet"), 1.0)
    gates[1].set()
    while len(done) < 2:
        threading.Event().wait(0.001)
    gates[0].set()
    pool.close()
    assert done == ["quiet", "loud"]


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.7:51312", "ipv4:10.0.0.7"),
        ("ipv6:[::1]:40000", "ipv6:::/64"),
        # gRPC escapes what HTTP does not; a machine has a network of 64 bits to call from.
        ("ipv6:%5B2001:db8::1%5D:40000", "ipv6:2001:db8::/64"),
        ("ipv6:[2001:db8::a:b]:7", "ipv6:2001:db8::/64"),
        ("ipv6:[2001:db8:0:1::1]:7", "ipv6:2001:db8:0:1::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:7", "ipv6:fe80::/64"),
        ("ipv6:[::ffff:10.0.0.7]:7", "ipv4:10.0.0.7"),
        ("ipv6:odd:7", "ipv6:odd"),
        ("unix:", "unix:"),
    ],
)
def test_a_callers_address_has_no_port(peer, address):
    assert address_of(peer) == address
