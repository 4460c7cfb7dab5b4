from __future__ import annotations

import os
import threading

import pytest

from dynscale_dspy.budget.stores.forks import ForkGuard

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


def forked(act) -> int:
    """What a forked child says by its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(int(act()))
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


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
