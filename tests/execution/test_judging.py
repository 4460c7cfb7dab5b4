"""A judge's verdicts, as calls of their own in the same budget."""

from __future__ import annotations

import asyncio
import json
import re

import dspy
import pytest

from dynscale_dspy import BudgetPool, DynScaling, Parallel, Uniform, explain
from dynscale_dspy.selection import Judge, Medoid
from tests.support import ScriptedModel

POEMS = ("a rose", "a tulip", "the best poem")


def is_judge(prompt):
    return "[[ ## candidates ## ]]" in prompt


def shown_in(prompt):
    """The answers in a judge's prompt, in their order."""
    return json.loads(re.findall(r"^\[\[ ## candidates ## \]\]\n(\[.*\])$", prompt, flags=re.MULTILINE)[-1])


class Judged:
    """A model that writes poems in turn, and as a judge picks the one that it likes, wherever that stands.

    It likes a poem, or the one at a place when it is asked first: there the answers are in the order of the samples.
    """

    def __init__(self, likes="the best poem", verdict=None):
        self.likes, self.verdict, self.asked = likes, verdict, []

    def __call__(self, prompt, number):
        if not is_judge(prompt):
            return {"poem": POEMS[number % len(POEMS)]}  # the first three requests are the samples'
        self.asked.append(prompt)
        if isinstance(self.likes, int):
            self.likes = shown_in(prompt)[self.likes]
        if self.verdict is not None:
            return self.verdict
        return {"reasoning": "it is", "best": str(1 + shown_in(prompt).index(self.likes))}


def poet(pool, **options):
    return DynScaling(
        dspy.Predict("topic -> poem"),
        pool,
        selector=Judge(**options),
        sampling=Parallel(first="own"),
        max_samples=3,
    )


def fresh(**caps):
    return BudgetPool(**{"samples": 100, "policy": Uniform(), "min_per_call": 3, **caps})


def in_thread(poem):
    return poem(topic="flowers")


def in_task(poem):
    return asyncio.run(poem.acall(topic="flowers"))


def in_batch(poem):
    return poem.batch([{"topic": "flowers"}], disable_progress_bar=True)[0]


WAYS = pytest.mark.parametrize("ask", [in_thread, in_task, in_batch])


@WAYS
def test_the_judge_is_shown_the_answers_in_two_orders_and_its_verdicts_decide(ask):
    script, pool = Judged(), fresh()
    model = ScriptedModel(script)
    with dspy.context(lm=model.lm()):
        prediction = ask(poet(pool))
    assert prediction.poem == "the best poem"
    first, second = map(shown_in, script.asked)
    assert first == second[::-1] and sorted(first) == sorted(POEMS)
    assert all("topic: flowers" in prompt for prompt in script.asked)
    assert pool.statistics().spent.requests == len(model.requests) == 5
    assert {vote.answer for vote in explain(prediction).votes} == set(POEMS)


@WAYS
def test_the_confidence_is_the_votes_only_where_the_vote_has_the_same_winner(ask):
    def judged(place):
        """The explanation of a call whose judge likes the answer of the sample at a place."""
        script = Judged(likes=place)
        with dspy.context(lm=ScriptedModel(script).lm()):
            prediction = ask(poet(fresh()))
        made = explain(prediction)
        assert prediction.poem == made.samples[place].answer == script.likes
        return made

    with dspy.context(lm=ScriptedModel(Judged(verdict="nonsense")).lm()):
        by_vote = explain(ask(poet(fresh())))
    first, second = judged(0), judged(1)
    assert first.agreement == second.agreement == pytest.approx(1 / 3)
    assert first.confidence == by_vote.confidence != pytest.approx(1 / 3)
    assert second.confidence == second.agreement


ROSES = ("the red rose", "a tulip", "a red rose")


@pytest.mark.parametrize(("likes", "wins"), [("a tulip", "a tulip"), ("the red rose", "the red rose")])
def test_of_answers_that_are_much_alike_the_judge_is_shown_one(likes, wins):
    asked = []

    def script(prompt, number):
        if not is_judge(prompt):
            return {"poem": ROSES[number % len(ROSES)]}
        asked.append(shown_in(prompt))
        return {"reasoning": "it is", "best": str(1 + asked[-1].index(likes))}

    with dspy.context(lm=ScriptedModel(script).lm(), num_threads=1):
        prediction = in_batch(poet(fresh(), selector=Medoid(lambda one, other: 0.9 * (one[-4:] == other[-4:]))))
    assert len(asked[0]) == 2 and asked[1] == asked[0][::-1]
    assert {poem.endswith("rose") for poem in asked[0]} == {True, False}
    assert prediction.poem == wins and explain(prediction).votes[0].answer == wins
    assert [votes.total for votes in explain(prediction).votes] == ([1, 2] if wins == "a tulip" else [2, 1])


