from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.sampling.replies import Replies, Reply
from dynscale_dspy.sampling.sample import REPEATED, Draw, Sample
from tests.sampling.support import make_plan
from tests.support import vote


def told(*said):
    """A plan told of samples, each an answer and the id of its reply; None for one without."""
    plan = make_plan()
    for answer, name in said:
        tell(plan, answer, name)
    return plan


def tell(plan, answer, name, choice=0):
    replies = () if name is None else (Reply(name, choice, hash(answer)),)
    plan.tell(Sample(Draw(len(plan.samples)), prediction=answer, answer=answer, vote=vote(answer), replies=replies))


def votes_of(plan):
    return {group.answer: group.weight for group in plan.selection.groups()}


def test_one_reply_is_one_vote_however_often_it_comes():
    plan = told(*[("A", "r1")] * 8)
    assert votes_of(plan) == {"A": 1} and plan.selection.evidence().confidence == 0.75
    assert [sample.problem for sample in plan.samples] == [""] + [REPEATED] * 7
    assert plan.winner().draw.index == 0


def test_replies_of_their_own_ids_or_without_one_are_votes_of_their_own():
    assert votes_of(told(*(("A", f"r{i}") for i in range(8)))) == {"A": 8}
    assert votes_of(told(*[("A", None)] * 8)) == {"A": 8}


def test_choices_of_one_response_are_votes_of_their_own():
    plan = make_plan()
    for choice in range(4):
        tell(plan, "A", "r1", choice)
    assert votes_of(plan) == {"A": 4}
    tell(plan, "A", "r1", 2)
    assert votes_of(plan) == {"A": 4}


def test_an_id_that_comes_with_two_texts_tells_nothing_and_what_was_held_back_votes():
    plan = told(("A", "same"), ("A", "same"), ("A", "same"), ("B", "same"), ("B", "same"))
    assert votes_of(plan) == {"A": 3, "B": 2}
    assert not any(sample.problem for sample in plan.samples)
    assert plan.room > 0


def test_a_call_that_only_repeats_draws_no_more():
    plan = told(("A", "r1"))
    assert plan.room > 0
    tell(plan, "A", "r1")
    assert plan.room == 0 and not plan.propose()


def test_a_chance_repeat_ends_no_call():
    assert told(*(("A", f"r{i}") for i in range(4)), ("A", "r2")).room > 0


def test_samples_of_the_same_requests_in_another_order_are_the_same():
    replies, first, second = Replies(), Reply("a", 0, 1), Reply("b", 0, 2)
    assert not replies.repeat([first, second]) and replies.repeat([second, first])
    assert not replies.repeat([first])


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from(["r1", "r2", "r3", None])), max_size=12))
def test_every_sample_votes_unless_it_repeats_one_that_does(said):
    plan = told(*said)
    assert len(plan.samples) == len(said)
    for sample, (answer, name) in zip(plan.samples, said, strict=True):
        if sample.problem == REPEATED:
            assert sample.vote is None and name is not None
            assert any(
                other.vote is not None and other.replies == sample.replies and other.answer == answer
                for other in plan.samples
            )
        else:
            assert sample.vote is not None
    evidence = plan.selection.evidence()
    assert evidence.samples == sum(sample.vote is not None for sample in plan.samples) and not evidence.blanks
