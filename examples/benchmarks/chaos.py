"""One budget under fire: three processes, threads and tasks, a tenth of all requests gone wrong, kill -9 twice.

    python examples/benchmarks/chaos.py [--quick] [--json OUT]

Three processes share a pool kept in one SQLite file. Each answers its third of the calls, half of them from 64 threads
and half from 256 asyncio tasks. A tenth of the requests meet a fault, of every kind that the fake server knows. The
third process is killed with SIGKILL twice on its way and started again; it has DSPy's cache on disk. Then the books
are compared with the server's own count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
from rich.console import Console
from rich.table import Table

from dynscale_dspy import BudgetExhausted, BudgetPool, DynScaling, Price
from dynscale_dspy.testing import FAULTS, PERMANENT_FAULTS, FakeServer

PER_CALL = 8
KILLS = 2
PRICES = {"openai/fake": Price(prompt=0.5, completion=1.5)}
MAX_TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=64, help="of each process")
    parser.add_argument("--tasks", type=int, default=256, help="of each process")
    parser.add_argument("--fault-rate", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="150 calls, 16 threads, 32 tasks")
    parser.add_argument("--json", metavar="OUT", help="write the rows here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        Worker(**json.loads(arguments.worker)).run()
        return
    if arguments.quick:
        arguments.calls, arguments.threads, arguments.tasks = 150, 16, 32
    row = chaos(arguments)
    table = Table("", "")
    for name, value in row.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:.4g}")
    Console(width=100).print(table)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps([row], indent=1))


def chaos(arguments: argparse.Namespace) -> dict[str, Any]:
    """One run; returns what came of it."""
    calls, caps = arguments.calls, budget(arguments.calls, arguments.threads + arguments.tasks)
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        FakeServer(
            calls,
            seed=arguments.seed,
            median_latency=0.02,
            fault_rate=arguments.fault_rate,
            faults=(*FAULTS, *PERMANENT_FAULTS),
            hang=1.0,
            record=0,
        ) as server,
    ):
        texts = [question.text for question in server.questions]
        Path(folder, "questions.json").write_text(json.dumps(texts))
        path = Path(folder, "budget.sqlite")
        shared = {"folder": folder, "url": server.url, "threads": arguments.threads, "tasks": arguments.tasks}
        processes = [start({**shared, "part": part, "cached": part == 2}) for part in range(3)]
        # The third is killed when a third of its calls are answered, and again when two thirds are.
        kills = 0
        share = len(range(2, calls, 3))
        for goal in (share // 3, 2 * share // 3):
            if reached(processes[2], goal):
                processes[2].send_signal(signal.SIGKILL)
                processes[2].communicate()
                kills += 1
                processes[2] = start({**shared, "part": 2, "cached": True})
        outcomes = [finish(process) for process in processes]
        served = server.wait_until(lambda now: now.in_flight == 0, timeout=60)
        with sqlite3.connect(path) as connection:
            (paid_for,) = connection.execute("SELECT count(*) FROM paid").fetchone()
        pool = BudgetPool(path=path, prices=PRICES, **caps)
        before = pool.statistics()
        at_kill = pool.reconcile()
        after = pool.statistics()
    limits = after.limits
    bill = PRICES["openai/fake"].nanodollars(served.prompt_tokens, served.completion_tokens)
    totals = Counter()
    for outcome in outcomes:
        totals.update(outcome)
    settled = after.spent.requests - after.spent.cached_requests - at_kill.requests
    return {
        "calls": calls,
        "calls answered": totals["answered"],
        "calls whose samples all failed": totals["failed"],
        "calls that found no budget": totals["empty"],
        "calls lost though a sample succeeded": totals["lost"],
        "processes killed": kills,
        "faults met": sum(served.faults.values()),
        "kinds of fault met": len(served.faults),
        "requests the server counted": served.requests,
        "requests settled": settled,
        "requests set aside at a kill": at_kill.requests,
        "of these made": served.requests - settled,
        "requests made and not paid": max(0, served.requests - settled - at_kill.requests),
        "requests paid and not made": max(0, settled - served.requests),
        "samples paid": after.spent.samples,
        "samples reported": totals["samples"],
        "samples a call": after.spent.samples / calls,
        "over-spend, samples": max(0, after.spent.samples - int(limits["samples"] or 0)),
        "over-spend, requests": max(0, after.spent.requests - int(limits["requests"] or 0)),
        "over-spend, tokens": max(0, after.spent.tokens - int(limits["tokens"] or 0)),
        "over-spend, nanodollars": max(0, after.spent.nanodollars - round((limits["dollars"] or 0) * 1e9)),
        "nanodollars billed beyond the books": max(0, bill - after.spent.nanodollars),
        "reservations left by the living": before.reserved.samples - at_kill.samples,
        "reservations left by the dead": at_kill.samples,
        "reservations left after reconcile()": after.reserved.samples,
        "failed samples tried again after a kill": max(0, after.spent.samples - at_kill.samples - paid_for),
        "seconds": time.perf_counter() - began,
    }


def budget(calls: int, in_flight: int) -> dict[str, Any]:
    """The caps of all processes together."""
    return {
        # A tenth more than is planned: what is in flight at a kill is lost, and what had failed before is tried again.
        "samples": PER_CALL * calls + PER_CALL * calls // 10 + 2 * KILLS * in_flight,
        "requests": 2 * PER_CALL * calls,
        "tokens": 4_000 * calls,
        "dollars": 0.004 * calls,
        "strict": True,
    }


def start(settings: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", __file__, "--worker", json.dumps(settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def reached(process: subprocess.Popen[str], goal: int) -> bool:
    """Read a worker's progress until it has answered so many calls; False if it ended before."""
    assert process.stdout is not None
    return any(line.startswith("answered") and int(line.split()[1]) >= goal for line in process.stdout)


