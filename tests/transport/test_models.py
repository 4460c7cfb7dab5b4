"""Several language models under one budget, each behind a server of its own."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import dspy
import pytest

from dynscale_dspy import (
    BestOf,
    BudgetPool,
    ByPrice,
    Cost,
    DynScaling,
    Escalate,
    Price,
    SamplingStatus,
    Uniform,
    explain,
    wrap,
)
from dynscale_dspy.allocation.learned import LOST, TRIED_AGAIN
from dynscale_dspy.sampling.ways import INDEPENDENT
from dynscale_dspy.testing import FakeQuestion, FakeServer
from dynscale_dspy.tuning.what_if import what_if
from tests.support import ScriptedModel, needs_engines, needs_lm_errors

TEXTS = [f"Puzzle {n}?" for n in range(4)]
SPLIT = [FakeQuestion(text, {"right": 0.4, "wrong": 0.4, "odd": 0.2}, "right") for text in TEXTS]
SURE = [FakeQuestion(text, {"right": 1.0}, "right") for text in TEXTS]
PRICES = {"openai/cheap": Price(1, 2), "openai/dear": Price(10, 20)}
EACH = 7
FIRST = 4
LADDER = Escalate(first=FIRST, upfront=0, beside=0, learn=False, ways=INDEPENDENT)
"""Four samples of the cheap one, then the dear one."""


def call(qa: Any) -> list[Any]:
    return [qa(question=text) for text in TEXTS]


def gather(qa: Any) -> list[Any]:
    async def main() -> list[Any]:
        return await asyncio.gather(*(qa.acall(question=text) for text in TEXTS))

    return asyncio.run(main())


def batch(qa: Any) -> list[Any]:
    return qa.batch([{"question": text} for text in TEXTS], num_threads=4, disable_progress_bar=True)


MODES: dict[str, Callable[[Any], list[Any]]] = {"call": call, "gather": gather, "batch": batch}
WAYS = [f"{engine} {mode}" for engine in ("auto", "litellm") for mode in MODES]


class TwoStages(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.Predict("question -> draft")
        self.final = dspy.Predict("question, draft -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.final(question=question, draft=self.draft(question=question).draft)

    async def aforward(self, question: str) -> dspy.Prediction:
        return await self.final.acall(question=question, draft=(await self.draft.acall(question=question)).draft)


def lookup(question: str) -> str:
    """Look a question up."""
    return "found"


def with_own_model(program: Any) -> Any:
    """The program, whose predictors have a language model of their own that nobody is to ask."""
    program.set_lm(dspy.LM("openai/unasked", api_base="http://127.0.0.1:9/v1", api_key="k", num_retries=0, cache=False))
    return program


class Inner(dspy.Module):
    """Calls its language model itself, and a predictor under another one."""

    def __init__(self) -> None:
        super().__init__()
        self.draft = dspy.Predict("question -> draft")
        self.final = dspy.Predict("question, draft -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        other = dspy.LM("openai/unasked", api_base="http://127.0.0.1:9/v1", api_key="k", num_retries=0, cache=False)
        with dspy.context(lm=other):
            draft = self.draft(question=question).draft
        dspy.settings.lm(question)
        return self.final(question=question, draft=draft)


PROGRAMS: dict[str, tuple[Callable[[], dspy.Module], int]] = {
    "Predict": (lambda: dspy.Predict("question -> answer"), 1),
    "ChainOfThought": (lambda: dspy.ChainOfThought("question -> answer"), 1),
    "own model": (lambda: with_own_model(dspy.ChainOfThought("question -> answer")), 1),
    "two predictors": (lambda: with_own_model(TwoStages()), 2),
    "ReAct": (lambda: with_own_model(dspy.ReAct("question -> answer", tools=[lookup])), 3),
    "context inside": (Inner, 3),
}


@pytest.fixture
def servers() -> Iterator[tuple[FakeServer, FakeServer]]:
    with FakeServer(SPLIT, median_latency=0, seed=1) as cheap, FakeServer(SURE, median_latency=0, seed=2) as dear:
        yield cheap, dear


def lms(servers: tuple[FakeServer, FakeServer], engine: str = "auto", **options: Any) -> dict[str, dspy.LM]:
    options = {"max_tokens": 200, **options}
    return {
        name: server.lm(engine, model=f"openai/{name}", **options)
        for name, server in zip(("cheap", "dear"), servers, strict=True)
    }


def uniform(samples: int = EACH * len(TEXTS), **caps: Any) -> BudgetPool:
    """A pool that draws as many samples for each call."""
    return BudgetPool(samples=samples, policy=Uniform(), prices=PRICES, **caps).expect(len(TEXTS))


def assert_paid(pool: BudgetPool, *servers: FakeServer) -> None:
    """The pool's books are what the servers have counted, at their prices, and nothing is left open."""
    now, counted = pool.statistics(), [server.statistics() for server in servers]
    assert now.reserved == Cost() and now.open_calls == 0
    assert now.spent.requests == sum(one.requests for one in counted)
    assert now.spent.prompt_tokens == sum(one.prompt_tokens for one in counted)
    assert now.spent.completion_tokens == sum(one.completion_tokens for one in counted)
    at_prices = [
        price.nanodollars(one.prompt_tokens, one.completion_tokens)
        for one, price in zip(counted, PRICES.values(), strict=True)
    ]
    assert now.spent.nanodollars == sum(at_prices)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_predictor_asks_the_model_that_the_sample_was_drawn_from(servers: Any, program: str, way: str) -> None:
    engine, mode = way.split()
    make, each = PROGRAMS[program]
    pool = uniform(dollars=1)
    qa = DynScaling(make(), pool, lms=lms(servers, engine), sampling=LADDER, max_choices=1)
    predictions = MODES[mode](qa)
    cheap, dear = servers
    assert cheap.statistics().requests == each * FIRST * len(TEXTS)
    assert dear.statistics().requests == each * (EACH - FIRST) * len(TEXTS)
    for prediction in predictions:
        made = explain(prediction)
        assert [sample.model for sample in made.samples] == ["cheap"] * FIRST + ["dear"] * (EACH - FIRST)
        assert [(model.name, model.samples) for model in made.models] == [("cheap", FIRST), ("dear", EACH - FIRST)]
        assert sum((model.cost for model in made.models), Cost()) == made.cost
        if program in ("Predict", "ChainOfThought"):
            assert prediction.answer == "right"  # three votes of four each outweigh any of the cheap model's
            assert made.votes[0].by_model["dear"] == EACH - FIRST
    assert_paid(pool, *servers)
    records = qa.pool.admission.program(qa).learned.records
    for name, server in zip(("cheap", "dear"), servers, strict=True):
        assert records[name].cost.total.tokens == (
            server.statistics().prompt_tokens + server.statistics().completion_tokens
        )
    history = pool.history.models
    assert {name: cost.samples for name, cost in history.items()} == {
        "cheap": FIRST * len(TEXTS),
        "dear": (EACH - FIRST) * len(TEXTS),
    }
    assert sum((cost for cost in history.values()), Cost()) == pool.statistics().spent


