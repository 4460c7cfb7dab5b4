"""A pool fed by a coordinator in the same process: only the network is missing."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path

import pytest

from dynscale_dspy import BudgetExhausted, BudgetPool, Cost, Uniform
from dynscale_dspy.allocation.costs import UNITS
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.budget.arms import Arm
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.distributed import lease_supply
from dynscale_dspy.distributed.coordinator import Coordinator
from dynscale_dspy.distributed.lease_supply import LeaseSupply
from tests.support import open_call, open_or_wait, until


class Process:
    """One process of a cluster: its pool and what feeds it."""

    one_at_a_time = threading.Lock()  # as an actor answers

    def __init__(self, keeps: Coordinator, lease: str, *, serve: bool = True, renew=None) -> None:
        published = keeps.settings()
        self.keeps = keeps
        self.reports = []
        self.swept = threading.Event()
        self._renew = renew or keeps.renew
        self.supply = LeaseSupply("name", lease, renew=self.renew, sweep=self.swept.set, where="here")
        self.pool = BudgetPool.made(published.settings.leased(MemoryStore()), supply=self.supply)
        limits = {unit: 0 if unit in published.capped else None for unit in UNITS}
        self.supply.begin(self.pool.admission, limits, serve=serve)

    def renew(self, report):
        self.reports.append(report)
        with self.one_at_a_time:
            return self._renew(report)

    def open(self, room: int = 1) -> Arm:
        """Open a call, waiting for budget as a call does."""
        while True:
            arm = open_or_wait(self.pool, room)
            if not isinstance(arm, Future):
                assert arm is not None, self.pool.admission.exhausted()
                return arm
            arm.result(timeout=60)

    def close(self) -> None:
        if self.supply.close() and self.supply.is_connected:
            with self.one_at_a_time:
                self.keeps.close(self.supply.last_report())


def draw_all(arm: Arm) -> int:
    drawn = 0
    while arm.waiting:
        lease = arm.take()
        assert lease.start()
        lease.charge()
        lease.settle()
        drawn += 1
    return drawn


@pytest.fixture
def keeps(tmp_path):
    def make(**limits) -> Coordinator:
        path: Path = tmp_path / "budget.sqlite"
        return Coordinator(BudgetPool(path=path, **limits), str(path), None, True)

    return make


def test_a_lease_is_fetched_when_a_call_waits_and_what_is_left_is_given_back(keeps):
    book = keeps(samples=100)
    process = Process(book, "a")
    assert process.pool.available("samples") == 0
    waiting = open_or_wait(process.pool)
    assert isinstance(waiting, Future)
    arm = process.open()
    drawn = draw_all(arm)
    arm.close()
    process.close()
    now = book.statistics()
    assert (now.spent.samples, now.reserved, now.open_calls, now.closed_calls) == (drawn, Cost(), 0, 1)
    assert process.reports[0].waiting >= 1


def test_processes_spend_one_budget_to_the_last_sample_and_never_more(keeps):
    book = keeps(samples=60, policy=Uniform(first=1))
    processes = [Process(book, name) for name in "abc"]
    drawn: list[int] = []

    def work(process: Process) -> None:
        while True:
            arm = open_or_wait(process.pool)
            if isinstance(arm, Future):
                arm.result(timeout=60)
            elif arm is None:
                return
            else:
                drawn.append(draw_all(arm))
                arm.close()

    threads = [threading.Thread(target=work, args=(process,)) for process in processes for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in processes:
        process.close()
    now = book.statistics()
    assert now.spent.samples == sum(drawn) == 60
    assert (now.reserved, now.closed_calls) == (Cost(), len(drawn))


def test_a_known_set_fetches_what_it_takes_before_it_is_opened(keeps):
    process = Process(keeps(samples=100, policy=Uniform(first=1)), "a")
    arms, samples, _ = process.pool.admission.open_known(20)
    assert len(arms) == 20 and samples >= 20
    assert process.reports[0].need.samples >= 20
    for arm in arms:
        arm.close()
    process.close()
    with pytest.raises(BudgetExhausted, match="^this client was closed: connect again$"):
        process.pool.admission.open_known(2)


def test_a_known_set_for_which_the_lease_is_enough_asks_for_nothing(keeps):
    process = Process(keeps(samples=1000, policy=Uniform(first=1)), "a")
    arm = process.open()
    asked = len(process.reports)
    arms, _, _ = process.pool.admission.open_known(1)
    assert len(process.reports) == asked
    for opened in (arm, *arms):
        opened.close()
    process.close()


def test_a_known_set_waits_for_nothing_that_will_not_come(keeps):
    process = Process(keeps(samples=5, policy=Uniform(first=1)), "a")
    with pytest.raises(BudgetExhausted, match="which cannot give each of the 20 calls one"):
        process.pool.admission.open_known(20)
    process.close()


def test_calls_under_way_leave_first_samples_to_those_that_wait(keeps):
    process = Process(keeps(per_call=6, samples=100), "a", serve=False)
    pool, shared = process.pool, process.pool.admission.shared
    pool.admission.accounts.ledger.limits["samples"] = 12
    arm = open_call(pool)
    assert arm is not None
    assert process.supply.spare() > 4
    room = 12 - pool.statistics().reserved.samples
    shared.promised = room - 3  # the latest answer brought them for calls that waited
    assert process.supply.spare() == 3
    assert arm.request(Tally.of("AB"), ["independent"] * 8) <= 3
    shared.promised = 12 - pool.statistics().reserved.samples
    assert arm.request(Tally.of("AB"), ["independent"] * 8) == 0
    other = open_call(pool)  # a first sample is what they are for
    assert other is not None
    assert shared.promised == 12 - pool.statistics().reserved.samples
    for opened in (arm, other):
        opened.close()


def test_the_price_of_a_process_opens_where_that_of_all_is(keeps):
    book = keeps(per_call=6, samples=1000)
    first, second = Process(book, "a"), Process(book, "b")
    for number in range(40):  # decided calls: the price falls
        arm = first.open(64)
        draw_all(arm)
        arm.close()
        if number == 0:
            opening = first.pool.statistics().price
    first.close()
    arm = second.open(64)
    draw_all(arm)
    arm.close()
    assert opening is not None
    price = second.pool.statistics().price
    assert price is not None and price < opening
    second.close()


def test_a_budget_that_cannot_be_reached_ends_spending_and_lets_go_of_who_waits(keeps, caplog):
    def unreachable(report):
        raise ConnectionError("secret address")

    process = Process(keeps(samples=100), "a", renew=unreachable)
    with pytest.raises(BudgetExhausted, match=r"^the published pool 'name' cannot be reached any more \(ConnectionErr"):
        process.pool.admission.open_known(3)
    assert open_or_wait(process.pool) is None
    assert not process.supply.is_connected
    assert "cannot be reached any more: ConnectionError" in caplog.text and "secret" not in caplog.text
    process.close()


def test_who_waits_for_a_budget_that_does_not_answer_is_let_go_until_it_does(keeps, caplog, monkeypatch):
    monkeypatch.setattr(lease_supply, "LONGEST_WAIT", 0.05)
    book, answers = keeps(samples=100), threading.Event()

    def cut_off(report):
        assert answers.wait(60)
        return book.renew(report)

    process = Process(book, "a", renew=cut_off)
    waiting = open_or_wait(process.pool)
    assert isinstance(waiting, Future)
    waiting.result(timeout=60)
    assert open_or_wait(process.pool) is None
    assert str(process.pool.admission.exhausted()).startswith("the published pool 'name' has not answered for 0.05 s: ")
    process.supply.prepare(3, 1)  # does not wait either
    assert "calls go on with what this process has in hand" in caplog.text
    answers.set()
    until(lambda: not process.supply.silence())
    process.open().close()
    process.close()


def test_what_is_in_hand_is_spent_while_nobody_answers(keeps, monkeypatch):
    book, answers = keeps(samples=100), threading.Event()
    answers.set()

    def renew(report):
        assert answers.wait(60)
        return book.renew(report)

    process = Process(book, "a", renew=renew)
    arms = [process.open()]
    answers.clear()
    monkeypatch.setattr(lease_supply, "LONGEST_WAIT", 0.05)
    while (arm := open_or_wait(process.pool)) is not None:  # the last that wait are let go
        if isinstance(arm, Future):
            arm.result(timeout=60)
        else:
            arms.append(arm)
    in_hand = process.pool.admission.accounts.ledger.limits["samples"]
    assert sum(map(draw_all, arms)) == in_hand > 1
    for arm in arms:
        arm.close()
    answers.set()
    process.close()


def test_a_client_closes_though_no_answer_comes(keeps, monkeypatch):
    monkeypatch.setattr(lease_supply, "PARTING", 0.05)
    book, answers = keeps(samples=100), threading.Event()
    asked = threading.Event()

    def cut_off(report):
        asked.set()
        assert answers.wait(60)
        return book.renew(report)

    process = Process(book, "a", renew=cut_off)
    assert isinstance(open_or_wait(process.pool), Future)
    assert asked.wait(60)
    assert process.supply.close()
    assert not process.supply.is_connected  # so that its log is left for others to read
    answers.set()


def test_a_fault_of_its_own_thread_lets_go_of_who_waits_too(keeps, monkeypatch):
    process = Process(keeps(samples=100), "a")
    monkeypatch.setattr(process.supply, "_apply", lambda answer: 1 // 0)
    with pytest.raises(BudgetExhausted, match=r"\(ZeroDivisionError\)"):
        process.pool.admission.open_known(3)
    process.close()


def test_a_pause_elsewhere_is_heard_with_the_next_answer(keeps):
    book = keeps(samples=100)
    process = Process(book, "a")
    arm = process.open()
    book.control("stop")
    process.supply.prepare(99, 1)  # an answer has come
    assert process.pool.admission.is_stopped
    assert open_or_wait(process.pool) is None
    arm.close()
    process.close()


def test_a_lease_that_others_settled_as_a_dead_processs_is_over(keeps):
    book = keeps(samples=100)
    process = Process(book, "a")
    arm = process.open()
    book.close_for("a", Cost(samples=1))
    process.supply.prepare(99, 1)
    assert process.supply.ended() == "the published pool 'name' cannot be reached any more (LookupError)"
    arm.close()
    process.close()


def test_dead_holders_are_looked_for(keeps):
    process = Process(keeps(samples=100), "a")
    process.open().close()
    assert process.swept.wait(30)
    process.close()


def test_that_dead_holders_could_not_be_looked_for_is_only_logged(caplog):
    def fails():
        raise PermissionError("no")

    supply = LeaseSupply("name", "lease", renew=lambda report: pytest.fail(), sweep=fails)
    supply.sweep_quietly()
    assert caplog.messages == ["dead holders of 'name' could not be looked for: PermissionError"]


def test_closing_twice_does_nothing(keeps):
    process = Process(keeps(samples=100), "a")
    assert process.supply.close()
    assert not process.supply.close()
    process.supply.prepare(3, 1)  # waits for nobody
    assert process.supply.ended() == "this client was closed: connect again"
