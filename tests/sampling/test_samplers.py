from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy.sampling import samplers
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.sampling.samplers import ALONE, PERMUTED, PLAIN, CallView, ChainSpec, Lazily, Sampler, conditioned
from dynscale_dspy.sampling.strategies import Parallel
from dynscale_dspy.selection.fieldwise import Fieldwise
from dynscale_dspy.selection.medoid import Medoid
from dynscale_dspy.selection.plurality import Plurality
from tests.sampling.support import make_view, view_of, voters
from tests.support import vote


def chosen(chain, *keys, index=None, seed=0):
    return chain.choose(make_view(voters(*keys), index), np.random.default_rng(seed))


# ---- which samples a chain shows


def test_nothing_is_shown_where_nothing_has_voted():
    assert chosen(ChainSpec()) == chosen(ChainSpec(pick="latest")) == ()


def test_the_latest_ones_are_shown_oldest_first():
    assert chosen(ChainSpec(length=1, pick="latest"), "A", "B", "C") == (2,)
    assert chosen(ChainSpec(length=2, pick="latest"), "A", "B", "C") == (1, 2)
    assert chosen(ChainSpec(length=9, pick="latest"), "A", "B", "C") == (0, 1, 2)


def test_indices_are_those_of_the_call_though_some_samples_cast_no_vote():
    samples = [Sample(Draw(i), answer=key, vote=vote(key)) for i, key in ((1, "A"), (4, "B"), (5, "A"))]
    rng = np.random.default_rng(0)
    assert ChainSpec(length=2, pick="latest").choose(make_view(samples, 6), rng) == (4, 5)
    assert set(ChainSpec().choose(make_view(samples, 6), rng)) in ({1, 4}, {5, 4})


def test_one_answer_is_shown_once_unless_told_otherwise():
    assert len(chosen(ChainSpec(), "A", "A", "A")) == 1
    assert len(chosen(ChainSpec(repeats=True), "A", "A", "A")) == 3


@given(
    st.lists(st.sampled_from("ABCDE"), min_size=1, max_size=12),
    st.integers(1, 6),
    st.booleans(),
    st.integers(0, 1000),
)
def test_a_chain_has_one_sample_per_answer_before_a_second_of_any(keys, length, repeats, seed):
    shown = chosen(ChainSpec(length=length, repeats=repeats), *keys, seed=seed)
    distinct = min(length, len(set(keys)))
    assert len(shown) == len(set(shown)) == (min(length, len(keys)) if repeats else distinct)
    assert len({keys[i] for i in shown}) == distinct


def test_the_heaviest_answers_come_first_when_there_is_no_room_for_all():
    for seed in range(20):
        assert {"ABCAB"[i] for i in chosen(ChainSpec(length=2), "A", "B", "C", "A", "B", seed=seed)} == {"A", "B"}


def test_weights_decide_which_answers_are_heaviest():
    samples, selection = voters("A", "A", "B"), Plurality().empty()
    for sample, weight in zip(samples, (1.0, 1.0, 3.0), strict=True):
        selection = selection.add(sample.vote, sample=sample.draw.index, weight=weight)
    for seed in range(20):
        assert ChainSpec(length=1).choose(CallView(3, samples, selection), np.random.default_rng(seed)) == (2,)


SUMMARIES = (
    "rain is expected",
    "on Monday the council voted for the new bridge",
    "the council voted for the new bridge",
    "the council voted for the new bridge on Monday",
    "rain is expected today",
)


def test_of_answers_that_are_much_alike_the_most_central_one_is_shown():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert set(ChainSpec().choose(view_of(Medoid(), *SUMMARIES), rng)) == {0, 1}  # 1 and 3 have the same words
        assert ChainSpec(length=1).choose(view_of(Medoid(), *SUMMARIES), rng) == (1,)
    assert len(ChainSpec(length=8).choose(view_of(Plurality(), *SUMMARIES), np.random.default_rng(0))) == 5


def test_room_that_is_left_is_filled_with_others_of_a_group():
    view, rng = view_of(Medoid(), *SUMMARIES), np.random.default_rng(0)
    assert sorted(ChainSpec(length=8, repeats=True).choose(view, rng)) == [0, 1, 2, 3, 4]
    assert {0, 1} < set(ChainSpec(length=3, repeats=True).choose(view, rng))


def test_records_that_are_much_alike_are_shown_once():
    records = [{"city": "Rome", "year": 1, "month": 5}, {"city": "Rome", "year": 1, "month": 6}, {"city": "Bern"}]
    for selector in (Fieldwise(), Fieldwise(compose=True)):
        shown = ChainSpec(shuffle=False).choose(view_of(selector, *records), np.random.default_rng(0))
        assert shown in ((0, 2), (1, 2))


