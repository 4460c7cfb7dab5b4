from __future__ import annotations

import asyncio
import copy
import threading
from collections import Counter
from typing import Any, Literal

import cloudpickle
import dspy
import pydantic
import pytest
from dspy.utils import DummyLM
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import AdapterParseError

from dynscale_dspy import (
    UCB,
    BudgetExhausted,
    BudgetPool,
    Cost,
    DynScaling,
    Integrated,
    KnowledgeGradient,
    Parallel,
    Sequential,
    Uniform,
    explain,
    wrap,
)
from tests.support import HAS_ENGINES, ScriptedModel, cycle


def uniform(samples):
    return BudgetPool(per_call=samples, policy=Uniform())


def in_order(*answers):
    """Samples of one call answer in the order of their requests; with one thread that is their own order."""
    return ScriptedModel(cycle(*answers))


class TwoStages(dspy.Module):
    def __init__(self):
        super().__init__()
        self.draft = dspy.ChainOfThought("question -> draft")
        self.answer = dspy.Predict("question, draft -> answer")

    def forward(self, question):
        draft = self.draft(question=question).draft
        return self.answer(question=question, draft=draft)


def two_stage_reply(prompt, number):
    return {"reasoning": "r", "draft": f"draft {number}", "answer": "Paris"}


# ---- answers


def test_the_votes_winner_is_returned_as_the_programs_own_prediction():
    model = in_order("A", "B", "B", "A", "B")
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=uniform(5))
    with dspy.context(lm=model.lm()):
        prediction = qa(question="q")
    assert prediction.answer == "B"
    assert list(prediction.keys()) == ["reasoning", "answer"]
    assert isinstance(prediction, dspy.Prediction)
    assert prediction.toDict() == {"reasoning": prediction.reasoning, "answer": "B"}
    assert len(model.requests) == 5


def test_explain():
    answers = iter(["A", "B", "B", ValueError("down"), "B"])

    def reply(prompt, number):
        # DSPy before 3.4 asks again, for JSON, after any error.
        answer = ValueError("down") if "JSON object" in prompt else next(answers)
        return answer if isinstance(answer, Exception) else {"reasoning": "r", "answer": answer}

    model = ScriptedModel(reply)
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=uniform(5))
    with dspy.context(lm=model.lm()):
        why = explain(qa(question="q"))
    assert [(v.answer, v.independent, v.conditioned) for v in why.votes] == [("B", 3, 0), ("A", 1, 0)]
    assert why.agreement == pytest.approx(3 / 5)  # the failed one is no agreement
    assert why.confidence == pytest.approx(0.66, abs=0.01)  # three of four, and one that may have said either
    assert why.rounds == 1
    calls = len(model.requests)
    assert why.cost == Cost(samples=5, requests=calls, prompt_tokens=28, completion_tokens=12)
    failed = [sample for sample in why.samples if sample.problem]
    assert [sample.problem for sample in failed] == ["failed"] and "down" in str(failed[0].error)
    told = str(why).splitlines()
    assert len(told) == 10 == 5 + len(why.samples)
    # The samples ask side by side: any of them may be the one that meets the failure.
    for sample, line in zip(why.samples, told[5:], strict=True):
        assert line.startswith(f"  #{sample.index} ")
        assert ("no vote: failed" if sample.problem else "(round 0; 1 request, 10 tokens)") in line
    assert told[:5] == [
        "5 samples in 1 round, 2 answers, 60% agree, confidence 0.66",
        "    3  B",
        "    1  A",
        "    1  cast no vote: failed",
        f"  cost: {calls} requests, 40 tokens",
    ]


def test_explaining_something_else():
    with pytest.raises(ValueError, match="there are no votes in this Prediction"):
        explain(dspy.Prediction(answer="A"))


def test_unanimous_calls_stop_early_and_contested_ones_go_on():
    model = ScriptedModel(lambda prompt, n: {"answer": "A" if "easy" in prompt else "ABCD"[n % 4]})
    pool = BudgetPool(samples=40).expect(4)
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=model.lm()):
        easy = [len(explain(qa(question=f"easy {i}")).samples) for i in range(3)]
        hard = len(explain(qa(question="hard")).samples)
    assert max(easy) < hard


def test_async_decides_as_sync_does():
    def run(call):
        model = ScriptedModel(lambda prompt, n: {"answer": "AB"[n % 2]})
        pool = BudgetPool(per_call=6)
        # One sample at a time, so that requests come in the same order however they are driven.
        qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, sampling=Sequential())
        with dspy.context(lm=model.lm()):
            predictions = call(qa)
        texts = [[m.parts[0].text for m in request.messages] for request in model.requests]
        return [p.answer for p in predictions], texts, pool.statistics()

    async def several(qa):
        return [await qa.acall(question=f"q{i}") for i in range(5)]

    sync = run(lambda qa: [qa(question=f"q{i}") for i in range(5)])
    assert sync == run(lambda qa: asyncio.run(several(qa)))


class Color(pydantic.BaseModel):
    name: str
    red: int


@pytest.mark.parametrize(
    ("signature", "replies", "expected"),
    [
        ("q -> yes: bool", [{"yes": "True"}, {"yes": "False"}, {"yes": "False"}], {"yes": False}),
        ("q -> n: int", [{"n": "5"}, {"n": "-5"}, {"n": "-5"}], {"n": -5}),
        ("q -> tags: list[str]", [{"tags": '["a"]'}, {"tags": '["b"]'}, {"tags": '["b"]'}], {"tags": ["b"]}),
        ("q -> kind: Literal['x', 'y']", [{"kind": "x"}, {"kind": "y"}, {"kind": "y"}], {"kind": "y"}),
    ],
)
def test_typed_answers(signature, replies, expected):
    model = ScriptedModel(lambda prompt, n: replies[n])
    program = DynScaling(dspy.Predict(signature), budget=uniform(3))
    with dspy.context(lm=model.lm()):
        assert program(q="?").toDict() == expected


