"""A program of two predictors over two language models: whatever fails, and however it is called, caps hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynscale_dspy import BudgetPool, Cost, DynScaling, Price, wrap
from dynscale_dspy.testing import FAULTS, FakeQuestion, FakeServer

TEXTS = [f"Puzzle {n}?" for n in range(6)]
BANK = [FakeQuestion(text, {"right": 0.4, "wrong": 0.4, "odd": 0.2}, "right") for text in TEXTS]
QUICK = [fault for fault in FAULTS if fault not in ("hang", "stall", "slow")]
NAMES = ("cheap", "dear")
ADAPTERS = [dspy.ChatAdapter(use_json_adapter_fallback=False), dspy.ChatAdapter(), dspy.JSONAdapter()]
CAPS: list[dict[str, Any]] = [
    {"dollars": 0.002},
    {"dollars": 0.02},
    {"tokens": 4000},
    {"requests": 25},
    {"samples": 30},
    {"dollars": 0.01, "tokens": 20_000},
]


class Two(dspy.Module):
    """Plans, then answers."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = dspy.Predict("question -> plan")
        self.answer = dspy.Predict("question, plan -> answer")

    def forward(self, question: str) -> Any:
        return self.answer(question=question, plan=self.plan(question=question).plan)

    async def aforward(self, question: str) -> Any:
        planned = await self.plan.acall(question=question)
        return await self.answer.acall(question=question, plan=planned.plan)


def outcome(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except Exception as error:
        return error


def threads(program: Any, cancelled: set[int]) -> None:
    with ThreadPoolExecutor(6) as executor:
        for text in TEXTS:
            executor.submit(copy_context().run, outcome, partial(program, question=text))


def batch(program: Any, cancelled: set[int]) -> None:
    examples = [dspy.Example(question=text).with_inputs("question") for text in TEXTS]
    outcome(lambda: program.batch(examples, num_threads=6, disable_progress_bar=True, max_errors=1000))


def one_by_one(program: Any, cancelled: set[int]) -> None:
    for text in TEXTS:
        outcome(partial(program, question=text))


def tasks(program: Any, cancelled: set[int]) -> None:
    async def main() -> None:
        calls = [asyncio.ensure_future(program.acall(question=text)) for text in TEXTS]
        for place, call in enumerate(calls):
            if place in cancelled:
                for _ in range(10 * place):
                    await asyncio.sleep(0)
                call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(main())


@pytest.fixture(scope="module")
def servers() -> Iterator[list[FakeServer]]:
    with FakeServer(BANK, median_latency=0, seed=1) as cheap, FakeServer(BANK, median_latency=0, seed=2) as dear:
        yield [cheap, dear]


@given(
    act=st.sampled_from([threads, batch, one_by_one, tasks]),
    cancelled=st.sets(st.integers(0, len(TEXTS) - 1), max_size=3),
    caps=st.sampled_from(CAPS),
    faults=st.sets(st.sampled_from([*QUICK, "auth"]), min_size=1, max_size=5),
    rate=st.sampled_from([0, 0.1, 0.3, 0.6]),
    is_free=st.booleans(),
    models=st.sampled_from(["one", "both", "answer", "each"]),
    way=st.sampled_from(["whole", "parts", "whole and parts"]),
    adapter=st.sampled_from(
        [dspy.ChatAdapter(use_json_adapter_fallback=False), dspy.ChatAdapter(), dspy.JSONAdapter()]
    ),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25)
def test_no_cap_is_passed_and_nothing_stays_held(
    servers: list[FakeServer],
    act: Callable[[Any, set[int]], None],
    cancelled: set[int],
    caps: dict[str, Any],
    faults: set[str],
    rate: float,
    is_free: bool,
    models: str,
    way: str,
    adapter: Any,
    seed: int,
) -> None:
    for place, server in enumerate(servers):
        server.reset(seed=seed + place, fault_rate=rate, faults=sorted(faults))
    cheap, dear = (server.lm(model=f"openai/{n}", max_tokens=60) for n, server in zip(NAMES, servers, strict=True))
    prices = {cheap.model: Price(0, 0) if is_free else Price(0.3, 1.7), dear.model: Price(3, 17)}
    pool = BudgetPool(**caps, strict=True, prices=prices, max_failures=None)
    lms = {
        "one": None,
        "both": [cheap, dear],
        "answer": {"answer": [cheap, dear]},
        "each": {"answer": [cheap, dear], "plan": [cheap]},
    }[models]
    by_predictor = lms if isinstance(lms, dict) else None
    program = Two() if way == "whole" else wrap(Two(), pool, **({"lms": by_predictor} if by_predictor else {}))
    if way != "parts":
        program = DynScaling(program, pool, lms=lms if way == "whole" or by_predictor is None else None)
    with dspy.context(lm=cheap, adapter=adapter):
        act(program, cancelled)
    now, counted = pool.statistics(), [server.statistics() for server in servers]
    assert (now.reserved, now.open_calls) == (Cost(), 0)
    requests = sum(each.requests for each in counted)
    tokens = sum(each.prompt_tokens + each.completion_tokens for each in counted)
    bill = sum(
        price.nanodollars(each.prompt_tokens, each.completion_tokens)
        for price, each in zip(prices.values(), counted, strict=True)
    )
    assert now.spent.requests >= requests
    assert now.spent.samples <= caps.get("samples", now.spent.samples)
    assert requests <= caps.get("requests", requests)
    assert tokens <= caps.get("tokens", tokens)
    assert bill <= round(caps.get("dollars", bill) * 10**9)