def test_an_independent_attempt_speaks_for_its_answer_where_there_is_one():
    samples = voters("A", "B", "A")
    samples.append(Sample(Draw(3, shown=(0, 1), chain={0: "text"}), prediction="B", answer="B", vote=vote("B")))
    samples.append(Sample(Draw(4, shown=(0, 1), chain={0: "text"}), prediction="C", answer="C", vote=vote("C")))
    for seed in range(20):
        assert set(ChainSpec().choose(make_view(samples), np.random.default_rng(seed))) in ({0, 1, 4}, {2, 1, 4})


def test_shuffling_is_seeded_and_can_be_turned_off():
    keys = "ABCDEFGH"
    orders = {chosen(ChainSpec(length=8), *keys, seed=seed) for seed in range(10)}
    assert len(orders) > 5
    assert chosen(ChainSpec(length=8), *keys, seed=1) == chosen(ChainSpec(length=8), *keys, seed=1)
    assert chosen(ChainSpec(length=8, shuffle=False), *keys) == tuple(range(8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 0}, "length must be an integer of at least 1, got 0"),
        ({"length": True}, "length must be an integer of at least 1, got True"),
        ({"pick": "best"}, "pick must be 'answers' or 'latest', got 'best'"),
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1, got 0"),
        ({"predictors": "first"}, "predictors must be 'all' or 'last', got 'first'"),
        ({"rendering": "xml"}, "rendering must be 'field' or 'prefill', got 'xml'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ChainSpec(**settings)


# ---- samplers


def test_samplers_are_values():
    assert Sampler("warm", temperature=0.7) == Sampler("warm", temperature=0.7)
    assert conditioned(ChainSpec(length=2)) == Sampler("conditioned", chain=ChainSpec(length=2))
    assert len({PLAIN, ALONE, conditioned(ChainSpec()), conditioned(ChainSpec())}) == 3
    assert (PLAIN.name, ALONE.name) == ("plain", "independent")


# ---- what a strategy sees


def test_a_view_tells_of_the_votes():
    view = make_view(voters("A", "B", "A"))
    assert (view.next_index, view.evidence.lead, view.evidence.rival) == (3, 2, 1)
    assert [(group.answer, group.samples) for group in view.groups] == [("A", (0, 2)), ("B", (1,))]
    assert (view.varies, view.unit, view.seeing, view.at_once) == (True, None, 0, False)


def test_a_plan_shows_the_voters_in_the_order_of_their_index():
    seen = []

    class Watching(Parallel):
        def propose(self, view, learned, rng):
            seen.append(view)
            return ALONE

    plan = Plan(Watching(), seed=0, key=0, max_samples=64, varies=False)
    draws = [plan.draw(ALONE) for _ in range(4)]
    for i, key in ((3, "A"), (1, None), (0, "B")):
        plan.tell(Sample(draws[i], prediction=key, answer=key, vote=vote(key), problem="" if key else "no answer"))
    plan.unit = "tokens"
    plan.propose(2)
    assert [view.next_index for view in seen] == [4, 5]
    for view in seen:
        assert [sample.draw.index for sample in view.samples] == [0, 3]
        assert (view.evidence.samples, view.evidence.blanks) == (3, 1)
        assert (view.varies, view.unit) == (False, "tokens")


# ---- a generator that is made when it is needed


def test_a_lazy_generator_draws_what_an_eager_one_does():
    lazy, eager = Lazily(3, [1, 4]), np.random.default_rng([3, 1, 4])
    assert lazy.permutation(20).tolist() == eager.permutation(20).tolist()
    assert lazy.normal(size=3).tolist() == eager.normal(size=3).tolist()  # and goes on from there


def test_a_lazy_generator_is_made_once_and_only_if_it_is_used(monkeypatch):
    made = []

    def make(seed):
        made.append(seed)
        return np.random.Generator(np.random.PCG64(seed))

    monkeypatch.setattr(samplers.np.random, "default_rng", make)
    lazy = Lazily(7, [8])
    assert made == []
    lazy.random(), lazy.random()
    assert made == [[7, 8]]


# ---- demos


@given(st.lists(st.integers(), max_size=12), st.integers(0, 1000))
def test_permuted_demos_are_the_same_ones_and_the_list_stays_as_it_was(demos, index):
    before = list(demos)
    arranged = PERMUTED.arranged(demos, index)
    assert sorted(arranged) == sorted(demos) and demos == before
    assert arranged == PERMUTED.arranged(demos, index)


def test_samples_see_different_orders_and_most_samplers_the_programs_own():
    demos = list(range(8))
    assert len({tuple(PERMUTED.arranged(demos, index)) for index in range(1, 9)}) == 8
    assert all(sampler.arranged(demos, 3) == demos for sampler in (PLAIN, ALONE, conditioned(ChainSpec())))


def test_samples_of_different_prompts_share_no_request():
    plan = Plan(Parallel(demos="permuted"), seed=0, key="call", max_samples=8)
    jobs = plan.jobs(plan.propose(4), [object()] * 4)
    assert [plan.may_share(job) for job in jobs] == [True, False, False, False]
    assert [job.group for job in plan.sharing(jobs)] == [None] * 4