def test_pydantic_answers():
    class Paint(dspy.Signature):
        q: str = dspy.InputField()
        color: Color = dspy.OutputField()

    replies = ['{"name": "Dark", "red": 9}', '{"name": "dark", "red": 9}', '{"red": 9, "name": "dark"}']
    model = ScriptedModel(lambda prompt, n: {"color": replies[n]})
    with dspy.context(lm=model.lm()):
        prediction = DynScaling(dspy.Predict(Paint), budget=uniform(3))(q="?")
    assert prediction.color.name == "dark" and prediction.color.red == 9
    [votes] = explain(prediction).votes
    assert votes.versions == 2  # text inside a value is compared exactly, and they are much alike


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()], ids=type)
@pytest.mark.parametrize(
    ("kind", "made_up"), [(int | None, 17), (bool | None, True), (Literal["a", None], "a"), (str | None, "A-17")]
)
def test_none_wins_where_most_samples_find_nothing(kind, made_up, adapter):
    signature = dspy.Signature({"text": (str, dspy.InputField()), "found": (kind, dspy.OutputField())})
    none = None if isinstance(adapter, dspy.JSONAdapter) else "null"
    if none and not HAS_ENGINES and kind == Literal["a", None]:
        pytest.skip("before DSPy 3.4 a null in text is none of the values of a Literal")
    lm = DummyLM([{"found": made_up}] + [{"found": none}] * 3, adapter=adapter)
    program = DynScaling(dspy.Predict(signature), budget=uniform(4), temperature=1.0)
    with dspy.context(lm=lm, adapter=adapter):
        prediction = program(text="?")
    assert prediction.found in (None, "null")  # DSPy leaves null as it is in an optional text
    made = explain(prediction)
    assert made.agreement == 3 / 4 and made.votes[0].answer is None and made.attributes["vote"] == "None"
    assert "  3  None" in str(made) and ">None<" in made._repr_html_()


@pytest.mark.parametrize(
    ("adapter", "found", "nothing"),
    [
        (dspy.ChatAdapter(), "[[ ## found ## ]]\n17", "Sorry, nothing was found."),
        (dspy.JSONAdapter(), '{"found": 17}', "{}"),
        (dspy.XMLAdapter(), "<found>17</found>", "<other>1</other>"),
    ],
    ids=["chat", "json", "xml"],
)
def test_a_field_that_a_model_leaves_out_is_no_vote_for_none(adapter, found, nothing):
    model = ScriptedModel(lambda prompt, n: nothing if n else found)
    program = DynScaling(dspy.Predict("text -> found: int | None"), budget=uniform(4))
    with dspy.context(lm=model.lm(), adapter=adapter):
        prediction = program(text="?")
    assert prediction.found == 17 and explain(prediction).agreement == 1 / 4
    # Before DSPy 3.3 such a reply cannot be read.
    problem = "no answer" if hasattr(dspy, "is_retryable_lm_error") else "failed"
    assert [sample.problem for sample in explain(prediction).samples].count(problem) == 3


def test_the_label_wins_whatever_confidence_and_explanation_are_beside_it():
    replies = [{"label": label, "confidence": f"0.{n}", "explanation": f"since {n}"} for n, label in enumerate("babaa")]
    model = ScriptedModel(lambda prompt, n: replies[n])
    program = DynScaling(dspy.Predict("q -> label, confidence: float, explanation"), budget=uniform(5))
    assert repr(program).endswith(", answer=['label'])")
    with dspy.context(lm=model.lm()):
        prediction = program(q="?")
    assert prediction.label == "a" and prediction.explanation.startswith("since ")
    assert explain(prediction).agreement == 3 / 5


def test_the_answer_can_be_named_or_computed():
    model = ScriptedModel(lambda prompt, n: {"label": "aab"[n], "note": f"note {n}"})
    for answer in ("label", ["label"], lambda prediction: prediction.label):
        model.requests.clear()
        program = DynScaling(dspy.Predict("q -> label, note"), budget=uniform(3), answer=answer)
        with dspy.context(lm=model.lm()):
            prediction = program(q="?")
        assert prediction.label == "a"
        assert explain(prediction).agreement == pytest.approx(2 / 3)


def test_truncated_samples_cast_no_vote_and_still_cost():
    model = ScriptedModel(cycle("A"), finish_reason="length")
    qa = DynScaling(dspy.Predict("question -> answer"), budget=uniform(2))
    with dspy.context(lm=model.lm()):
        why = explain(qa(question="q"))
    assert [sample.problem for sample in why.samples] == ["truncated", "truncated"]
    assert why.votes == () and why.cost.samples == 2


def test_an_agent_with_tools():
    def reply(prompt, n):
        if "next_tool_name" in prompt and "observation_0" not in prompt:
            return {"next_thought": "look", "next_tool_name": "search", "next_tool_args": '{"query": "x"}'}
        if "next_tool_name" in prompt:
            return {"next_thought": "done", "next_tool_name": "finish", "next_tool_args": "{}"}
        return {"reasoning": "r", "answer": "42"}

    def search(query: str) -> str:
        """Search."""
        return "the answer is 42"

    model = ScriptedModel(reply)
    agent = DynScaling(dspy.ReAct("question -> answer", tools=[search]), budget=uniform(3), sampling=Integrated())
    with dspy.context(lm=model.lm()):
        prediction = agent(question="q")
    assert prediction.answer == "42"
    assert explain(prediction).cost == Cost(samples=3, requests=9, prompt_tokens=63, completion_tokens=27)