@pytest.mark.parametrize("mode", MODES)
def test_samples_of_one_model_share_a_request_and_no_other_does_litellm(
    servers: Any, mode: str, litellm_is_warm: Any
) -> None:
    pool = uniform(dollars=1)
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), pool, lms=lms(servers, "litellm"), sampling=LADDER)
    predictions = MODES[mode](qa)
    cheap, dear = servers
    assert [server.statistics().delivered for server in servers] == [FIRST * len(TEXTS), (EACH - FIRST) * len(TEXTS)]
    assert cheap.statistics().requests < FIRST * len(TEXTS)
    assert dear.statistics().requests < (EACH - FIRST) * len(TEXTS)
    assert {body["model"] for body in cheap.bodies} == {"cheap"} and {b["model"] for b in dear.bodies} == {"dear"}
    assert_paid(pool, *servers)
    for prediction in predictions:
        assert [sample.model for sample in explain(prediction).samples] == ["cheap"] * FIRST + ["dear"] * 3


@needs_engines
@pytest.mark.parametrize("mode", MODES)
def test_a_model_whose_route_makes_one_request_a_choice_shares_none(
    servers: Any, mode: str, litellm_is_warm: Any
) -> None:
    both = {"cheap": lms(servers, "litellm")["cheap"], "dear": lms(servers, "lm15")["dear"]}
    pool = uniform(dollars=1)
    MODES[mode](DynScaling(dspy.ChainOfThought("question -> answer"), pool, lms=both, sampling=LADDER))
    assert servers[0].statistics().requests < FIRST * len(TEXTS)
    assert servers[1].statistics().requests == (EACH - FIRST) * len(TEXTS)
    assert_paid(pool, *servers)


