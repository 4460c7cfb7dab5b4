from __future__ import annotations

import json

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.allocation.policies import KnowledgeGradient
from dynscale_dspy.allocation.pricing import Allowance, ShadowPrice
from dynscale_dspy.budget.accounts import Ledger
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.distributed.lease_book import CHUNK, Holder, LeaseBook, Report


class Pace:
    def __init__(self, allowance: Allowance) -> None:
        self.allowances = {"samples": allowance}
        self.price: ShadowPrice | None = None


class Process:
    """A holder with a ledger of its own, as a client has it: what is in the ledger survives the process."""

    def __init__(self, name: str, allowance: Allowance | None = None) -> None:
        self.pace = Pace(allowance or Allowance(4, first=1))
        self.ledger = Ledger(samples=0)
        self.holder = Holder(name, self.ledger.limits, self.pace)
        self.report: Report | None = None
        self.flying: list = []

    @property
    def used(self) -> Cost:
        return sum((self.ledger.spent, self.ledger.reserved), Cost())

    def ask(self, samples: int, *, give_back: bool = False) -> Report:
        need = Cost(samples=min(samples, 1))
        self.report = self.holder.report(
            self.ledger.spent,
            self.ledger.reserved,
            committed={"samples": self.used.samples},
            want=Cost(samples=samples),
            need=need,
            give_back=give_back,
        )
        return self.report

    def hear(self, grant) -> None:
        self.holder.apply(grant)
        self.report = None

    def renew(self, book: LeaseBook, samples: int = CHUNK, *, now: float = 0.0) -> None:
        self.hear(book.renew(self.ask(samples), now))

    def draw(self, samples: int) -> int:
        taken = 0
        while taken < samples and (reservation := self.ledger.reserve(Cost(samples=1))) is not None:
            self.ledger.settle(reservation, Cost(samples=1))
            taken += 1
        return taken


def make_book(samples: int = 1000, *, expected: int | None = None) -> LeaseBook:
    return LeaseBook(Ledger(samples=samples), {"samples": Allowance(4, first=1, expected=expected)})


class Leasing(RuleBasedStateMachine):
    """Holders come, ask, spend and die; messages are lost and repeated; the book is lost and restored at any moment."""

    processes = Bundle("processes")

    @initialize(cap=st.integers(1, 300))
    def begin(self, cap):
        self.cap = cap
        self.store = MemoryStore()
        self.book = LeaseBook(Ledger(samples=cap, store=self.store), {"samples": Allowance(4, first=1)})
        self.kept = json.dumps(self.book.dump())
        self.names = 0
        self.all: list[Process] = []
        self.now = 0.0

    def note(self, name: str) -> None:
        kept = json.loads(self.kept) | self.book.dump(name)
        self.kept = json.dumps(kept)

    @rule(target=processes)
    def arrive(self):
        self.names += 1
        process = Process(f"lease {self.names}")
        self.all.append(process)
        return process

    @rule(process=processes, samples=st.integers(1, 100), give_back=st.booleans())
    def ask(self, process, samples, give_back):
        if process.report is None:
            process.ask(samples, give_back=give_back)

    @rule(process=processes, heard=st.booleans(), noted=st.booleans())
    def answer(self, process, heard, noted):
        """The pending report arrives, maybe again. An answer goes out only once it is noted."""
        if process.report is None:
            return
        if self.book.open(process.report, self.now):
            self.note(process.holder.lease)
        grant = self.book.renew(process.report, self.now)
        if not noted:
            self.restart()
            return
        self.note(process.holder.lease)
        if heard:
            process.hear(grant)

    @rule(process=processes)
    def reserve(self, process):
        reservation = process.ledger.reserve(Cost(samples=1))
        if reservation is not None:
            process.flying.append(reservation)

    @rule(process=processes, spent=st.booleans())
    def settle(self, process, spent):
        if process.flying:
            process.ledger.settle(process.flying.pop(), Cost(samples=int(spent)))

    @rule(process=consumes(processes), twice=st.booleans())
    def die_and_be_read(self, process, twice):
        """What was in flight counts as spent; whoever reads may be second."""
        used, flying = process.used, process.flying
        while flying:
            process.ledger.settle(flying.pop(), Cost(samples=1))
        for _ in range(1 + twice):
            self.book.close(process.holder.lease, used)
            self.note(process.holder.lease)

    @rule()
    def restart(self):
        self.book = LeaseBook(Ledger(samples=self.cap, store=self.store), {"samples": Allowance(4, first=1)})
        self.book.load(json.loads(self.kept), self.now)

    @rule(seconds=st.floats(0, 50))
    def wait(self, seconds):
        self.now += seconds

    @invariant()
    def never_over(self):
        if not hasattr(self, "book"):
            return
        assert sum(process.used.samples for process in self.all) <= self.cap
        spent, reserved = self.store.totals()
        assert spent.samples + reserved.samples <= self.cap

    def teardown(self):
        """When all are through, every sample is in the books once and nothing is held."""
        if not hasattr(self, "book"):
            return
        for process in self.all:
            while process.flying:
                process.ledger.settle(process.flying.pop(), Cost(samples=1))
            self.book.close(process.holder.lease, process.used)
        spent, reserved = self.store.totals()
        assert spent.samples == sum(process.used.samples for process in self.all)
        assert reserved == Cost()