# ---- nothing is spent on what cannot work


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: DynScaling("question -> answer", budget=4), TypeError, "module must be a dspy.Module"),
        (lambda m: DynScaling(m, budget=0), ValueError, "budget must be at least 1 sample a call, got 0"),
        (lambda m: DynScaling(m, budget=-3), ValueError, "budget must be at least 1 sample a call, got -3"),
        (lambda m: DynScaling(m, budget="8"), TypeError, "budget must be a number of samples a call.*got '8'"),
        (lambda m: DynScaling(m, budget=True), TypeError, "budget must be a number of samples a call.*got True"),
        (lambda m: DynScaling(m, budget=float("nan")), ValueError, "budget must be at least 1 sample a call"),
        (lambda m: DynScaling(m, budget=float("inf")), ValueError, "budget must be a finite number of samples a call"),
        (lambda m: DynScaling(m, budget=4, answer="anwser"), ValueError, "answer names 'anwser'"),
        (lambda m: DynScaling(m, budget=4, max_samples=0), ValueError, "max_samples must be at least 1, got 0"),
        (lambda m: DynScaling(m, budget=4, max_samples=2.0), TypeError, "max_samples must be an integer, got 2.0"),
        (lambda m: DynScaling(m, budget=4, temperature=-1), ValueError, "temperature must be at least 0, got -1"),
        (lambda m: DynScaling(m, budget=4, temperature="hot"), TypeError, "temperature must be a number, got 'hot'"),
        (lambda m: DynScaling(m, budget=4, sampling="parallel"), TypeError, "sampling must be Parallel"),
        (lambda m: DynScaling(m, budget=BudgetPool(8), policy=UCB()), ValueError, "policy belongs to the pool"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make(dspy.Predict("question -> answer"))


def refused(program, error, message, model=None):
    with dspy.context(lm=model.lm() if model else None):
        with pytest.raises(error, match=message):
            program(question="q")
        with pytest.raises(error, match=message):
            asyncio.run(program.acall(question="q"))
        with pytest.raises(error, match=message):
            program.batch([{"question": "q"}], disable_progress_bar=True)
    if model:
        assert model.requests == []


def test_no_language_model():
    program = DynScaling(dspy.ChainOfThought("question -> answer"), budget=4)
    refused(program, ValueError, "No LM is loaded")
    assert program.pool.statistics().spent == Cost()


def test_no_language_model_in_a_program_that_might_have_chosen_one():
    program = DynScaling(TwoStages(), budget=4)
    with pytest.raises(ValueError, match="No LM is loaded"):
        program(question="q")
    with pytest.raises(ValueError, match="No LM is loaded"):
        asyncio.run(program.acall(question="q"))
    batch = program.batch([{"question": "q"}], disable_progress_bar=True, return_failed_examples=True)
    assert batch[0] == [None] and "No LM is loaded" in str(batch[2][0])
    assert program.pool.statistics().spent.requests == 0


class Chooser(dspy.Module):
    """Picks its language model as it runs."""

    def __init__(self, lm):
        super().__init__()
        self.answer = dspy.Predict("question -> answer")
        self.chosen = {"lm": lm}

    def forward(self, question):
        with dspy.context(lm=self.chosen["lm"]):
            return self.answer(question=question)

    async def aforward(self, question):
        with dspy.context(lm=self.chosen["lm"]):
            return await self.answer.acall(question=question)


class Setter(dspy.Module):
    """Gives its predictor a language model as it runs."""

    def __init__(self, lm):
        super().__init__()
        self.answer = dspy.Predict("question -> answer")
        self.chosen = {"lm": lm}

    def forward(self, question):
        return self.answer(question=question, lm=self.chosen["lm"])

    async def aforward(self, question):
        return await self.answer.acall(question=question, lm=self.chosen["lm"])


@pytest.mark.parametrize("outside", [None, 0.0, 0.5])
@pytest.mark.parametrize("program", [Chooser, Setter])
def test_a_program_chooses_its_language_model_whatever_is_configured(program, outside):
    model, other = in_order("A"), in_order("B")
    with dspy.context(lm=None if outside is None else other.lm(temperature=outside)):
        scaled = DynScaling(program(model.lm(temperature=1.0)), budget=uniform(3), sampling=Parallel())
        assert scaled(question="1").answer == asyncio.run(scaled.acall(question="2")).answer == "A"
        assert scaled.batch([{"question": "3"}], disable_progress_bar=True)[0].answer == "A"
    assert len(model.requests) == 9 and other.requests == []


def test_no_budget():
    refused(DynScaling(dspy.Predict("question -> answer")), ValueError, "this module has no budget", in_order("A"))


def test_temperature_zero_asked_for_with_more_than_one_sample():
    refused(
        DynScaling(dspy.Predict("question -> answer"), budget=4, temperature=0.0),
        ValueError,
        "temperature is 0, so every sample would be the same: pass",
        in_order("A"),
    )


@pytest.mark.parametrize("own", ["language model", "predictor"])
def test_at_temperature_zero_the_first_sample_is_the_program_as_it_is_and_the_others_differ(own):
    of_model, of_predictor = (0.0, {}) if own == "language model" else (None, {"temperature": 0.0})
    for samples, asked, used in [(1, None, [0.0]), (3, None, [0.0, 1.0, 1.0]), (2, 0.7, [0.7, 0.7])]:
        model = in_order("A")
        program = dspy.Predict("question -> answer", **of_predictor)
        with dspy.context(lm=model.lm(temperature=of_model)):
            DynScaling(program, uniform(samples), sampling=Parallel(), temperature=asked)(question="q")
        assert sorted(request.config.temperature for request in model.requests) == used


def test_a_pool_exhausted_before_the_first_sample():
    model = in_order("A")
    pool = BudgetPool(samples=1)
    program = DynScaling(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=model.lm()):
        program(question="1")
        with pytest.raises(BudgetExhausted, match="nothing is left for a first sample"):
            program(question="2")
        with pytest.raises(BudgetExhausted, match="nothing is left for a first sample"):
            asyncio.run(program.acall(question="2"))
        with pytest.raises(BudgetExhausted, match="0 samples are left, which cannot give each of the 2 calls one"):
            program.batch([{"question": "2"}, {"question": "3"}], disable_progress_bar=True)
    assert len(model.requests) == 1


# ---- distinct samples


def settings_of(request):
    return request.config.temperature, request.config.seed


def test_the_language_models_temperature_is_kept_and_set_where_it_has_none():
    for own, asked, used in [(None, None, 1.0), (0.3, None, 0.3), (0.3, 0.9, 0.9)]:
        model = in_order("A")
        program = DynScaling(dspy.Predict("question -> answer"), budget=uniform(2), temperature=asked)
        with dspy.context(lm=model.lm(temperature=own)):
            program(question="q")
        assert {request.config.temperature for request in model.requests} == {0.0, used}  # the first one is greedy


def test_a_fixed_seed_is_offset_by_the_samples_index():
    model = in_order("A")
    with dspy.context(lm=model.lm(seed=7, temperature=1.0)):
        DynScaling(dspy.Predict("question -> answer"), budget=uniform(4))(question="q")
    assert sorted(request.config.seed for request in model.requests) == [7, 8, 9, 10]


def test_samples_are_distinct_in_dspys_cache_and_reproducible_from_it():
    model = in_order("A", "B", "C", "D", "E", "F", "G", "H")
    qa = DynScaling(dspy.Predict("question -> answer"), budget=uniform(4))
    with dspy.context(lm=model.lm(cache=True)):
        first = explain(qa(question="q"))
        assert len(model.requests) == 4
        again = explain(qa(question="q"))
    assert len(model.requests) == 4
    assert [s.answer for s in again.samples] == [s.answer for s in first.samples]
    assert again.cost == Cost(samples=4, requests=4, cached_requests=4)  # from the cache: counted, not billed


@pytest.mark.parametrize(("own", "sampling"), [(0.0, Integrated()), (1.0, Parallel()), (1.0, Integrated(first="own"))])
def test_the_first_sample_is_the_plain_programs_own_run(own, sampling):
    model = in_order("A", "B")
    plain = dspy.Predict("question -> answer")
    with dspy.context(lm=model.lm(cache=True, temperature=own)):
        plain(question="q")
        DynScaling(plain, budget=uniform(2), sampling=sampling)(question="q")
    assert len(model.requests) == 2


def test_nested_samplers_never_share_a_sample():
    model = ScriptedModel(lambda prompt, n: {"answer": str(n)})
    inner = DynScaling(dspy.Predict("question -> answer"), budget=uniform(3))

    class Outer(dspy.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, question):
            return self.inner(question=question)

    with dspy.context(lm=model.lm(cache=True)):
        DynScaling(Outer(), budget=uniform(3))(question="q")
    assert len(model.requests) == 9  # nothing came from the cache


# ---- chains


def test_conditioned_samples_see_the_chain_and_independent_ones_do_not():
    model = in_order("A", "B", "C", "C", "C", "C")
    pool = BudgetPool(per_call=6, policy=KnowledgeGradient(first=2))
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool, sampling=Integrated(when="close"))
    with dspy.context(lm=model.lm()):
        why = explain(qa(question="q"))
    prompts = [ScriptedModel.text(request) for request in model.requests]
    seen = ["earlier_attempts" in prompt for prompt in prompts]
    assert seen[:2] == [False, False] and all(seen[2:]) and len(seen) > 2
    assert "Earlier attempts at this question; they may be wrong. Check them, then answer." in prompts[2]
    for answer in ("A", "B"):
        assert f"answer: {answer}" in prompts[2]
    assert sum(v.conditioned for v in why.votes) == sum(seen)
    assert why.samples[2].shown in {(0, 1), (1, 0)}


