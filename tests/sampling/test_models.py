"""Which of several language models a call still draws from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dynscale_dspy.allocation.learned import LOST, TRIED_AGAIN, Learned
from dynscale_dspy.sampling.best_of import BestOf
from dynscale_dspy.sampling.by_price import ByPrice
from dynscale_dspy.sampling.escalate import Escalate
from dynscale_dspy.sampling.models import NAMES_TAKEN, Choosing
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.replies import Reply
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.sampling.samplers import CallView, Sampler
from dynscale_dspy.sampling.strategies import Parallel
from dynscale_dspy.sampling.ways import INDEPENDENT
from dynscale_dspy.selection.plurality import Plurality
from tests.sampling.models import priced
from tests.support import vote

LADDER = Escalate(first=2, upfront=0, beside=0, learn=False, ways=INDEPENDENT)
CHEAP, MIDDLE, DEAR = (Sampler(name, lm=object(), model=name) for name in ("cheap", "middle", "dear"))
RNG: Any = np.random.default_rng(0)


def choosing(*models: Sampler) -> Choosing:
    return Choosing(LADDER, models or (CHEAP, DEAR))


def view(index: int) -> CallView:
    return CallView(index, (), Plurality().empty())


def plan(strategy: Choosing, learned: Learned | None = None) -> Plan:
    return Plan(strategy, seed=0, key="k", max_samples=8, learned=learned)


def drawn(plan: Plan, answer: str | None, *, lost: bool = False) -> Sampler:
    """The sampler of the plan's next sample, which says this or fails for good."""
    (sampler,) = plan.propose()
    error = ValueError("no such model") if lost else None
    plan.tell(Sample(plan.draw(sampler), vote=vote(answer), answer=answer, error=error, permanent=lost))
    return sampler


def test_with_all_models_it_is_the_rule_itself() -> None:
    strategy, rule = choosing(), LADDER.over((CHEAP, DEAR))
    learned = Learned()
    assert strategy.samplers == (CHEAP, DEAR) and strategy.told(learned) == f"{LADDER!r}: {rule.why(learned)}"
    for index in range(5):
        assert strategy.propose(view(index), learned, RNG) == rule.propose(view(index), learned, RNG)
    for sampler in (CHEAP, DEAR):
        assert strategy.worth(sampler, learned) == rule.worth(sampler, learned)
        assert strategy.weight(sampler) == rule.weight(sampler)


def test_without_one_of_two_the_other_draws_all_and_its_votes_count_one() -> None:
    for lost, left in ((CHEAP, DEAR), (DEAR, CHEAP)):
        strategy = choosing().without({lost.name})
        assert {strategy.propose(view(index), Learned(), RNG) for index in range(5)} == {left}
        assert strategy.worth(left, Learned()) == 1
        assert strategy.worth(DEAR, Learned()) == 4 * strategy.worth(CHEAP, Learned())
        assert f"{lost.name} left out" in strategy.told(Learned())


def test_without_one_of_three_the_rule_chooses_between_the_others() -> None:
    strategy = choosing(CHEAP, MIDDLE, DEAR).without({"cheap"})
    assert strategy.propose(view(0), Learned(), RNG) is MIDDLE
    assert strategy.propose(view(2), Learned(), RNG) is DEAR
    assert strategy.without(frozenset({"cheap"})) is strategy


def test_a_call_of_one_sample_asks_the_cheapest_as_it_is() -> None:
    for rule in (Escalate(), BestOf(), ByPrice()):
        for seed in range(40):
            rng = np.random.default_rng(seed)
            one = Choosing(rule, (DEAR, CHEAP)).propose(
                view(0)._replace(varies=False), priced({"cheap": 1, "dear": 2}), rng
            )
            assert one is CHEAP
            assert Choosing(rule, (DEAR, CHEAP)).propose(view(0)._replace(varies=False), Learned(), rng) is DEAR


def test_a_call_goes_on_with_the_models_that_answer() -> None:
    call = plan(choosing())
    assert drawn(call, None, lost=True) is CHEAP
    assert not call.is_hopeless and list(call.failing) == ["cheap"]
    assert [drawn(call, "A") for _ in range(3)] == [DEAR] * 3
    assert call.winner().answer == "A"
    assert call.rule.endswith("; cheap left out")


