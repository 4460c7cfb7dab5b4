from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.allocation.modes import LEAST, MOST, WEIGHT, Modes

TRIPLES = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=200)


@given(TRIPLES)
def test_what_is_known_keeps_its_bounds(triples):
    modes = Modes()
    for first, other in triples:
        before = modes.evidence
        modes.tell(first=first, other=other)
        assert LEAST <= modes.evidence <= MOST
        if first == other:
            assert modes.evidence == before  # all agree, or none: that says nothing
        else:
            assert modes.evidence >= before if first else modes.evidence <= before
    assert modes.weight == (WEIGHT if modes.evidence >= 0 else 1)


def test_one_call_in_which_two_others_agree_against_the_first_is_enough_to_doubt_it():
    modes = Modes()
    assert modes.weight == WEIGHT
    modes.tell(first=False, other=True)
    assert modes.weight == 1


def counts_in_the_end(chances, greedy, seeds=400, triples=200):
    """How often the first sample counts for several after so many triples."""
    count = 0
    labels = range(len(chances))
    for seed in range(seeds):
        draws, modes = random.Random(seed), Modes()
        for _ in range(triples):
            one, other = draws.choices(labels, chances, k=2)
            first = 0 if greedy else draws.choices(labels, chances)[0]
            modes.tell(first=(one == first) != (other == first), other=one == other != first)
        count += modes.weight > 1
    return count / seeds


@pytest.mark.parametrize("chances", [(0.45, 0.25, 0.2, 0.1), (0.7, 0.3), (0.85, 0.1, 0.05)])
def test_greedy_labels_count_for_several_and_samples_like_others_do_not(chances):
    assert counts_in_the_end(chances, greedy=True) > 0.97
    assert counts_in_the_end(chances, greedy=False) < 0.15
