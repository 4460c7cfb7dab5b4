"""What one more sample is worth where answers are more or less alike."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.evidence import Detail, Evidence
from dynscale_dspy.allocation.likeness import CHANCE, Contest, Likeness
from dynscale_dspy.allocation.policies import KnowledgeGradient, OptimalStopping, Uniform

parts = st.floats(0, 1, allow_nan=False)
contests = st.builds(
    lambda others, ahead, apart, stake: Contest(stake + ahead * others, apart * others, others, stake),
    st.integers(0, 8),
    parts,
    parts,
    parts,
)


def against(*found: Contest, blanks: int = 0) -> Likeness:
    votes = max((2 + contest.others for contest in found), default=1)
    return Likeness(votes / 2, votes / 4, int(votes) + blanks, blanks, valid=votes, contests=found)


def test_it_is_evidence_of_two_weights() -> None:
    assert isinstance(Likeness(), Evidence) and Likeness().detail == Detail.TOP_TWO
    assert Likeness().gain() == 0 == Likeness(1, 0, 1, valid=1).gain()
    assert Likeness(samples=3, blanks=1).voters == 2


@given(contests, st.integers(0, 20), st.integers(0, 5))
def test_a_gain_is_within_bounds_and_falls_with_what_is_known(contest: Contest, pending: int, blanks: int) -> None:
    evidence = against(contest)
    gain = evidence.gain(pending)
    assert 0 <= gain <= CHANCE and math.isfinite(gain)
    assert evidence.gain(pending + 1) <= gain + 1e-12
    assert against(contest, blanks=blanks).gain(pending) <= gain + 1e-12


@given(st.lists(contests, min_size=2, max_size=4))
def test_the_closest_rival_counts(found: list[Contest]) -> None:
    found = [replace(contest, others=3.0) for contest in found]
    together = against(*found).gain()
    assert together == pytest.approx(max(against(contest).gain() for contest in found))


def test_it_is_the_expected_gain_of_the_normal_model() -> None:
    contest = Contest(ahead=0.6, apart=0.5, others=4, stake=0.5)
    generator = np.random.default_rng(1)
    variance = (0.5 + 2 * 0.25) / 6
    best = 0.0
    for steps in (1, 2, 4, 8):
        moved = 0.1 + generator.normal(size=400_000) * math.sqrt(variance * steps / (6 * (6 + steps)))
        best = max(best, float(np.maximum(-moved, 0).mean()) / steps)
    assert against(contest).gain() == pytest.approx(CHANCE * best, rel=0.02)


def test_what_no_sample_tells_apart_is_soon_worth_little() -> None:
    """Ten answers, all equally unlike, as in creative writing."""
    found = [against(Contest(0, 0.001 * n, n, 0.6)).gain() for n in (0, 2, 4, 8)]
    assert found == sorted(found, reverse=True) and found[-1] < found[0] / 7
    assert against(Contest(0, 0.3 * 8, 8, 0.6)).gain() > 2 * found[-1]  # that which samples do tell apart


def test_policies_read_it() -> None:
    contested, alone = against(Contest(0, 0, 0, 1.0)), Likeness(2.5, 0, 3, valid=3)
    policy = KnowledgeGradient()
    assert policy.index(contested) == contested.gain()
    one, other = policy.index(Likeness(2, 0, 2, valid=2)), policy.index(Likeness(3, 0, 3, valid=3))
    assert one > policy.index(replace(alone, samples=2)) > policy.index(alone) > other > 0
    assert KnowledgeGradient(kappa=None).index(alone) > policy.index(alone)
    assert policy.index(Likeness()) == policy.index(Likeness(samples=0)) > policy.index(Likeness(1, 0, 1, valid=1))
    assert OptimalStopping().index(contested) > 0 < Uniform().index(contested)


@given(st.floats(0, 12), st.integers(0, 6))
def test_between_whole_votes_the_index_has_no_jumps(lead: float, pending: int) -> None:
    policy = KnowledgeGradient()
    near, far = (policy.index(Likeness(at, 0, 12, valid=12), pending=pending) for at in (lead, lead + 1e-6))
    assert 0 <= near - far < 1e-6
