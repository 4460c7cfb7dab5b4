from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.sampling.steps import Job, Round, grouped


@given(st.lists(st.tuples(st.integers(0, 2), st.none() | st.integers(0, 2)), max_size=20))
def test_groups_keep_every_job_in_order_and_never_mix_calls(described):
    jobs = [Job(Draw(i), None, call, group) for i, (call, group) in enumerate(described)]
    groups = grouped(jobs)
    assert [job for group in groups for job in group] == jobs
    for group in groups:
        assert len({(job.call, job.group) for job in group}) == 1
        assert len(group) == 1 or group[0].group is not None


def test_a_round_that_nobody_can_end_early_is_never_over():
    step = Round([Job(Draw(0), None)])
    assert not step.may_end_early
    step.tell([Sample(Draw(0))])
    assert not step.over


def test_a_round_is_over_once_what_is_finished_is_enough():
    step = Round([Job(Draw(i), None) for i in range(3)], lambda finished: len(finished) >= 2)
    assert step.may_end_early
    step.tell([Sample(Draw(2))])
    assert not step.over
    step.tell([Sample(Draw(0))])
    assert step.over
