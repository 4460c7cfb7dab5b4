from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import Integrated, Parallel, Sequential
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Draw, Sample
from tests.support import vote


def voters(*keys):
    return [Sample(Draw(i), prediction=key, answer=key, vote=vote(key)) for i, key in enumerate(keys)]


def shown(strategy, *keys, index=None, seed=0):
    samples = voters(*keys)
    index = len(keys) if index is None else index
    return strategy.shown(samples, Tally.of(keys), index, np.random.default_rng(seed))


def test_parallel_shows_nothing():
    assert shown(Parallel(), "A", "B", "C") == ()


def test_sequential_shows_the_one_before_and_draws_one_at_a_time():
    assert shown(Sequential()) == ()
    assert shown(Sequential(), "A", "B", "C") == (2,)
    assert shown(Sequential(length=2), "A", "B", "C") == (1, 2)
    assert Sequential().room(0) == 1
    assert Sequential().room(1) == 0


def test_integrated_begins_with_independent_samples():
    strategy = Integrated(independent=3)
    assert shown(strategy, "A", "B", index=2) == ()
    assert shown(strategy, "A", "B", "C", index=3) != ()


def test_integrated_leaves_settled_calls_alone_unless_told_otherwise():
    assert shown(Integrated(), "A", "A", "A") == ()
    assert len(shown(Integrated(when="always"), "A", "A", "A")) == 1
    assert len(shown(Integrated(when="always", repeats=True), "A", "A", "A")) == 3


def test_integrated_leaves_a_clear_lead_to_independent_votes():
    assert len(shown(Integrated(), "A", "A", "B")) == 2
    assert shown(Integrated(), "A", "A", "A", "B") == ()
    assert len(shown(Integrated(when="contested"), "A", "A", "A", "B")) == 2


@given(
    st.lists(st.sampled_from("ABCDE"), min_size=2, max_size=12),
    st.integers(1, 6),
    st.booleans(),
    st.integers(0, 1000),
)
def test_a_chain_has_one_sample_per_answer_before_a_second_of_any(keys, length, repeats, seed):
    chosen = shown(Integrated(when="always", length=length, repeats=repeats), *keys, seed=seed)
    distinct = min(length, len(set(keys)))
    assert len(chosen) == len(set(chosen)) == (min(length, len(keys)) if repeats else distinct)
    assert len({keys[i] for i in chosen}) == distinct


def test_an_independent_attempt_speaks_for_its_answer_where_there_is_one():
    samples = voters("A", "B", "A")
    samples.append(Sample(Draw(3, shown=(0, 1), chain={0: "text"}), prediction="B", answer="B", vote=vote("B")))
    samples.append(Sample(Draw(4, shown=(0, 1), chain={0: "text"}), prediction="C", answer="C", vote=vote("C")))
    tally = Tally.of(sample.key for sample in samples)
    for seed in range(20):
        chosen = Integrated().shown(samples, tally, 5, np.random.default_rng(seed))
        assert set(chosen) in ({0, 1, 4}, {2, 1, 4})


@given(st.integers(1, 4), st.floats(0.05, 1.0), st.integers(0, 40))
def test_at_most_a_share_of_the_later_samples_is_conditioned(independent, share, later):
    strategy = Integrated(independent=independent, share=share)
    keys = "AB" * 4
    conditioned = [shown(strategy, *keys, index=index) != () for index in range(independent + later)]
    assert not any(conditioned[:independent])
    assert abs(sum(conditioned) - share * later) < 1
    assert sum(conditioned) <= share * later + 1e-9


def test_the_most_voted_answers_come_first_when_there_is_no_room_for_all():
    for seed in range(20):
        chosen = shown(Integrated(length=2), "A", "B", "C", "A", "B", seed=seed)
        assert {"AABCAB"[i + 1] for i in chosen} == {"A", "B"}


def test_shuffling_is_seeded_and_can_be_turned_off():
    keys = "ABCDEFGH"
    orders = {shown(Integrated(length=8), *keys, seed=seed) for seed in range(10)}
    assert len(orders) > 5
    assert shown(Integrated(length=8), *keys, seed=1) == shown(Integrated(length=8), *keys, seed=1)
    assert shown(Integrated(length=8, shuffle=False), *keys) == tuple(range(8))


def test_each_conditioned_sample_of_a_round_gets_its_own_chain():
    plan = Plan(Integrated(independent=6, length=3), seed=0, key="call", max_samples=64)
    for key in "ABCDEF":
        plan.tell(Sample(plan.draw(), prediction=key, answer=key, vote=vote(key)))
    chains = {plan.draw().shown for _ in range(6)}
    assert len(chains) > 1


def test_width_bounds_what_is_in_flight():
    strategy = Integrated(independent=2, width=3)
    assert strategy.room(0) == 3
    assert strategy.room(3) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Integrated(independent=0), "independent must be an integer of at least 1, got 0"),
        (lambda: Integrated(length=0), "length must be an integer of at least 1, got 0"),
        (lambda: Integrated(width=-1), "width must be an integer of at least 1, got -1"),
        (lambda: Integrated(when="never"), "when must be 'close', 'contested', 'always' or 'learned', got 'never'"),
        (lambda: Integrated(share=0), "share must be a number above 0 and at most 1, got 0"),
        (lambda: Integrated(share=1.5), "share must be a number above 0 and at most 1, got 1.5"),
        (lambda: Integrated(rendering="xml"), "rendering must be 'field' or 'prefill', got 'xml'"),
        (lambda: Integrated(max_tokens=0), "max_tokens must be an integer of at least 1, got 0"),
        (lambda: Sequential(length=True), "length must be an integer of at least 1, got True"),
        (lambda: Sequential(predictors="first"), "predictors must be 'all' or 'last', got 'first'"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