@pytest.mark.parametrize("mode", MODES)
def test_one_model_is_as_if_the_program_had_it(servers: Any, mode: str) -> None:
    dear = servers[1]
    given = DynScaling(with_own_model(dspy.ChainOfThought("question -> answer")), uniform(), lms=[lms(servers)["dear"]])
    ones = MODES[mode](given)
    bodies = sorted(map(repr, dear.bodies))
    dear.reset()
    program = dspy.ChainOfThought("question -> answer")
    program.set_lm(lms(servers)["dear"])
    others = MODES[mode](DynScaling(program, uniform()))
    assert sorted(map(repr, dear.bodies)) == bodies
    for one, other in zip(ones, others, strict=True):
        assert [s.sampler for s in explain(one).samples] == [s.sampler for s in explain(other).samples]
        assert explain(one).models == () and explain(one).votes == explain(other).votes


def test_a_call_that_may_draw_one_sample_asks_the_cheapest(servers: Any) -> None:
    qa = DynScaling(dspy.Predict("question -> answer"), BudgetPool(samples=9), lms=lms(servers), max_samples=1)
    call(qa)
    assert [server.statistics().requests for server in servers] == [len(TEXTS), 0]


def test_no_other_model_needs_to_be_configured(servers: Any) -> None:
    with dspy.context(lm=None):
        call(DynScaling(dspy.ChainOfThought("question -> answer"), 4, lms=lms(servers)))
    assert servers[0].statistics().requests > 0


@pytest.mark.parametrize("mode", MODES)
def test_predictors_that_are_scaled_in_place_draw_from_them_too(servers: Any, mode: str) -> None:
    if mode == "batch":
        return  # a known set is of the whole program
    pool = BudgetPool(samples=EACH * 2 * len(TEXTS), policy=Uniform(), prices=PRICES).expect(2 * len(TEXTS))
    MODES[mode](wrap(TwoStages(), pool, lms=lms(servers), sampling=LADDER, max_choices=1))
    assert servers[0].statistics().requests == FIRST * 2 * len(TEXTS)
    assert servers[1].statistics().requests == (EACH - FIRST) * 2 * len(TEXTS)
    assert_paid(pool, *servers)


# ---- a wrapped program in a sample of another one


@pytest.mark.parametrize("mode", MODES)
def test_a_wrapped_part_with_models_of_its_own_keeps_them(servers: Any, mode: str) -> None:
    class Around(dspy.Module):
        def __init__(self, part: DynScaling) -> None:
            super().__init__()
            self.part = part
            self.last = dspy.Predict("question, draft -> answer")

        def forward(self, question: str) -> dspy.Prediction:
            return self.last(question=question, draft=self.part(question=question).draft)

    inside, outside = ScriptedModel(lambda p, n: {"draft": "d"}), ScriptedModel(lambda p, n: {"answer": "a"})
    unasked = ScriptedModel(lambda p, n: {"answer": "u"})
    part = DynScaling(dspy.Predict("question -> draft"), BudgetPool(samples=99), lms=[inside.lm()], max_samples=1)
    pool = uniform()
    both = {"one": outside.lm(), "other": servers[1].lm()}
    qa = DynScaling(Around(part), pool, lms=both, sampling=LADDER)
    with dspy.context(lm=unasked.lm()):
        MODES[mode](qa)
    assert len(inside.requests) == EACH * len(TEXTS)
    assert len(outside.requests) == FIRST * len(TEXTS)
    assert servers[1].statistics().requests == (EACH - FIRST) * len(TEXTS)
    assert not unasked.requests


