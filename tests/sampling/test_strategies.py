from __future__ import annotations

import copy
import pickle
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import Integrated, Parallel, Sequential, Strategy
from dynscale_dspy.allocation import modes, trust
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.sampling.samplers import (
    ALONE,
    GREEDY,
    GREEDY_LABEL,
    PERMUTED,
    PLAIN,
    CallView,
    ChainSpec,
    Sampler,
    conditioned,
)
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.plurality import Plurality
from tests.sampling.support import draw_next, make_plan, make_view, view_of, voters
from tests.support import vote


def shown_to(strategy, view, seed=0, learned=None):
    """What the sampler that a strategy proposes shows."""
    sampler = strategy.propose(view, learned or Learned(), np.random.default_rng(seed))
    return sampler.chain.choose(view, np.random.default_rng(seed)) if sampler.chain is not None else ()


def shown(strategy, *keys, index=None, seed=0):
    return shown_to(strategy, make_view(voters(*keys), index), seed)


def test_parallel_shows_nothing():
    assert shown(Parallel(), "A", "B", "C") == ()


def test_sequential_shows_the_one_before_and_draws_one_at_a_time():
    assert shown(Sequential()) == ()
    assert shown(Sequential(), "A", "B", "C") == (2,)
    assert shown(Sequential(length=2), "A", "B", "C") == (1, 2)
    assert Sequential().room(0) == 1
    assert Sequential().room(1) == 0


def test_integrated_begins_with_independent_samples():
    strategy = Integrated(independent=3)
    assert shown(strategy, "A", "B", index=2) == ()
    assert shown(strategy, "A", "B", "C", index=3) != ()


def test_integrated_leaves_settled_calls_alone_unless_told_otherwise():
    assert shown(Integrated(), "A", "A", "A") == ()
    assert len(shown(Integrated(when="always"), "A", "A", "A")) == 1
    assert len(shown(Integrated(when="always", repeats=True), "A", "A", "A")) == 3


def test_integrated_leaves_a_clear_lead_to_independent_votes():
    assert len(shown(Integrated(), "A", "A", "B")) == 2
    assert shown(Integrated(), "A", "A", "A", "B") == ()
    assert len(shown(Integrated(when="contested"), "A", "A", "A", "B")) == 2


BRIDGE = (
    "the council voted for the new bridge",
    "the council voted for a new bridge",
    "a new bridge, the council voted",
)
RAIN = ("rain is expected", "rain is expected today")


@pytest.mark.parametrize("when", ["close", "contested"])
def test_answers_compared_by_likeness_are_contested_by_votes_for_what_is_much_alike(when):
    """Sums of similarities are no votes: those of the leader and its rival are close in calls that agree, too."""
    strategy = Integrated(when=when)
    agreed = view_of(Medoid(), BRIDGE[0], "a new bridge was voted by council")
    assert 0 < agreed.evidence.lead - agreed.evidence.rival < 1 and agreed.leading_two == (2, 0)
    assert shown_to(strategy, agreed) == ()
    assert len(shown_to(strategy, view_of(Medoid(), *BRIDGE[:2], *RAIN))) == 2
    ahead = view_of(Medoid(), *BRIDGE, RAIN[0])
    assert ahead.leading_two == (3, 1) and bool(shown_to(strategy, ahead)) is (when == "contested")
    for selector in (Fieldwise(), Medoid(lambda one, other: float(one == other))):
        assert view_of(selector, *"AAB").leading_two == view_of(Plurality(), *"AAB").leading_two == (2, 1)


def test_nothing_is_tried_where_no_two_samples_could_tell_whether_they_check():
    contested = view_of(Medoid(), BRIDGE[0], RAIN[0])
    assert shown_to(Integrated(when="learned"), contested) == ()
    assert shown_to(Integrated(when="learned"), view_of(Plurality(), BRIDGE[0], RAIN[0])) != ()
    learned = Learned()
    learned.trust.recall(trust.MOST)
    assert len(shown_to(Integrated(when="learned"), contested, learned=learned)) == 2
    assert len(shown_to(Integrated(when="always"), contested)) == 2


@given(
    st.lists(st.sampled_from("ABCDE"), min_size=2, max_size=12),
    st.integers(1, 6),
    st.booleans(),
    st.integers(0, 1000),
)
def test_a_chain_has_one_sample_per_answer_before_a_second_of_any(keys, length, repeats, seed):
    chosen = shown(Integrated(when="always", length=length, repeats=repeats), *keys, seed=seed)
    distinct = min(length, len(set(keys)))
    assert len(chosen) == len(set(chosen)) == (min(length, len(keys)) if repeats else distinct)
    assert len({keys[i] for i in chosen}) == distinct


