"""Caps in dollars over two language models of unlike price: never passed, and exact to the last billionth."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from functools import partial
from typing import Any

import dspy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynscale_dspy import BudgetExhausted, BudgetPool, ByPrice, Cost, DynScaling, Escalate, Price, explain
from dynscale_dspy.testing import FakeQuestion, FakeServer
from tests.support import needs_lm_errors

TEXTS = [f"Puzzle {n}?" for n in range(12)]
SPLIT = [FakeQuestion(text, {"right": 0.4, "wrong": 0.4, "odd": 0.2}, "right") for text in TEXTS]
NO_FALLBACK = dspy.ChatAdapter(use_json_adapter_fallback=False)
PRICES = {"openai/cheap": Price(0.3, 1.7), "openai/dear": Price(3, 17)}
FAULTS = ["500", "no_usage", "absurd_usage", "prose", "reset", "truncated_body", "429"]


def threads(qa: Any) -> list[Any]:
    with ThreadPoolExecutor(8) as executor:
        calls = [executor.submit(copy_context().run, outcome, partial(qa, question=text)) for text in TEXTS]
        return [each.result() for each in calls]


def gather(qa: Any) -> list[Any]:
    async def main() -> list[Any]:
        return await asyncio.gather(*(qa.acall(question=text) for text in TEXTS), return_exceptions=True)

    return asyncio.run(main())


def batch(qa: Any) -> list[Any]:
    return (
        outcome(lambda: qa.batch([{"question": text} for text in TEXTS], num_threads=8, disable_progress_bar=True))
        or []
    )


def outcome(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except Exception as error:
        return error


MODES: dict[str, Callable[[Any], Any]] = {"threads": threads, "gather": gather, "batch": batch}


@pytest.fixture
def servers() -> Iterator[tuple[FakeServer, FakeServer]]:
    with FakeServer(SPLIT, median_latency=0, seed=1) as cheap, FakeServer(SPLIT, median_latency=0, seed=2) as dear:
        yield cheap, dear


def lms(servers: tuple[FakeServer, FakeServer], engine: str = "auto", **options: Any) -> dict[str, dspy.LM]:
    return {
        name: server.lm(engine, model=f"openai/{name}", **{"max_tokens": 60, **options})
        for name, server in zip(("cheap", "dear"), servers, strict=True)
    }


def bill(servers: tuple[FakeServer, FakeServer], prices: dict[str, Price] = PRICES) -> int:
    """What the servers would charge."""
    counted = [server.statistics() for server in servers]
    return sum(
        price.nanodollars(one.prompt_tokens, one.completion_tokens)
        for one, price in zip(counted, prices.values(), strict=True)
    )


class Watched:
    """Looks at a pool's books again and again while something is done: what is spent and held is within its caps."""

    def __init__(self, pool: BudgetPool) -> None:
        self._pool = pool
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.most = 0

    def _look(self) -> None:
        while not self._over.wait(0.002):
            now = self._pool.statistics()
            self.most = max(self.most, now.spent.nanodollars + now.reserved.nanodollars)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


