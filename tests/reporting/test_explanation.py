"""The explanation of a call."""

from __future__ import annotations

import copy
import logging

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import Cost, DynScaling, explain, wrap
from dynscale_dspy.reporting.explanation import Votes, explanation, keep
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.selection.base import Group
from tests.support import ScriptedModel, cycle, vote


def sample(index, key, *, round=0, shown=(), cost=None):
    chain = {"p": "attempts", "q": "attempts"} if shown else {}
    problem = "" if key is not None else "failed"
    draw = Draw(index, round=round, shown=shown, chain=chain)
    return Sample(draw, answer=key, vote=vote(key), problem=problem, cost=cost or Cost(samples=1))


def made(samples, groups, winner):
    return explanation(samples, groups, winner, agreement=0.5, confidence=0.75, cost=Cost(samples=len(samples)))


def test_the_winners_group_comes_first_and_samples_in_their_order():
    samples = [sample(2, "B", round=1, shown=(0, 1)), sample(0, "A"), sample(1, "B"), sample(3, None, round=1)]
    groups = [Group("b", "B", 1.0, 1.0, (1, 2)), Group("a", "A", 1.0, 0.0, (0,))]
    out = made(samples, groups, samples[1])
    assert out.votes == (Votes("a", 1, 0), Votes("b", 1, 1))
    assert [type(votes.independent) for votes in out.votes] == [int, int]
    assert [told.index for told in out.samples] == [0, 1, 2, 3] and out.rounds == 2
    assert out.samples[2].chain == ("attempts",) and out.samples[2].shown == (0, 1)
    assert out.samples[3].problem == "failed" and out.cost == Cost(samples=4)
    assert out.attributes["vote"] == "a" and out.attributes["conditioned"] == 1


def test_of_a_call_without_votes_there_is_an_explanation_too():
    lost = sample(0, None)
    out = made([lost], [], lost)
    assert out.votes == () and out.summary == "1 sample, 0 answers, 50% agree"
    assert out.attributes["vote"] == "" and out.attributes["votes"] == 0


@given(st.lists(st.sampled_from("ABC"), min_size=1), st.randoms(use_true_random=False))
def test_the_order_in_which_samples_came_back_does_not_show(keys, random):
    samples = [sample(index, key) for index, key in enumerate(keys)]
    groups = [
        Group(key, key, float(keys.count(key)), 0.0, tuple(i for i, k in enumerate(keys) if k == key))
        for key in sorted(set(keys), key=lambda key: (-keys.count(key), keys.index(key)))
    ]
    shuffled = random.sample(samples, len(samples))
    assert made(shuffled, groups, samples[0]) == made(samples, groups, samples[0])
    assert made(samples, groups, samples[0]).votes[0].answer == keys[0]


def test_a_prediction_keeps_its_first_explanation_out_of_its_fields():
    first, second = (made([one], [], one) for one in (sample(0, None), sample(1, None)))
    prediction = dspy.Prediction(answer="A")
    with pytest.raises(ValueError, match="there are no votes in this Prediction"):
        explain(prediction)
    keep(prediction, first)
    keep(prediction, second)
    assert explain(prediction) is first and list(prediction.keys()) == ["answer"]
    assert explain(copy.deepcopy(prediction)) is first
    keep(None, first)  # what is no prediction keeps nothing


def test_the_log_is_structured_quiet_and_without_answers(caplog):
    assert any(isinstance(h, logging.NullHandler) for h in logging.getLogger("dynscale_dspy").handlers)
    with caplog.at_level(logging.DEBUG, "dynscale_dspy"), dspy.context(lm=ScriptedModel(cycle("secret")).lm()):
        DynScaling(dspy.Predict("question -> answer"), budget=4)(question="q")
    (record,) = [record for record in caplog.records if hasattr(record, "dynscale_samples")]
    assert record.dynscale_samples >= 2 and record.dynscale_agreement == 1.0
    assert "secret" not in str(vars(record))


@pytest.mark.parametrize("value", ["4", {"answer": "4"}, ["4"], None, 4, dspy.Example(answer="4")])
def test_a_value_without_a_place_for_votes_says_what_to_return(value):
    words = f"a value of type {type(value).__name__} has no place for votes: have the program return a dspy.Prediction"
    with pytest.raises(ValueError, match=words):
        explain(value)


def test_a_program_says_that_a_call_of_it_is_explained():
    with pytest.raises(
        ValueError, match="this is a DynScaling: explain.. takes the Prediction that a call of it returned"
    ):
        explain(DynScaling(dspy.Predict("question -> answer"), budget=2))  # type: ignore[arg-type]


class Pipeline(dspy.Module):
    """Makes a prediction of its own of what two predictors say."""

    def __init__(self):
        super().__init__()
        self.rewrite, self.answer = dspy.Predict("question -> query"), dspy.Predict("query -> answer")

    def forward(self, question):
        query = self.rewrite(question=question).query
        return dspy.Prediction(query=query, answer=self.answer(query=query).answer)


def test_the_votes_inside_a_program_are_where_the_error_says():
    program = wrap(Pipeline(), budget=3)
    with dspy.context(lm=ScriptedModel(lambda text, number: {"query": "sum", "answer": "4"}).lm(), trace=[]):
        prediction = program(question="2 + 2?")
        with pytest.raises(ValueError, match="wrap.* dspy.settings.trace.* pool.history.* .scaling.pool"):
            explain(prediction)
        inside = [explain(made) for _, _, made in dspy.settings.trace]
    assert [[votes.answer for votes in each.votes] for each in inside] == [["sum"], ["4"]]
    assert len(program.answer.scaling.pool.history.answered) == 2