def test_demos_keep_their_form_beside_a_chain():
    model = in_order("A", "B", "B")
    program = dspy.Predict("question -> answer")
    program.demos = [dspy.Example(question="1+1", answer="2")]
    with dspy.context(lm=model.lm()):
        DynScaling(program, budget=uniform(3), sampling=Sequential())(question="q")
    text = ScriptedModel.text(model.requests[-1])
    assert "some input or output fields are not supplied" not in text
    assert "[[ ## earlier_attempts ## ]]\nN/A" in text
    assert program.demos == [dspy.Example(question="1+1", answer="2")]


def test_a_field_of_the_same_name_is_not_overwritten():
    model = in_order("A", "B")
    program = DynScaling(dspy.Predict("earlier_attempts -> answer"), budget=uniform(2), sampling=Sequential())
    with dspy.context(lm=model.lm()):
        program(earlier_attempts="mine")
    text = ScriptedModel.text(model.requests[-1])
    assert "[[ ## earlier_attempts ## ]]\nmine" in text
    assert "[[ ## earlier_attempts_ ## ]]\nAttempt 1:" in text


def test_every_stage_of_a_program_is_conditioned_or_only_the_last():
    for predictors, expected in [("all", 2), ("last", 1)]:
        model = ScriptedModel(two_stage_reply)
        program = DynScaling(TwoStages(), budget=uniform(2), sampling=Sequential(predictors=predictors))
        with dspy.context(lm=model.lm()):
            program(question="q")
        conditioned = ["[[ ## earlier_attempts ## ]]\nAttempt" in ScriptedModel.text(r) for r in model.requests]
        assert sum(conditioned) == expected
        assert conditioned[-1]


