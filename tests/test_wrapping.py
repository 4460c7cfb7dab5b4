from __future__ import annotations

import asyncio
import copy
import types
from typing import Any

import dspy
import pytest

from dynscale_dspy import BudgetPool, Cost, DynScaling, Integrated, Uniform, explain, unscaled, unwrap, wrap
from dynscale_dspy.config import PoolSettings
from tests.support import ScriptedModel, cycle


class Pipeline(dspy.Module):
    def __init__(self):
        super().__init__()
        self.draft = dspy.ChainOfThought("question -> draft")
        self.answer = dspy.Predict("question, draft -> answer")
        self.others = {"short": dspy.Predict("answer -> title"), "list": [dspy.Predict("answer -> tags: list[str]")]}

    def forward(self, question):
        draft = self.draft(question=question).draft
        return self.answer(question=question, draft=draft)

    async def aforward(self, question):
        draft = (await self.draft.acall(question=question)).draft
        return await self.answer.acall(question=question, draft=draft)


NAMES = ["draft.predict", "answer", "others['short']"]


def uniform(samples):
    return BudgetPool(per_call=samples, policy=Uniform())


def reply(prompt, number):
    return {"reasoning": f"thought {number}", "draft": "d", "answer": "ABB"[number % 3]}


def is_scaled(predictor: Any) -> bool:
    return isinstance(getattr(predictor, "scaling", None), DynScaling)


def test_names_identity_and_state_stay():
    program = Pipeline()
    before = program.named_predictors()
    state = program.dump_state()
    assert wrap(program, budget=4) is program
    assert [name for name, _ in before] == NAMES
    assert program.named_predictors() == before
    assert all(is_scaled(predictor) and isinstance(predictor, dspy.Predict) for _, predictor in before)
    saved = program.dump_state()
    assert {name: {**value, "dynscale": saved[name]["dynscale"]} for name, value in state.items()} == saved
    assert unwrap(program) is program
    assert program.named_predictors() == before and program.dump_state() == state
    assert all(type(predictor) is dspy.Predict for _, predictor in before)


def test_predictors_vote_one_by_one():
    model = ScriptedModel(reply)
    pool = uniform(3)
    program = wrap(Pipeline(), budget=pool)
    with dspy.context(lm=model.lm()):
        prediction = program(question="q")
    assert prediction.answer == "B"
    assert sorted(sample.answer for sample in explain(prediction).samples) == ["A", "B", "B"]
    assert len(model.requests) == 6 == pool.statistics().spent.samples
    assert pool.statistics().closed_calls == 2


def test_async_and_sync_alike():
    def run(call):
        model, pool = ScriptedModel(reply), uniform(3)
        with dspy.context(lm=model.lm()):
            prediction = call(wrap(Pipeline(), budget=pool))
        return prediction.toDict(), len(model.requests), pool.statistics()

    assert run(lambda program: program(question="q")) == run(lambda program: asyncio.run(program.acall(question="q")))


def test_only_those_named():
    program = wrap(Pipeline(), budget=4, predictors="answer")
    assert [name for name, predictor in program.named_predictors() if is_scaled(predictor)] == ["answer"]
    wrap(program, budget=4, predictors=["draft.predict", "others['short']"])
    assert [name for name, predictor in program.named_predictors() if is_scaled(predictor)] == NAMES


def test_a_number_is_one_budget_for_all():
    program = wrap(Pipeline(), budget=4, policy=Uniform(), seed=3)
    pools = {id(predictor.scaling.pool) for predictor in program.predictors()}
    assert len(pools) == 1
    assert program.answer.scaling.pool.settings == PoolSettings(per_call=4, policy=Uniform(), seed=3)


def test_the_ambient_pool_pays_where_none_is_given():
    program = wrap(Pipeline())
    with dspy.context(lm=ScriptedModel(reply).lm()), uniform(2) as pool:
        program(question="q")
    assert pool.statistics().spent.samples == 4


def test_a_predictor_alone():
    predictor = dspy.Predict("question -> answer")
    assert wrap(predictor, budget=uniform(3)) is predictor
    with dspy.context(lm=ScriptedModel(cycle("A", "B", "B")).lm()):
        assert predictor(question="q").answer == "B"


def test_predictors_without_an_answer_are_left_alone_unless_named():
    class Thinking(dspy.Module):
        def __init__(self):
            super().__init__()
            self.think = dspy.Predict("question -> reasoning")
            self.answer = dspy.Predict("question, reasoning -> answer")

    program = wrap(Thinking(), budget=4)
    assert not is_scaled(program.think) and is_scaled(program.answer)
    with pytest.raises(ValueError, match="looks like an answer"):
        wrap(Thinking(), budget=4, predictors="think")
    thinking = Thinking()
    del thinking.answer
    with pytest.raises(ValueError, match="nothing to scale"):
        wrap(thinking, budget=4)


