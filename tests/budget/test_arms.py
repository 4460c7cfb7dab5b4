from __future__ import annotations

import pytest

from dynscale_dspy import BudgetPool, Cost, Uniform
from dynscale_dspy.allocation.tally import Tally
from tests.support import Known, opened


def test_an_arm_grants_only_what_is_worth_the_price():
    pool = BudgetPool(per_call=4)
    arm = opened(pool, 64)
    while arm.waiting:
        lease = arm.take()
        lease.start()
        lease.settle()
    assert arm.request(Tally.of("A" * 30), ["independent"] * 8) == 0  # it is decided
    assert arm.request(Tally.of("AB"), ["independent"] * 8) > 0
    arm.close()


def test_a_guaranteed_sample_of_a_known_set_is_funded_when_it_is_taken():
    pool, program = BudgetPool(samples=9, tokens=100), Known()
    [arm], _, _ = pool.admission.open_known(1, program=program)
    assert pool.statistics().reserved.tokens == 0
    lease = arm.obtain("independent", 1)
    assert lease is not None and lease.sampler == "independent"
    assert pool.statistics().reserved.tokens == 1  # at least one, so that none begins on nothing
    pool.stop()
    assert arm.obtain("independent", 1) is None
    arm.close()


def test_closing_twice_counts_once():
    pool = BudgetPool(samples=9)
    arm = opened(pool)
    for _ in range(2):
        arm.close()
    now = pool.statistics()
    assert (now.closed_calls, now.open_calls, now.samples_per_call) == (1, 0, {0: 1})


def drawn(arm, prompt=160, written=20):
    """Draw what an arm has reserved, as the choices of one request."""
    leases = arm.take_all()
    for place, lease in enumerate(leases):
        lease.sampler = "independent"
        assert lease.start()
        bound = Cost(requests=not place, prompt_tokens=0 if place else 2 * prompt, completion_tokens=2 * written)
        charge = lease.charge(bound)
        assert charge is not None
        lease.answered(
            charge, Cost(requests=not place, prompt_tokens=0 if place else prompt, completion_tokens=written)
        )
        lease.settle()
    return len(leases)


def test_a_call_opens_with_as_many_samples_as_make_its_prompt_worth_it():
    """With a prompt of eight samples' tokens and a budget of eight samples in one request: six at once."""
    pool, program = BudgetPool(tokens=320 * 50).expect(50), Known()
    first = opened(pool, 8, program=program, together=8)
    assert drawn(first) == 1  # what one takes is not known yet
    first.close()
    sizes = []
    for _ in range(10):
        arm = opened(pool, 8, program=program, together=8)
        sizes.append(drawn(arm))
        arm.close()
    assert set(sizes) == {6}
    alone = opened(pool, 8, program=program)
    assert drawn(alone) < 6  # its samples each make a request
    alone.close()


def test_what_was_due_and_not_asked_for_is_not_granted_later():
    pool, program = BudgetPool(per_call=12, policy=Uniform(first=12)), Known()
    arm = opened(pool, 8, program=program)
    assert len(arm.take_all()) == 8  # four more are due, and the call proposes none: its strategy wants to see these
    arm.request(Tally.of("A" * 8), ["independent"])
    arm.take_all()
    assert arm.request(Tally.of("A" * 8), ["independent"] * 4, pending=1, at_same_price=True) == 3  # twelve in all
    arm.close()


def held_by(pool, act):
    """Tokens that are set aside meanwhile."""
    before = pool.statistics().reserved.tokens
    act()
    return pool.statistics().reserved.tokens - before


def test_a_further_choice_holds_what_it_may_write_and_the_prompt_is_held_once():
    pool, program = BudgetPool(tokens=10_000, per_call=4, policy=Uniform()), Known()
    for _ in range(2):  # what a sample takes, then what a further choice does
        arm = opened(pool, 4, program=program, together=4)
        drawn(arm)
        arm.close()
    first, further = 2 * 160 + 2 * 20, 2 * 20
    found = []
    assert held_by(pool, lambda: found.append(opened(pool, 4, program=program, together=4))) == first + 3 * further
    assert held_by(pool, lambda: found.append(opened(pool, 4, program=program, together=2))) == 3 * first + further
    assert held_by(pool, lambda: found.append(opened(pool, 4, program=program))) == 4 * first
    for arm in found:
        arm.close()
    [known], _, _ = pool.admission.open_known(1, program=program)
    assert held_by(pool, lambda: known.obtain("independent", 1)) == first
    for _ in range(3):  # guaranteed samples, and those that come after them
        assert held_by(pool, lambda: known.obtain("independent", 1, further=True)) == further
    assert held_by(pool, lambda: known.obtain("independent", 1)) == first
    known.close()


def test_a_further_choice_that_has_to_ask_for_itself_sets_more_aside_or_is_refused():
    pool, program = BudgetPool(tokens=10_000, per_call=2, policy=Uniform()), Known()
    for _ in range(2):
        arm = opened(pool, 2, program=program, together=2)
        drawn(arm)
        arm.close()
    arm = opened(pool, 2, program=program, together=2)
    _, alone = arm.take_all()
    assert alone.start()
    left = int(pool.admission.remaining("tokens"))
    whole = Cost(requests=1, prompt_tokens=320, completion_tokens=40)
    assert alone.charge(Cost(requests=1, prompt_tokens=left + 41)) is None  # it holds 40
    assert "tokens" in alone.lacking
    charge = alone.charge(whole)
    assert charge is not None
    assert pool.admission.remaining("tokens") == left - whole.tokens + 40
    alone.answered(charge, whole)
    alone.settle()
    arm.close()
    assert pool.statistics().reserved == Cost()


def test_a_contested_call_gets_one_more_request_of_the_size_that_is_worth_most():
    pool, program = BudgetPool(tokens=320 * 50).expect(50), Known()
    for _ in range(4):
        arm = opened(pool, 8, program=program, together=8)
        drawn(arm)
        arm.close()
    arm = opened(pool, 8, program=program, together=8)
    drawn(arm)
    assert arm.request(Tally.of("AAAAAA"), ["independent"] * 8, together=8) == 0
    asked = arm.request(Tally.of("AAABBB"), ["independent"] * 4, together=8)
    assert asked == 4  # all that were proposed, and the others when they are, at the same price
    more = arm.request(Tally.of("AAABBB"), ["independent"] * 8, pending=4, at_same_price=True)
    assert 1 <= more <= 4
    drawn(arm)
    arm.close()
    assert pool.statistics().reserved == Cost()


@pytest.mark.parametrize("per_call", [4, 8, 13])
def test_samples_that_a_call_has_not_asked_for_yet_are_not_granted_to_others_and_to_it(per_call):
    """It opens, and others beside it draw what there is before it asks for the others of its first request."""
    pool, program = BudgetPool(per_call=per_call), Known()
    arm = opened(pool, 8, program=program, together=8)
    arm.learned.costs_last = True
    drawn(arm)
    arm.close()
    slow = opened(pool, 1, program=program, together=8)
    beside = [opened(pool, 8, program=program, together=8) for _ in range(3)]
    for other in beside * 8:
        other.request(Tally.of("AB"), ["independent"] * 8, together=8)
    assert slow.is_sized
    slow.request(Tally(), ["independent"] * 7, pending=1, at_same_price=True, together=7)
    now = pool.statistics()
    assert now.spent.samples + now.reserved.samples <= 5 * per_call
    assert slow.waiting
    for each in (slow, *beside):
        each.close()