def test_an_independent_attempt_speaks_for_its_answer_where_there_is_one():
    samples = voters("A", "B", "A")
    samples.append(Sample(Draw(3, shown=(0, 1), chain={0: "text"}), prediction="B", answer="B", vote=vote("B")))
    samples.append(Sample(Draw(4, shown=(0, 1), chain={0: "text"}), prediction="C", answer="C", vote=vote("C")))
    for seed in range(20):
        chosen = shown_to(Integrated(), make_view(samples), seed)
        assert set(chosen) in ({0, 1, 4}, {2, 1, 4})


@given(st.integers(1, 4), st.floats(0.05, 1.0), st.integers(0, 40))
def test_at_most_a_share_of_the_later_samples_is_conditioned(independent, share, later):
    strategy = Integrated(independent=independent, share=share)
    keys = "AB" * 4
    conditioned = [shown(strategy, *keys, index=index) != () for index in range(independent + later)]
    assert not any(conditioned[:independent])
    assert abs(sum(conditioned) - share * later) < 1
    assert sum(conditioned) <= share * later + 1e-9


def test_the_most_voted_answers_come_first_when_there_is_no_room_for_all():
    for seed in range(20):
        chosen = shown(Integrated(length=2), "A", "B", "C", "A", "B", seed=seed)
        assert {"AABCAB"[i + 1] for i in chosen} == {"A", "B"}


def test_shuffling_is_seeded_and_can_be_turned_off():
    keys = "ABCDEFGH"
    orders = {shown(Integrated(length=8), *keys, seed=seed) for seed in range(10)}
    assert len(orders) > 5
    assert shown(Integrated(length=8), *keys, seed=1) == shown(Integrated(length=8), *keys, seed=1)
    assert shown(Integrated(length=8, shuffle=False), *keys) == tuple(range(8))


def test_each_conditioned_sample_of_a_round_gets_its_own_chain():
    plan = Plan(Integrated(independent=6, length=3), seed=0, key="call", max_samples=64)
    for key in "ABCDEF":
        plan.tell(Sample(draw_next(plan), prediction=key, answer=key, vote=vote(key)))
    chains = {draw_next(plan).shown for _ in range(6)}
    assert len(chains) > 1


def test_width_bounds_what_is_in_flight():
    strategy = Integrated(independent=2, width=3)
    assert strategy.room(0) == 3
    assert strategy.room(3) == 0


@pytest.mark.parametrize("when", ["always", "contested", "close"])
def test_what_all_samples_are_granted_for_at_once_still_sees_the_independent_ones(when):
    plan = make_plan(strategy=Integrated(when=when, independent=2))
    assert len(plan.propose(8)) == 2  # the others are to see them
    for said in ("A", "B"):
        plan.tell(Sample(draw_next(plan), prediction=said, answer=said, vote=vote(said)))
    assert [sampler.chain is not None for sampler in plan.propose(6)] == [True] * 6


@pytest.mark.parametrize("when", ["always", "contested", "close"])
def test_independent_samples_that_do_not_vote_are_not_waited_for(when):
    plan = make_plan(strategy=Integrated(when=when, independent=2))
    plan.tell(Sample(draw_next(plan), problem="failed"))
    plan.tell(Sample(draw_next(plan), problem="failed"))
    assert plan.propose() == [ALONE]