# ---- DSPy does not notice


def parameters_of(program):
    """A state without the scaling settings that stand beside it."""
    return {name: value for name, value in program.dump_state().items() if name != "dynscale"}


def test_parameters_and_state_are_the_programs_own(tmp_path):
    for make in (TwoStages, lambda: dspy.ChainOfThought("question -> answer"), lambda: dspy.Predict("a -> b")):
        plain, wrapped = make(), DynScaling(make(), budget=4)
        assert [name for name, _ in wrapped.named_parameters()] == [name for name, _ in plain.named_parameters()]
        assert parameters_of(wrapped) == plain.dump_state()
        for predictor in plain.predictors():
            predictor.demos = [dspy.Example(question="q", draft="d", answer="a")]
        plain.save(tmp_path / "plain.json")
        wrapped.load(tmp_path / "plain.json")
        assert parameters_of(wrapped) == plain.dump_state()
        wrapped.save(tmp_path / "wrapped.json")
        fresh = make()
        fresh.load(tmp_path / "wrapped.json")
        assert fresh.dump_state() == plain.dump_state()


def test_nested_state_loads_both_ways(tmp_path):
    class Outer(dspy.Module):
        def __init__(self, wrap):
            super().__init__()
            self.inner = wrap(dspy.ChainOfThought("question -> answer"))
            self.stages = wrap(TwoStages())

    plain, wrapped = Outer(lambda m: m), Outer(lambda m: DynScaling(m, budget=4))
    plain.inner.predict.demos = [dspy.Example(question="q", answer="a")]
    plain.save(tmp_path / "plain.json")
    wrapped.load(tmp_path / "plain.json")
    assert wrapped.dump_state() == plain.dump_state()
    wrapped.save(tmp_path / "wrapped.json")
    fresh = Outer(lambda m: m)
    fresh.load(tmp_path / "wrapped.json")
    assert fresh.dump_state() == plain.dump_state()


def test_what_was_learned_of_samples_is_saved_with_the_settings(tmp_path):
    """It is true of the program in the next process too, whatever pool pays there."""
    qa = DynScaling(dspy.Predict("question -> answer"), budget=BudgetPool(samples=100))
    assert "learned" not in qa.dump_state()["dynscale"]
    learned = qa.pool.admission.program(qa).learned
    for _ in range(9):
        learned.trust.tell(agree=True, shown=2)
        learned.peers.tell_second("dear", repeats=False)
        learned.peers.tell_pair("cheap", agree=True)
    qa.save(tmp_path / "qa.json")
    later = DynScaling(dspy.Predict("question -> answer"), budget=BudgetPool(samples=100))
    later.load(tmp_path / "qa.json")
    known = later.pool.admission.program(later).learned
    assert known.trust.earned and not known.peers.stands("dear") and known.peers.pairs("cheap") == 9
    assert later.dump_state() == qa.dump_state()
    unpaid = DynScaling(dspy.Predict("question -> answer"))
    unpaid.load(tmp_path / "qa.json")  # there is no pool yet that could know
    assert "learned" not in unpaid.dump_state()["dynscale"]


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda qa: qa.deepcopy(),
        lambda qa: qa.reset_copy(),
        lambda qa: cloudpickle.loads(cloudpickle.dumps(qa)),
    ],
)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.filterwarnings("ignore:a BudgetPool in memory is")
def test_a_copy_begins_with_what_was_learned_and_learns_for_itself(copied, in_place):
    """Optimizers copy a program for each candidate, and Ray sends one to each worker."""
    pool = BudgetPool(samples=100)
    predictor = dspy.Predict("question -> answer")
    qa = wrap(predictor, budget=pool) if in_place else DynScaling(predictor, budget=pool)

    def learned(program):
        scaling = program.scaling if in_place else program
        return scaling.pool.admission.program(scaling).learned

    def trust(program):
        return learned(program).trust

    for _ in range(9):
        trust(qa).tell(agree=True, shown=2)
        learned(qa).peers.tell_second("dear", repeats=False)
    other = copied(qa)
    assert not learned(other).peers.stands("dear") and learned(other).peers is not learned(qa).peers
    assert trust(other).earned and trust(other) is not trust(qa)
    assert "_learned" not in vars(other)
    for _ in range(30):
        trust(other).tell(agree=False, shown=2)
    assert not trust(other).earned and trust(qa).earned
    ambient = DynScaling(dspy.Predict("question -> answer"))
    assert copied(ambient).budget_source is None  # nobody has learned anything


def test_state_saved_around_another_wrapper_loads(tmp_path):
    best = dspy.BestOfN(dspy.ChainOfThought("question -> answer"), N=2, reward_fn=lambda a, p: 1.0, threshold=1.0)
    best.module.predict.demos = [dspy.Example(question="q", answer="a")]
    best.save(tmp_path / "best.json")
    wrapped = DynScaling(dspy.ChainOfThought("question -> answer"), budget=4)
    wrapped.load(tmp_path / "best.json")
    assert len(wrapped.module.predict.demos) == 1


def test_whole_programs_are_saved_with_their_wrapper(tmp_path):
    program = DynScaling(dspy.ChainOfThought("question -> answer"), budget=5, sampling=Integrated(length=3))
    program.save(tmp_path / "program", save_program=True)
    loaded = dspy.load(tmp_path / "program", allow_pickle=True)
    assert loaded.sampling == Integrated(length=3)
    with dspy.context(lm=in_order("A").lm()):
        assert loaded(question="q").answer == "A"


def test_deep_copies_share_the_pool():
    program = DynScaling(TwoStages(), budget=4)
    for copied in (copy.deepcopy(program), program.deepcopy(), program.reset_copy()):
        assert copied.pool is program.pool
        assert copied.module is not program.module


