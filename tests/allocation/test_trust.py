from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.trust import AHEAD, ENOUGH, GIVE_UP, LIFT, MOST, Trust

PAIRS = st.lists(st.tuples(st.booleans(), st.integers(2, 6)), max_size=200)


def told(pairs):
    trust = Trust()
    for agree, shown in pairs:
        trust.tell(agree=agree, shown=shown)
    return trust


def test_votes_count_and_samples_are_few_before_anything_is_known():
    trust = Trust()
    assert (trust.evidence, trust.counts, trust.earned, trust.may_try) == (0, True, False, True)


@given(PAIRS)
def test_what_is_known_keeps_its_bounds(pairs):
    trust = told(pairs)
    assert GIVE_UP <= trust.evidence <= MOST
    assert not trust.earned or trust.counts
    assert trust.counts or trust.evidence < 0
    assert trust.may_try == (trust.evidence > GIVE_UP)


@given(PAIRS, st.integers(2, 6))
def test_agreement_speaks_for_checking_and_the_more_the_more_answers_were_shown(pairs, shown):
    def after(agree, shown):
        return told([*pairs, (agree, shown)]).evidence

    before = told(pairs).evidence
    assert after(False, shown) <= before <= after(True, shown)
    assert after(True, shown) <= after(True, shown + 1)


@given(st.integers(0, 60), st.integers(0, 60))
def test_what_was_earned_is_lost_to_the_clear_opposite_only(agree, disagree):
    trust = told([(True, 2)] * agree + [(False, 2)] * disagree)
    earned = told([(True, 2)] * agree).earned
    assert trust.earned == (earned and trust.evidence > GIVE_UP)
    assert trust.counts == (earned or trust.evidence >= 0)


def ends(chance, seeds=400, pairs=80):
    """How often models whose samples agree with this probability earn trust, and are given up, at some time."""
    earned = given_up = 0
    for seed in range(seeds):
        draws, trust = random.Random(seed), Trust()
        for _ in range(pairs):
            trust.tell(agree=draws.random() < chance, shown=2)
            if trust.earned or not trust.may_try:
                break
        earned += trust.earned
        given_up += not trust.may_try
    return earned / seeds, given_up / seeds


def test_followers_are_found_out_and_checkers_are_trusted():
    """With the error rates that Wald's bounds promise, and some for chance in 400 runs."""
    earned, given_up = ends(0.5)
    assert earned < 0.135 + 0.04 and given_up > 0.8
    earned, given_up = ends(0.5 + LIFT / 2)
    assert given_up < 0.082 + 0.03 and earned > 0.85


def test_few_are_tried_before_any_has_told_something():
    trust = Trust()
    tried = 0
    while trust.may_try:
        trust.asked()
        tried += 1
    assert tried == AHEAD + 1
    for _ in range(tried):
        trust.heard()
    assert trust.may_try


@pytest.mark.parametrize("shown", [2, 3, 5])
def test_a_pair_adds_the_logarithm_of_its_likelihood_ratio(shown):
    """A model that agrees as often as a checker gathers evidence; one that agrees by chance loses it."""
    chance = 1 / shown
    checking = chance + LIFT * (1 - chance)
    yes, no = told([(True, shown)]).evidence, told([(False, shown)]).evidence
    assert checking * yes + (1 - checking) * no > 0 > chance * yes + (1 - chance) * no
    assert ENOUGH > yes > 0 > no > GIVE_UP
