from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.peers import LEAST, MOST, MOST_MODELS, MOST_RECALLED, PRIOR, REPEATS, Peers

NAMES = st.sampled_from(["one", "other"])


@given(st.lists(st.tuples(NAMES, st.booleans()), max_size=100))
def test_what_is_known_of_second_votes_keeps_its_bounds(told):
    peers = Peers()
    for name, repeats in told:
        before = peers.evidence(name)
        peers.tell_second(name, repeats=repeats)
        assert LEAST <= peers.evidence(name) <= MOST
        assert peers.evidence(name) >= before if repeats else peers.evidence(name) <= before
        assert peers.stands(name) == (peers.evidence(name) >= 0)


@given(st.lists(st.tuples(NAMES, st.booleans()), max_size=100))
def test_agreement_is_between_what_a_model_and_what_all_have_shown(told):
    peers = Peers()
    for name, agree in told:
        peers.tell_pair(name, agree=agree)
    for name in ("one", "other"):
        own = [agree for each, agree in told if each == name]
        assert peers.pairs(name) == len(own)
        agreed, not_agreed = peers.belief(name)
        assert agreed > 0 < not_agreed
        usual = (sum(agree for _, agree in told) + 1.4) / (len(told) + 2)
        share = sum(own) / len(own) if own else usual
        assert min(share, usual) - 1e-9 <= peers.agreement(name) <= max(share, usual) + 1e-9


def test_a_dear_model_stands_by_its_price_until_it_mostly_joins_the_leader():
    peers = Peers()
    assert peers.stands("dear")
    assert peers.evidence("dear") == PRIOR
    told = 0
    while peers.stands("dear"):
        peers.tell_second("dear", repeats=False)
        told += 1
    assert told == 3
    assert peers.stands("other"), "what one model says is not held against another"


@pytest.mark.parametrize(("chance", "most_lost", "least_lost"), [(REPEATS, 0.15, 0.0), (1 - REPEATS, 1.0, 0.95)])
def test_a_model_that_knows_more_is_seldom_taken_for_one_that_does_not(chance, most_lost, least_lost):
    lost = 0
    for seed in range(400):
        draws, peers = random.Random(seed), Peers()
        for _ in range(60):
            if peers.stands("dear"):
                peers.tell_second("dear", repeats=draws.random() < chance)
        lost += not peers.stands("dear")
    assert least_lost <= lost / 400 <= most_lost


@given(st.lists(st.tuples(NAMES, st.booleans(), st.booleans()), max_size=150))
def test_what_is_recalled_is_what_was_told_with_at_most_so_many_pairs(told):
    peers, later = Peers(), Peers()
    for name, agree, repeats in told:
        peers.tell_pair(name, agree=agree)
        peers.tell_second(name, repeats=repeats)
    later.recall(json.loads(json.dumps(peers.told())))
    for name in ("one", "other"):
        assert later.evidence(name) == peers.evidence(name)
        assert later.pairs(name) == min(peers.pairs(name), MOST_RECALLED)
    if max(peers.pairs("one"), peers.pairs("other")) <= MOST_RECALLED:
        assert later.told() == peers.told() and later.belief("one") == peers.belief("one")
    again = Peers()
    again.recall(later.told())
    assert again.told() == later.told()


ODD = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=2), st.just(10**400))


@given(st.one_of(ODD, st.lists(ODD), st.dictionaries(ODD, st.one_of(ODD, st.lists(ODD, min_size=2, max_size=4)))))
def test_what_was_never_told_is_left_out_or_kept_in_bounds(told):
    peers = Peers()
    peers.recall(told)
    for name, (pairs, agreed, evidence) in peers.told().items():
        assert isinstance(name, str) and 0 <= agreed <= pairs <= MOST_RECALLED and LEAST <= evidence <= MOST
        assert 0 < peers.agreement(name) < 1


def test_of_many_models_the_latest_are_recalled():
    peers = Peers()
    peers.recall({f"m{number}": [4, 2, 0.5] for number in range(40)})
    assert list(peers.told()) == [f"m{number}" for number in range(40 - MOST_MODELS, 40)]
