"""What a sample costs this process: CPU beside the bare DSPy call, prompt tokens, and the wall clock of one query.

    python examples/benchmarks/overhead.py [--quick] [--json OUT]

The server runs in a process of its own, so that CPU is the client's alone: user and system time, all threads. Each row
draws ``choices`` answers to each of some questions, one question after another, as the median of some repeats; the
methods take turns, so that what else the machine does falls on all of them alike. ``litellm`` is LiteLLM's own
``completion`` called so many times, ``bare`` the unwrapped program, ``apart`` and ``folded`` the wrapped one without
and with several choices a request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
from rich.console import Console
from rich.table import Table

from dynscale_dspy import BudgetPool, DynScaling, Parallel, Uniform
from dynscale_dspy.testing import FakeServer, questions

COLUMNS = ("method", "engine", "mode", "choices", "cpu_ms", "over_bare_ms", "prompt_tokens", "requests", "latencies")
BANK = questions(8, seed=1)
Ask = Callable[[str, int], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.02, help="the server's, in seconds, always the same")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="two repeats, k = 1 and 8")
    parser.add_argument("--json", metavar="OUT", help="write the rows here")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there, arguments.latency), daemon=True)
    server.start()
    address = here.recv()
    try:
        repeats, choices = (2, (1, 8)) if arguments.quick else (arguments.repeats, (1, 4, 8, 16))
        rows = measure(address, choices, repeats, arguments.latency)
    finally:
        here.send("stop")
        server.join(10)
    show(rows)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


def _serve(pipe: Any, latency: float) -> None:
    with FakeServer(BANK, median_latency=latency, sigma=0.0) as server:
        pipe.send(server.url)
        pipe.recv()


def measure(address: str, choices: tuple[int, ...], repeats: int, latency: float) -> list[dict[str, Any]]:
    """All rows."""
    rows = []
    for engine in ("auto", "litellm"):
        lm = dspy.LM(
            "openai/fake", api_base=address, api_key="local", engine=engine, cache=False, num_retries=0, temperature=1.0
        )
        with dspy.context(lm=lm):
            for k in choices:
                for mode in ("sync", "async"):
                    methods = _methods(engine, mode, address, k)
                    seen: dict[str, list[dict[str, float]]] = {name: [] for name in methods}
                    for repeat in range(repeats + 1):
                        for name, ask in methods.items():
                            found = _once(address, ask, k)
                            if repeat:  # the first one warms up
                                seen[name].append(found)
                    middle = {
                        name: {unit: statistics.median(one[unit] for one in found) for unit in found[0]}
                        for name, found in seen.items()
                    }
                    bare = middle["bare"]["cpu_ms"]
                    rows += [
                        {
                            "method": name,
                            "engine": engine,
                            "mode": mode,
                            "choices": k,
                            "cpu_ms": round(found["cpu_ms"], 3),
                            "over_bare_ms": round(found["cpu_ms"] - bare, 3),
                            "prompt_tokens": round(found["prompt_tokens"], 1),
                            "requests": round(found["requests"], 2),
                            "latencies": round(found["seconds"] / latency, 2),
                        }
                        for name, found in middle.items()
                    ]
    return rows


def _methods(engine: str, mode: str, address: str, k: int) -> dict[str, Ask]:
    program = dspy.ChainOfThought("question -> answer")

    def wrapped(most: int) -> DynScaling:
        pool = BudgetPool(per_call=k, policy=Uniform())
        return DynScaling(program, pool, sampling=Parallel(), max_choices=most)

    def bare(question: str, k: int) -> None:
        for _ in range(k):
            program(question=question)

    def bare_tasks(question: str, k: int) -> None:
        async def main() -> None:
            await asyncio.gather(*(program.acall(question=question) for _ in range(k)))

        asyncio.run(main())

    def sync(qa: DynScaling) -> Ask:
        return lambda question, k: qa(question=question)

    def tasks(qa: DynScaling) -> Ask:
        return lambda question, k: asyncio.run(qa.acall(question=question))

    if mode == "sync":
        methods: dict[str, Ask] = {"bare": bare, "apart": sync(wrapped(1))}
        if engine == "litellm":
            methods |= {"folded": sync(wrapped(16)), "litellm": _plain_litellm(address)}
    else:
        methods = {"bare": bare_tasks, "apart": tasks(wrapped(1))}
        if engine == "litellm":
            methods["folded"] = tasks(wrapped(16))
    return methods


def _plain_litellm(address: str) -> Ask:
    import litellm

    adapter = dspy.ChatAdapter()
    signature: Any = dspy.ChainOfThought("question -> answer").predict.signature

    def ask(question: str, k: int) -> None:
        messages = adapter.format(signature, [], {"question": question})
        for _ in range(k):
            litellm.completion("openai/fake", messages=messages, api_base=address, api_key="local", temperature=1.0)

    return ask


def _once(address: str, ask: Ask, k: int) -> dict[str, float]:
    before, cpu, wall = _counted(address), time.process_time(), time.perf_counter()
    for question in BANK:
        ask(question.text, k)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    after = _counted(address)
    return {
        "cpu_ms": 1000 * cpu / (len(BANK) * k),
        "seconds": wall / len(BANK),
        "requests": (after["requests"] - before["requests"]) / len(BANK),
        "prompt_tokens": (after["prompt_tokens"] - before["prompt_tokens"]) / len(BANK),
    }


def _counted(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(address.removesuffix("/v1") + "/stats") as reply:
        return json.load(reply)


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table(title="What a sample costs: CPU ms a sample; prompt tokens, requests and latencies a query")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("method", "engine", "mode") else "right")
    for row in rows:
        table.add_row(*(str(row[column]) for column in COLUMNS))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