def finish(process: subprocess.Popen[str]) -> dict[str, int]:
    out = process.communicate()[0]
    outcome = json.loads(out.splitlines()[-1])
    assert process.returncode == 0, process.returncode
    return outcome


class Noting(dspy.Module):
    """A program that notes which questions have had a good sample."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer")
        self._good: set[str] = set()

    def forward(self, question: str) -> Any:
        prediction = self.predict(question=question)
        self._good.add(question)
        return prediction

    async def aforward(self, question: str) -> Any:
        prediction = await self.predict.acall(question=question)
        self._good.add(question)
        return prediction


class Worker:
    """One of the processes."""

    def __init__(self, folder: str, url: str, threads: int, tasks: int, part: int, cached: bool) -> None:
        texts = json.loads(Path(folder, "questions.json").read_text())
        self.texts = texts[part::3]
        self.threads, self.tasks = threads, tasks
        if cached:
            dspy.configure_cache(disk_cache_dir=str(Path(folder, "cache")), enable_memory_cache=True)
        # Retries as in production, but not its pauses: they are the server's to ask for.
        options: dict[str, Any] = {"num_retries": 2, "temperature": 1.0, "timeout": 60, "max_tokens": MAX_TOKENS}
        lm = dspy.LM("openai/fake", api_base=url, api_key="local", cache=cached, **options)
        dspy.configure(lm=lm)
        caps = budget(len(texts), threads + tasks)
        self.pool = BudgetPool(
            path=Path(folder, "budget.sqlite"), per_call=PER_CALL, prices=PRICES, max_failures=1000, **caps
        )
        self.program = Noting()
        self.scaled = DynScaling(self.program, budget=self.pool)
        self.outcome: Counter[str] = Counter(answered=0, failed=0, empty=0, lost=0, samples=0)
        self.lock = threading.Lock()

    def run(self) -> None:
        half = len(self.texts) // 2
        in_tasks = threading.Thread(target=lambda: asyncio.run(self.gather(self.texts[half:])))
        in_tasks.start()
        queue = iter(self.texts[:half])
        threads = [threading.Thread(target=self.serve, args=(queue,)) for _ in range(self.threads)]
        for thread in threads:
            thread.start()
        for thread in (*threads, in_tasks):
            thread.join()
        now = self.pool.statistics()
        self.outcome["samples"] = sum(samples * number for samples, number in now.samples_per_call.items())
        print(json.dumps(self.outcome))

    def serve(self, queue: Any) -> None:
        while True:
            with self.lock:
                text = next(queue, None)
            if text is None:
                return
            try:
                self.scaled(question=text)
            except Exception as error:
                self.note(text, error)
            else:
                self.note(text, None)

    async def gather(self, texts: list[str]) -> None:
        gate = asyncio.Semaphore(self.tasks)

        async def answer(text: str) -> None:
            async with gate:
                try:
                    await self.scaled.acall(question=text)
                except Exception as error:
                    self.note(text, error)
                else:
                    self.note(text, None)

        await asyncio.gather(*(answer(text) for text in texts))

    def note(self, text: str, error: Exception | None) -> None:
        with self.lock:
            if error is None:
                self.outcome["answered"] += 1
            elif isinstance(error, BudgetExhausted):
                self.outcome["empty"] += 1
            else:
                self.outcome["lost" if text in self.program._good else "failed"] += 1
            print("answered", self.outcome["answered"])


if __name__ == "__main__":
    main()
