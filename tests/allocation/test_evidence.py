from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.evidence import Detail, Evidence, TopTwo
from dynscale_dspy.allocation.tally import Tally


def test_details_are_in_order():
    assert Detail.TOP_TWO < Detail.COUNTS < Detail.ORDER


def test_top_two_is_evidence_of_the_least_detail():
    assert isinstance(TopTwo(), Evidence) and TopTwo().detail == Detail.TOP_TWO
    assert (TopTwo().samples, TopTwo().confidence) == (0, 0.5)


@given(st.lists(st.sampled_from(["A", "B", "C", None]), max_size=20))
def test_top_two_is_as_sure_as_the_tally_it_is_made_of(answers):
    tally = Tally.of(answers)
    two = TopTwo(tally.lead, tally.rival, tally.samples, tally.blanks)
    assert two.confidence == tally.confidence
    assert (two.leader, two.runner_up) == (tally.leader, tally.runner_up)


@given(st.floats(0, 50), st.floats(0, 50))
def test_confidence_is_that_of_real_weights(one, other):
    lead, rival = max(one, other), min(one, other)
    assert 0.5 - 1e-9 <= TopTwo(lead, rival).confidence <= 1
