from __future__ import annotations

import gc
import os
import threading

import pytest

from dynscale_dspy.budget.stores import forks
from dynscale_dspy.budget.stores.forks import ForkGuard, LockGuard, in_child
from tests.support import forked

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")


class Guarded:
    """Something with a lock, which a fork in the middle of a step would leave locked in the child."""

    def __init__(self):
        self.lock = threading.Lock()
        self.told: list[str] = []


GUARD = ForkGuard(
    before=lambda guarded: (guarded.lock.acquire(), guarded.told.append("before")),
    after=lambda guarded, in_child: (guarded.told.append("after"), guarded.lock.release()),
)


def test_what_is_guarded_is_prepared_before_a_fork_and_released_after_it_on_both_sides():
    guarded = Guarded()
    GUARD.add(guarded)
    assert forked(lambda: not guarded.lock.locked()) == 1
    assert guarded.told == ["before", "after"]
    assert not guarded.lock.locked()


def test_what_is_gone_is_not_kept_alive():
    guarded = Guarded()
    GUARD.add(guarded)
    told = guarded.told
    del guarded
    assert forked(lambda: True) == 1
    assert told == []


class Locked:
    def __init__(self):
        self.lock = threading.Lock()
        self.halves = (0, 0)


LOCKS = LockGuard()


def test_a_lock_is_free_in_a_child_and_around_no_half_change():
    locked, ended = Locked(), threading.Event()
    LOCKS.add(locked)

    def work():
        while not ended.is_set():
            with locked.lock:
                number = locked.halves[0] + 1
                locked.halves = (number, locked.halves[1])
                locked.halves = (number, number)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(20):
            assert forked(lambda: locked.lock.acquire(timeout=5) and locked.halves[0] == locked.halves[1]) == 1
    finally:
        ended.set()
        thread.join()
    assert not locked.lock.locked()


def test_a_fork_by_whoever_holds_the_lock_goes_ahead(monkeypatch):
    monkeypatch.setattr(forks, "PATIENCE", 0.05)
    locked = Locked()
    LOCKS.add(locked)
    with locked.lock:
        assert forked(lambda: locked.lock.acquire(timeout=5)) == 1
        assert locked.lock.locked()
    assert not locked.lock.locked()


def test_objects_may_come_and_go_while_processes_fork():
    """As scopes do, one for each request of a server."""
    ended = threading.Event()

    def work():
        while not ended.is_set():
            GUARD.add(Guarded())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            fresh = Guarded()
            GUARD.add(fresh)
            assert forked(lambda fresh=fresh: fresh.told == ["before", "after"]) == 1
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    gc.collect()


def test_something_is_done_in_each_child():
    done = []
    in_child(lambda: done.append(os.getpid()))
    assert forked(lambda: done == [os.getpid()]) == 1
    assert forked(lambda: forked(lambda: len(done)) * 10 + len(done)) == 21
    assert done == []