def test_agents_vote_on_tools_not_on_thoughts():
    agent = wrap(dspy.ReAct("question -> answer", tools=[]), budget=uniform(3))
    replies = [("hm", "finish"), ("well", "finish"), ("so", "finish")]

    def reply(prompt, number):
        if "next_tool_name" not in prompt:
            return {"reasoning": "r", "answer": "A"}
        thought, tool = replies[number]
        return {"next_thought": thought, "next_tool_name": tool, "next_tool_args": "{}"}

    with dspy.context(lm=ScriptedModel(reply).lm(), trace=[]):
        assert agent(question="q").answer == "A"
        first = dspy.settings.trace[0][2]
    assert explain(first).agreement == 1.0


def test_modules_wrapped_whole_keep_their_predictors():
    program = Pipeline()
    program.draft = DynScaling(program.draft, budget=4)
    wrap(program, budget=4)
    assert not is_scaled(program.draft.module.predict) and is_scaled(program.answer)


def test_frozen_parts_are_scaled_too():
    program = Pipeline()
    program.draft._compiled = True
    wrap(program, budget=4)
    assert is_scaled(program.draft.predict)


def test_nothing_is_changed_by_a_bad_argument():
    program = Pipeline()
    for error, message, arguments in [
        (ValueError, "predictors names 'anser', but this program has", {"predictors": "anser"}),
        (ValueError, "max_samples must be at least 1", {"max_samples": 0}),
        (ValueError, "policy belongs to the pool", {"budget": BudgetPool(5), "policy": Uniform()}),
        (ValueError, "per_call must be a finite number of at least 1", {"budget": 0}),
        (ValueError, "answer names 'answer', which the program does not produce", {"answer": "answer"}),
        (TypeError, r"^wrap\(\) got an unexpected keyword argument 'stategy'$", {"stategy": 1}),
    ]:
        with pytest.raises(error, match=message):
            wrap(program, **{"budget": 4, **arguments})
        assert not any(map(is_scaled, program.predictors()))
    with pytest.raises(TypeError, match="program must be a dspy.Module"):
        wrap("question -> answer", budget=4)
    wrap(program, budget=4)
    with pytest.raises(ValueError, match="'draft.predict' is scaled already"):
        wrap(program, budget=4)


def test_copies_are_scaled_and_share_the_pool():
    program = wrap(Pipeline(), budget=uniform(3))
    for copied in (copy.deepcopy(program), program.deepcopy(), program.reset_copy()):
        for one, other in zip(copied.predictors(), program.predictors(), strict=True):
            assert is_scaled(one) and one is not other
            assert one.scaling is not other.scaling and one.scaling.module is one
            assert one.scaling.pool is other.scaling.pool


def test_a_predictors_own_class_is_kept():
    class Shouting(dspy.Predict):
        def forward(self, **inputs):
            prediction = super().forward(**inputs)
            prediction.answer = prediction.answer + "!"
            return prediction

    predictor = Shouting("question -> answer")
    wrap(predictor, budget=uniform(3))
    assert isinstance(predictor, Shouting) and type(predictor).__name__ == "Shouting"
    with dspy.context(lm=ScriptedModel(cycle("A", "B", "B")).lm()):
        assert predictor(question="q").answer == "B!"
    assert type(unwrap(predictor)) is Shouting


def test_conditioned_samples_inside_a_program():
    model = ScriptedModel(reply)
    program = wrap(Pipeline(), budget=uniform(3), sampling=Integrated(independent=2, width=2, when="always"))
    with dspy.context(lm=model.lm()):
        program(question="q")
    seen = ["[[ ## earlier_attempts ## ]]\nAttempt" in ScriptedModel.text(request) for request in model.requests]
    assert sum(seen) == 2 and len(seen) == 6


def test_a_wrapper_around_a_scaled_predictor_counts_once_at_the_leaf():
    pool = uniform(9)
    model = ScriptedModel(lambda prompt, number: {"answer": "A"})
    predictor = wrap(dspy.Predict("question -> answer"), budget=pool, max_samples=3)
    with dspy.context(lm=model.lm()):
        DynScaling(predictor, budget=pool, max_samples=3)(question="q")
    assert len(model.requests) == 9 == pool.statistics().spent.samples
    assert pool.statistics().reserved == Cost()


# ---- unscaled


