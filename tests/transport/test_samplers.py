"""Samples of one call drawn in several ways: each asks its own language model, and one pool pays for all."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dspy
import pytest

from dynscale_dspy import BudgetPool, Cost, DynScaling, Parallel, Strategy, Uniform, explain
from dynscale_dspy.allocation.policies import make_policy
from dynscale_dspy.sampling.samplers import ALONE, PLAIN, ChainSpec, Sampler
from dynscale_dspy.testing import questions
from tests.support import ScriptedModel, cycle

BANK = questions(4, seed=3)
EACH = 6
ONES_TURN = (2, 5)
"""The samples of a call that the other language model draws."""


@dataclass(frozen=True)
class EveryThird(Strategy):
    """Every third sample of a call asks another language model."""

    other: Any
    temperature: float | None = None
    chain: ChainSpec | None = None

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        return (PLAIN, ALONE, Sampler("second", lm=self.other, temperature=self.temperature, chain=self.chain))

    def propose(self, view: Any, learned: Any, rng: Any) -> Sampler:
        plain, alone, second = self.samplers
        if not view.varies:
            return plain
        return second if view.next_index % 3 == 2 else alone


def call(qa: DynScaling) -> list[Any]:
    return [qa(question=question.text) for question in BANK]


def gather(qa: DynScaling) -> list[Any]:
    async def main() -> list[Any]:
        return await asyncio.gather(*(qa.acall(question=question.text) for question in BANK))

    return asyncio.run(main())


def batch(qa: DynScaling) -> list[Any]:
    return qa.batch([{"question": question.text} for question in BANK], num_threads=4, disable_progress_bar=True)


MODES: dict[str, Callable[[DynScaling], list[Any]]] = {"call": call, "gather": gather, "batch": batch}
PROGRAMS = {
    "Predict": lambda: dspy.Predict("question -> answer"),
    "ChainOfThought": lambda: dspy.ChainOfThought("question -> answer"),
    "two predictors": lambda: TwoStages(),
}


class TwoStages(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.Predict("question -> draft")
        self.final = dspy.Predict("question, draft -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.final(question=question, draft=self.draft(question=question).draft)

    async def aforward(self, question: str) -> dspy.Prediction:
        return await self.final.acall(question=question, draft=(await self.draft.acall(question=question)).draft)


def scaled(program: dspy.Module, sampling: Strategy, **caps: Any) -> DynScaling:
    pool = BudgetPool(samples=EACH * len(BANK), policy=Uniform(), **caps).expect(len(BANK))
    return DynScaling(program, pool, sampling=sampling)


def answers(name: str) -> ScriptedModel:
    return ScriptedModel(lambda prompt, number: {"reasoning": "r", "draft": "d", "answer": name})


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("mode", MODES)
def test_a_sampler_asks_its_own_model_and_the_pool_pays_for_both(mode: str, program: str) -> None:
    first, second = answers("first"), answers("second")
    qa = scaled(PROGRAMS[program](), EveryThird(second.lm()), tokens=10**6)
    with dspy.context(lm=first.lm()):
        predictions = MODES[mode](qa)
    each = 2 if program == "two predictors" else 1
    calls, theirs = len(BANK), len(ONES_TURN)
    assert len(second.requests) == each * theirs * calls
    assert len(first.requests) == each * (EACH - theirs) * calls
    for prediction in predictions:
        said = {sample.index: sample.answer for sample in explain(prediction).samples}
        assert said == {i: "second" if i in ONES_TURN else "first" for i in range(EACH)}
        assert prediction.answer == "first"
    requests = each * EACH * calls
    spent = qa.pool.statistics().spent
    assert (spent.samples, spent.requests) == (EACH * calls, requests)
    assert (spent.prompt_tokens, spent.completion_tokens) == (7 * requests, 3 * requests)
    assert qa.pool.statistics().reserved == Cost()


@pytest.mark.parametrize("mode", MODES)
def test_what_is_learned_of_samples_is_kept_apart_by_sampler(mode: str) -> None:
    class Wordy(ScriptedModel):
        def usage(self, request: Any) -> tuple[int, int]:
            return 70, 30

    first, second = answers("first"), Wordy(cycle("second", "", "second"))
    qa = scaled(dspy.Predict("question -> answer"), EveryThird(second.lm()), tokens=10**6)
    with dspy.context(lm=first.lm()):
        MODES[mode](qa)
    records = qa.pool.admission.program(qa).learned.records
    assert set(records) == {"independent", "second"}
    one, other = records["independent"], records["second"]
    assert (one.cost.samples, one.cost.total.tokens) == (4 * len(BANK), 40 * len(BANK))
    assert (other.cost.samples, other.cost.total.tokens) == (2 * len(BANK), 200 * len(BANK))
    assert (one.samples, one.blanks) == (4 * len(BANK), 0)
    assert other.samples == 2 * len(BANK)
    assert other.blanks == sum(number % 3 == 1 for number in range(2 * len(BANK)))
    assert one.need is not None and other.need is not None


@pytest.mark.parametrize("mode", MODES)
def test_a_samplers_temperature_goes_before_the_modules(mode: str) -> None:
    first, second = answers("first"), answers("second")
    qa = scaled(dspy.Predict("question -> answer"), EveryThird(second.lm(), temperature=0.3))
    with dspy.context(lm=first.lm()):
        MODES[mode](qa)
    assert {request.config.temperature for request in first.requests} == {1.0}
    assert {request.config.temperature for request in second.requests} == {0.3}


@pytest.mark.parametrize("mode", MODES)
def test_another_model_can_be_shown_what_the_first_has_said(mode: str) -> None:
    first, second = answers("first"), answers("second")
    sampling = EveryThird(second.lm(), chain=ChainSpec(length=2, repeats=True))

    class OneByOne(EveryThird):
        def room(self, pending: int) -> int:
            return max(0, 1 - pending)

    qa = scaled(dspy.Predict("question -> answer"), OneByOne(sampling.other, chain=sampling.chain))
    with dspy.context(lm=first.lm()):
        predictions = MODES[mode](qa)
    assert len(second.requests) == len(ONES_TURN) * len(BANK)
    assert all("Attempt 2:" in second.text(request) for request in second.requests)
    assert not any("Attempt 1:" in first.text(request) for request in first.requests)
    for prediction in predictions:
        shown = {sample.index: len(sample.shown) for sample in explain(prediction).samples}
        assert shown == {i: 2 if i in ONES_TURN else 0 for i in range(EACH)}


@pytest.mark.parametrize("mode", MODES)
def test_a_predictors_own_model_is_replaced_too(mode: str) -> None:
    first, second, unasked = answers("first"), answers("second"), answers("unasked")
    program = dspy.Predict("question -> answer")
    program.lm = first.lm()
    qa = scaled(program, EveryThird(second.lm()))
    with dspy.context(lm=unasked.lm()):
        MODES[mode](qa)
    assert (len(first.requests), len(second.requests)) == (4 * len(BANK), 2 * len(BANK))
    assert not unasked.requests


@pytest.mark.parametrize("mode", [f"litellm {mode}" for mode in MODES])
def test_samples_for_different_models_share_no_request(mode: str, server: Any) -> None:
    first, second = server(BANK), server(BANK, seed=9)
    qa = scaled(dspy.ChainOfThought("question -> answer"), EveryThird(second.lm("litellm"), temperature=0.4))
    with dspy.context(lm=first.lm("litellm")):
        predictions = MODES[mode.removeprefix("litellm ")](qa)
    assert second.statistics().delivered == 2 * len(BANK)
    assert first.statistics().delivered == 4 * len(BANK)
    assert first.statistics().requests < 4 * len(BANK)  # those of one model still do
    assert {body["temperature"] for body in first.bodies} == {1.0}
    assert {body["temperature"] for body in second.bodies} == {0.4}
    now = qa.pool.statistics()
    assert now.spent.requests == first.statistics().requests + second.statistics().requests
    assert now.spent.prompt_tokens == first.statistics().prompt_tokens + second.statistics().prompt_tokens
    assert now.reserved == Cost()
    assert [len(explain(prediction).samples) for prediction in predictions] == [EACH] * len(BANK)


@dataclass(frozen=True)
class TwoForHardOnes(Strategy):
    """Draws two samples, and further ones only for calls where these differ."""

    @property
    def samplers(self) -> tuple[Sampler, ...]:
        return (PLAIN, ALONE)

    def propose(self, view: Any, learned: Any, rng: Any) -> Sampler | None:
        return ALONE if view.next_index < 2 or view.evidence.rival else None


@pytest.mark.parametrize("policy", ["uniform", "knowledge_gradient", "ucb"])
@pytest.mark.parametrize("mode", MODES)
def test_a_strategy_ends_its_own_calls_and_no_other(mode: str, policy: str) -> None:
    asked: Counter[str] = Counter()

    def reply(prompt: str, number: int) -> dict[str, str]:
        text = next(question.text for question in BANK if question.text in prompt)
        asked[text] += 1
        hard = text in {question.text for question in BANK[::2]}
        return {"answer": str(asked[text] % 2) if hard else "same"}

    model = ScriptedModel(reply)
    pool = BudgetPool(samples=EACH * len(BANK), policy=make_policy(policy)).expect(len(BANK))
    qa = DynScaling(dspy.Predict("question -> answer"), pool, sampling=TwoForHardOnes(), max_samples=9)
    with dspy.context(lm=model.lm()):
        predictions = MODES[mode](qa)
    drawn = [len(explain(prediction).samples) for prediction in predictions]
    assert max(drawn[1::2]) <= 2
    if mode == "batch":
        assert min(drawn[::2]) > 2  # calls that are over leave their budget to the others
    assert pool.statistics().reserved == Cost()


# ---- a greedy first sample


@pytest.mark.parametrize("mode", MODES)
def test_the_first_sample_is_greedy_and_the_others_are_not(mode):
    model = ScriptedModel(cycle("A", "B", "C"))
    qa = DynScaling(
        dspy.ChainOfThought("question -> answer"),
        BudgetPool(samples=9 * len(BANK), policy=Uniform()),
        sampling=Parallel(first="greedy"),
        max_samples=3,
    )
    with dspy.context(lm=model.lm(temperature=0.8)):
        predictions = MODES[mode](qa)
    asked = [request.config.temperature for request in model.requests]
    assert Counter(asked) == {0.0: len(BANK), 0.8: 2 * len(BANK)}
    assert all(len(explain(prediction).samples) == 3 for prediction in predictions)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("own", "used"), [(None, 0.3), (0.8, 0.8)])
def test_samples_of_a_program_that_decides_at_once_are_cooler(mode, own, used):
    model = ScriptedModel(lambda text, number: {"answer": "yes"})
    qa = DynScaling(
        dspy.Predict("question -> answer: Literal['yes', 'no']"),
        BudgetPool(samples=9 * len(BANK), policy=Uniform()),
        max_samples=3,
    )
    with dspy.context(lm=model.lm(temperature=own)):
        predictions = MODES[mode](qa)
    assert [prediction.answer for prediction in predictions] == ["yes"] * len(BANK)
    asked = Counter(request.config.temperature for request in model.requests)
    assert asked == {0.0: len(BANK), used: 2 * len(BANK)}


def test_where_the_greedy_label_cannot_be_read_others_are_drawn():
    model = ScriptedModel(lambda text, number: {"answer": "perhaps" if number == 0 else "yes"})
    qa = DynScaling(
        dspy.Predict("question -> answer: Literal['yes', 'no']"),
        BudgetPool(samples=4, policy=Uniform()),
        sampling=Parallel(first="greedy"),
    )
    with dspy.context(lm=model.lm(), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        assert qa(question="q").answer == "yes"
    assert len(model.requests) > 1


# ---- demos in other orders


@pytest.mark.parametrize("mode", MODES)
def test_the_first_sample_shows_the_demos_as_they_are_and_the_others_in_orders_of_their_own(mode):
    model = ScriptedModel(cycle("yes", "no"))
    program = dspy.Predict("question -> answer: Literal['yes', 'no']")
    program.demos = [dspy.Example(question=f"demo {n}", answer="yes") for n in range(6)]
    qa = DynScaling(
        program,
        BudgetPool(samples=9 * len(BANK), policy=Uniform()),
        sampling=Parallel(first="greedy", demos="permuted"),
        max_samples=3,
    )
    with dspy.context(lm=model.lm()):
        predictions = MODES[mode](qa)
    orders = Counter(tuple(re.findall(r"demo \d", str(request.messages))) for request in model.requests)
    own = tuple(f"demo {n}" for n in range(6))
    # The second sample of every call shows one order, and the third another.
    assert set(orders.values()) == {len(BANK)} and len(orders) == 3 and own in orders
    assert all(sorted(order) == list(own) for order in orders)
    assert [demo.question for demo in program.demos] == list(own)
    assert all(len(explain(prediction).samples) == 3 for prediction in predictions)
