"""A program of two predictors over two language models: whatever fails, and however it is called, caps hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynscale_dspy import BudgetPool, Cost, DynScaling, Price, wrap
from dynscale_dspy.testing import FakeServer
from tests.transport.ways import BANK, QUICK, TEXTS, WAYS

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


@pytest.fixture(scope="module")
def servers() -> Iterator[list[FakeServer]]:
    with FakeServer(BANK, median_latency=0, seed=1) as cheap, FakeServer(BANK, median_latency=0, seed=2) as dear:
        yield [cheap, dear]


@given(
    act=st.sampled_from(WAYS),
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
