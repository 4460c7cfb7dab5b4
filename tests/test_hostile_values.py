"""Whatever a program returns or is given, one sample loses its vote, and never the call."""

from __future__ import annotations

import asyncio
import logging

import dspy
import pytest
from hypothesis import example, given, settings

from dynscale_dspy import BudgetPool, DynScaling, Uniform, explain
from tests import hostile


class Odd(dspy.Module):
    """Its second run returns something odd."""

    def __init__(self, odd):
        super().__init__()
        self.odd, self.runs = odd, 0

    def forward(self, question):
        self.runs += 1
        return dspy.Prediction(reasoning=self.odd, answer=self.odd) if self.runs == 2 else dspy.Prediction(answer="42")


class Program(dspy.Module):
    """Takes anything."""

    def forward(self, value):
        return dspy.Prediction(answer="42")

    async def aforward(self, value):
        return dspy.Prediction(answer="42")


@settings(max_examples=60)
@given(hostile.makers)
def test_an_odd_answer_costs_its_vote_at_most(make):
    value = make()
    pool = BudgetPool(samples=100, per_call=4, policy=Uniform())
    prediction = DynScaling(Odd(value), budget=pool)(question="q")
    assert prediction.answer == "42"
    for report in (str(explain(prediction)), explain(prediction)._repr_html_(), str(pool), pool._repr_html_()):
        report.encode()
        assert not set(report) & set("\x1b\x07\x9b\u202e\r\x08")
    state = pool.statistics()
    assert state.reserved.samples == 0 and state.open_calls == 0


class AlwaysOdd(dspy.Module):
    """Each of its runs returns the same odd thing."""

    def __init__(self, odd):
        super().__init__()
        self.odd = odd

    def forward(self, question):
        return dspy.Prediction(answer=self.odd)


@settings(max_examples=60)
@example(lambda: 10**5000)
@example(lambda: -(10**5000))
@given(hostile.makers)
def test_what_is_odd_in_every_sample_is_answered_all_the_same(make):
    qa = DynScaling(AlwaysOdd(make()), budget=BudgetPool(per_call=3, policy=Uniform()))
    told = explain(qa(question="q"))
    assert len(told.samples) == 3 and str(told) and told._repr_html_()


@pytest.mark.parametrize("name", hostile.LAZY)
def test_what_the_program_takes_the_wrapped_program_takes(name, tmp_path):
    value = hostile.LAZY[name]()
    for pool in (BudgetPool(samples=30, per_call=2), BudgetPool(samples=30, per_call=2, path=tmp_path / "pool.sqlite")):
        qa = DynScaling(Program(), budget=pool)
        assert qa(value=value).answer == "42"
        assert asyncio.run(qa.acall(value=value)).answer == "42"
        assert qa.batch([{"value": value}], num_threads=1, disable_progress_bar=True)[0].answer == "42"


class Refusing:
    """A selector that raises on some answers, as it reads them or as it adds them."""

    def __init__(self, inner, reads):
        self.inner, self.reads = inner, reads

    def read(self, answer):
        if answer == "odd" and self.reads:
            raise RuntimeError(hostile.SECRET)
        return self.inner.read(answer)

    def empty(self):
        return _Selection(self.inner.empty())


class _Selection:
    def __init__(self, inner):
        self.inner = inner

    def add(self, vote, **kwargs):
        if vote is not None and vote.answer == "odd":
            raise RuntimeError(hostile.SECRET)
        return _Selection(self.inner.add(vote, **kwargs))

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.mark.parametrize("reads", [True, False])
def test_a_selector_that_raises_costs_the_samples_vote_and_its_words_are_not_logged(reads, caplog):
    from dynscale_dspy.selection.plurality import Plurality

    caplog.set_level(logging.DEBUG, "dynscale_dspy")
    pool = BudgetPool(samples=100, per_call=4, policy=Uniform())
    prediction = DynScaling(Odd("odd"), budget=pool, selector=Refusing(Plurality(), reads))(question="q")
    assert prediction.answer == "42"
    assert [sample.problem for sample in explain(prediction).samples].count("unreadable") == 1
    assert hostile.SECRET not in caplog.text


def test_one_sample_without_the_named_field_fails_alone():
    class Program(dspy.Module):
        runs = 0

        def forward(self, question):
            self.runs += 1
            return dspy.Prediction(town="x") if self.runs == 2 else dspy.Prediction(city="Paris")

    qa = DynScaling(Program(), budget=BudgetPool(samples=9, per_call=3, policy=Uniform()), answer="city")
    assert qa(question="q").city == "Paris"
    with pytest.raises(ValueError, match="answer names 'land', but the program returned"):
        DynScaling(Program(), budget=3, answer="land")(question="q")