def test_a_compiled_program_stays_frozen_inside_an_outer_one():
    program = dspy.ChainOfThought("question -> answer")
    program._compiled = True
    outer = dspy.Module()
    outer.inner = DynScaling(program, budget=4)
    assert outer.named_parameters() == []
    assert [name for name, _ in outer.inner.named_parameters()] == ["predict"]


def test_predictors_can_be_replaced():
    program = DynScaling(dspy.ChainOfThought("question -> answer"), budget=4)
    program.map_named_predictors(lambda predictor: dspy.Predict("question -> answer"))
    assert list(program.module.predict.signature.output_fields) == ["answer"]
    bare = DynScaling(dspy.Predict("question -> answer"), budget=4)
    bare.map_named_predictors(lambda predictor: dspy.Predict("question -> other"))
    assert list(bare.module.signature.output_fields) == ["other"]


def modules_in(program):
    return dict(program.named_sub_modules())


def test_a_module_that_answers_instead_is_found_by_dspy():
    strong, other = dspy.ChainOfThought("question -> answer"), dspy.Predict("question -> answer")
    qa = DynScaling(dspy.Predict("question -> answer"), budget=2, min_confidence=0.9, on_low=strong)
    outer = Outer(qa)
    assert modules_in(qa)["self.on_low"] is modules_in(outer)["self.qa.on_low"] is strong
    assert modules_in(qa)["self.on_low.predict"] is strong.predict
    assert [name for name, _ in outer.named_parameters()] == ["qa"]  # it is not trained with the program
    qa.on_low = other
    assert modules_in(qa)["self.on_low"] is qa.on_low is other
    for anything_else in ("raise", print):
        qa.on_low = anything_else
        assert "self.on_low" not in modules_in(qa) and qa.on_low == anything_else


class Outer(dspy.Module):
    def __init__(self, qa):
        super().__init__()
        self.qa = qa


@pytest.mark.parametrize("cannot_be_copied", [False, True])
def test_copies_of_a_module_that_answers_instead_are_one(cannot_be_copied):
    qa = DynScaling(
        dspy.Predict("question -> answer"), budget=2, min_confidence=0.9, on_low=dspy.Predict("question -> answer")
    )
    if cannot_be_copied:  # DSPy then copies the attributes one by one
        qa.module.lock = threading.Lock()
    copied = qa.deepcopy()
    assert modules_in(copied)["self.on_low"] is copied.on_low is copied.scaling_settings.on_low
    assert copied.on_low is not qa.on_low and copied.scaling_settings.min_confidence == 0.9


def test_the_programs_attributes_are_reachable():
    program = DynScaling(dspy.ChainOfThought("question -> answer"), budget=4)
    assert program.predict is program.module.predict
    with pytest.raises(AttributeError):
        program.nonsense


@pytest.mark.parametrize("sampling", [Parallel(), Integrated(when="always"), Sequential()])
def test_bootstrapping_collects_demos_without_any_chain(sampling):
    model = ScriptedModel(two_stage_reply)
    trainset = [dspy.Example(question=f"q{i}", answer="Paris").with_inputs("question") for i in range(4)]
    program = DynScaling(TwoStages(), budget=uniform(3), sampling=sampling)
    optimizer = dspy.BootstrapFewShot(metric=lambda e, p, trace=None: e.answer == p.answer, max_bootstrapped_demos=2)
    with dspy.context(lm=model.lm()):
        compiled = optimizer.compile(program, trainset=trainset)
    for predictor in compiled.predictors():
        bootstrapped = [demo for demo in predictor.demos if demo.get("augmented")]
        assert len(bootstrapped) == 2
        for demo in predictor.demos:
            assert "earlier_attempts" not in demo.keys()  # noqa: SIM118
    assert compiled.pool is program.pool


def test_traces_are_the_winners_and_may_be_off():
    model = in_order("A", "B", "B")
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=uniform(3))
    with dspy.context(lm=model.lm(), trace=[]):
        prediction = qa(question="q")
        trace = dspy.settings.trace
    assert [(p, dict(i), o) for p, i, o in trace] == [(qa.module.predict, {"question": "q"}, prediction)]
    with dspy.context(lm=model.lm(), trace=None):
        assert qa(question="q").answer


def test_usage_is_that_of_all_samples():
    qa = DynScaling(dspy.Predict("question -> answer"), budget=uniform(3))
    with dspy.context(lm=in_order("A").lm(), track_usage=True):
        single = qa(question="q")
        [batched] = qa.batch([{"question": "p"}], disable_progress_bar=True)
    for prediction in (single, batched):
        assert prediction.get_lm_usage()["scripted/model"]["total_tokens"] == 30
        assert explain(prediction).cost.tokens == 30


def test_callbacks_fire_once_a_call_with_the_right_parents():
    class Tree(BaseCallback):
        def __init__(self):
            self.parents = {}
            self.names = {}
            self.lock = threading.Lock()

        def note(self, call_id, name):
            from dspy.utils.callback import ACTIVE_CALL_ID

            with self.lock:
                self.parents[call_id] = ACTIVE_CALL_ID.get()
                self.names[call_id] = name

        def on_module_start(self, call_id, instance, inputs):
            self.note(call_id, type(instance).__name__)

        def on_lm_start(self, call_id, instance, inputs):
            self.note(call_id, "LM")

    tree = Tree()
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=uniform(4))
    with dspy.context(lm=in_order("A").lm(), callbacks=[tree]):
        qa(question="q")
    edges = [(tree.names.get(tree.parents[i]), name) for i, name in tree.names.items()]
    assert sorted(edges, key=str) == sorted(
        [(None, "DynScaling")]
        + [("DynScaling", "ChainOfThought")] * 4
        + [("ChainOfThought", "Predict")] * 4
        + [("Predict", "LM")] * 4,
        key=str,
    )


