"""A gateway between here and the model that caches: eight replies with one id are one vote, and the user is told."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import dspy
import pytest

from dynscale_dspy import BudgetPool, DynScaling, Parallel, Uniform, explain, wrap
from dynscale_dspy.testing import FakeQuestion
from tests.support import ENGINES

ASKED = FakeQuestion("What is 2 + 2?", {"4": 1.0}, "4")
TOLD = r"7 of 8 samples of a call of (answer: )?Predict\(question -> answer\) are the same reply as another one"


class Program(dspy.Module):
    def __init__(self):
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question):
        return self.answer(question=question)


def plain(program: Any) -> Any:
    return program(question=ASKED.text)


def awaited(program: Any) -> Any:
    return asyncio.run(program.acall(question=ASKED.text))


def batch(program: Any) -> Any:
    return program.batch([{"question": ASKED.text}], disable_progress_bar=True)[0]


def in_place(program: Any) -> Any:
    pool = program.pool
    return wrap(Program(), budget=pool, sampling=Parallel(), max_choices=1)(question=ASKED.text)


def eight(**options: Any) -> DynScaling:
    pool = BudgetPool(samples=64, min_per_call=8, max_per_call=8, policy=Uniform())
    return DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel(), **options)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", [plain, awaited, batch, in_place])
def test_replies_of_one_id_are_one_vote_and_it_is_said_once(way: Any, engine: str, server: Any) -> None:
    fake, program = server([ASKED], cached=True), eight(max_choices=1)
    with dspy.context(lm=fake.lm(engine, cache=False, temperature=1.0)):
        with pytest.warns(UserWarning, match=TOLD) as told:
            made = explain(way(program))
        assert len([each for each in told if "same reply" in str(each.message)]) == 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            program(question=ASKED.text) if way is plain else None
    assert sum(votes.total for votes in made.votes) == 1 and made.confidence == 0.5
    assert [sample.problem for sample in made.samples] == [""] + ["the same reply"] * 7
    assert "7  cast no vote: the same reply" in str(made)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", [plain, awaited, batch])
def test_replies_of_ids_of_their_own_are_eight_votes(way: Any, engine: str, server: Any) -> None:
    program = eight(max_choices=1)
    with dspy.context(lm=server([ASKED]).lm(engine, cache=False, temperature=1.0)):
        assert [votes.total for votes in explain(way(program)).votes] == [8]


@pytest.mark.parametrize("way", [plain, awaited, batch])
def test_the_choices_of_one_response_are_eight_votes_litellm(way: Any, server: Any) -> None:
    fake, program = server([ASKED], cached=True), eight()
    with dspy.context(lm=fake.lm("litellm", cache=False, temperature=1.0)):
        made = explain(way(program))
    assert [votes.total for votes in made.votes] == [8] and fake.statistics().requests == 1


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_from_dspys_own_cache_everything_is_as_it_was(engine: str, cached: bool, server: Any) -> None:
    fake = server([ASKED], cached=cached)
    made = []
    for _ in range(2):
        program = eight(max_choices=1)
        with dspy.context(lm=fake.lm(engine, cache=True, temperature=1.0)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made.append(explain(program(question=ASKED.text)))
        if not made[1:]:
            requests = fake.statistics().requests
    assert fake.statistics().requests == requests
    one, other = made
    assert one.votes == other.votes and one.confidence == other.confidence
    assert [sample.problem for sample in one.samples] == [sample.problem for sample in other.samples]
