"""Status messages in the steps of a call. tests/compat has them in DSPy's streams."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.execution.notices import groups_of, with_notices
from dynscale_dspy.sampling.sample import Draw, Sample

VOTES = st.lists(st.tuples(st.sampled_from(["A", "B", "C", None]), st.booleans()), max_size=20)


def samples_of(votes):
    return [
        Sample(Draw(index, chain={"p": "attempts"} if conditioned else {}), answer=f"{key} {index}", key=key)
        for index, (key, conditioned) in enumerate(votes)
    ]


@given(VOTES, st.randoms(use_true_random=False))
def test_groups_are_the_votes_heaviest_first_whatever_the_order_of_arrival(votes, random):
    samples = samples_of(votes)
    groups = groups_of(samples)
    assert {group.key: group.weight for group in groups} == dict(Tally.of(key for key, _ in votes).votes)
    assert [(-group.weight, group.samples[0]) for group in groups] == sorted(
        (-group.weight, group.samples[0]) for group in groups
    )
    for group in groups:
        assert group.samples == tuple(i for i, (key, _) in enumerate(votes) if key == group.key)
        assert group.conditioned == sum(votes[i][1] for i in group.samples)
        assert group.answer == f"{group.key} {group.samples[0]}"
    assert groups_of(random.sample(samples, len(samples))) == groups


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
