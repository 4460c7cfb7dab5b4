from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import UCB, BudgetPool, Integrated, KnowledgeGradient, Parallel, Uniform
from dynscale_dspy.allocation.confidence import Answers, chance_right
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.sampling.samplers import ALONE, GREEDY, GREEDY_LABEL, ChainSpec, Sampler
from dynscale_dspy.sampling.samplers import conditioned as seeing_earlier
from dynscale_dspy.sampling.steps import Job
from dynscale_dspy.selection.base import Vote
from dynscale_dspy.selection.distribution import spread
from dynscale_dspy.selection.labels import Labels
from dynscale_dspy.selection.plurality import Plurality, PluralitySelection
from tests.sampling.support import TwoThenAsk, draw_next, make_plan
from tests.support import open_call, vote

policies = st.sampled_from([KnowledgeGradient(), KnowledgeGradient(first=2), UCB(), Uniform()])


@given(st.lists(st.sampled_from("ABC"), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_winner_does_not_depend_on_the_order_of_arrival(answers, random_):
    def tell_all(order):
        plan = make_plan()
        draws = [draw_next(plan) for _ in answers]
        for i in order:
            plan.tell(Sample(draws[i], prediction=i, answer=answers[i], vote=vote(answers[i])))
        return plan.winner().prediction

    order = list(range(len(answers)))
    random_.shuffle(order)
    assert tell_all(order) == tell_all(range(len(answers)))


@given(st.lists(st.sampled_from("ABC"), min_size=1, max_size=12), st.permutations("ABC"))
def test_renaming_answers_renames_the_winner(answers, renamed):
    names = dict(zip("ABC", renamed, strict=True))

    def winner(keys):
        plan = make_plan()
        for key in keys:
            plan.tell(Sample(draw_next(plan), prediction=key, answer=key, vote=vote(key)))
        return plan.winner().key

    assert winner([names[key] for key in answers]) == names[winner(answers)]


def tell(plan, *keys, conditioned=False):
    for key in keys:
        draw = draw_next(plan)
        if conditioned:
            draw = Draw(draw.index, draw.round, shown=(0,), chain={1: "text"})
        problem = "" if key is not None else "no answer"
        plan.tell(Sample(draw, prediction=(draw.index, key), answer=key, vote=vote(key), problem=problem))


def test_most_votes_win_and_the_first_sample_with_that_answer_speaks():
    plan = make_plan()
    tell(plan, "A", "B", "B")
    assert plan.winner().prediction == (1, "B")


def test_ties_go_to_the_answer_with_more_independent_votes_then_to_the_earlier():
    plan = make_plan()
    tell(plan, "A", "B")
    assert plan.winner().key == "A"
    plan = make_plan()
    tell(plan, "A", "B", "B")
    tell(plan, "A", conditioned=True)
    assert plan.winner().key == "B"


def plans_of(learned, *calls):
    made = [Plan(Parallel(), seed=0, key=i, max_samples=64, learned=learned) for i in range(len(calls))]
    for plan, keys in zip(made, calls, strict=True):
        tell(plan, *keys)
    return made


@given(st.lists(st.sampled_from(["A", "B", None]), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_confidence_does_not_depend_on_the_order_of_arrival(answers, random_):
    def told(order):
        learned = Learned()
        plans_of(learned, "AA", "AB")
        plan = Plan(Parallel(), seed=0, key="this", max_samples=64, learned=learned)
        draws = [draw_next(plan) for _ in answers]
        for i in order:
            key = answers[i]
            plan.tell(Sample(draws[i], prediction=i, answer=key, vote=None if key is None else vote(key)))
        return plan.confidence, learned.agreement.rate()

    order = list(range(len(answers)))
    random_.shuffle(order)
    assert told(order) == told(range(len(answers)))


def test_confidence_is_that_of_an_unknown_program_at_first_whatever_the_call_says_itself():
    for keys in ("A", "AA", "AB", "AAB", ("A", None, "A"), (None, None)):
        (plan,) = plans_of(Learned(), keys)
        assert plan.confidence == chance_right(plan.selection.evidence())


def test_other_calls_of_the_program_say_what_its_agreement_is_worth():
    agreed, split = (plans_of(Learned(), *[keys] * 20, "AA")[-1].confidence for keys in ("AA", "AB"))
    assert split < chance_right(Tally.of("AA")) < agreed


def test_two_samples_of_a_call_are_compared_once_both_have_voted_by_themselves():
    def rate(*tellings):
        learned = Learned()
        plan = Plan(Parallel(), seed=0, key=0, max_samples=64, learned=learned)
        for keys, conditioned in tellings:
            tell(plan, *keys, conditioned=conditioned)
        return learned.agreement.rate()

    unknown = Learned().agreement.rate()
    assert rate(("AAAA", False)) == rate(("AABC", False)) > unknown > rate(("ABAA", False)) == rate(("AB", False))
    assert rate(("A", False)) == rate((("A", None, "A"), False)) == unknown
    assert rate(("A", False), ("A", True), ("AAA", False)) == unknown  # it has seen the first one


@pytest.mark.parametrize("kind", Answers)
def test_confidence_is_by_the_kind_of_answers(kind):
    plan = Plan(Parallel(), seed=0, key=0, max_samples=64, answers=kind)
    tell(plan, "A", "A", "B")
    assert plan.confidence == chance_right(plan.selection.evidence(), answers=kind)


def test_samples_without_a_vote_do_not_win_while_anyone_votes():
    plan = make_plan()
    tell(plan, None, None, "A")
    assert plan.winner().key == "A"


def test_a_call_without_votes_returns_what_it_has():
    plan = make_plan()
    tell(plan, None, None)
    assert plan.winner().prediction == (0, None)


def test_samples_are_numbered_and_rounds_follow_what_was_known():
    plan = make_plan()
    draws = [draw_next(plan), draw_next(plan)]
    assert [(d.index, d.round) for d in draws] == [(0, 0), (1, 0)]
    plan.tell(Sample(draws[0], vote=vote("A"), prediction="A"))
    assert draw_next(plan).round == 1
    assert plan.pending == 2


def test_samples_without_a_chain_share_requests_as_many_as_may():
    plan = Plan(Parallel(), seed=0, key=0, max_samples=64, max_choices=3)
    arm = open_call(BudgetPool(per_call=9, policy=Uniform()), 9)
    jobs = [Job(draw_next(plan), arm.take()) for _ in range(5)]
    conditioned = Job(Draw(9, shown=(0,), chain={1: "text"}), None)
    sharing = plan.sharing([conditioned, *jobs])
    assert [job.draw.index for job in sharing] == [0, 1, 2, 3, 4, 9]
    assert [job.group for job in sharing] == [0, 0, 0, 1, 1, None]
    assert [job.group for job in plan.sharing(jobs[:2])] == [2, 2]  # another request
    assert plan.sharing(jobs[:1])[0].group is None  # nobody to share with


def test_samples_that_ask_for_different_things_share_no_request():
    plan = Plan(Parallel(), seed=0, key=0, max_samples=64, max_choices=3)
    warm, other = Sampler("warm", temperature=0.7), Sampler("other", lm=object())
    leases = iter(open_call(BudgetPool(per_call=9, policy=Uniform()), 9).take() for _ in range(9))
    jobs = [Job(plan.draw(sampler), next(leases)) for sampler in (ALONE, warm, other, ALONE, warm, ALONE, other, ALONE)]
    sharing = plan.sharing(jobs)
    assert [job.draw.index for job in sharing] == [0, 3, 5, 7, 1, 4, 2, 6]
    assert [job.group for job in sharing] == [0, 0, 0, 1, 2, 2, None, None]


def test_as_many_may_come_from_one_request_as_ask_for_the_same_and_can_be_used():
    def most(samplers, **options):
        plan = Plan(Parallel(), seed=0, key=0, **{"max_samples": 64, "max_choices": 5, **options})
        return plan.together(samplers)

    warm, chained = Sampler("warm", temperature=0.7), Sampler("chained", chain=ChainSpec())
    assert most([ALONE] * 4) == 5  # more of them may be proposed
    assert most([ALONE] * 4, max_samples=4) == 4
    assert most([ALONE, ALONE, warm]) == 2
    assert most([warm, ALONE]) == most([chained, chained]) == most([Sampler("other", lm=object())]) == 1
    assert most([ALONE] * 4, max_choices=1) == 1


def test_the_next_sample_joins_a_request_for_the_same():
    plan = Plan(Parallel(), seed=0, key=0, max_samples=3, max_choices=5)
    warm, alone = Job(plan.draw(Sampler("warm", temperature=0.7)), None), Job(plan.draw(ALONE), None)
    assert plan.joins(alone) and not plan.joins(warm)
    plan.draw(ALONE)
    assert not plan.joins(alone)  # there is none


def test_a_strategy_that_wants_no_more_is_asked_again_once_a_sample_is_finished():
    plan = make_plan(strategy=TwoThenAsk())
    assert plan.room > 2
    draws = [plan.draw(sampler) for sampler in plan.propose(9)]
    assert len(draws) == 2
    assert plan.propose() == [] and plan.room == 0
    plan.tell(Sample(draws[0], answer="A", vote=vote("A")))
    assert plan.room > 0 and plan.propose() == [] and plan.room == 0
    plan.tell(Sample(draws[1], answer="B", vote=vote("B")))
    assert plan.room > 0 and plan.propose(2) == [ALONE, ALONE]


def whole(said, **shares):
    """A vote that tells all that its program can say: these shares of the answers A and B."""
    keys = list(shares)
    return spread(Vote(said, said), keys, Labels(keys), list(shares.values()), is_whole=True)


def test_a_call_that_decides_at_once_draws_no_more_once_one_sample_has_told_all():
    plan = Plan(Parallel(first="own"), seed=0, key="x", max_samples=8, at_once=True)
    assert plan.room == 8
    plan.tell(Sample(draw_next(plan), answer="A", vote=whole("A", A=0.7, B=0.3)))
    assert plan.room == 0 and plan.propose(4) == [] and plan.winner().answer == "A"


@pytest.mark.parametrize(("said", "winner"), [("A", "A"), ("B", "B"), (None, "B")])
def test_one_greedy_sample_is_to_say_what_most_of_it_speaks_for(said, winner):
    plan = Plan(Parallel(first="own"), seed=0, key="x", max_samples=8, at_once=True)
    plan.tell(Sample(draw_next(plan), answer="B", vote=whole("B", A=0.7, B=0.3)))
    assert plan.room == 1 and plan.propose(4) == [GREEDY]
    draw = plan.draw(GREEDY)
    assert plan.room == 0
    plan.tell(Sample(draw, answer=said, vote=None if said is None else whole(said, A=0.7, B=0.3)))
    assert plan.room == 0 and plan.winner().answer == winner  # whatever it says, that was all


def test_a_greedy_sample_that_says_something_else_is_all_too():
    for most, room in ((8, 0), (1, 0)):
        plan = Plan(Parallel(first="greedy"), seed=0, key="x", max_samples=most, at_once=True)
        plan.tell(Sample(draw_next(plan), answer="B", vote=whole("B", A=0.7, B=0.3)))
        assert plan.room == room and plan.winner().answer == "B"


def test_a_sample_that_has_reasoned_first_does_not_tell_all():
    for at_once, vote_ in ((False, whole("A", A=0.7, B=0.3)), (True, replace(whole("A", A=1.0), is_whole=False))):
        plan = Plan(Parallel(first="own"), seed=0, key="x", max_samples=8, at_once=at_once)
        plan.tell(Sample(draw_next(plan), answer="A", vote=vote_))
        assert plan.room == 7


def told(plan, sampler, answer, **draw):
    """Draw and tell one sample."""
    drawn = replace(plan.draw(sampler), **draw)
    plan.tell(Sample(drawn, prediction=answer, answer=answer, vote=vote(answer)))


class Groupless(Plurality):
    """A selector whose selections tell of no groups."""

    def empty(self):
        return GrouplessSelection()


class GrouplessSelection(PluralitySelection):
    def add(self, vote, **options):
        added = super().add(vote, **options)
        return GrouplessSelection(added.tally, added.votes)

    def groups(self):
        return ()


@pytest.mark.parametrize("sampler", [GREEDY_LABEL, ALONE])
def test_a_selector_that_tells_of_no_groups_loses_no_sample(sampler):
    plan = Plan(Integrated(), seed=0, key="call", max_samples=8, selection=Groupless().empty(), at_once=True)
    for answer in "ABB":
        told(plan, sampler, answer)
    assert plan.winner().answer == "B" and len(plan.samples) == 3


class Once(PluralitySelection):
    """A selection that can be begun once only."""

    begun: ClassVar[list] = []

    def add(self, vote, **options):
        if not self.votes:
            if self.begun:
                raise RuntimeError("it was begun before")
            self.begun.append(vote)
        added = super().add(vote, **options)
        return Once(added.tally, added.votes)


def test_votes_that_cannot_be_counted_anew_stay_as_they_were():
    Once.begun.clear()
    learned = Learned()
    plan = Plan(Integrated(), seed=0, key="call", max_samples=8, selection=Once(), learned=learned)
    for answer in "AAB":
        told(plan, ALONE, answer)
    told(plan, seeing_earlier(ChainSpec()), "B", chain={0: "text"}, shown=(0, 2))
    for _ in range(20):
        learned.trust.tell(agree=False, shown=2)
    samples = plan.samples[:]
    assert plan.winner().answer in ("A", "B") and plan.samples == samples


def test_a_greedy_label_in_flight_may_outweigh_what_is_there():
    plan = Plan(Integrated(), seed=0, key="call", max_samples=4, at_once=True, stop_when_decided=True)
    jobs = [Job(plan.draw(sampler), None) for sampler in plan.propose(4)]
    together = plan.round(jobs)
    said = [Sample(job.draw, prediction="A", answer="A", vote=vote("A")) for job in jobs]
    together.tell(said[1:])
    assert not together.over  # three agree, and the greedy one, which weighs four, may say another label
    together.tell(said[:1])
    assert together.over


def test_votes_on_trial_may_come_to_count():
    learned = Learned()
    for _ in range(3):
        learned.trust.tell(agree=False, shown=2)
    plan = Plan(Integrated(), seed=0, key="call", max_samples=6, learned=learned, stop_when_decided=True)
    for answer in "AAB":
        told(plan, ALONE, answer)
    told(plan, seeing_earlier(ChainSpec()), "B", chain={0: "text"}, shown=(0, 2))
    jobs = [Job(plan.draw(ALONE), None) for _ in range(2)]
    together = plan.round(jobs)
    said = [Sample(job.draw, prediction="A", answer="A", vote=vote("A")) for job in jobs]
    together.tell(said[:1])
    assert not together.over  # A leads by two, one is in flight, and the sample on trial says B
    together.tell(said[1:])
    assert together.over


def test_a_vote_on_trial_that_was_just_cast_decides_nothing():
    learned = Learned()
    for _ in range(3):
        learned.trust.tell(agree=False, shown=2)
    plan = Plan(Integrated(), seed=0, key="call", max_samples=6, learned=learned, stop_when_decided=True)
    for answer in "AB":
        told(plan, ALONE, answer)
    seeing = seeing_earlier(ChainSpec())
    draws = [replace(plan.draw(seeing), chain={0: "text"}, shown=(0, 1)) for _ in range(2)] + [plan.draw(ALONE)]
    said = [Sample(draw, prediction=key, answer=key, vote=vote(key)) for draw, key in zip(draws, "AAB", strict=True)]
    together = plan.round([Job(draw, None) for draw in draws])
    together.tell(said[:2])
    assert not together.over  # those that say A see earlier ones and do not count: the one in flight decides
    for sample in said:
        plan.tell(sample)
    assert plan.winner().answer == "B"
