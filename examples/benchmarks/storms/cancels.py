"""Many tasks that are cancelled at random instants, from before they begin until after they have ended.

In turn on a pool in memory, with ``max_concurrency``, and in a file. Those that nobody cancels have to answer.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dspy

from dynscale_dspy import BudgetPool
from dynscale_dspy.testing import FakeServer
from storms.common import BOUND, Books, Calls, finish, language_model, limits, parts, row, start, texts_in, texts_of

KINDS = ("in memory", "max_concurrency", "in a file")


def run(calls: int, seed: int, quick: bool) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, FakeServer(calls, seed=seed, median_latency=0.05, record=0) as server:
        texts_of(server, folder)
        told = finish(start("cancels", folder=folder, url=server.url, seed=seed))
        served = server.wait_until(lambda now: now.in_flight == 0, timeout=60)
    met = f"{told['cancelled']:,} cancelled"
    return [row("cancellation storm", calls, told["ends"], Books(**told["books"]), [served], met=met)]


def work(folder: str, url: str, seed: int) -> None:
    dspy.configure(lm=language_model(url))
    rng, ends, books, cancelled = random.Random(seed), Counter(), Books(), 0
    for kind, texts in parts(texts_in(folder), KINDS):
        path = Path(folder, "budget.sqlite") if kind == "in a file" else None
        most = 16 if kind == "max_concurrency" else None
        calls = Calls(BudgetPool(path=path, max_concurrency=most, **limits(len(texts))))
        cancelled += asyncio.run(_storm(calls, texts, rng, 24))
        calls.settle()
        calls.left()
        ends += calls.ends
        books += Books.of(calls.pool)
    print(json.dumps({"ends": ends, "books": asdict(books), "cancelled": cancelled}))


async def _storm(calls: Calls, texts: list[str], rng: random.Random, at_once: int) -> int:
    gate, taken, cancelled = asyncio.Semaphore(at_once), [0.3], 0

    async def one(text: str) -> None:
        nonlocal cancelled
        async with gate:
            begun = time.monotonic()
            task = asyncio.ensure_future(calls.acall(text))
            if rng.random() < 0.5:
                # Within twice what a call takes; now and then twice, as by a timeout around a timeout.
                await asyncio.wait([task], timeout=rng.uniform(0, 2 * taken[0]))
                if not task.done():
                    cancelled += 1
                    task.cancel()
                    if rng.random() < 0.2:
                        await asyncio.sleep(rng.uniform(0, 0.01))
                        task.cancel()
            await asyncio.wait([task], timeout=BOUND)
            if task.cancelled():
                calls.cut([text])  # perhaps before it began
            elif task.done():
                taken[0] += (time.monotonic() - begun - taken[0]) / 20

    await asyncio.gather(*map(one, texts))
    return cancelled