def test_samples_on_trial_are_not_waited_for():
    assert len(make_plan(strategy=Integrated()).propose(8)) == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Integrated(independent=0), "independent must be an integer of at least 1, got 0"),
        (lambda: Integrated(length=0), "length must be an integer of at least 1, got 0"),
        (lambda: Integrated(width=-1), "width must be an integer of at least 1, got -1"),
        (lambda: Integrated(when="never"), "when must be 'learned', 'close', 'contested' or 'always', got 'never'"),
        (lambda: Integrated(share=0), "share must be a number above 0 and at most 1, got 0"),
        (lambda: Integrated(share=1.5), "share must be a number above 0 and at most 1, got 1.5"),
        (lambda: Integrated(rendering="xml"), "rendering must be 'field' or 'prefill', got 'xml'"),
        (lambda: Integrated(first="plain"), "first must be 'own' or 'greedy', got 'plain'"),
        (lambda: Parallel(first=None), "first must be 'own' or 'greedy', got None"),
        (lambda: Integrated(max_tokens=0), "max_tokens must be an integer of at least 1, got 0"),
        (lambda: Sequential(length=True), "length must be an integer of at least 1, got True"),
        (lambda: Sequential(predictors="first"), "predictors must be 'all' or 'last', got 'first'"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- which sampler is proposed


def proposed(strategy, *keys, learned=None, **view):
    return strategy.propose(make_view(voters(*keys))._replace(**view), learned or Learned(), np.random.default_rng(0))


def test_strategies_propose_by_what_they_see():
    assert proposed(Parallel(), "A", "B") is ALONE
    assert proposed(Sequential()) is ALONE
    assert proposed(Sequential(length=3), "A") == conditioned(ChainSpec(length=3, pick="latest"))
    assert proposed(Integrated(), "A", "A") is ALONE
    assert proposed(Integrated(length=3), "A", "B") == conditioned(ChainSpec(length=3))


FIRST_GREEDY = (Parallel(first="greedy"), Integrated(first="greedy"))


@pytest.mark.parametrize("strategy", FIRST_GREEDY)
def test_the_first_sample_is_greedy_and_the_second_is_not(strategy):
    assert proposed(strategy) is GREEDY and GREEDY in strategy.samplers
    assert proposed(strategy, "A") is ALONE


def labels(strategy, calls, samples, greedy, draw, learned=None):
    """Plans of calls that are decided at once, all open to the end: call c says greedy(c) first and draw(c) later."""
    learned = learned or Learned()
    plans = [Plan(strategy, seed=0, key=c, max_samples=samples, learned=learned, at_once=True) for c in range(calls)]
    for _ in range(samples):
        for call, plan in enumerate(plans):
            draw_one = plan.draw(*plan.propose(1))
            said = greedy(call) if draw_one.sampler is GREEDY_LABEL else draw(call)
            plan.tell(Sample(draw_one, prediction=said, answer=said, vote=vote(said)))
    return plans, learned


@pytest.mark.parametrize("strategy", FIRST_GREEDY)
@pytest.mark.parametrize("samples", [4, 8])
def test_where_greedy_labels_are_what_votes_come_to_calls_end_with_them(strategy, samples):
    draws, calls = random.Random(samples), 200
    plans, learned = labels(
        strategy, calls, samples, lambda call: "abcd"[call % 4], lambda call: draws.choices("abcd", WIDE[call % 4])[0]
    )
    assert learned.modes.weight == modes.WEIGHT
    kept = sum(plan.winner().answer == "abcd"[call % 4] for call, plan in enumerate(plans))
    voted = sum(modal([s.answer for s in plan.samples]) == "abcd"[call % 4] for call, plan in enumerate(plans))
    assert kept >= (calls if samples == 4 else 0.95 * calls)
    assert voted < 0.9 * calls  # which votes of weight 1 do not


WIDE = [tuple(np.roll((0.45, 0.25, 0.2, 0.1), place)) for place in range(4)]
"""The chances of four labels, for calls whose favourite is each of them."""


def modal(answers):
    """The commonest; of equal ones the first."""
    return max(answers, key=answers.count)


def test_where_no_sample_is_greedy_whatever_was_asked_the_first_counts_like_others():
    draws = random.Random(3)

    def draw(call):
        return draws.choices("abcd", WIDE[call % 4])[0]

    plans, learned = labels(Integrated(), 80, 8, draw, draw)
    assert learned.modes.weight == 1
    for plan in plans:
        assert plan.winner().answer == modal([sample.answer for sample in plan.samples])


def test_votes_are_counted_anew_when_their_worth_changes():
    plans, learned = labels(Integrated(), 1, 4, lambda call: "a", lambda call: "b")
    assert plans[0].winner().answer == "b"
    for _ in range(20):
        learned.modes.tell(first=True, other=False)
    assert plans[0].winner().answer == "a" and plans[0].selection.groups()[0].weight == modes.WEIGHT
    for _ in range(9):
        learned.modes.tell(first=False, other=True)
    assert plans[0].winner().answer == "b"


@pytest.mark.parametrize("strategy", FIRST_GREEDY)
def test_where_the_greedy_sample_has_no_answer_others_speak(strategy):
    plan = Plan(strategy, seed=0, key="call", max_samples=3, at_once=True)
    plan.tell(Sample(plan.draw(*plan.propose(1)), problem="no answer"))
    assert plan.propose(8) == [ALONE, ALONE]
    plan.tell(Sample(plan.draw(ALONE), prediction="A", answer="A", vote=vote("A")))
    assert plan.winner().answer == "A"


@pytest.mark.parametrize("strategy", [Integrated(), Parallel(first="greedy")])
@pytest.mark.parametrize("at_once", [True, False])
def test_where_greedy_samples_cast_no_votes_the_first_is_like_others(strategy, at_once):
    learned, drawn = Learned(), []
    for call in range(8):
        plan = Plan(strategy, seed=0, key=call, max_samples=3, learned=learned, at_once=at_once)
        for _ in range(3):
            draw = draw_next(plan)
            drawn.append(draw.sampler)
            told = None if draw.sampler.temperature == 0 else vote("A")
            plan.tell(Sample(draw, vote=told, problem="" if told else "truncated"))
    greedy = GREEDY_LABEL if at_once else GREEDY
    assert drawn == [greedy, ALONE, ALONE] * 4 + [ALONE] * 12


def test_where_no_samples_cast_votes_the_first_stays_greedy():
    learned = Learned()
    for sampler in (GREEDY, ALONE):
        record = learned.of(sampler.name)
        record.samples = record.blanks = 8
    assert proposed(Integrated(), learned=learned) == GREEDY


def test_samples_of_a_program_that_decides_at_once_see_no_earlier_ones_unless_that_is_asked_for():
    for when in ("learned", "close", "contested"):
        assert proposed(Integrated(when=when), "A", "B", at_once=True) is ALONE
    assert proposed(Integrated(when="always"), "A", "B", at_once=True).name == "conditioned"


def test_an_attempt_of_the_greedy_sample_is_one_of_those_that_later_ones_see():
    assert proposed(Integrated(first="greedy"), "A", "B") == conditioned(ChainSpec())


PERMUTING = (Parallel(demos="permuted"), Parallel(demos="permuted", first="greedy"))


@pytest.mark.parametrize("at_once", [False, True])
def test_samples_after_the_first_see_the_demos_in_other_orders(at_once):
    for strategy, first in zip(PERMUTING, (ALONE, GREEDY), strict=True):
        assert proposed(strategy, at_once=at_once) is first
        assert proposed(strategy, "A", at_once=at_once) is PERMUTED
        assert {first, PERMUTED} <= set(strategy.samplers)


def test_a_call_that_may_draw_one_sample_is_the_plain_program():
    for strategy in (Parallel(), Sequential(), Integrated(), Integrated(when="always"), *FIRST_GREEDY, *PERMUTING):
        assert proposed(strategy, varies=False) is PLAIN


def test_settings_of_chains_go_into_the_sampler():
    settings = {"max_tokens": 50, "predictors": "last", "rendering": "prefill"}
    assert proposed(Sequential(**settings), "A").chain == ChainSpec(length=1, pick="latest", **settings)
    settings |= {"length": 2, "repeats": True, "shuffle": False}
    assert proposed(Integrated(**settings), "A", "B").chain == ChainSpec(**settings)


def known(agree: bool, pairs: int) -> Learned:
    """What is known after so many pairs of samples that saw two answers."""
    learned = Learned()
    for _ in range(pairs):
        learned.trust.tell(agree=agree, shown=2)
    return learned


def test_samples_see_earlier_ones_where_such_samples_check():
    strategy = Integrated()
    assert proposed(strategy, "A", "B").name == "conditioned"  # to find out
    assert proposed(strategy, "A", "B", seeing=trust.ON_TRIAL).name == "independent"
    assert proposed(strategy, "A", "B", learned=known(True, 9), seeing=9).name == "conditioned"
    assert proposed(strategy, "A", "B", learned=known(False, 9)).name == "independent"
    assert proposed(Integrated(when="close"), "A", "B", learned=known(False, 9)).name == "conditioned"  # is not asked


def test_votes_count_where_such_samples_check():
    strategy, seeing = Integrated(), conditioned(ChainSpec())
    assert strategy.worth(seeing, Learned()) == 1 == strategy.worth(ALONE, Learned())
    assert strategy.worth(seeing, known(True, 2)) == 1 and strategy.worth(seeing, known(False, 2)) == 0
    assert Integrated(when="close").worth(seeing, known(False, 9)) == 1


@pytest.mark.parametrize("strategy", [Parallel(), Sequential(length=2), Integrated(share=0.5)])
def test_strategies_are_values(strategy):
    proposed(strategy, "A", "B")
    for twin in (copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy))):
        assert twin == strategy and hash(twin) == hash(strategy) and repr(twin) == repr(strategy)
        assert twin.samplers == strategy.samplers


