"""Fallbacks: routes by which one request becomes several, on other models, inside LiteLLM.

The first model always fails. A strict pool has to refuse such a language model before anything is asked; any other
makes the request, and its books and the servers' count then differ by the requests that nobody tells of. A Router in a
language model of the user's own cannot be recognised by either.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import tempfile
from collections import Counter
from dataclasses import asdict
from typing import Any

import dspy

from dynscale_dspy import BudgetPool
from dynscale_dspy.testing import FakeServer
from storms.common import (
    MAX_TOKENS,
    Books,
    Calls,
    Noting,
    finish,
    language_model,
    limits,
    parts,
    row,
    start,
    texts_in,
    texts_of,
)

KINDS = ("fallbacks=", "fallbacks= of a call", "Router")


def run(calls: int, seed: int, quick: bool) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:

        def server(fault_rate: float) -> FakeServer:
            fake = FakeServer(
                calls // 2, seed=seed, median_latency=0.01, fault_rate=fault_rate, faults=["500"], record=0
            )
            return stack.enter_context(fake)

        pairs = [(server(1.0), server(0.0)) for _ in range(2)]
        texts = texts_of(pairs[0][0], folder)
        told = finish(start("routes", folder=folder, urls=[[fake.url for fake in pair] for pair in pairs]))
        rows = []
        for strict, pair, (ends, books) in zip((True, False), pairs, told, strict=True):
            counted = [fake.wait_until(lambda now: now.in_flight == 0, timeout=60) for fake in pair]
            fault = "fallback routes, strict" if strict else "fallback routes"
            met = "none asked" if strict else f"{counted[1].requests:,} fallbacks"
            rows.append(row(fault, len(texts), ends, Books(**books), counted, met=met))
        return rows


class Routed(dspy.BaseLM):
    """A language model of the user's own that asks LiteLLM's Router, which falls back and tries again by itself."""

    def __init__(self, urls: list[str]) -> None:
        super().__init__("openai/fake", max_tokens=MAX_TOKENS, temperature=1.0, cache=False)
        names = ("fake", "other")
        self._routes = {
            "model_list": [
                {
                    "model_name": name,
                    "litellm_params": {"model": "openai/fake", "api_base": url, "api_key": "local", "max_retries": 0},
                }
                for name, url in zip(names, urls, strict=True)
            ],
            "fallbacks": [{"fake": ["other"]}],
            "num_retries": 0,
        }
        self._router: Any = None

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return self._route().completion(model="fake", messages=_messages(prompt, messages), **self.kwargs)

    async def aforward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        return await self._route().acompletion(model="fake", messages=_messages(prompt, messages), **self.kwargs)

    def _route(self) -> Any:
        from litellm.router import Router

        if self._router is None:
            self._router = Router(**self._routes)
        return self._router


def _messages(prompt: Any, messages: Any) -> Any:
    return messages or [{"role": "user", "content": prompt}]


def work(folder: str, urls: list[list[str]]) -> None:
    importlib.import_module("litellm.router")  # takes seconds, which are no call's

    told = []
    for strict, (failing, well) in zip((True, False), urls, strict=True):
        other = {"model": "openai/fake", "api_base": well, "api_key": "local"}
        ends, books = Counter(), Books()
        for kind, texts in parts(texts_in(folder), KINDS[: 2 if strict else 3]):
            lm: Any = language_model(failing, num_retries=0, engine="litellm")
            if kind == "Router":
                lm = Routed([failing, well])
            elif kind == "fallbacks=":
                lm = lm.copy(fallbacks=[other])
            dspy.configure(lm=lm)
            program = Noting(fallbacks=[other]) if kind == "fallbacks= of a call" else None
            calls = Calls(BudgetPool(**limits(len(texts), strict=strict)), program=program)
            calls.both(texts, 4, 4)
            calls.settle()
            calls.left()
            ends += calls.ends
            books += Books.of(calls.pool)
        told.append((ends, asdict(books)))
    print(json.dumps(told))