@needs_lm_errors
@pytest.mark.parametrize("engine", ["auto", "litellm"])
@pytest.mark.parametrize("kind", ["memory", "file", "scope"])
@pytest.mark.parametrize("mode", MODES)
def test_a_cap_on_dollars_holds_over_both_models_whatever_fails(
    mode: str, kind: str, engine: str, servers: Any, tmp_path: Any
) -> None:
    for server in servers:
        server.reset(fault_rate=0.25, faults=FAULTS)
    cap = 60_000_000
    dollars = {"dollars": cap / 1e9, "strict": True}
    with ExitStack() as stack:
        if kind == "scope":
            outer = BudgetPool(dollars=1, prices=PRICES, strict=True)
            pool = stack.enter_context(outer.scope(dollars=cap / 1e9))
        else:
            pool = BudgetPool(prices=PRICES, **dollars, **({"path": tmp_path / "b.sqlite"} if kind == "file" else {}))
        # With one cheap sample first, calls come to the dear one whichever requests fail.
        rule = ByPrice(Escalate(first=1, upfront=0))
        own = None if kind == "scope" else pool
        qa = DynScaling(dspy.Predict("question -> answer"), own, lms=lms(servers, engine), sampling=rule)
        stack.enter_context(dspy.context(adapter=NO_FALLBACK))
        with Watched(pool) as watched:
            MODES[mode](qa)
        now = pool.statistics()
    assert bill(servers) <= now.spent.nanodollars <= cap
    assert watched.most <= cap
    assert now.reserved == Cost() and now.open_calls == 0
    assert now.spent.requests == sum(server.statistics().requests for server in servers)
    assert all(server.statistics().delivered for server in servers)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cap=st.integers(300_000, 40_000_000),
    ratio=st.sampled_from([1, 3, 10, 50]),
    first=st.integers(1, 6),
    mode=st.sampled_from(sorted(MODES)),
    dear_first=st.booleans(),
)
def test_no_cap_is_passed_and_nothing_leaks(
    servers: Any, cap: int, ratio: int, first: int, mode: str, dear_first: bool
) -> None:
    for server in servers:
        server.reset()
    prices = {"openai/cheap": Price(0.3, 1.7), "openai/dear": Price(0.3 * ratio, 1.7 * ratio)}
    both = lms(servers)
    if dear_first:
        both = dict(reversed(both.items()))
    pool = BudgetPool(dollars=cap / 1e9, strict=True, prices=prices)
    with dspy.context(adapter=NO_FALLBACK):
        made = MODES[mode](
            DynScaling(
                dspy.Predict("question -> answer"), pool, lms=both, sampling=Escalate(first, upfront=0), max_choices=1
            )
        )
    now = pool.statistics()
    assert bill(servers, prices) == now.spent.nanodollars <= cap
    assert now.reserved == Cost() and now.open_calls == 0
    assert sum((cost for cost in pool.history.models.values()), Cost()).nanodollars <= now.spent.nanodollars
    for each in made if isinstance(made, list) else [made]:
        assert each is None or isinstance(each, (dspy.Prediction, BudgetExhausted))


@pytest.mark.parametrize("mode", MODES)
def test_no_sample_of_a_model_begins_that_its_price_leaves_no_room_for(mode: str, servers: Any) -> None:
    """The cheap model's samples have shown what one needs at its prices; the dear model was not asked yet."""
    pool = BudgetPool(dollars=0.002, strict=True, prices={**PRICES, "openai/dear": Price(300, 1700)})
    qa = DynScaling(dspy.Predict("question -> answer"), pool, lms=lms(servers), max_choices=1)
    with dspy.context(adapter=NO_FALLBACK):
        made = [each for each in MODES[mode](qa) if isinstance(each, dspy.Prediction)]
    assert made and servers[1].statistics().requests == 0
    samples = [sample for each in made for sample in explain(each).samples]
    assert {sample.model for sample in samples} == {"cheap"}
    assert not any(isinstance(sample.error, BudgetExhausted) and sample.model == "dear" for sample in samples)


@pytest.mark.parametrize("mode", [*MODES, "one by one"])
def test_calls_that_begin_with_a_model_that_is_too_dear_go_on_with_another(mode: str, servers: Any) -> None:
    """One call in four begins with the dear model while its price is not known, and not one of its samples fits."""
    prices = {**PRICES, "openai/dear": Price(300, 1700)}
    for seed in range(4):
        pool = BudgetPool(dollars=0.05, strict=True, prices=prices, seed=seed)
        qa = DynScaling(dspy.Predict("question -> answer"), pool, lms=lms(servers), max_samples=3, max_choices=1)
        ask = MODES.get(mode, lambda qa: [outcome(partial(qa, question=text)) for text in TEXTS])
        with dspy.context(adapter=NO_FALLBACK):
            made = ask(qa)
        assert len(made) == len(TEXTS) and all(isinstance(each, dspy.Prediction) for each in made)
        assert {sample.model for each in made for sample in explain(each).samples} == {"cheap"}
        assert pool.statistics().reserved == Cost() and pool.statistics().open_calls == 0
    assert servers[1].statistics().requests == 0


def test_the_very_first_call_goes_on_with_another_model_if_no_request_of_one_can_be_paid(servers: Any) -> None:
    pool = BudgetPool(dollars=0.05, strict=True, prices={**PRICES, "openai/dear": Price(300, 1700)})
    qa = DynScaling(dspy.Predict("question -> answer"), pool, lms=dict(reversed(lms(servers).items())))
    with dspy.context(adapter=NO_FALLBACK):
        made = qa(question=TEXTS[0])
    assert {s.model for s in explain(made).samples if s.error is None} == {"cheap"}
    assert pool.statistics().reserved == Cost() and servers[1].statistics().requests == 0