def test_unscaled_is_the_plain_program():
    model = ScriptedModel(cycle("A", "B", "B"))
    pool = uniform(3)
    program = DynScaling(dspy.Predict("question -> answer"), budget=pool)
    inside = wrap(Pipeline(), budget=pool)
    with dspy.context(lm=model.lm(temperature=0.0)), unscaled():
        assert program(question="q").answer == "A"
        assert asyncio.run(program.acall(question="q")).answer == "B"
        assert len(program.batch([{"question": "1"}, {"question": "2"}], disable_progress_bar=True)) == 2
        assert len(model.requests) == 4
        results = dspy.Parallel(num_threads=2, disable_progress_bar=True)(
            [(program, dspy.Example(question=str(number)).with_inputs("question")) for number in range(2)]
        )
        assert len(results) == 2 and len(model.requests) == 6  # threads of DSPy's too
        model.reply = reply
        inside(question="q")
        asyncio.run(inside.acall(question="q"))
        assert len(model.requests) == 10
    assert pool.statistics().spent == Cost() and pool.statistics().closed_calls == 0
    with dspy.context(lm=model.lm()):
        program(question="q")
    assert pool.statistics().spent.samples == 3


def test_unscaled_needs_no_budget_and_awaits_programs_without_async():
    class Sync(dspy.Module):
        def __init__(self):
            super().__init__()
            self.predict = dspy.Predict("question -> answer")

        def forward(self, question):
            return self.predict(question=question)

    with dspy.context(lm=ScriptedModel(cycle("A")).lm()), unscaled():
        assert asyncio.run(DynScaling(Sync()).acall(question="q")).answer == "A"


def test_reports_tell_predictors_apart_by_name():
    pool = uniform(2)
    program = wrap(Pipeline(), budget=pool, predictors=["draft.predict", "answer"])
    with dspy.context(lm=ScriptedModel(reply).lm()):
        program(question="q")
    assert list(pool.history.programs) == [
        "draft.predict: Predict(question -> reasoning, draft)",
        "answer: Predict(question, draft -> answer)",
    ]


# ---- methods that others put in the place of a predictor's


def counted(predictor):
    """Replaces `forward` and `aforward` as DSPy's optimizers do, and counts the calls that come by."""
    seen = []
    forward, aforward = (object.__getattribute__(predictor, name) for name in ("forward", "aforward"))

    def patched(self, **kwargs):
        seen.append(kwargs)
        return forward(**kwargs), "patched"

    async def apatched(self, **kwargs):
        seen.append(kwargs)
        return await aforward(**kwargs), "patched"

    predictor.forward = types.MethodType(patched, predictor)
    predictor.aforward = types.MethodType(apatched, predictor)
    return seen


def both_ways(predictor):
    return [predictor(question="q"), asyncio.run(predictor.acall(question="p"))]


@pytest.mark.parametrize("samples", [1, 3])
def test_a_method_put_in_the_place_of_a_predictors_is_called_once_a_call(samples):
    predictor = wrap(dspy.Predict("question -> answer"), uniform(samples))
    original = object.__getattribute__(predictor, "forward")
    seen = counted(predictor)
    with dspy.context(lm=ScriptedModel(cycle("A")).lm(), trace=[]):
        for prediction, word in both_ways(predictor):
            assert prediction.answer == "A" and word == "patched" and len(explain(prediction).samples) == samples
        assert [entry[0] for entry in dspy.settings.trace] == [predictor] * 2
        assert len(seen) == 2
        with unscaled():
            assert [word for _, word in both_ways(predictor)] == ["patched"] * 2
        assert len(seen) == 4
        predictor.forward = original
        del predictor.aforward
        for prediction in both_ways(predictor):
            assert prediction.answer == "A"
        with pytest.raises(AttributeError, match="aforward"):
            del predictor.aforward
    assert len(seen) == 4


@pytest.mark.parametrize("samples", [1, 3])
def test_a_method_set_before_a_predictor_is_scaled_is_what_its_samples_run(samples):
    predictor = dspy.Predict("question -> answer")
    seen = counted(predictor)

    def first(self, **kwargs):
        return forward(**kwargs)[0]

    forward = vars(predictor)["forward"]
    predictor.forward = types.MethodType(first, predictor)
    del predictor.aforward
    wrap(predictor, uniform(samples))
    with dspy.context(lm=ScriptedModel(cycle("A")).lm()):
        assert len(explain(predictor(question="q")).samples) == len(seen) == samples
        with unscaled():
            assert predictor(question="q").answer == "A"
    assert len(seen) == samples + 1


def test_replaced_methods_are_copied_and_stay_when_scaling_goes():
    predictor = wrap(dspy.Predict("question -> answer"), uniform(3))

    def constant(self, **kwargs):
        return dspy.Prediction(answer=self)

    predictor.forward = types.MethodType(constant, predictor)
    twin = copy.deepcopy(predictor)
    assert twin(question="q").answer is twin and predictor(question="q").answer is predictor
    assert unwrap(predictor)(question="q").answer is predictor
    assert type(predictor) is dspy.Predict