def test_history_shows_every_sample():
    model = in_order("A")
    lm = model.lm()
    qa = DynScaling(dspy.Predict("question -> answer"), budget=uniform(3))
    with dspy.context(lm=lm):
        qa(question="q")
    assert len(lm.history) == len(qa.history) == len(qa.module.history) == 3


def test_streaming_yields_the_final_prediction():
    qa = DynScaling(dspy.Predict("question -> answer"), budget=uniform(3))

    async def stream():
        with dspy.context(lm=in_order("A", "B", "B").lm()):
            return [chunk async for chunk in dspy.streamify(qa)(question="q")]

    chunks = asyncio.run(stream())
    assert [type(chunk) for chunk in chunks] == [dspy.Prediction]
    assert chunks[0].answer in "AB"


def test_a_program_without_async_runs_in_threads_when_awaited():
    model = in_order("A")
    program = DynScaling(TwoStages(), budget=uniform(3))
    model.reply = two_stage_reply
    assert not hasattr(program.module, "aforward")

    async def ask():
        with dspy.context(lm=model.lm()):
            return await program.acall(question="q")

    assert asyncio.run(ask()).answer == "Paris"
    assert len(model.requests) == 6


def test_a_program_with_several_language_models():
    one, other = ScriptedModel(two_stage_reply), ScriptedModel(two_stage_reply)
    program = TwoStages()
    program.draft.set_lm(one.lm())
    program.answer.set_lm(other.lm(temperature=0.4))
    assert DynScaling(program, budget=uniform(3))(question="q").answer == "Paris"
    assert Counter(r.config.temperature for r in one.requests) == {0.0: 1, 1.0: 2}
    assert Counter(r.config.temperature for r in other.requests) == {0.0: 1, 0.4: 2}
    assert len(one.requests) == len(other.requests) == 3


def test_a_program_that_calls_a_language_model_itself_is_metered():
    class Direct(dspy.Module):
        def forward(self, question):
            return dspy.Prediction(answer=dspy.settings.lm(question)[0])

    model = ScriptedModel(lambda prompt, n: "plain text")
    pool = BudgetPool(requests=2, per_call=5, policy=Uniform())
    with dspy.context(lm=model.lm()):
        prediction = DynScaling(Direct(), budget=pool)(question="q")
    assert prediction.answer == "plain text"
    assert len(model.requests) == 2 == pool.statistics().spent.requests


def test_a_wrapper_works_inside_other_modules():
    model = ScriptedModel(lambda prompt, n: {"reasoning": "r", "answer": "A"})
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=uniform(2))
    best = dspy.BestOfN(qa, N=2, reward_fn=lambda args, prediction: 0.0, threshold=1.0)
    with dspy.context(lm=model.lm()):
        assert best(question="q").answer == "A"
        results = dspy.Parallel(num_threads=4, disable_progress_bar=True)(
            [(qa, {"question": str(i)}) for i in range(4)]
        )
    assert [result.answer for result in results] == ["A"] * 4


# ---- budgets


def test_an_adapters_fallback_is_a_call_too():
    model = ScriptedModel(lambda prompt, n: "no fields here")
    pool = BudgetPool(requests=4, per_call=3, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool)
    with dspy.context(lm=model.lm()):
        with pytest.raises(AdapterParseError):
            qa(question="q")
    assert len(model.requests) == 4 == pool.statistics().spent.requests
    assert pool.statistics().spent.samples == 2  # two calls each, so a third sample was not let in
    assert pool.statistics().reserved == Cost()


def test_a_sample_that_needs_more_calls_than_are_left_is_cut_off_and_casts_no_vote():
    class Growing(dspy.Module):
        def __init__(self):
            super().__init__()
            self.predict = dspy.Predict("question -> answer")
            self.runs = 0

        def forward(self, question):
            self.runs += 1
            for _ in range(self.runs):
                prediction = self.predict(question=question)
            return prediction

    model = in_order("A")
    pool = BudgetPool(requests=5, per_call=3, policy=Uniform())
    with dspy.context(lm=model.lm()):
        prediction = DynScaling(Growing(), budget=pool, sampling=Sequential())(question="q")
    why = explain(prediction)
    assert [(sample.problem, sample.cost.requests) for sample in why.samples] == [("", 1), ("", 2), ("failed", 2)]
    assert isinstance(why.samples[2].error, BudgetExhausted)
    assert len(model.requests) == 5


def test_programs_of_many_calls_finish_what_they_start():
    model = ScriptedModel(two_stage_reply)
    pool = BudgetPool(requests=41)
    questions = [{"question": str(i)} for i in range(10)]
    with dspy.context(lm=model.lm()):
        predictions = DynScaling(TwoStages(), budget=pool).batch(questions, num_threads=16, disable_progress_bar=True)
    assert all(sample.problem == "" for p in predictions for sample in explain(p).samples)
    assert len(model.requests) == 40  # the odd call could not finish a sample


def test_the_ambient_pool_pays_for_modules_without_their_own():
    model = in_order("A")
    qa = DynScaling(dspy.Predict("question -> answer"))
    outer, inner = BudgetPool(samples=10), BudgetPool(samples=2)
    with dspy.context(lm=model.lm()), outer:
        qa(question="1")
        with inner:
            dspy.Parallel(num_threads=2, disable_progress_bar=True)([(qa, {"question": str(i)}) for i in range(2)])
        qa(question="2")
        assert qa.pool is outer
    assert inner.statistics().spent.samples == 2
    assert outer.statistics().closed_calls == 2
    with pytest.raises(ValueError, match="no budget"):
        qa.pool


