from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from dynscale_dspy.allocation.costs import UNITS, Cost
from dynscale_dspy.budget.accounts import Ledger, Reservation
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.errors import StorageError

amounts = st.builds(
    Cost,
    samples=st.integers(0, 3),
    requests=st.integers(0, 4),
    prompt_tokens=st.integers(0, 50),
    completion_tokens=st.integers(0, 50),
    nanodollars=st.integers(0, 10**9),
)
caps = st.fixed_dictionaries(
    {
        "samples": st.none() | st.integers(0, 20),
        "requests": st.none() | st.integers(0, 30),
        "tokens": st.none() | st.integers(0, 400),
        "nanodollars": st.none() | st.integers(0, 8 * 10**9),
    }
)


class LedgerMachine(RuleBasedStateMachine):
    """A chain of ledgers: whatever is reserved, extended, settled or refunded, nothing leaks.

    No cap is passed but by what was used beyond its reservation, and that is booked to the last of it.
    """

    open_reservations = Bundle("open_reservations")

    @initialize(limits=st.lists(caps, min_size=1, max_size=3))
    def start(self, limits):
        self.chain: list[Ledger] = []
        for limit in limits:
            self.chain.append(Ledger(**limit, parent=self.chain[-1] if self.chain else None))
        self.held: dict[Reservation, tuple[int, Cost]] = {}
        self.used = [Cost() for _ in limits]
        self.most = [
            {unit: limit for unit, limit in ledger.limits.items() if limit is not None} for ledger in self.chain
        ]

    def fits(self, depth, amount):
        return all(
            getattr(amount, unit) <= self.chain[depth].remaining(unit) or not getattr(amount, unit) for unit in UNITS
        )

    @rule(target=open_reservations, amount=amounts, where=st.integers(0, 2))
    def reserve(self, amount, where):
        depth = where % len(self.chain)
        before = [(ledger.spent, ledger.reserved) for ledger in self.chain]
        fits = self.fits(depth, amount)
        reservation = self.chain[depth].reserve(amount)
        assert (reservation is not None) == fits
        if reservation is None:
            assert [(ledger.spent, ledger.reserved) for ledger in self.chain] == before
            return multiple()
        self.held[reservation] = (depth, amount)
        return reservation

    @rule(reservation=open_reservations, amount=amounts)
    def extend(self, reservation, amount):
        if reservation in self.held:
            depth, held = self.held[reservation]
            fits = self.fits(depth, amount)
            assert self.chain[depth].extend(reservation, amount) == fits
            if fits:
                self.held[reservation] = (depth, held + amount)

    @rule(reservation=open_reservations)
    def shrink(self, reservation):
        if reservation in self.held:
            depth, held = self.held[reservation]
            half = Cost(held.samples // 2, held.requests // 2, held.prompt_tokens // 2)
            assert self.chain[depth].amend(reservation, half)
            self.held[reservation] = (depth, half)

    @rule(reservation=consumes(open_reservations), share=st.floats(0, 1))
    def settle(self, reservation, share):
        depth, held = self.held.pop(reservation)
        # Which tokens they were is known only now.
        used = Cost(
            int(held.samples * share),
            int(held.requests * share),
            completion_tokens=int(held.tokens * share),
            nanodollars=int(held.nanodollars * share),
        )
        self.chain[depth].settle(reservation, used)
        for level in range(depth + 1):
            self.used[level] += used
        with pytest.raises(ValueError, match="already settled"):
            self.chain[depth].settle(reservation, used)

    @rule(reservation=consumes(open_reservations))
    def refund(self, reservation):
        depth, _ = self.held.pop(reservation)
        self.chain[depth].refund(reservation)

    def exceed(self, depth):
        """What is booked now may be more than a cap allows; nothing else may take it further."""
        for level in range(depth + 1):
            for unit, most in self.most[level].items():
                self.most[level][unit] = max(most, self.chain[level].booked(unit))

    @rule(reservation=open_reservations, used=amounts)
    def what_was_used_is_held_whatever_the_caps(self, reservation, used):
        if reservation in self.held:
            depth, held = self.held[reservation]
            before = held.at_least(used)
            self.chain[depth].hold_at_least(reservation, used)
            self.held[reservation] = (depth, before)
            self.exceed(depth)

    @rule(reservation=consumes(open_reservations), used=amounts)
    def whatever_was_used_is_booked(self, reservation, used):
        if reservation in self.held:
            depth, held = self.held.pop(reservation)
            passed = any(getattr(used, unit) > getattr(held, unit) and self.chain[depth].capped(unit) for unit in UNITS)
            assert self.chain[depth].exceeds(reservation, used) == passed
            self.chain[depth].settle(reservation, used)
            for level in range(depth + 1):
                self.used[level] += used
            self.exceed(depth)

    @invariant()
    def never_over(self):
        for level, ledger in enumerate(getattr(self, "chain", ())):
            for unit, most in self.most[level].items():
                assert ledger.booked(unit) <= most

    @invariant()
    def exact(self):
        for level, ledger in enumerate(getattr(self, "chain", ())):
            assert ledger.spent == self.used[level]
            assert ledger.reserved == sum((held for depth, held in self.held.values() if depth >= level), Cost())


# Longer than others where many more examples are asked for.
TestLedger = pytest.mark.timeout(1800)(LedgerMachine.TestCase)


def test_cost_adds_and_subtracts_unit_by_unit():
    assert Cost(1, 2, 3, 4, 5, 6) + Cost(samples=1, prompt_tokens=7) == Cost(2, 2, 10, 4, 5, 6)
    assert Cost(1, 2, 3, 4, 5, 6) - Cost(1, 2, 3, 4, 5, 6) == Cost()
    assert Cost(prompt_tokens=3, completion_tokens=4).tokens == 7


@given(st.lists(st.integers(1, 10**12), max_size=50))
def test_money_adds_up_exactly(prices):
    ledger = Ledger(nanodollars=sum(prices) or 1)
    for price in prices:
        reservation = ledger.reserve(Cost(nanodollars=price))
        assert reservation is not None
        ledger.settle(reservation, Cost(nanodollars=price))
    if prices:
        assert ledger.remaining("nanodollars") == 0
        assert ledger.reserve(Cost(nanodollars=1)) is None


def test_a_ledger_without_caps_takes_everything():
    ledger = Ledger()
    assert ledger.reserve(Cost(samples=10**9)) is not None
    assert ledger.remaining("samples") == float("inf")


def test_more_than_reserved_may_be_spent_and_then_nothing_more():
    day = Ledger(tokens=100)
    request = Ledger(tokens=50, parent=day)
    reservation = request.reserve(Cost(samples=1, prompt_tokens=10))
    request.settle(reservation, Cost(samples=1, prompt_tokens=10, completion_tokens=200))
    assert day.spent.tokens == request.spent.tokens == 210
    assert request.remaining("tokens") == day.remaining("tokens") == 0
    assert day.reserve(Cost(prompt_tokens=1)) is None
    assert day.reserve(Cost(samples=1)) is not None


def test_what_a_parent_refuses_leaves_no_trace_below():
    day = Ledger(samples=1)
    first, second = Ledger(samples=5, parent=day), Ledger(samples=5, parent=day)
    held = first.reserve(Cost(samples=1))
    assert second.reserve(Cost(samples=1)) is None
    assert second.reserved == Cost()
    assert not first.extend(held, Cost(samples=1))
    assert first.reserved == day.reserved == Cost(samples=1)


@given(
    st.lists(st.none() | st.integers(1, 4), min_size=1, max_size=4),
    st.lists(st.sampled_from(("reserve", "extend", "settle", "refund")), max_size=20),
)
def test_a_chain_of_ledgers_is_as_tight_as_its_tightest(limits, operations):
    """What any ledger says is what the caps of the whole chain say, and all are charged, or none."""
    chain, held = [Ledger(requests=limits[0])], []
    for limit in limits[1:]:
        chain.append(Ledger(requests=limit, parent=chain[-1]))
    leaf, spent = chain[-1], 0
    for operation in operations:
        caps = [limit for limit in limits if limit is not None]
        taken = spent + sum(reservation.amount.requests for reservation in held)
        room = min(caps, default=math.inf) - taken
        assert leaf.remaining("requests") == max(room, 0)
        assert leaf.unspent("requests") == max(min(caps, default=math.inf) - spent, 0)
        assert leaf.used_share("requests") == max((spent / cap for cap in caps), default=0.0)
        assert leaf.capped("requests") == bool(caps) and not leaf.capped("tokens")
        if operation == "reserve":
            made = leaf.reserve(Cost(requests=1))
            assert (made is not None) == (room >= 1)
            held += [made] if made is not None else []
        elif held and operation == "extend":
            assert leaf.extend(held[0], Cost(requests=1)) == (room >= 1)
        elif held:
            closed = held.pop()
            used = closed.amount if operation == "settle" else Cost()
            leaf.settle(closed, used)
            spent += used.requests
        assert {(ledger.spent.requests, ledger.reserved.requests) for ledger in chain} == {
            (spent, sum(reservation.amount.requests for reservation in held))
        }


def test_where_the_store_of_one_above_fails_nothing_is_held_below():
    class Broken(MemoryStore):
        def reserve(self, amount, limits):
            raise OSError("no room")

    below = Ledger(samples=5, parent=Ledger(samples=5, store=Broken()))
    with pytest.raises(StorageError, match="no room"):
        below.reserve(Cost(samples=1))
    assert below.reserved == Cost()
