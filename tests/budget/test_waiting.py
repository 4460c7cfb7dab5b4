from __future__ import annotations

from dynscale_dspy.budget.locking import StepLock, step
from dynscale_dspy.budget.waiting import WaitQueue


class Owner:
    def __init__(self, *, polls: bool = False):
        self.lock = StepLock(before=lambda: None, after=lambda: None)
        self.queue = WaitQueue(self.lock, polls=polls)

    @step
    def join(self, *, first: bool = False):
        self.queue.without_first += first
        return self.queue.join()

    @step
    def wake(self):
        self.queue.wake()


def test_everyone_who_waits_is_woken_once_by_a_change():
    owner = Owner()
    waiting = [owner.join(first=True), owner.join()]
    assert not any(future.done() for future in waiting)
    assert (len(owner.queue), owner.queue.without_first) == (2, 1)
    owner.wake()
    assert all(future.done() for future in waiting)
    assert (len(owner.queue), owner.queue.without_first) == (0, 0)
    later = owner.join()
    assert not later.done()


def test_one_that_was_cancelled_meanwhile_keeps_no_other_from_being_woken():
    owner = Owner()
    gone, waiting = owner.join(), owner.join()
    gone.cancel()
    owner.wake()
    assert waiting.done()


def test_a_queue_of_a_shared_budget_looks_again_by_itself():
    owner = Owner(polls=True)
    assert owner.join().result(timeout=10) is None
    assert owner.join().result(timeout=10) is None  # and again for who comes later


def test_in_the_child_of_a_fork_nobody_waits_and_a_timer_begins_anew():
    owner = Owner(polls=True)
    before = owner.join(first=True)
    owner.lock.begin_anew()
    owner.queue.begin_anew()
    assert (len(owner.queue), owner.queue.without_first) == (0, 0)
    assert owner.join().result(timeout=10) is None
    assert not before.done()
