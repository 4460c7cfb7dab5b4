import itertools
import math

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import BudgetPool, Cost, DynScaling, Parallel, Uniform
from dynscale_dspy.selection.lists import ElementVote
from dynscale_dspy.selection.plurality import Plurality
from dynscale_dspy.tuning import records
from dynscale_dspy.tuning.examples import Judge
from dynscale_dspy.tuning.records import Call, agreement, spending, voted
from dynscale_dspy.tuning.verdict import Spending
from tests.support import ScriptedModel, cycle, vote


def call(*keys, scores=None, costs=None, conditioned=None):
    scores = tuple(1.0 if key == "right" else 0.0 for key in keys) if scores is None else tuple(scores)
    costs = costs or (Cost(samples=1, requests=1),) * len(keys)
    conditioned = conditioned or (False,) * len(keys)
    votes = tuple(map(vote, keys))
    return Call(votes[0] if keys else None, scores[0] if scores else math.nan, votes, scores, costs, conditioned)


def keys_of(votes):
    return tuple(None if each is None else each.key for each in votes)


def chances(outcome):
    """How probable each answer is, by its key."""
    return dict(zip(keys_of(answer for answer, _ in outcome.answers), (c for _, c in outcome.answers), strict=True))


def no_reader(prediction):
    raise AssertionError("a sample's own answer has been read where the sample ran")


def test_a_call_is_read_once_for_each_answer():
    asked = []

    def metric(example, prediction):
        asked.append(prediction.answer)
        return prediction.answer == "A"

    pool = BudgetPool(samples=5, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel(first="own"))
    with dspy.context(lm=ScriptedModel(cycle("A", "B", "A", "C", "B ")).lm()):
        (prediction,) = qa.batch([{"question": "q"}], num_threads=1, disable_progress_bar=True)
    found = Call.of(prediction, dspy.Example(), Judge(metric), no_reader)
    keys = keys_of(found.votes)
    assert keys_of([found.vote]) == keys[:1] == keys[2:3] and len(set(keys)) == 3
    assert found.score == 1.0 and found.scores == (1.0, 0.0, 1.0, 0.0, 0.0)
    assert sorted(each.strip() for each in asked) == ["A", "B", "C"]
    assert sum(found.costs, Cost()).tokens == 50 and found.conditioned == (False,) * 5
    assert chances(found.alone()) == {keys[0]: 1.0}
    failed = Call.of(None, dspy.Example(), Judge(metric), no_reader)
    assert failed.vote is None and failed.score == 0.0 and failed.votes == ()


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

    found = Call.of(prediction, dspy.Example(), Judge(metric), lambda made: ElementVote().read(made.tags))
    assert prediction.tags == ["a"] and found.score == 1.0 and found.vote == ElementVote().read(["a"])
    assert found.scores == (0.0,) * 4 and sum(each is None for each in found.votes) == 1


@given(st.lists(st.sampled_from(["right", "b", "c", None]), min_size=1, max_size=5), st.integers(1, 5))
def test_votes_of_some_samples_are_means_over_all_their_orders(keys, size):
    size = min(size, len(keys))
    (found,) = voted([call(*keys)], size, Plurality())
    exact = []
    for order in itertools.permutations(range(len(keys)), size):
        votes = [keys[sample] for sample in order if keys[sample] is not None]
        winner = max(votes, key=lambda key: (votes.count(key), -votes.index(key))) if votes else None
        exact.append(winner == "right")
    assert found.score == pytest.approx(sum(exact) / len(exact), abs=0.25)  # 100 orders: five standard errors
    assert found.score == pytest.approx(chances(found).get("right", 0.0))
    assert sum(chances(found).values()) == pytest.approx(1)
    if size == len(keys) and len(set(exact)) == 1:
        assert found.score == exact[0]


def test_a_first_sample_of_its_own_kind_keeps_its_place():
    (found,) = voted([call("right", "b", "b", "b")], 2, Plurality(), fixed=1)
    assert chances(found) == {"right": 1.0}  # one vote each, and it came first
    (found,) = voted([call("right", "b", "b", "b")], 3, Plurality(), fixed=1)
    assert chances(found) == {"b": 1.0}


def test_where_nobody_votes_the_first_sample_answers_and_a_failed_call_stays_failed():
    silent, failed = voted([call(None, None, scores=(0.5, 0.5)), call()], 2, Plurality())
    assert silent.score == 0.5 and chances(silent) == {None: 1.0}
    assert math.isnan(failed.score)


def test_equal_seeds_give_equal_votes():
    calls = [call("right", "b", "right", "c", "b", "c")]
    again = voted(calls, 3, Plurality(), seed=1)
    assert voted(calls, 3, Plurality(), seed=1) == again != voted(calls, 3, Plurality(), seed=2)


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
    assert agreement([call("a", "a", "b")], Plurality()) == pytest.approx(1 / 3)
    assert agreement([call("a", "a"), call(None, None), call("a")], Plurality()) == 0.5
    assert agreement([call("a")], Plurality()) is None and records.ORDERS == 100
