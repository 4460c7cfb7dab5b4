from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.evidence import Detail, Evidence, TopTwo, confidence_of, falls_short
from dynscale_dspy.allocation.tally import Tally


def test_details_are_in_order():
    assert Detail.TOP_TWO < Detail.COUNTS < Detail.ORDER


def test_top_two_is_evidence_of_the_least_detail():
    assert isinstance(TopTwo(), Evidence) and TopTwo().detail == Detail.TOP_TWO
    assert (TopTwo().samples, TopTwo().confidence) == (0, 0.0)


@given(st.lists(st.sampled_from(["A", "B", "C", None]), max_size=20))
def test_top_two_is_as_sure_as_the_tally_it_is_made_of(answers):
    tally = Tally.of(answers)
    two = TopTwo(tally.lead, tally.rival, tally.samples, tally.blanks)
    assert two.confidence == tally.confidence
    assert (two.leader, two.runner_up) == (tally.leader, tally.runner_up)


@given(st.floats(0, 50), st.floats(0, 50))
def test_confidence_is_that_of_real_weights(one, other):
    lead, rival = max(one, other), min(one, other)
    least = 0.5 - 1e-9 if lead else 0.0
    assert least <= TopTwo(lead, rival).confidence <= 1


@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 40))
def test_a_sample_without_a_vote_makes_nothing_surer(one, other, blanks):
    lead, rival = max(one, other), min(one, other)
    fewer, more = confidence_of(lead, rival, blanks), confidence_of(lead, rival, blanks + 1)
    assert more <= fewer + 1e-9
    assert more >= 0.5 - 1e-9 if lead else more == 0
    assert more < fewer or lead == rival or lead > 8


@pytest.mark.parametrize(
    ("lead", "rival", "blanks", "confidence"),
    [(0, 0, 0, 0), (0, 0, 8, 0), (1, 0, 0, 0.75), (1, 0, 7, 0.63), (2, 0, 6, 0.75), (7, 0, 1, 0.99), (4, 4, 4, 0.5)],
)
def test_confidence_by_votes_and_blanks(lead, rival, blanks, confidence):
    assert round(confidence_of(lead, rival, blanks), 2) == confidence
    assert TopTwo(lead, rival, lead + rival + blanks, blanks).confidence == confidence_of(lead, rival, blanks)


def test_the_confidence_of_no_votes_is_never_enough():
    assert falls_short(0.0, 0.0) and falls_short(0.74, 0.75)
    assert not falls_short(0.75, 0.75) and not falls_short(0.5, 0.0)