@pytest.mark.parametrize("mode", MODES)
def test_a_wrapped_part_without_models_asks_what_the_sample_around_asks(servers: Any, mode: str) -> None:
    pool = uniform()
    part = DynScaling(with_own_model(dspy.Predict("question -> answer")), BudgetPool(samples=99), max_samples=1)

    class Around(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = part

        def forward(self, question: str) -> dspy.Prediction:
            return self.part(question=question)

    MODES[mode](DynScaling(Around(), pool, lms=lms(servers), sampling=LADDER))
    assert servers[0].statistics().requests == FIRST * len(TEXTS)
    assert servers[1].statistics().requests == (EACH - FIRST) * len(TEXTS)


# ---- rollouts and the cache


RULES = {"ladder": LADDER, "in turn": Escalate(upfront=0), "by price": ByPrice(), "best of": BestOf()}
IN_ORDER = [way for way in WAYS if "gather" not in way]
"""Ways in which what is learned comes in the same order each time."""


@pytest.mark.parametrize(
    ("way", "rule"),
    [
        *product(WAYS, ["ladder", "in turn"]),
        *(pytest.param(way, rule, marks=needs_engines) for way, rule in product(IN_ORDER, ["by price", "best of"])),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_warm_cache_repeats_everything_without_a_request(servers: Any, way: str, rule: str, listed: bool) -> None:
    engine, mode = way.split()
    own = {} if listed else {"input_cost_per_token": 1e-6, "output_cost_per_token": 1e-6}
    answers, records = [], []
    for repeat in range(2):
        both = lms(servers, engine, cache=True, **own)
        pool = uniform() if listed else BudgetPool(samples=EACH * len(TEXTS), policy=Uniform()).expect(len(TEXTS))
        qa = DynScaling(dspy.ChainOfThought("question -> answer"), pool, lms=both, sampling=RULES[rule])
        predictions = MODES[mode](qa)
        answers.append([[sample.answer for sample in explain(each).samples] for each in predictions])
        known = qa.pool.admission.program(qa).learned.records
        records.append([(known[name].cost.samples, known[name].cost.total) for name in both])
        if repeat == 0:
            asked = [server.statistics().requests for server in servers]
            assert all(asked) or rule == "best of"
    assert [server.statistics().requests for server in servers] == asked
    assert answers[0] == answers[1]
    spent = qa.pool.statistics().spent
    assert spent.tokens == 0 and spent.cached_requests == spent.requests
    if rule in ("by price", "best of"):
        # What came from the cache counts at what it would cost without it.
        assert records[0] == records[1]
        drawn = [cost for samples, cost in records[0] if samples]
        assert drawn and all(cost.prompt_tokens and cost.completion_tokens and cost.nanodollars for cost in drawn)


def test_whoever_asks_for_another_draw_gets_one(servers: Any) -> None:
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), BudgetPool(samples=99), lms=lms(servers), max_samples=1)
    with dspy.context(lm=servers[1].lm()):
        best = dspy.BestOfN(qa, N=3, reward_fn=lambda inputs, prediction: 0.0, threshold=1.0)
        best(question=TEXTS[0])
    rollouts = {entry["kwargs"].get("rollout_id") for lm in qa.lms.values() for entry in lm.history}
    assert len(rollouts) == 3


# ---- a model that fails for good


@needs_lm_errors
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fault", ["auth", "unknown_model"])
@pytest.mark.parametrize("bad", ["cheap", "dear"])
def test_a_model_that_fails_for_good_is_left_out_and_the_other_goes_on(
    servers: Any, mode: str, fault: str, bad: str
) -> None:
    place = ("cheap", "dear").index(bad)
    servers[place].reset(fault_rate=1.0, faults=(fault,))
    pool = uniform(dollars=1)
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), pool, lms=lms(servers), sampling=LADDER, max_choices=1)
    with pytest.warns(UserWarning, match=f"that ask '{bad}' fail with LM.* calls go on") as told:
        predictions = MODES[mode](qa)
    assert len([each for each in told if "fail with" in str(each.message)]) == 1
    for prediction in predictions:
        made = explain(prediction)
        assert prediction.answer is not None
        asked = Counter(sample.model for sample in made.samples)
        assert asked[bad] <= FIRST
        assert len(made.samples) - asked[bad] >= min(EACH - FIRST, FIRST)
    # Samples that were reserved and did not begin, once it was found out, are free again.
    assert EACH * len(TEXTS) - len(TEXTS) * FIRST <= pool.statistics().spent.samples <= EACH * len(TEXTS)
    asked = servers[place].statistics().requests
    assert asked <= FIRST * len(TEXTS)
    assert pool.statistics().reserved == Cost() and pool.statistics().open_calls == 0