@pytest.mark.parametrize("most", [1, 2, 4])
def test_samples_of_a_model_that_fails_for_good_take_no_other_ones_place(most: int) -> None:
    call = Plan(choosing(), seed=0, key="k", max_samples=most, varies=most > 1)
    together = [call.draw(sampler) for sampler in call.propose(most)]
    lost = [draw for draw in together if draw.sampler.model == "cheap"]
    for draw in lost:
        call.tell(Sample(draw, error=ValueError("no such model"), permanent=True))
    assert call.room == len(lost) and drawn(call, "A").model == "dear"
    assert call.winner().answer == "A"


def test_a_call_ends_when_all_models_fail_for_good() -> None:
    call = plan(choosing())
    assert drawn(call, None, lost=True) is CHEAP
    assert drawn(call, None, lost=True) is DEAR
    assert call.is_hopeless and call.winner().draw.index == 0


def test_a_call_does_without_a_model_that_cannot_be_paid_as_long_as_others_are_left() -> None:
    call = plan(choosing())
    assert [drawn(call, "A"), drawn(call, "B")] == [CHEAP, CHEAP]
    assert call.propose()[0] is DEAR and call.do_without()
    assert drawn(call, "A") is CHEAP and not call.failing
    assert not call.do_without() and call.propose()[0] is CHEAP
    assert not Plan(Parallel(), seed=0, key="k", max_samples=8).do_without()


def test_a_call_ends_when_one_model_cannot_be_paid_and_the_other_fails_for_good() -> None:
    call = plan(choosing())
    assert [drawn(call, "A"), drawn(call, "B")] == [CHEAP, CHEAP]
    assert call.propose()[0] is DEAR and call.do_without()
    assert not call.is_hopeless
    assert drawn(call, None, lost=True) is CHEAP
    assert call.is_hopeless and call.winner().answer in ("A", "B")


def test_a_call_does_without_a_model_whatever_way_its_next_sample_would_be_drawn_in() -> None:
    call = plan(Choosing(Escalate(first=1, upfront=0), (CHEAP, DEAR)))
    assert drawn(call, "A").name == "cheap, greedy"
    assert call.propose()[0].name == "dear, greedy" and call.do_without()
    assert drawn(call, "A") is CHEAP
    assert call.propose_unpaid() is CHEAP
    assert call.do_without("cheap") and call.propose()[0].model == "dear"
    assert call.propose_unpaid() is CHEAP


def test_votes_of_a_model_that_fails_later_still_count() -> None:
    call = plan(choosing())
    assert [drawn(call, "A"), drawn(call, "A")] == [CHEAP, CHEAP]
    assert drawn(call, None, lost=True) is DEAR
    assert drawn(call, "B") is CHEAP
    assert [(group.answer, group.weight) for group in call.selection.groups()] == [("A", 2), ("B", 1)]


def test_other_calls_leave_a_model_out_after_a_few_failures_and_one_tries_it_again_now_and_then() -> None:
    learned = Learned()
    for _ in range(LOST):
        assert drawn(plan(choosing(), learned), None, lost=True) is CHEAP
    assert [drawn(plan(choosing(), learned), "A") for _ in range(TRIED_AGAIN - 1)] == [DEAR] * (TRIED_AGAIN - 1)
    assert drawn(plan(choosing(), learned), None, lost=True) is CHEAP
    assert drawn(plan(choosing(), learned), "A") is DEAR
    for _ in range(TRIED_AGAIN - 2):
        plan(choosing(), learned)
    assert [drawn(plan(choosing(), learned), "A") for _ in range(3)] == [CHEAP] * 3  # it answers again


def test_if_all_models_were_lost_in_other_calls_they_are_asked_all_the_same() -> None:
    learned = Learned()
    for sampler in (CHEAP, DEAR):
        for _ in range(LOST):
            learned.of(sampler.name).told(lost=True)
    call = plan(choosing(), learned)
    assert drawn(call, None, lost=True) is CHEAP
    assert drawn(call, None, lost=True) is DEAR
    assert call.is_hopeless


def test_equal_replies_of_two_models_are_two_votes() -> None:
    call = plan(choosing())
    for _ in range(3):
        (sampler,) = call.propose()
        draw = call.draw(sampler)
        reply = Reply("1", 0, 7) if draw.index != 1 else Reply("2", 0, 7)
        call.tell(Sample(draw, vote=vote("A"), answer="A", replies=(reply,)))
    assert [sample.problem for sample in call.samples] == ["", "", ""]
    assert [sample.draw.sampler.name for sample in call.samples] == ["cheap", "cheap", "dear"]


@pytest.mark.parametrize("name", ["plain", "independent", "greedy", "conditioned"])
def test_names_of_ways_of_sampling_are_taken(name: str) -> None:
    assert name in NAMES_TAKEN
