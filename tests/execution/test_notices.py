"""Status messages in the steps of a call. tests/compat has them in DSPy's streams."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import Parallel
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.execution.notices import explanation_of, with_notices
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.selection.base import Vote

VOTES = st.lists(st.tuples(st.sampled_from(["A", "B", "C", None]), st.booleans()), max_size=20)


def samples_of(votes):
    samples = []
    for index, (key, conditioned) in enumerate(votes):
        draw, answer = Draw(index, chain={"p": "attempts"} if conditioned else {}), f"{key} {index}"
        samples.append(Sample(draw, answer=answer, vote=None if key is None else Vote(answer, key)))
    return samples


def told(samples):
    """A plan that has been told these samples."""
    plan = Plan(Parallel(), seed=0, key="q", max_samples=64)
    for sample in samples:
        plan.tell(sample)
    return plan


@given(VOTES, st.randoms(use_true_random=False))
def test_groups_are_the_votes_heaviest_first_whatever_the_order_of_arrival(votes, random):
    samples = samples_of(votes)
    plan = told(samples)
    groups = plan.selection.groups()
    assert {group.key: group.weight for group in groups} == dict(Tally.of(key for key, _ in votes).votes)
    assert [(-group.weight, group.samples[0]) for group in groups] == sorted(
        (-group.weight, group.samples[0]) for group in groups
    )
    for group in groups:
        assert group.samples == tuple(i for i, (key, _) in enumerate(votes) if key == group.key)
        assert group.conditioned == sum(votes[i][1] for i in group.samples)
        speaker = min(group.samples, key=lambda i: (votes[i][1], i))  # all are put differently
        assert group.answer == f"{group.key} {speaker}"
    shuffled = told(random.sample(samples, len(samples)))
    assert shuffled.selection.groups() == groups
    if samples:
        explanations = [explanation_of(each, each.winner()) for each in (plan, shuffled)]
        assert explanations[0] == explanations[1]
        assert {votes.answer: votes.total for votes in explanations[0].votes} == {g.answer: g.weight for g in groups}


def test_without_a_stream_the_steps_are_the_calls_own():
    def steps():
        reply = yield "step"
        return reply

    notified = with_notices(steps(), None)  # type: ignore[arg-type]
    assert next(notified) == "step"
    try:
        notified.send("reply")
    except StopIteration as stop:
        assert stop.value == "reply"
