import itertools
import math

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import BudgetPool, Cost, DynScaling, Parallel, Uniform
from dynscale_dspy.selection.lists import ElementVote
from dynscale_dspy.tuning import records
from dynscale_dspy.tuning.examples import Judge
from dynscale_dspy.tuning.records import Call, agreement, spending, voted
from dynscale_dspy.tuning.verdict import Spending
from tests.support import ScriptedModel, cycle


def call(*keys, scores=None, costs=None, conditioned=None):
    scores = tuple(1.0 if key == "right" else 0.0 for key in keys) if scores is None else tuple(scores)
    costs = costs or (Cost(samples=1, requests=1),) * len(keys)
    conditioned = conditioned or (False,) * len(keys)
    return Call(keys[0] if keys else None, scores[0] if scores else math.nan, keys, scores, costs, conditioned)


def test_a_call_is_read_once_for_each_answer():
    asked = []

    def metric(example, prediction):
        asked.append(prediction.answer)
        return prediction.answer == "A"

    pool = BudgetPool(samples=5, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel(first="own"))
    with dspy.context(lm=ScriptedModel(cycle("A", "B", "A", "C", "B ")).lm()):
        (prediction,) = qa.batch([{"question": "q"}], num_threads=1, disable_progress_bar=True)
    found = Call.of(prediction, dspy.Example(), Judge(metric), None)
    assert found.key == found.keys[0] == found.keys[2] and len(set(found.keys)) == 3
    assert found.score == 1.0 and found.scores == (1.0, 0.0, 1.0, 0.0, 0.0)
    assert sorted(each.strip() for each in asked) == ["A", "B", "C"]
    assert sum(found.costs, Cost()).tokens == 50 and found.conditioned == (False,) * 5
    assert found.alone().keys == {found.key: 1.0}
    failed = Call.of(None, dspy.Example(), Judge(metric), None)
    assert failed.key is None and failed.score == 0.0 and failed.keys == ()


def test_a_composed_answer_is_scored_for_itself_and_not_for_samples_without_a_vote():
    model = ScriptedModel(lambda prompt, number: {"tags": ['["a", "x"]', '["a", "y"]', '["a", "z"]', "prose"][number]})
    pool = BudgetPool(samples=4, policy=Uniform())
    program = DynScaling(
        dspy.Predict("text -> tags: list[str]"), pool, selector=ElementVote(), sampling=Parallel(), max_choices=1
    )
    with dspy.context(lm=model.lm(), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        (prediction,) = program.batch([{"text": "t"}], num_threads=1, disable_progress_bar=True)

    def metric(example, prediction):
        return prediction is not None and prediction.tags == ["a"]

    found = Call.of(prediction, dspy.Example(), Judge(metric), ElementVote())
    assert prediction.tags == ["a"] and found.score == 1.0 and found.key is None
    assert found.scores == (0.0,) * 4 and sum(key is None for key in found.keys) == 1


@given(st.lists(st.sampled_from(["right", "b", "c", None]), min_size=1, max_size=5), st.integers(1, 5))
def test_votes_of_some_samples_are_means_over_all_their_orders(keys, size):
    size = min(size, len(keys))
    (found,) = voted([call(*keys)], size)
    exact = []
    for order in itertools.permutations(range(len(keys)), size):
        votes = [keys[sample] for sample in order if keys[sample] is not None]
        winner = max(votes, key=lambda key: (votes.count(key), -votes.index(key))) if votes else None
        exact.append(winner == "right")
    assert found.score == pytest.approx(sum(exact) / len(exact), abs=0.25)  # 100 orders: five standard errors
    assert found.score == pytest.approx(found.keys.get("right", 0.0)) and sum(found.keys.values()) == pytest.approx(1)
    if size == len(keys) and len(set(exact)) == 1:
        assert found.score == exact[0]


def test_a_first_sample_of_its_own_kind_keeps_its_place():
    (found,) = voted([call("right", "b", "b", "b")], 2, fixed=1)
    assert found.keys == {"right": 1.0}  # one vote each, and it came first
    (found,) = voted([call("right", "b", "b", "b")], 3, fixed=1)
    assert found.keys == {"b": 1.0}


def test_where_nobody_votes_the_first_sample_answers_and_a_failed_call_stays_failed():
    silent, failed = voted([call(None, None, scores=(0.5, 0.5)), call()], 2)
    assert silent.score == 0.5 and silent.keys == {None: 1.0}
    assert math.isnan(failed.score)


def test_equal_seeds_give_equal_votes():
    calls = [call("right", "b", "right", "c", "b", "c")]
    assert voted(calls, 3, seed=1) == voted(calls, 3, seed=1) != voted(calls, 3, seed=2)


def test_replies_from_the_cache_cost_what_others_of_their_kind_did():
    paid = Cost(samples=1, requests=1, prompt_tokens=30, completion_tokens=10, nanodollars=5000)
    dear = Cost(samples=1, requests=1, prompt_tokens=90, completion_tokens=10, nanodollars=9000)
    cached = Cost(samples=1, requests=1, cached_requests=1)
    calls = [
        call("a", "b", costs=(paid, cached)),
        call("a", "b", costs=(dear, cached), conditioned=(True, True)),
    ]
    assert spending(calls, calls) == pytest.approx(Spending(2, 2, 120, 20, 14e-6))
    assert spending([*calls, call()], calls) == spending(calls, calls)  # a failed call tells no cost
    warm = [call("a", costs=(cached,))]
    assert spending(warm, warm) == Spending(1, 1)  # nobody knows
    assert spending(warm, [*warm, *calls]) == pytest.approx(Spending(1, 1, 30, 10, 5e-6))


def test_agreement_is_of_pairs():
    assert agreement([call("a", "a", "b")]) == pytest.approx(1 / 3)
    assert agreement([call("a", "a"), call(None, None), call("a")]) == 0.5
    assert agreement([call("a")]) is None and records.ORDERS == 100
