from __future__ import annotations

import math
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import Cost
from dynscale_dspy.allocation.costs import CostRecord
from dynscale_dspy.allocation.requests import LaterDemand, PricedSizes, RequestSizes
from dynscale_dspy.allocation.tables import leader_confidence

SETUPS = (0.5, 1.0, 2.0, 8.0, 16.0)
TABLES = {setup: RequestSizes.of(setup) for setup in SETUPS}
states = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda votes: (max(votes), min(votes)))


def carried_out(setup, plan, *, votes=(0, 0), most=56):
    """Chance that the vote is right, and what was spent, of a plan that says how many samples a state draws."""

    @cache
    def value(a, b):
        size = plan(a, b) if a + b < most else 0
        if not size:
            h = leader_confidence(a, b)
            return max(h, 1 - h), 0.0
        right, spent, chances = 0.0, setup + size, {(a, b): 1.0}
        for _ in range(size):
            later = {}
            for (x, y), chance in chances.items():
                up = (x + 1) / (x + y + 2)
                for state, part in (((x + 1, y), up), ((x, y + 1), 1 - up)):
                    later[state] = later.get(state, 0.0) + chance * part
            chances = later
        for (x, y), chance in chances.items():
            then, cost = value(x, y)
            right += chance * then
            spent += chance * cost
        return right, spent

    return value(*votes)


def best_plan(table, price, first=None):
    """What a table says of each state: how many samples, and none where they are not worth the price."""

    def plan(a, b):
        if first is not None and a + b == 0:
            return first
        lead, rival = max(a, b), min(a, b)
        index = table.share(lead, rival) * ALONE.index(lead, rival)
        return table.size(lead, rival, price) if index > price else 0

    return plan


class ALONE:
    """The price at which an optimal plan goes on, where requests cost nothing beside their samples."""

    @staticmethod
    @cache
    def index(lead, rival):
        low, high = 0.0, 0.3
        for _ in range(24):
            middle = (low + high) / 2
            low, high = (middle, high) if goes_on(lead, rival, middle) else (low, middle)
        return low


@cache
def goes_on(lead, rival, price, depth=40):
    """Whether a further sample is worth the price, by recursion over what may come."""

    @cache
    def surplus(a, b):
        if a + b >= lead + rival + depth:
            return 0.0
        now = max(leader_confidence(a, b), leader_confidence(b, a))
        return max(0.0, ahead(a, b) - price - now)

    def ahead(a, b):
        up, total = (a + 1) / (a + b + 2), 0.0
        for (x, y), chance in (((a + 1, b), up), ((a, b + 1), 1 - up)):
            total += chance * (max(leader_confidence(x, y), leader_confidence(y, x)) + surplus(x, y))
        return total

    return surplus(lead, rival) > 1e-12


