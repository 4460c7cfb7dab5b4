from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import Cost
from dynscale_dspy.allocation.learned import Learned

PEAKS = st.lists(
    st.tuples(
        st.sampled_from(["independent", "conditioned"]), st.integers(0, 3), st.integers(1, 9), st.integers(0, 99)
    ),
    max_size=20,
)


@given(PEAKS)
def test_needs_are_the_largest_seen_by_sampler_by_first_sample_and_in_all(peaks):
    learned = Learned()
    for sampler, index, requests, tokens in peaks:
        learned.needed(sampler, Cost(requests=requests, prompt_tokens=tokens), index=index)
    for sampler in ("independent", "conditioned", "another"):
        own = [peak for peak in peaks if peak[0] == sampler] or peaks
        need = learned.need_of(sampler)
        if not peaks:
            assert need is None and learned.first_need is None
        else:
            assert need == Cost(requests=max(p[2] for p in own), prompt_tokens=max(p[3] for p in own))
    firsts = [peak for peak in peaks if peak[1] == 0] or peaks
    if peaks:
        assert learned.first_need == Cost(requests=max(p[2] for p in firsts), prompt_tokens=max(p[3] for p in firsts))


@given(PEAKS, st.integers(1, 99))
def test_a_further_choice_needs_no_more_than_further_choices_have_held(peaks, tokens):
    learned = Learned()
    for sampler, index, requests, read in peaks:
        learned.needed(sampler, Cost(requests=requests, prompt_tokens=read), index=index)
    assert learned.need_of("independent", further=True) == learned.need_of("independent")  # there was none yet
    learned.needed("independent", Cost(completion_tokens=tokens), index=1)
    learned.needed("independent", Cost(), index=2)  # a sample that asked nothing, as one from a cache of its own
    assert learned.need_of("independent", further=True) == Cost(completion_tokens=tokens)
    own = [peak[2] for peak in peaks if peak[0] == "independent"]
    need = learned.need_of("independent")
    assert need is not None and need.requests == max(own, default=0)


def test_costs_are_kept_apart_and_an_unknown_sampler_is_taken_to_cost_the_mean():
    learned = Learned()
    assert learned.mean_of("independent", "tokens") == 0
    learned.costed("independent", Cost(samples=1, requests=1, prompt_tokens=100))
    learned.costed("conditioned", Cost(samples=1, requests=1, prompt_tokens=300))
    assert learned.mean_of("independent", "tokens") == 100
    assert learned.mean_of("conditioned", "tokens") == 300
    assert learned.mean_of("of a dearer model", "tokens") == 200


@pytest.mark.parametrize(
    "told", [None, 3, [1], {1: 2.0}, {"trust": "much"}, {"trust": float("nan")}, {"other": 1.0}, {"trust": True}]
)
def test_what_cannot_be_recalled_is_left_out(told):
    learned = Learned()
    learned.recall(told)
    assert learned.told() in ({}, {"trust": 1.0})  # True is a number in Python


VALUES = st.one_of(st.floats(allow_nan=False), st.just(10**400), st.just(-(10**400)))


@given(VALUES, VALUES)
def test_what_is_recalled_is_what_was_told_within_bounds(trust, modes):
    learned, later = Learned(), Learned()
    learned.recall({"trust": trust, "modes": modes})
    later.recall(learned.told())
    assert later.told() == learned.told()
    assert (later.trust.earned, later.modes.weight) == (learned.trust.earned, learned.modes.weight)
