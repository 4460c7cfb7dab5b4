"""Ways of calling a program on a few questions that show no error, and cancel some calls where they can."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any

import dspy

from dynscale_dspy.testing import FAULTS, FakeQuestion

TEXTS = [f"Puzzle {n}?" for n in range(6)]
BANK = [FakeQuestion(text, {"right": 0.4, "wrong": 0.4, "odd": 0.2}, "right") for text in TEXTS]
QUICK = [fault for fault in FAULTS if fault not in ("hang", "stall", "slow")]


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


WAYS = [threads, batch, one_by_one, tasks]