@WAYS
@pytest.mark.parametrize(
    "verdict", [{"reasoning": "", "best": "7"}, {"reasoning": "", "best": "0"}, "nonsense", OSError()]
)
def test_a_judge_that_names_nothing_leaves_the_vote_as_it_is(ask, verdict):
    script = Judged(verdict=verdict)
    with dspy.context(lm=ScriptedModel(script).lm()):
        prediction = ask(poet(fresh()))
    assert prediction.poem == explain(prediction).samples[0].answer  # of single votes the first sample's


@WAYS
def test_a_judge_that_cannot_be_paid_leaves_the_vote_as_it_is(ask):
    script, pool = Judged(), fresh(samples=3)
    with dspy.context(lm=ScriptedModel(script).lm()):
        prediction = ask(poet(pool))
    assert prediction.poem == explain(prediction).samples[0].answer
    assert script.asked == [] and pool.statistics().spent.samples == 3


@WAYS
def test_where_all_agree_nobody_is_asked(ask):
    script = Judged()
    model = ScriptedModel(lambda prompt, number: {"poem": "a rose"})
    with dspy.context(lm=model.lm()):
        assert ask(poet(fresh())).poem == "a rose"
    assert len(model.requests) == 3 and script.asked == []


@WAYS
def test_a_program_of_the_users_own_may_judge_and_is_no_part_of_the_trace(ask):
    class Last(dspy.Module):
        def forward(self, task, candidates):
            return dspy.Prediction(best=1 + candidates.index("a tulip"))

    trace = []
    with dspy.context(lm=ScriptedModel(Judged()).lm(), trace=trace):
        assert ask(poet(fresh(), program=Last())).poem == "a tulip"
    assert [entry[2].poem for entry in trace] == ["a tulip"]


def test_the_usage_of_the_judge_is_told_to_the_caller():
    with dspy.context(lm=ScriptedModel(Judged()).lm()), dspy.track_usage() as tracker:
        poet(fresh())(topic="flowers")
    used = tracker.get_total_tokens()
    assert sum(entry["prompt_tokens"] for entry in used.values()) == 5 * 7


def test_it_is_saved_and_loaded_with_the_program(tmp_path):
    poem = poet(fresh(), most=4)
    poem.save(tmp_path / "poem.json")
    other = DynScaling(dspy.Predict("topic -> poem"), fresh())
    other.load(tmp_path / "poem.json")
    assert other.selector == Judge(most=4)


@WAYS
@pytest.mark.parametrize("verdict", ["{} ", "\n{}"])
def test_a_verdict_in_text_is_one(ask, verdict):
    """As of a signature without types."""

    liked = []

    class Last(dspy.Module):
        def forward(self, task, candidates):
            liked.append(candidates[-1])
            return dspy.Prediction(best=verdict.format(1 + candidates.index(liked[0])))

    with dspy.context(lm=ScriptedModel(Judged()).lm()):
        assert ask(poet(fresh(), program=Last())).poem == liked[0]


@WAYS
def test_a_judge_that_fails_does_not_stop_the_pool(ask):
    pool = fresh(max_failures=1)
    poem = poet(pool)
    with dspy.context(lm=ScriptedModel(Judged(verdict=OSError())).lm()):
        for _ in range(3):
            assert ask(poem).poem in POEMS
    assert pool.statistics().state == "open"


def all_different(prompt, number):
    return {"reasoning": "", "best": "1"} if is_judge(prompt) else {"poem": f"poem {number} of {number + 7}"}


def test_verdicts_come_out_of_what_calls_may_draw():
    poem = DynScaling(dspy.Predict("topic -> poem"), 4, selector=Judge(selector=Medoid()))
    with dspy.context(lm=ScriptedModel(all_different).lm()):
        made = [explain(poem(topic=f"flower {place}")) for place in range(20)]
    spent = poem.pool.statistics().spent.samples
    assert sum(len(each.samples) for each in made) < spent <= 4 * 20 + 2
    assert poem.pool.statistics().closed_calls == 20  # a verdict is none of the user's calls


def test_no_announced_call_loses_its_first_sample_to_a_judge():
    pool = BudgetPool(samples=60).expect(20)
    poem = DynScaling(dspy.Predict("topic -> poem"), pool, selector=Judge(selector=Medoid()))
    with dspy.context(lm=ScriptedModel(all_different).lm()):
        for place in range(20):
            assert poem(topic=f"flower {place}").poem.startswith("poem")
    assert pool.statistics().spent.samples <= 60


def test_a_judge_that_cannot_be_paid_is_not_asked_outside_the_budget():
    script, pool = Judged(), fresh(samples=3, on_empty="run_once")
    with dspy.context(lm=ScriptedModel(script).lm()):
        assert in_thread(poet(pool)).poem in POEMS
    assert script.asked == [] and pool.statistics().unscaled_runs == 0
