from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from dynscale_dspy.allocation.ledger import Cost, Ledger, Reservation

amounts = st.builds(Cost, samples=st.integers(0, 3), calls=st.integers(0, 4))


class LedgerMachine(RuleBasedStateMachine):
    """Whatever is reserved, extended, shrunk, settled or refunded, in any order, no cap is passed and nothing leaks."""

    open_reservations = Bundle("open_reservations")

    @initialize(samples=st.none() | st.integers(0, 20), calls=st.none() | st.integers(0, 30))
    def start(self, samples, calls):
        self.ledger = Ledger(samples=samples, calls=calls)
        self.held: dict[Reservation, Cost] = {}
        self.used = Cost()

    @rule(target=open_reservations, amount=amounts)
    def reserve(self, amount):
        before = (self.ledger.spent, self.ledger.reserved)
        reservation = self.ledger.reserve(amount)
        if reservation is None:
            assert (self.ledger.spent, self.ledger.reserved) == before
            assert any(getattr(amount, unit) > self.ledger.remaining(unit) for unit in ("samples", "calls"))
            return multiple()
        self.held[reservation] = amount
        return reservation

    @rule(reservation=open_reservations, amount=amounts)
    def extend(self, reservation, amount):
        if reservation in self.held and self.ledger.extend(reservation, amount):
            self.held[reservation] += amount

    @rule(reservation=open_reservations)
    def shrink(self, reservation):
        if reservation in self.held:
            half = Cost(self.held[reservation].samples // 2, self.held[reservation].calls // 2)
            self.ledger.shrink(reservation, half)
            self.held[reservation] = half

    @rule(reservation=consumes(open_reservations), share=st.floats(0, 1), tokens=st.integers(0, 500))
    def settle(self, reservation, share, tokens):
        held = self.held.pop(reservation)
        used = Cost(int(held.samples * share), int(held.calls * share), tokens)
        self.ledger.settle(reservation, used)
        self.used += used
        with pytest.raises(ValueError, match="already settled"):
            self.ledger.settle(reservation, used)

    @rule(reservation=consumes(open_reservations))
    def refund(self, reservation):
        del self.held[reservation]
        self.ledger.refund(reservation)

    @rule(reservation=open_reservations)
    def using_more_than_reserved_is_refused(self, reservation):
        if reservation in self.held:
            with pytest.raises(ValueError, match="was reserved"):
                self.ledger.settle(reservation, self.held[reservation] + Cost(samples=1))

    @invariant()
    def never_over(self):
        for unit, limit in self.ledger.limits.items():
            if limit is not None:
                assert getattr(self.ledger.spent, unit) + getattr(self.ledger.reserved, unit) <= limit

    @invariant()
    def exact(self):
        assert self.ledger.spent == self.used
        assert self.ledger.reserved == sum(self.held.values(), Cost())


TestLedger = LedgerMachine.TestCase


def test_cost_adds_and_subtracts_unit_by_unit():
    assert Cost(1, 2, 3, 4.0) + Cost(samples=1, tokens=7) == Cost(2, 2, 10, 4.0)
    assert Cost(1, 2, 3, 4.0) - Cost(1, 2, 3, 4.0) == Cost()


def test_a_ledger_without_caps_takes_everything():
    ledger = Ledger()
    assert ledger.reserve(Cost(samples=10**9)) is not None
    assert ledger.remaining("samples") == float("inf")