@needs_lm_errors
def test_calls_after_those_that_found_out_do_not_ask_it_until_it_is_tried_again(servers: Any) -> None:
    servers[0].reset(fault_rate=1.0, faults=("auth",))
    qa = DynScaling(
        dspy.Predict("question -> answer"), BudgetPool(samples=999), lms=lms(servers), sampling=replace(LADDER, first=1)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(LOST + 4):
            qa(question=TEXTS[0])
        assert servers[0].statistics().requests == LOST
        servers[0].reset(fault_rate=0.0)
        for _ in range(TRIED_AGAIN):
            qa(question=TEXTS[0])
    assert servers[0].statistics().requests > 1  # tried again, it answers, and is asked as before


@needs_lm_errors
@pytest.mark.parametrize("mode", ["call", "gather"])
def test_if_all_fail_the_first_error_is_raised_unchanged(servers: Any, mode: str) -> None:
    servers[0].reset(fault_rate=1.0, faults=("auth",))
    servers[1].reset(fault_rate=1.0, faults=("unknown_model",))
    pool = BudgetPool(samples=99)
    qa = DynScaling(dspy.Predict("question -> answer"), pool, lms=lms(servers), sampling=LADDER, max_choices=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(dspy.LMAuthError):
            MODES[mode](qa)
    assert servers[1].statistics().requests >= 1
    assert pool.statistics().reserved == Cost() and pool.statistics().open_calls == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_cheap_model_that_cannot_keep_to_the_format_leaves_the_answer_to_the_dear_one(
    servers: Any, mode: str
) -> None:
    servers[0].reset(fault_rate=1.0, faults=("prose",))
    pool = uniform(dollars=1)
    qa = DynScaling(dspy.ChainOfThought("question -> answer"), pool, lms=lms(servers), sampling=LADDER, max_choices=1)
    predictions = MODES[mode](qa)
    for prediction in predictions:
        made = explain(prediction)
        assert prediction.answer == "right" and made.votes[0].by_model.keys() == {"dear"}
        failed = [sample.model for sample in made.samples if sample.problem]
        assert failed == ["cheap"] * len(failed) and len(failed) <= FIRST
    assert servers[0].statistics().requests > 0
    assert_paid(pool, *servers)


@needs_lm_errors
@pytest.mark.parametrize("mode", ["call", "gather"])
@pytest.mark.parametrize("fault", ["auth", "unknown_model"])
def test_no_more_of_a_model_that_fails_for_good_is_asked_than_is_in_flight(servers: Any, mode: str, fault: str) -> None:
    servers[0].reset(fault_rate=1.0, faults=(fault,))
    pool = uniform(max_concurrency=1)
    qa = DynScaling(dspy.Predict("question -> answer"), pool, lms=lms(servers), max_choices=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prediction = {
            "call": lambda: qa(question=TEXTS[0]),
            "gather": lambda: asyncio.run(qa.acall(question=TEXTS[0])),
        }[mode]()
    assert prediction.answer == "right" and servers[0].statistics().requests == 1
    failed = [sample for sample in explain(prediction).samples if sample.model == "cheap"]
    assert len(failed) > 1 and all(sample.problem == "failed" for sample in failed)
    assert [sample.cost.requests for sample in failed].count(0) == len(failed) - 1
    assert_paid(pool, *servers)


@needs_lm_errors
@pytest.mark.parametrize("mode", ["call", "gather"])
def test_nor_of_a_program_with_one_model(servers: Any, mode: str) -> None:
    servers[0].reset(fault_rate=1.0, faults=("auth",))
    pool = BudgetPool(samples=8, policy=Uniform(), max_concurrency=1).expect(1)
    qa = DynScaling(dspy.Predict("question -> answer"), pool, max_choices=1)
    with dspy.context(lm=lms(servers)["cheap"]), pytest.raises(dspy.LMAuthError):
        asyncio.run(qa.acall(question=TEXTS[0])) if mode == "gather" else qa(question=TEXTS[0])
    assert servers[0].statistics().requests == 1 and pool.statistics().reserved == Cost()


def test_a_sample_that_has_asked_goes_on_where_another_fails_for_good() -> None:
    both_began, refused = threading.Event(), threading.Event()

    def answer(prompt: Any, number: int) -> dict[str, str]:
        if number == 0:
            both_began.wait(10)
            return {"draft": "d"}
        both_began.set()
        refused.wait(10)
        return {"draft": "d"}

    class Wrong(ScriptedModel):
        def answer(self, request: Any) -> Any:
            if not refused.is_set():
                refused.set()
                raise dspy.LMAuthError("wrong key")
            return super().answer(request)

    draft, final = ScriptedModel(answer), Wrong(lambda prompt, number: {"answer": "right"})
    given = {"draft": {"first": draft.lm()}, "final": {"last": final.lm()}}
    qa = DynScaling(TwoStages(), BudgetPool(samples=2, policy=Uniform()).expect(1), lms=given)
    assert qa(question=TEXTS[0]).answer == "right"


def test_a_model_that_keeps_to_the_format_again_is_asked_again() -> None:
    bank = [FakeQuestion(f"Puzzle {n}?", {"right": 1.0}, "right") for n in range(60)]
    with FakeServer(bank, median_latency=0) as cheap, FakeServer(bank, median_latency=0) as dear:
        cheap.reset(fault_rate=1.0, faults=("prose",))
        pool = BudgetPool(samples=9999, policy=Uniform(), prices=PRICES).expect(400)
        both = lms((cheap, dear))
        program = dspy.Predict("question -> answer")
        qa = DynScaling(program, pool, lms=both, sampling=Escalate(upfront=0), max_choices=1, max_samples=8)
        qa(question=bank[0].text)
        cheap.reset(fault_rate=0.0)
        begun = [explain(qa(question=question.text)).samples[0].model for question in bank]
    back = begun.index("cheap")
    assert back > 0 and begun == ["dear"] * back + ["cheap"] * (60 - back)


# ---- what one of them cannot do


@needs_lm_errors
@pytest.mark.parametrize("mode", MODES)
def test_what_one_model_refuses_is_kept_from_it_alone(servers: Any, mode: str) -> None:
    refused = {"error": {"message": "Unsupported parameter: 'temperature'", "type": "invalid_request_error"}}
    servers[1].reset(refused={"temperature": (400, refused)})
    both = lms(servers, temperature=None)
    pool = uniform()
    predictions = MODES[mode](
        DynScaling(dspy.ChainOfThought("question -> answer"), pool, lms=both, sampling=LADDER, max_choices=1)
    )
    assert all("temperature" in body for body in servers[0].bodies)
    taken = [body for body in servers[1].bodies if "temperature" not in body]
    assert len(taken) == (EACH - FIRST) * len(TEXTS)
    assert all(not sample.problem for each in predictions for sample in explain(each).samples)


@pytest.mark.parametrize("mode", MODES)
def test_probabilities_of_labels_are_asked_of_each_and_one_sample_does_not_tell_all(mode: str) -> None:
    bank = [FakeQuestion(text, {"yes": 0.6, "no": 0.4}, "yes") for text in TEXTS]
    with FakeServer(bank, median_latency=0) as cheap, FakeServer(bank, median_latency=0, seed=4) as dear:
        pool = uniform()
        qa = DynScaling(
            dspy.Predict("question -> answer: Literal['yes', 'no']"), pool, lms=lms((cheap, dear)), sampling=LADDER
        )
        predictions = MODES[mode](qa)
        assert any("logprobs" in body for body in cheap.bodies)
        assert any("logprobs" in body for body in dear.bodies)
    assert all(len(explain(each).samples) == EACH for each in predictions)


# ---- confidence, streams


def test_an_unsure_vote_of_both_goes_to_who_answers_instead(servers: Any) -> None:
    servers[1].reset(seed=5)
    other = ScriptedModel(lambda prompt, number: {"answer": "other"})
    instead = dspy.Predict("question -> answer")
    instead.lm = other.lm()
    qa = DynScaling(
        dspy.ChainOfThought("question -> answer"), uniform(), lms=lms(servers), min_confidence=0.999, on_low=instead
    )
    prediction = qa(question=TEXTS[0])
    assert prediction.answer == "other" and len(other.requests) == 1


@pytest.mark.parametrize("most", [1, EACH])
def test_a_stream_gets_the_winner_whichever_model_it_is_of(servers: Any, most: int) -> None:
    qa = DynScaling(dspy.Predict("question -> answer"), uniform(), lms=lms(servers), sampling=LADDER, max_samples=most)
    listener = dspy.streaming.StreamListener(signature_field_name="answer")
    streamed = dspy.streamify(qa, stream_listeners=[listener], async_streaming=False)
    chunks = list(streamed(question=TEXTS[0]))
    text = "".join(chunk.chunk for chunk in chunks if isinstance(chunk, dspy.streaming.StreamResponse))
    assert text.strip() == chunks[-1].answer
    assert servers[1].statistics().requests == (0 if most == 1 else EACH - FIRST)


@pytest.mark.parametrize("given", ["list", "map"])
def test_a_stream_says_which_model_is_asked_before_it_is(servers: Any, given: str) -> None:
    asked: list[list[int]] = []

    class Mine(SamplingStatus):
        def asking_status_message(self, models: Any) -> str | None:
            asked.append([server.statistics().requests for server in servers])
            return super().asking_status_message(models)

    if given == "list":
        qa = DynScaling(dspy.Predict("question -> answer"), uniform(), lms=lms(servers), sampling=LADDER, max_choices=1)
        each = 1
    else:
        qa, each = DynScaling(TwoStages(), uniform(), lms=by_predictor(servers), sampling=LADDER), 2
    streamed = dspy.streamify(qa, status_message_provider=Mine(), async_streaming=False)
    told = [chunk.message for chunk in streamed(question=TEXTS[0]) if isinstance(chunk, dspy.streaming.StatusMessage)]
    assert told[0].startswith("asking cheap for")
    told = [words for words in told if words.startswith("asking")]
    assert sum(int(words.split(" for ")[1].split()[0]) for words in told if "cheap" in words) == FIRST
    assert any(words.startswith("asking dear") or "and dear" in words for words in told)
    assert asked[0] == [0, 0] and servers[0].statistics().requests + servers[1].statistics().requests == EACH * each


def test_a_stream_of_one_model_does_not_name_it(servers: Any) -> None:
    qa = DynScaling(dspy.Predict("question -> answer"), uniform(), lms=[lms(servers)["dear"]])
    streamed = dspy.streamify(qa, status_message_provider=SamplingStatus(), async_streaming=False)
    told = [chunk.message for chunk in streamed(question=TEXTS[0]) if isinstance(chunk, dspy.streaming.StatusMessage)]
    assert told and not [words for words in told if "asking" in words]


# ---- timing


def test_what_a_known_set_draws_does_not_depend_on_what_has_finished() -> None:
    """Prices that become known change what comes first: at a ratio of 40, twelve cheap samples in place of four."""
    cheap_says = [FakeQuestion(f"Puzzle {n}?", {"a": 1.0}, "a") for n in range(5)]
    dear_says = [FakeQuestion(f"Puzzle {n}?", {"b": 1.0}, "b") for n in range(5)]
    prices = {"openai/cheap": Price(1, 2), "openai/dear": Price(40, 80)}
    drawn = []
    for seed in range(3):
        slow = {"median_latency": 0.005, "sigma": 1.5, "seed": seed}
        with FakeServer(cheap_says, **slow) as cheap, FakeServer(dear_says, **slow) as dear:
            pool = BudgetPool(samples=60, policy=Uniform(), prices=prices)
            both = lms((cheap, dear))
            qa = DynScaling(dspy.Predict("question -> answer"), pool, lms=both, max_choices=1, max_samples=20)
            examples = [{"question": question.text} for question in cheap_says]
            made = qa.batch(examples, num_threads=4, disable_progress_bar=True)
        drawn.append([[sample.model for sample in explain(each).samples] for each in made])
    assert drawn[0] == drawn[1] == drawn[2]
    assert {model for models in drawn[0] for model in models} == {"cheap", "dear"}


# ---- models by predictor


def by_predictor(servers: Any, engine: str = "auto", **options: Any) -> dict[str, Any]:
    both = lms(servers, engine, **options)
    return {"final": both, "draft": [both["cheap"]]}


@pytest.mark.parametrize("way", WAYS)
def test_each_predictor_asks_its_own_model(servers: Any, way: str) -> None:
    engine, mode = way.split()
    pool = uniform(dollars=1)
    qa = DynScaling(with_own_model(TwoStages()), pool, lms=by_predictor(servers, engine), sampling=LADDER)
    predictions = MODES[mode](qa)
    cheap, dear = servers
    assert cheap.statistics().requests == (EACH + FIRST) * len(TEXTS)
    assert dear.statistics().requests == (EACH - FIRST) * len(TEXTS)
    for prediction in predictions:
        made = explain(prediction)
        assert [sample.model for sample in made.samples] == ["cheap"] * FIRST + ["dear"] * (EACH - FIRST)
        assert sum((model.cost for model in made.models), Cost()) == made.cost
        assert made.votes[0].by_model["dear"] == EACH - FIRST
    assert_paid(pool, *servers)
    assert {name: cost.samples for name, cost in pool.history.models.items()} == {
        "cheap": FIRST * len(TEXTS),
        "dear": (EACH - FIRST) * len(TEXTS),
    }
    assert what_if(pool, model="dear", budgets=[1], replicates=1).records


@pytest.mark.parametrize("mode", MODES)
def test_a_predictor_that_is_left_out_asks_the_programs_own(servers: Any, mode: str) -> None:
    own = ScriptedModel(lambda prompt, number: {"draft": "d"})
    qa = DynScaling(TwoStages(), uniform(), lms={"final": lms(servers)}, sampling=LADDER)
    with dspy.context(lm=own.lm()):
        MODES[mode](qa)
    assert len(own.requests) == EACH * len(TEXTS)
    assert servers[0].statistics().requests == FIRST * len(TEXTS)
    assert servers[1].statistics().requests == (EACH - FIRST) * len(TEXTS)


@pytest.mark.parametrize("mode", MODES)
def test_a_map_needs_no_other_model_unless_a_predictor_is_left_out(servers: Any, mode: str) -> None:
    with dspy.context(lm=None):
        MODES[mode](DynScaling(TwoStages(), uniform(), lms=by_predictor(servers), sampling=LADDER))
        assert servers[1].statistics().requests == (EACH - FIRST) * len(TEXTS)
        qa = DynScaling(TwoStages(), uniform(), lms={"final": lms(servers)}, sampling=LADDER)
        with pytest.raises(ValueError, match="No LM is loaded"):
            qa(question=TEXTS[0])
    assert servers[0].statistics().requests == (EACH + FIRST) * len(TEXTS)


@pytest.mark.parametrize("way", WAYS)
def test_a_map_for_the_only_predictor_is_the_list(servers: Any, way: str, litellm_is_warm: Any) -> None:
    engine, mode = way.split()
    drawn, bodies = [], []
    for given in (lms(servers, engine), {"predict": lms(servers, engine)}):
        for server in servers:
            server.reset()
        qa = DynScaling(dspy.ChainOfThought("question -> answer"), uniform(dollars=1), lms=given, sampling=LADDER)
        drawn.append([[s.sampler for s in explain(each).samples] for each in MODES[mode](qa)])
        bodies.append([sorted(map(repr, server.bodies)) for server in servers])
    assert drawn[0] == drawn[1] and bodies[0] == bodies[1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("program", ["two predictors", "ReAct", "nested"])
def test_a_map_that_gives_all_predictors_the_same_is_the_list(servers: Any, program: str, mode: str) -> None:
    class Around(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = DynScaling(TwoStages(), BudgetPool(samples=999), max_samples=1)
            self.last = dspy.Predict("draft -> answer")

        def forward(self, question: str) -> dspy.Prediction:
            return self.last(draft=self.part(question=question).answer)

    make = Around if program == "nested" else PROGRAMS[program][0]
    asked = []
    for by_name in (False, True):
        for server in servers:
            server.reset()
        made, both = make(), lms(servers)
        given = {name: both for name, _ in made.named_predictors()} if by_name else both
        predictions = MODES[mode](DynScaling(made, uniform(), lms=given, sampling=LADDER))
        drawn = [[sample.model for sample in explain(each).samples] for each in predictions]
        asked.append((drawn, [server.statistics().requests for server in servers]))
    assert asked[0] == asked[1] and all(asked[0][1])


@pytest.mark.parametrize("mode", ["call", "gather"])
def test_scaled_in_place_each_predictor_draws_from_its_own(servers: Any, mode: str) -> None:
    pool = BudgetPool(samples=EACH * 2 * len(TEXTS), policy=Uniform(), prices=PRICES).expect(2 * len(TEXTS))
    MODES[mode](wrap(TwoStages(), pool, lms=by_predictor(servers), sampling=LADDER, max_choices=1))
    assert servers[0].statistics().requests == (EACH + FIRST) * len(TEXTS)
    assert servers[1].statistics().requests == (EACH - FIRST) * len(TEXTS)
    assert_paid(pool, *servers)


def test_copies_that_a_program_makes_of_a_predictor_ask_its_model(servers: Any) -> None:
    class Best(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            part = dspy.Predict("question -> answer")
            self.best = dspy.BestOfN(part, N=2, reward_fn=lambda inputs, prediction: 0.0, threshold=1.0)
            self.last = dspy.Predict("answer -> reply")

        def forward(self, question: str) -> dspy.Prediction:
            return self.last(answer=self.best(question=question).answer)

    own = ScriptedModel(lambda prompt, number: {"reply": "r"})
    qa = DynScaling(Best(), uniform(), lms={"best.module": [lms(servers)["dear"]]}, max_samples=1)
    with dspy.context(lm=own.lm()):
        qa(question=TEXTS[0])
    assert servers[1].statistics().requests == 2 and len(own.requests) == 1


def test_what_a_choice_of_several_costs_is_known_beforehand_by_the_mean_of_its_prices(servers: Any) -> None:
    pool = uniform(dollars=1)
    qa = DynScaling(TwoStages(), pool, lms=by_predictor(servers), sampling=LADDER)
    qa(question=TEXTS[0])
    records = pool.admission.program(qa).learned.records
    assert [(records[name].tariff.prompt, records[name].tariff.most) for name in ("cheap", "dear")] == [
        (1_000, 200),
        (5_500, 200),
    ]


@pytest.mark.parametrize("most", [1, EACH])
def test_a_stream_of_a_program_with_models_by_predictor(servers: Any, most: int) -> None:
    qa = DynScaling(TwoStages(), uniform(), lms=by_predictor(servers), sampling=LADDER, max_samples=most)
    listener = dspy.streaming.StreamListener(signature_field_name="answer")
    chunks = list(dspy.streamify(qa, stream_listeners=[listener], async_streaming=False)(question=TEXTS[0]))
    text = "".join(chunk.chunk for chunk in chunks if isinstance(chunk, dspy.streaming.StreamResponse))
    assert text.strip() == chunks[-1].answer
