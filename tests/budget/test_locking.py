from __future__ import annotations

import threading

import pytest

from dynscale_dspy.budget.locking import StepLock, step


class Counter:
    def __init__(self):
        self.told: list[str] = []
        self.lock = StepLock(before=lambda: self.told.append("before"), after=lambda: self.told.append("after"))

    @step
    def count(self, error: BaseException | None = None) -> int:
        self.lock.defer(lambda: self.told.append(f"deferred, locked: {self.lock.mutex.locked()}"))
        self.told.append("step")
        if error is not None:
            raise error
        return len(self.told)

    @step
    def defer_failing(self) -> None:
        self.lock.defer(lambda: self.told.append("first"))
        self.lock.defer(lambda: 1 // 0)
        self.lock.defer(lambda: self.told.append("last"))


def test_a_step_runs_between_before_and_after_and_what_it_defers_runs_unlocked():
    counter = Counter()
    assert counter.count() == 2
    assert counter.told == ["before", "step", "after", "deferred, locked: False"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_step_that_raises_lets_go_of_the_lock_and_does_what_it_deferred(error):
    counter = Counter()
    with pytest.raises(type(error)):
        counter.count(error)
    assert not counter.lock.mutex.locked()
    assert counter.told[-1] == "deferred, locked: False"


def test_a_deferred_action_that_raises_keeps_no_other_from_running():
    counter = Counter()
    with pytest.raises(ZeroDivisionError):
        counter.defer_failing()
    assert counter.told[-2:] == ["first", "last"]
    assert not counter.lock.mutex.locked()


def test_steps_of_many_threads_do_not_interleave():
    class Account:
        def __init__(self):
            self.lock = StepLock(before=lambda: None, after=lambda: None)
            self.balance = 0

        @step
        def add(self):
            before = self.balance
            for _ in range(20):
                pass
            self.balance = before + 1

    account = Account()
    threads = [threading.Thread(target=lambda: [account.add() for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert account.balance == 4000
