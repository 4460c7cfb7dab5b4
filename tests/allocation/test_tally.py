from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.evidence import Detail, Evidence
from dynscale_dspy.allocation.tally import Tally

keys = st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=40)


def test_counts_votes_and_keeps_what_cast_none():
    tally = Tally.of(["A", "B", "A", None])
    assert dict(tally.votes) == {"A": 2, "B": 1}
    assert (tally.leader, tally.runner_up, tally.valid, tally.empty, tally.samples) == (2, 1, 3, 1, 4)


def test_an_empty_tally_knows_nothing():
    tally = Tally()
    assert (tally.leader, tally.runner_up, tally.samples, tally.agreement, tally.confidence) == (0, 0, 0, 0.0, 0.0)


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
    for weight in (-1.5, math.inf, math.nan):
        with pytest.raises(ValueError, match="a tally counts votes"):
            Tally({"A": weight}, voters=1)


# ---- as evidence


def test_is_evidence_with_the_votes_of_every_answer():
    tally = Tally.of(["A", "B", "A", None])
    assert isinstance(tally, Evidence) and tally.detail == Detail.COUNTS
    assert (tally.lead, tally.rival, tally.blanks, tally.samples) == (2, 1, 1, 4)
    assert (tally.leader, tally.runner_up, tally.empty) == (tally.lead, tally.rival, tally.blanks)


# ---- real weights

weighted = st.lists(st.tuples(st.sampled_from(["A", "B", "C", None]), st.floats(0.01, 100)), max_size=20)


def add_all(said):
    tally = Tally()
    for key, weight in said:
        tally = tally.add(key, weight=weight)
    return tally


@given(weighted)
def test_weights_add_up_and_samples_are_samples(said):
    tally = add_all(said)
    for name in "ABC":
        assert tally.votes.get(name, 0) == pytest.approx(sum(weight for key, weight in said if key == name))
    assert tally.valid == pytest.approx(sum(tally.votes.values()))
    assert (tally.samples, tally.blanks) == (len(said), sum(key is None for key, _ in said))
    assert tally.voters == tally.samples - tally.blanks
    least = 0.5 - 1e-9 if tally.voters else 0.0
    assert 0 <= tally.rival <= tally.lead and least <= tally.confidence <= 1
    assert 0 <= tally.agreement <= 1 + 1e-9


def test_samples_without_a_vote_are_no_agreement():
    assert Tally.of(["A", *[None] * 7]).agreement == 1 / 8
    assert Tally.of([None, None]).agreement == 0
    assert Tally({"A": 2.5, "B": 0.5}, 1, voters=3).agreement == pytest.approx(2.5 / 3 * 3 / 4)


@given(keys)
def test_whole_weights_are_integers(answers):
    tally = add_all([(key, 1.0) for key in answers])
    assert tally == Tally.of(answers)
    assert all(isinstance(count, int) for count in tally.counts)


@given(weighted, weighted)
def test_adding_weighted_tallies_is_adding_all_samples(first, second):
    together, at_once = add_all(first) + add_all(second), add_all(first + second)
    assert together.counts == pytest.approx(at_once.counts)
    assert (together.samples, together.voters) == (at_once.samples, at_once.voters)


def test_real_votes_do_not_say_how_many_cast_them():
    with pytest.raises(ValueError, match=r"^a tally of real weights needs voters=: got votes={'A': 1.5}$"):
        Tally({"A": 1.5})
    assert Tally({"A": 1.5}, voters=2).samples == 2
    assert Tally({"A": 2.0}, 1).samples == 3


@pytest.mark.parametrize(("votes", "voters"), [({"A": 1, "B": 1}, 1), ({"A": 1}, -2), ({}, 3)])
def test_every_answer_has_a_voter(votes, voters):
    with pytest.raises(ValueError, match=r"^voters must be at least one for each answer, got "):
        Tally(votes, voters=voters)


@pytest.mark.parametrize("weight", [0, -1, math.inf, math.nan])
def test_a_weight_must_be_positive(weight):
    with pytest.raises(ValueError, match=r"^weight must be positive, got "):
        Tally().add("A", weight=weight)