def test_a_strategy_pickled_by_an_earlier_version_proposes_as_before():
    old = Integrated.__new__(Integrated)
    old.__dict__.update(vars(Integrated(length=3)))  # what a pickle holds: the settings and nothing else
    assert proposed(old, "A", "B").chain.length == 3


def test_a_strategy_must_propose():
    class Nothing(Strategy):
        pass

    with pytest.raises(TypeError, match=r"abstract.*Nothing.*propose"):
        Nothing()  # type: ignore[abstract]


# ---- strategies of version 0.1


def old_strategy(base=Strategy):
    """A strategy that shows the first sample to every third one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)

        class ShowsTheFirst(base):
            max_tokens = 77

            def shown(self, samples, tally, index, generator):
                assert index >= len(samples) == tally.valid
                generator.random()
                return (samples[0].draw.index,) if index % 3 == 2 else ()

    return ShowsTheFirst()


def test_a_strategy_that_overrides_shown_is_told_when_it_is_defined():
    with pytest.warns(DeprecationWarning, match=r"^Old\.shown\(.*\) is deprecated: use propose\(view") as told:

        class Old(Strategy):
            def shown(self, samples, tally, index, generator):
                return ()

    assert Path(told[0].filename) == Path(__file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class New(Strategy):
            def propose(self, view, learned, rng):
                return ALONE

            def shown(self, samples, tally, index, generator):
                return ()

    assert proposed(New(), "A") is ALONE


@pytest.mark.parametrize("base", [Strategy, Parallel, Integrated])
def test_a_strategy_that_overrides_shown_works_as_before(base):
    strategy = old_strategy(base)
    assert shown(strategy) == shown(strategy, "A") == ()
    assert shown(strategy, "A", "B") == (0,)
    assert shown(strategy, "A", "B", "C") == ()
    assert proposed(strategy, varies=False) is PLAIN
    plan = Plan(strategy, seed=0, key="call", max_samples=64)
    draws = []
    for key in "ABCABC":
        draws.append(draw_next(plan))
        plan.tell(Sample(draws[-1], prediction=key, answer=key, vote=vote(key)))
    assert [draw.shown for draw in draws] == [(), (), (0,), (), (), (0,)]
    assert {draw.sampler.name for draw in draws} == {"independent", "conditioned"}
    if base is Strategy:
        assert draws[2].sampler.chain.max_tokens == 77


def test_shown_of_a_strategy_that_is_derived_from_can_still_be_asked():
    with pytest.warns(DeprecationWarning):

        class NeverTheFirst(Integrated):
            def shown(self, samples, tally, index, generator):
                return tuple(i for i in super().shown(samples, tally, index, generator) if i)

    assert shown(Integrated(shuffle=False), "A", "B", "C") == (0, 1, 2)
    assert shown(NeverTheFirst(shuffle=False), "A", "B", "C") == (1, 2)
    assert shown(NeverTheFirst(shuffle=False), "A", "A", "A", "B") == ()


# ---- weights and further samplers


def test_a_vote_weighs_what_the_strategy_says():
    class Doubled(Parallel):
        def weight(self, sampler):
            return 2.0

    plan = Plan(Doubled(), seed=0, key="call", max_samples=64)
    for key in "AB":
        plan.tell(Sample(draw_next(plan), prediction=key, answer=key, vote=vote(key)))
    assert [group.weight for group in plan.selection.groups()] == [2, 2]


def test_a_strategy_can_end_a_call():
    class TwoAtMost(Parallel):
        def propose(self, view: CallView, learned, rng) -> Sampler | None:
            return ALONE if view.next_index < 2 else None

    plan = Plan(TwoAtMost(), seed=0, key="call", max_samples=64)
    assert plan.propose(9) == [ALONE, ALONE]
    plan.draw(ALONE)
    assert plan.propose(9) == [ALONE] and plan.propose(9, ahead=1) == []
    plan.draw(ALONE)
    assert plan.propose() == []