@pytest.mark.parametrize("setup", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("price", [0.005, 0.02])
def test_no_simple_plan_beats_what_the_tables_say(setup, price):
    table = TABLES[setup]
    worth = {}
    for name, plan in {
        "tables": best_plan(table, price, first=table.size(0, 0, price)),
        **{f"{size} at once": (lambda a, b, size=size: size * (a + b == 0)) for size in range(1, 25)},
        **{
            f"{size} until {lead} ahead": (lambda a, b, size=size, lead=lead: size * (abs(a - b) < lead))
            for size in (1, 2, 4)
            for lead in (1, 2, 3)
        },
    }.items():
        right, spent = carried_out(setup, plan)
        worth[name] = right - price * spent
    assert worth.pop("tables") >= max(worth.values()) - 2e-4


@pytest.mark.parametrize("setup", [1.0, 8.0])
@pytest.mark.parametrize("first", [1, 4])
def test_calls_spend_what_is_foreseen(setup, first):
    table = TABLES[setup]
    for price in (0.004, 0.012, 0.03):
        _, spent = carried_out(setup, best_plan(table, price, first=first))
        foreseen = setup + first + table.later(first, price)
        assert spent == pytest.approx(foreseen, rel=0.12, abs=0.3)


@given(st.sampled_from(SETUPS), states, st.floats(1e-9, 1) | st.none())
def test_a_request_brings_a_sample_at_least(setup, votes, price):
    assert 1 <= TABLES[setup].size(*votes, price) <= 24


@given(st.sampled_from(SETUPS[:-1]), states)
def test_the_dearer_the_prompt_the_less_a_sample_is_worth(setup, votes):
    dearer = TABLES[SETUPS[SETUPS.index(setup) + 1]]
    assert 0 < dearer.share(*votes) <= TABLES[setup].share(*votes) + 1e-9 <= 1 + 1e-9


@given(st.sampled_from(SETUPS), st.floats(0, 1e9), st.floats(0, 1e9))
def test_any_votes_have_a_size(setup, lead, rival):
    table = TABLES[setup]
    assert table.size(max(lead, rival), min(lead, rival), 0.01) >= 1
    assert 0 < table.share(max(lead, rival), min(lead, rival)) <= 1


@given(st.sampled_from(SETUPS), st.floats(0, 60), st.floats(0, 20))
def test_a_first_request_is_what_a_call_can_pay_and_the_price_falls_with_that(setup, budget, more):
    table = TABLES[setup]
    first, price = table.opening(budget)
    _, lower = table.opening(budget + more)
    assert 1 <= first <= max(1, budget - setup + 0.5)  # of an estimate, rounded
    assert lower <= price


@pytest.mark.parametrize("setup", SETUPS)
def test_prices_and_spending_are_each_others_inverse(setup):
    for first in (1, 3, 8):
        spent = [TABLES[setup].later(first, price) for price in (0.001, 0.003, 0.01, 0.03, 0.1)]
        assert spent == sorted(spent, reverse=True)
        for price in (0.002, 0.006, 0.02):
            spending = TABLES[setup].later(first, price)
            assert TABLES[setup].later(first, TABLES[setup].price_of(first, spending)) == pytest.approx(spending)
        assert TABLES[setup].price_of(first, 1e9) == 0


def test_short_prompts_are_not_weighed():
    assert RequestSizes.of(0.4) is None
    assert RequestSizes.of(7.3) is RequestSizes.of(8.9)
    assert RequestSizes.of(1e12).setup < math.inf


def record_of(prompt, written, choices, dollars=False):
    """What so many samples of one request have cost."""
    record = CostRecord()
    read = 3 * prompt if dollars else 0
    paid = 10 * written if dollars else 0
    record.add(Cost(samples=1, requests=1, prompt_tokens=prompt, completion_tokens=written, nanodollars=read + paid))
    for _ in range(choices - 1):
        record.add(Cost(samples=1, completion_tokens=written, nanodollars=paid))
    return record


def test_prices_are_paid_for_samples_of_average_cost():
    record = record_of(160, 20, 4)
    sizes = PricedSizes.of(record, "tokens", record.mean("tokens"))
    assert sizes is not None
    assert (sizes.setup, sizes.part) == (8, pytest.approx(1 / 3))  # (160 + 4 * 20) / 4 is 60 a sample
    assert sizes.cost(4) == pytest.approx(4)  # as the four have cost
    assert sizes.room(sizes.cost(5)) == pytest.approx(5)
    assert sizes.share(1, 1) == pytest.approx(TABLES[8.0].share(1, 1) * 3)
    assert sizes.size(1, 1, 0.03) == TABLES[8.0].size(1, 1, 0.01)
    assert sizes.first(sizes.cost(8)) == TABLES[8.0].opening(16)[0]
    assert PricedSizes.of(CostRecord(), "tokens", 0) is None
    assert PricedSizes.of(record_of(4, 20, 4), "tokens", 20) is None


@given(read=st.integers(0, 400), written=st.integers(1, 40), samples=st.integers(1, 9), per_call=st.floats(1, 40))
def test_where_samples_are_given_out_any_long_prompt_counts_as_two(read, written, samples, per_call):
    sizes = PricedSizes.counted(record_of(read, written, samples), per_call)
    if read < 2 * written:
        assert sizes is None
        return
    assert sizes is not None
    assert sizes.sizes is TABLES[2.0] and sizes.setup == 2
    assert sizes.cost(per_call) + 2 * sizes.part / 2 == pytest.approx(per_call)  # every second call asks twice
    assert 1 <= sizes.first(per_call) <= per_call + 1
    assert sizes.alone * sizes.cost(1) == pytest.approx(1)


def test_money_tells_prompt_from_reply_by_its_own_prices():
    record = record_of(160, 20, 4, dollars=True)
    sizes = PricedSizes.of(record, "nanodollars", record.mean("nanodollars"))
    assert sizes is not None and sizes.setup == pytest.approx(160 * 3 / (20 * 10))


@given(st.sampled_from((1.0, 2.0, 8.0)), st.floats(0.1, 1), st.integers(1, 8), st.floats(0.001, 0.1))
def test_demand_counts_in_samples_of_average_cost(setup, part, first, price):
    sizes = PricedSizes(TABLES[setup], setup, part)
    later = LaterDemand(sizes, first)
    assert later.opening == pytest.approx(part * (setup + first))
    assert later.demand(price) == pytest.approx(part * TABLES[setup].later(first, price * part))
    assert later.demand(later.price(later.demand(price))) == pytest.approx(later.demand(price), abs=1e-6)
