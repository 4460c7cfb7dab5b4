"""Votes over their mean of a program's calls, over the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import dspy
import pytest

from dynscale_dspy import DynScaling, Parallel, explain
from dynscale_dspy.allocation.label_means import LEAST
from dynscale_dspy.tuning.examples import Judge
from dynscale_dspy.tuning.records import Call, voted
from tests.execution.label_server import LabelServer

PREFERS = {"plain": {"World": 0.9, "Sports": 0.1}, "ball": {"World": 0.6, "Sports": 0.4}}
"""A model that always says World, less surely of titles about a ball."""
TITLES = ["plain", "ball"] * 10


class Classify(dspy.Signature):
    """Classify a title."""

    title: str = dspy.InputField()
    topic: Literal["World", "Sports"] = dspy.OutputField()


class Explained(Classify):
    """Classify a title, and say why."""

    why: str = dspy.OutputField()


def shares(request: dict[str, Any]) -> dict[str, float]:
    asked = request["messages"][-1]["content"]
    return PREFERS["ball" if "ball" in asked else "plain"]


@pytest.fixture
def server() -> Iterator[LabelServer]:
    with LabelServer(shares) as running:
        yield running


def scaled(signature: Any = Classify, **options: Any) -> DynScaling:
    options = {"budget": 4, "probabilities": "calibrated", **options}
    return DynScaling(dspy.Predict(signature), **options)


def told(qa: DynScaling) -> dict[str, Any]:
    return qa.dump_settings().get("learned", {}).get("labels", {})


def test_from_the_16th_call_on_a_preference_is_divided_out(server) -> None:
    qa, trace = scaled(), []
    with dspy.context(lm=server.lm(), trace=trace):
        outs = [qa(title=title) for title in TITLES]
    before, after = outs[: LEAST - 1], outs[LEAST - 1 :]
    assert {out.topic for out in before} == {"World"} and explain(before[-1]).calibrated_on == 0
    assert [out.topic for out in after] == ["Sports", "World", "Sports", "World", "Sports"]
    assert len(server.requests) == len(TITLES)
    # What DSPy hears of is what the caller gets; what was written stays known.
    assert [entry[2].topic for entry in trace] == [out.topic for out in outs]
    assert all(entry[2] is out for entry, out in zip(trace, outs, strict=True))
    made = explain(outs[-1])
    assert made.calibrated_on == len(TITLES) and made.votes[0].answer == "Sports"
    assert made.samples[0].answer == "World" and made.samples[0].prediction.topic == "World"
    # .4 over a mean of .25 and .6 over one of .75
    assert made.confidence == made.votes[0].probability == pytest.approx(1.6 / 2.4, abs=1e-4)
    assert "the model's own probability, calibrated on 20 calls" in str(made)
    assert outs[-1].completions.topic == ["Sports"] and list(outs[-1].keys()) == ["topic"]
    assert "probabilities='calibrated'" in repr(qa)


def test_who_reads_the_results_later_reads_what_the_votes_were_for(server) -> None:
    """Not what was written, which for every second call is another label."""
    qa = scaled()
    with dspy.context(lm=server.lm()):
        outs = qa.batch([{"title": title} for title in TITLES], num_threads=4, disable_progress_bar=True)
    judge = Judge(lambda example, prediction: prediction.topic == "Sports")
    calls = [Call.of(out, dspy.Example(), judge, qa.scaling_selector.read) for out in outs]
    assert [call.vote and call.vote.answer for call in calls] == ["World", "Sports"] * 10
    assert [call.score for call in calls] == [call.scores[0] for call in calls] == [0.0, 1.0] * 10
    assert voted(calls, 3, qa.scaling_selector)[1].score == 1.0


def test_a_known_set_counts_by_the_mean_of_all_its_calls(server) -> None:
    with dspy.context(lm=server.lm()):
        alone = scaled().batch([{"title": title} for title in TITLES], num_threads=4, disable_progress_bar=True)
        few = scaled().batch([{"title": title} for title in TITLES[: LEAST - 2]], disable_progress_bar=True)
    assert [out.topic for out in alone] == ["World", "Sports"] * 10
    assert {explain(out).calibrated_on for out in alone} == {len(TITLES)}
    assert {out.topic for out in few} == {"World"}
    assert len(server.requests) == len(TITLES) + LEAST - 2


def test_a_known_set_is_unsure_by_what_its_calls_came_to(server) -> None:
    asked: list[str] = []

    def ask(prediction: Any, title: str) -> Any:
        asked.append(title)
        return prediction

    qa = scaled(min_confidence=0.6, on_low=ask)
    with dspy.context(lm=server.lm()):
        outs = qa.batch([{"title": title} for title in TITLES], disable_progress_bar=True)
    # plain: .9 / .75 against .1 / .25, which is .75 of their sum; ball: .67.
    assert asked == [] and [out.topic for out in outs[:2]] == ["World", "Sports"]


def test_calls_of_tasks_are_calibrated_alike(server) -> None:
    qa = scaled()

    async def ask() -> list[Any]:
        return [await qa.acall(title=title) for title in TITLES]

    with dspy.context(lm=server.lm()):
        outs = asyncio.run(ask())
    assert [out.topic for out in outs[-2:]] == ["World", "Sports"]


def test_a_sample_that_was_drawn_against_the_odds_needs_no_second_one(server) -> None:
    qa = scaled(sampling=Parallel(first="own"))
    with dspy.context(lm=server.lm(temperature=1.0)):
        outs = [qa(title=title) for title in TITLES]
    assert [out.topic for out in outs[-2:]] == ["World", "Sports"]
    assert [len(explain(out).samples) for out in outs[-4:]] == [1, 1, 1, 1]


@pytest.mark.parametrize("probabilities", [True, False])
def test_without_it_nothing_is_learned_or_changed(server, probabilities) -> None:
    qa = scaled(probabilities=probabilities)
    with dspy.context(lm=server.lm()):
        outs = [qa(title=title) for title in TITLES]
    assert {out.topic for out in outs} == {"World"} and told(qa) == {}
    assert {explain(out).calibrated_on for out in outs} == {0}
    assert "calibrated" not in repr(qa)
    if probabilities:
        assert explain(outs[-1]).confidence == pytest.approx(0.6, abs=1e-5)


def test_what_was_learned_is_saved_and_holds_for_the_same_prompt_only(server) -> None:
    qa = scaled()
    with dspy.context(lm=server.lm()):
        for title in TITLES:
            qa(title=title)
        state = json.loads(json.dumps(qa.dump_state()))
        (mean,) = told(qa).values()
        assert mean["labels"] == ["World", "Sports"] and mean["calls"] == 20
        assert mean["sums"] == pytest.approx([15, 5], abs=1e-4)
        later = DynScaling(dspy.Predict(Classify), budget=4)
        later.load_state(state)
        assert later.probabilities == "calibrated" and later(title="ball").topic == "Sports"
        # Other demos may well make it prefer another label; so may another model.
        later.demos = [dspy.Example(title="plain", topic="World")]
        assert later(title="ball").topic == "World"
        assert len(told(later)) == 2
    server.frame = "json"
    with dspy.context(lm=server.lm(), adapter=dspy.JSONAdapter()):
        later.demos = []
        assert later(title="ball").topic == "World" and len(told(later)) == 3


def test_where_more_than_the_label_is_written_it_is_what_was_written(server) -> None:
    qa = scaled(Explained, answer="topic")
    server.frame = "explained"
    with dspy.context(lm=server.lm()):
        outs = [qa(title=title) for title in TITLES]
    assert {out.topic for out in outs} == {"World"} and told(qa) == {}
    assert {explain(out).is_told for out in outs} == {True}


def test_a_server_that_tells_nothing_is_asked_as_without(server) -> None:
    server.spoil = lambda tokens: None
    qa = scaled()
    with dspy.context(lm=server.lm()):
        outs = [qa(title=title) for title in TITLES[:18]]
    assert told(qa) == {} and {explain(out).calibrated_on for out in outs} == {0}
    assert all(out.topic == "World" for out in outs)
