from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.tally import Tally

keys = st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=40)


def test_counts_votes_and_keeps_what_cast_none():
    tally = Tally.of(["A", "B", "A", None])
    assert dict(tally.votes) == {"A": 2, "B": 1}
    assert (tally.leader, tally.runner_up, tally.valid, tally.empty, tally.samples) == (2, 1, 3, 1, 4)


def test_an_empty_tally_knows_nothing():
    tally = Tally()
    assert (tally.leader, tally.runner_up, tally.samples, tally.agreement, tally.confidence) == (0, 0, 0, 0.0, 0.5)


def test_confidence_is_that_of_a_beta_posterior():
    # P(p > 1/2) under Beta(a + 1, b + 1) is a binomial tail.
    def tail(a: int, b: int) -> float:
        n = a + b + 1
        return sum(math.comb(n, k) for k in range(a + 1)) / 2**n

    for a, b in [(1, 0), (3, 1), (7, 2), (30, 12)]:
        assert Tally.of("A" * a + "B" * b).confidence == pytest.approx(tail(a, b), abs=1e-12)


@given(keys, st.randoms(use_true_random=False))
def test_order_does_not_matter(answers, random):
    shuffled = answers[:]
    random.shuffle(shuffled)
    assert dict(Tally.of(answers).votes) == dict(Tally.of(shuffled).votes)
    assert Tally.of(answers).counts == Tally.of(shuffled).counts


@given(keys, st.permutations(range(6)))
def test_labels_do_not_matter(answers, relabelled):
    renamed = [None if key is None else relabelled[key] for key in answers]
    assert Tally.of(answers).counts == Tally.of(renamed).counts
    assert Tally.of(answers).confidence == Tally.of(renamed).confidence


@given(keys, keys)
def test_adding_tallies_is_counting_all_samples(first, second):
    together = Tally.of(first) + Tally.of(second)
    assert dict(together.votes) == dict(Tally.of(first + second).votes)
    assert together.samples == len(first) + len(second)


@given(keys, st.one_of(st.none(), st.integers(0, 5)))
def test_adding_a_vote_leaves_the_old_tally_alone(answers, key):
    before = Tally.of(answers)
    samples = before.samples
    after = before.add(key)
    assert before.samples == samples
    assert after.samples == samples + 1
    assert dict(after.votes) == dict(Tally.of([*answers, key]).votes)


def test_refuses_counts_that_are_not_counts():
    with pytest.raises(ValueError, match="a tally counts votes"):
        Tally({"A": 0})
    with pytest.raises(ValueError, match="a tally counts votes"):
        Tally({}, empty=-1)