TestLeasing = Leasing.TestCase
TestLeasing.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_lease_gets_what_it_wants_while_there_is_plenty_and_a_guided_share_near_the_end():
    book = make_book(1000)
    first, second = Process("a"), Process("b")
    first.renew(book)
    second.renew(book)
    assert first.ledger.limits["samples"] == second.ledger.limits["samples"] == CHUNK
    scarce = make_book(100)
    first, second = Process("a"), Process("b")
    first.renew(scarce)
    second.renew(scarce)
    assert (first.ledger.limits["samples"], second.ledger.limits["samples"]) == (50, 16)


def test_a_message_stands_for_at_least_sixteen_samples():
    book = make_book(10_000)
    process = Process("a")
    process.renew(book)
    for _ in range(4000):
        assert process.draw(1) == 1
        if process.holder.is_low(process.ledger.spent, process.ledger.reserved, Cost(samples=1)):
            process.renew(book)
    assert 4000 / book.messages >= 31


def test_what_is_given_back_is_there_for_others():
    book = make_book(64)
    first, second = Process("a"), Process("b")
    first.renew(book)
    first.draw(5)
    first.hear(book.renew(first.ask(0, give_back=True), 0))
    assert first.draw(1) == 0
    assert book.ledger.remaining("samples") == 59
    second.renew(book, 200)
    assert second.draw(100) == 29


def test_a_dead_holders_lease_is_kept_until_its_record_is_read():
    book = make_book(64)
    dead, other = Process("a"), Process("b")
    dead.renew(book)
    dead.draw(10)
    while other.holder.more:
        other.renew(book, now=100.0)
        other.draw(100)
    assert other.ledger.spent.samples == 64 - 32
    assert book.close("a", dead.used)
    other.renew(book, now=101.0)
    assert other.draw(100) > 0
    book.close("b", other.used)
    assert book.ledger.spent == other.used + dead.used


@pytest.mark.parametrize("refund", [False, True])
def test_what_nobody_can_know_is_spent_unless_told_otherwise(refund):
    book = make_book(64)
    process = Process("a")
    process.renew(book)
    process.draw(10)
    process.renew(book)
    process.draw(3)
    assert book.reconcile(10.0) == Cost()
    granted = process.ledger.limits["samples"]
    assert book.reconcile(100.0, refund=refund).samples == granted - 10
    assert book.ledger.spent.samples == (10 if refund else granted)
    assert book.ledger.reserved == Cost()
    process.renew(book, now=101.0)
    assert process.holder.ended and process.draw(1) == 0


def test_one_holder_paces_itself_as_a_pool_alone():
    """With one holder leasing changes neither pace nor price."""
    policy = KnowledgeGradient()
    whole, alone = Allowance(4, first=1, expected=100), Allowance(4, first=1, expected=100)
    price = ShadowPrice.opening(policy, 4, first=1)
    book = LeaseBook(Ledger(samples=400), {"samples": whole})
    process = Process("a", Allowance(4, first=1, expected=100))
    process.pace.price = ShadowPrice.opening(policy, 4, first=1)
    committed = 0
    for call in range(60):
        if call % 7 == 0:
            process.renew(book)
        drawn = 2 + 5 * call % 6
        for allowance, moved in ((alone, price), (process.pace.allowances["samples"], process.pace.price)):
            allowance.open()
            moved.granted(drawn - 1, per_call=4)
            target = allowance.close(drawn)
            moved.closed(target - 1, per_call=4, used=drawn - 1)
        process.draw(drawn)
        committed += drawn
        assert process.used.samples == committed
        assert process.pace.price.value == pytest.approx(price.value)
        assert process.pace.allowances["samples"].credit(committed) == alone.credit(committed)


def test_prices_of_many_meet():
    policy = KnowledgeGradient()
    book = make_book(100_000)
    processes = [Process(f"{i}") for i in range(10)]
    for process in processes:
        process.pace.price = ShadowPrice.opening(policy, 4, first=1)
        process.renew(book)
    opening = processes[0].pace.price.value
    for _ in range(30):
        processes[0].pace.price.granted(1, per_call=4)
    assert processes[1].pace.price.value == pytest.approx(opening)
    for process in processes:
        process.renew(book)
    assert processes[1].pace.price.value > opening
    for process in processes:
        process.renew(book)
    values = [process.pace.price.value for process in processes]
    assert max(values) == pytest.approx(min(values))


def test_parts_add_up_to_the_whole():
    whole = Allowance(4, first=1, expected=100)
    for used in (2, 7, 3):
        whole.open()
        whole.close(used)
    whole.open()
    parts = [whole.part(4, committed=14) for _ in range(4)]
    assert sum(part.headroom(0) for part in parts) == pytest.approx(whole.headroom(14))
    assert [sum(counts) for counts in zip(*(part.counts for part in parts), strict=True)][:3] == pytest.approx(
        list(whole.counts[:3])
    )


def test_calls_that_a_dead_holder_left_unanswered_are_expected_again():
    book = make_book(40, expected=10)
    process = Process("a", Allowance(4, first=1, expected=10))
    process.renew(book)
    for _ in range(6):
        process.pace.allowances["samples"].open()
    report = process.holder.report(Cost(samples=12), Cost(), committed={"samples": 12}, open_calls=4)
    process.holder.apply(book.renew(report, 0))
    assert book.allowances["samples"].counts[0] == 6
    book.close("a", Cost(samples=12))
    assert book.allowances["samples"].counts[0] == 2