def test_calls_beyond_the_budget_run_the_program_with_the_cheapest_model_as_it_is(servers: Any) -> None:
    for seed in range(4):
        pool = BudgetPool(samples=1, prices=PRICES, on_empty="run_once", seed=seed)
        qa = DynScaling(dspy.Predict("question -> answer"), pool, lms=lms(servers))
        for text in TEXTS:
            qa(question=text)
    asked = [body["temperature"] for body in servers[0].bodies]
    assert len(asked) == 4 * len(TEXTS) and set(asked[1 : len(TEXTS)]) == {1.0}
    assert servers[1].statistics().requests == 0


def test_a_first_sample_that_can_never_be_paid_is_refused_at_once(servers: Any) -> None:
    """Where no language model's sample can be paid with all that is left, nobody waits for a change."""
    pool = BudgetPool(dollars=0.0006, strict=True, prices={**PRICES, "openai/dear": Price(300, 1700)})
    both = lms(servers)
    with dspy.context(adapter=NO_FALLBACK):
        qa = DynScaling(
            dspy.Predict("question -> answer"), pool, lms=both, sampling=Escalate(first=1, upfront=0), max_samples=1
        )
        qa(question=TEXTS[0])
        qa.lms = dict(reversed(both.items()))
        assert explain(qa(question=TEXTS[1])).samples[0].model == "cheap"
        with pytest.raises(BudgetExhausted, match="dollars"):
            for text in TEXTS[2:]:
                qa(question=text)
    assert pool.statistics().reserved == Cost() and servers[1].statistics().requests == 0


def test_a_known_set_spends_on_the_cheap_model_what_does_not_pay_for_the_dear_one(servers: Any) -> None:
    both = lms(servers, max_tokens=60)
    both["dear"] = servers[1].lm(model="openai/dear", max_tokens=2000)  # at most that much, and far less each time
    pool = BudgetPool(dollars=0.04, strict=True, prices=PRICES)
    qa = DynScaling(dspy.Predict("question -> answer"), pool, lms=both, sampling=Escalate(upfront=0), max_choices=1)
    with dspy.context(adapter=NO_FALLBACK):
        batch(qa)
    asked = [server.statistics().requests for server in servers]
    assert 36_000_000 < bill(servers) == pool.statistics().spent.nanodollars <= 40_000_000
    assert asked[0] > 4 * len(TEXTS) and asked[1] > 0


def test_one_by_one_no_part_of_the_calls_is_left_without_the_dear_model() -> None:
    """The last calls found the money spent: samples of the dear model were paced as if they cost what others do."""
    draw, calls = random.Random(1), 360
    cheap, dear = [], []
    for number in range(calls):
        skill = draw.betavariate(1.2, 1.2)
        for questions, right in ((cheap, max(0.9 * skill, 0.02)), (dear, min(skill + 0.3, 0.98))):
            wrong = 1 - right
            answers = {"right": right, "wrong": 0.6 * wrong, "odd": 0.3 * wrong, "bad": 0.1 * wrong}
            questions.append(FakeQuestion(f"Riddle {number}?", answers, "right"))
    with FakeServer(cheap, median_latency=0, seed=1) as one, FakeServer(dear, median_latency=0, seed=2) as other:
        both = [server.lm(model=f"openai/{name}", max_tokens=60) for name, server in (("cheap", one), ("dear", other))]
        pool = BudgetPool(dollars=0.00164 * calls, prices={"openai/cheap": Price(1, 2), "openai/dear": Price(10, 20)})
        qa = DynScaling(dspy.Predict("question -> answer"), pool.expect(calls), lms=both, max_choices=1, seed=3)
        drawn = [explain(qa(question=question.text)).samples for question in cheap]
    asked = [sum("dear" in sample.sampler for sample in samples) for samples in drawn]
    thirds = [sum(asked[part : part + calls // 3]) for part in range(0, calls, calls // 3)]
    assert min(thirds) >= max(thirds) / 2, thirds