def test_modules_that_share_a_pool():
    pool = BudgetPool(samples=12)

    class Pipeline(dspy.Module):
        def __init__(self):
            super().__init__()
            self.draft = DynScaling(dspy.Predict("question -> draft"), budget=pool)
            self.answer = DynScaling(dspy.Predict("question, draft -> answer"), budget=pool)

        def forward(self, question):
            return self.answer(question=question, draft=self.draft(question=question).draft)

    model = ScriptedModel(two_stage_reply)
    with dspy.context(lm=model.lm()):
        assert Pipeline()(question="q").answer == "Paris"
    assert pool.statistics().closed_calls == 2
    assert len(model.requests) == pool.statistics().spent.samples <= 12


# ---- batch


def examples(count):
    return [dspy.Example(question=f"q{i}", answer="A").with_inputs("question") for i in range(count)]


def test_a_batch_returns_predictions_in_order():
    model = ScriptedModel(lambda prompt, n: {"answer": prompt.split("[[ ## question ## ]]\n")[-1].split("\n")[0]})
    qa = DynScaling(dspy.Predict("question -> answer"), budget=3)
    with dspy.context(lm=model.lm()):
        predictions = qa.batch(examples(20), num_threads=8, disable_progress_bar=True)
    assert [p.answer for p in predictions] == [f"q{i}" for i in range(20)]
    assert len(model.requests) == 60
    assert sum(len(explain(p).samples) for p in predictions) == 60


def test_a_batch_repeats_itself_from_a_warm_cache_without_a_request():
    counts: dict[str, int] = {}

    def reply(prompt, n):
        question = prompt.split("[[ ## question ## ]]\n")[-1].split("\n")[0]
        counts[question] = counts.get(question, 0) + 1
        return {"reasoning": str(n), "answer": "ABC"[hash((question, counts[question])) % 3]}

    model = ScriptedModel(reply)
    program = dspy.ChainOfThought("question -> answer")

    def run():
        qa = DynScaling(program, budget=BudgetPool(samples=60), sampling=Integrated(when="always"))
        predictions = qa.batch(examples(10), num_threads=6, disable_progress_bar=True)
        return [(p.answer, [(s.answer, s.shown) for s in explain(p).samples]) for p in predictions]

    with dspy.context(lm=model.lm(cache=True)):
        first = run()
        assert len(model.requests) == 60
        assert run() == first
    assert len(model.requests) == 60


def test_a_batch_keeps_what_was_answered_when_some_calls_fail():
    model = ScriptedModel(lambda p, n: ValueError("bad input") if "q3" in p else {"answer": "A"})
    qa = DynScaling(dspy.Predict("question -> answer"), budget=2)
    with dspy.context(lm=model.lm()):
        predictions, failed, errors = qa.batch(
            examples(5), num_threads=2, disable_progress_bar=True, return_failed_examples=True
        )
    assert [p is None for p in predictions] == [False, False, False, True, False]
    assert failed == [examples(5)[3]]
    assert "bad input" in str(errors[0])


def test_a_batch_in_which_nothing_works_stops_early():
    model = ScriptedModel(lambda prompt, n: PermissionError("wrong key"))
    qa = DynScaling(dspy.Predict("question -> answer"), budget=8)
    with dspy.context(lm=model.lm()):
        with pytest.raises(Exception, match="wrong key"):
            qa.batch(examples(50), num_threads=4, max_errors=5, disable_progress_bar=True)
    assert len(model.requests) < 30
    assert qa.pool.statistics().reserved == Cost()
    assert qa.pool.statistics().open_calls == 0


def test_a_batch_of_nothing_and_of_the_wrong_thing():
    qa = DynScaling(dspy.Predict("question -> answer"), budget=8)
    assert qa.batch([]) == []
    with pytest.raises(TypeError, match="examples must be dspy.Example objects with inputs, or dicts, got str"):
        qa.batch(["q"])  # type: ignore[list-item]


def test_a_batch_of_a_program_with_a_forward_of_another_calls_that():
    qa = DynScaling(dspy.Predict("question -> answer"), budget=2)
    qa.forward = lambda question: dspy.Prediction(answer=f"other {question}")
    with dspy.context(lm=in_order("A").lm()):
        assert qa(question="q1").answer == "other q1"
        predictions = qa.batch(examples(2), disable_progress_bar=True)
    assert [prediction.answer for prediction in predictions] == ["other q0", "other q1"]
    assert "forward" not in vars(qa.module)


def test_setting_an_attribute_of_the_programs_sets_it_there():
    qa = DynScaling(dspy.Predict("question -> answer"), budget=2)
    qa.demos = [dspy.Example(question="q", answer="a")]
    assert qa.module.demos == qa.demos and "demos" not in vars(qa)
    qa.module.temperature = "the program's own"
    qa.temperature = 0.5
    assert (qa.temperature, qa.module.temperature) == (0.5, "the program's own")
    outer = dspy.Module()
    outer.qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=2)
    other = dspy.Predict("question -> answer")
    outer.map_named_predictors(lambda predictor: other)
    assert outer.qa.module.predict is other
    qa.note = "mine"
    assert vars(qa)["note"] == "mine" and not hasattr(qa.module, "note")


def test_batches_and_single_calls_share_one_budget():
    model = in_order("A")
    pool = BudgetPool(samples=30)
    qa = DynScaling(dspy.Predict("question -> answer"), budget=pool, max_samples=2)
    with dspy.context(lm=model.lm()):
        qa.batch(examples(5), disable_progress_bar=True)
        assert qa(question="again").answer == "A"
    assert pool.statistics().spent.samples == len(model.requests) <= 30


_: Any = Literal  # used by signatures above, which DSPy resolves by name
