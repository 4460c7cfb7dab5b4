"""Accuracy, spend and faults against a deterministic server on which every sampler sees the same answers.

    python examples/benchmarks/arena.py --server http://127.0.0.1:8765 [--quick] [--json OUT]

The server is OpenAI compatible and has, besides, ``GET /questions`` (a list of ``{"text", "answer"}``), ``GET /stats``
(``requests``, ``samples``, ``samples_delivered``, ``max_inflight``, ...) and ``POST /reset`` (its options as JSON,
among them ``seed`` and ``fault_rate``). The k-th sample of a question depends on the seed, the question and k alone,
so accuracies of different samplers are paired. Without ``--server``, a stand-in of the same interface is started in
this process, with questions of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
from rich.console import Console
from rich.table import Table

from dynscale_dspy import BudgetPool, DynScaling, KnowledgeGradient, Policy, Uniform
from dynscale_dspy.testing import FakeServer

COLUMNS = (
    "method", "engine", "mode", "in_flight", "faults", "runs", "accuracy", "se", "budget", "billed", "overspend",
    "answered", "lost", "peak", "seconds",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", help="address, e.g. http://127.0.0.1:8765; a stand-in is started without it")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budgets", default="800,1600", help="samples over all questions")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds a request may take; faults hang longer")
    parser.add_argument("--quick", action="store_true", help="one seed, one budget, few rows")
    parser.add_argument("--json", metavar="OUT", help="write the rows here")
    arguments = parser.parse_args()
    seeds = 1 if arguments.quick else arguments.seeds
    budgets = [400] if arguments.quick else [int(b) for b in arguments.budgets.split(",")]
    with _server(arguments.server) as address:
        arena = Arena(address, arguments.timeout)
        once = {"policy": Uniform(), "budget": arena.questions}
        plan: list[dict[str, Any]] = [{**once, "single": name} for name in SINGLE]
        for budget in budgets:
            plan.append({"policy": Uniform(), "budget": budget})
            plan.append({"policy": KnowledgeGradient(), "budget": budget})
        plan.append({"policy": KnowledgeGradient(), "budget": budgets[-1], "mode": "evaluate"})
        plan.append({"policy": KnowledgeGradient(), "budget": budgets[-1], "mode": "gather"})
        if not arguments.quick:
            plan.append({"policy": KnowledgeGradient(), "budget": budgets[-1], "in_flight": 256, "engine": "litellm"})
            plan.append({"policy": KnowledgeGradient(), "budget": budgets[-1], "in_flight": 256, "mode": "gather"})
        plan.append({"policy": KnowledgeGradient(), "budget": budgets[-1], "faults": 0.05})
        rows = [arena.row(seeds=seeds, **options) for options in plan]
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*(f"{row[c]:.3g}" if isinstance(row[c], float) else str(row[c]) for c in COLUMNS))
    Console(width=180).print(table)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


SINGLE: dict[str, dict[str, Any]] = {
    "plain": {"max_samples": 1},
    "plain, temperature 0": {"max_samples": 1, "temperature": 0},
}
"""The plain program, which others have to beat, as settings of a wrapped one."""


class Arena:
    """Runs one sampler after another against the server."""

    def __init__(self, address: str, timeout: float) -> None:
        self.address = address
        self.timeout = timeout
        self.questions = len(self._get("/questions"))

    def row(
        self,
        *,
        policy: Policy,
        budget: int,
        seeds: int,
        mode: str = "batch",
        engine: str = "auto",
        in_flight: int = 64,
        faults: float = 0.0,
        single: str = "",
    ) -> dict[str, Any]:
        """One table row: a method, averaged over the server's seeds."""
        runs = [self.run(policy, budget, seed, mode, engine, in_flight, faults, single) for seed in range(seeds)]
        accuracies = [run["accuracy"] for run in runs]
        return {
            "method": single or type(policy).__name__,
            "engine": engine,
            "mode": mode,
            "in_flight": in_flight,
            "faults": faults,
            "runs": len(runs),
            "accuracy": statistics.mean(accuracies),
            "se": statistics.stdev(accuracies) / len(runs) ** 0.5 if len(runs) > 1 else None,
            "budget": budget,
            "billed": max(run["billed"] for run in runs),
            "overspend": max(run["overspend"] for run in runs),
            "answered": min(run["answered"] for run in runs),
            "lost": max(run["lost"] for run in runs),
            "peak": max(run["peak"] for run in runs),
            "seconds": statistics.median(run["seconds"] for run in runs),
        }

    def run(
        self, policy: Policy, budget: int, seed: int, mode: str, engine: str, in_flight: int, faults: float, single: str
    ) -> dict[str, Any]:
        """One run of 200 questions on one seed."""
        self._post("/reset", {"seed": seed, "fault_rate": faults})
        questions = self._get("/questions")
        # One request a call: a failed sample is an empty vote, so that what is billed can be compared with the plan.
        options: dict[str, Any] = {"cache": False, "num_retries": 0, "temperature": 1.0, "timeout": self.timeout}
        lm = dspy.LM("openai/fake", api_base=f"{self.address}/v1", api_key="local", engine=engine, **options)
        pool = BudgetPool(samples=budget, requests=budget, policy=policy)
        program = DynScaling(dspy.Predict("question -> answer"), budget=pool, **SINGLE.get(single, {}))
        examples = [dspy.Example(question=q["text"], answer=q["answer"]).with_inputs("question") for q in questions]
        began = time.perf_counter()
        # A fault-free adapter fallback would buy the same sample twice, so there is none here.
        with dspy.context(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
            if mode == "batch":
                predictions = program.batch(examples, num_threads=in_flight, disable_progress_bar=True)
            elif mode == "evaluate":
                pool.expect(len(examples))
                predictions = dspy.Parallel(num_threads=in_flight, disable_progress_bar=True)(
                    [(program, example.inputs()) for example in examples]
                )
            else:
                pool.expect(len(examples))
                predictions = asyncio.run(_gather(program, examples, in_flight))
        seconds = time.perf_counter() - began
        stats, spent = self._get("/stats"), pool.statistics()
        right = sum(
            prediction is not None and str(prediction.answer) == question["answer"]
            for prediction, question in zip(predictions, questions, strict=True)
        )
        from dynscale_dspy import explain

        votes = sum(v.total for prediction in predictions if prediction for v in explain(prediction).votes)
        return {
            "accuracy": 100 * right / len(questions),
            "billed": stats["samples"],
            "overspend": max(0, stats["samples"] - budget, spent.spent.samples - budget) + spent.reserved.samples,
            "answered": sum(prediction is not None for prediction in predictions),
            # Well-formed answers that the server delivered and no vote counted.
            "lost": stats["samples_delivered"] - votes,
            "peak": stats["max_inflight"],
            "seconds": seconds,
        }

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.address + path, timeout=30) as response:
            return json.load(response)

    def _post(self, path: str, body: dict[str, Any]) -> None:
        request = urllib.request.Request(self.address + path, data=json.dumps(body).encode(), method="POST")
        urllib.request.urlopen(request, timeout=30).close()


async def _gather(program: DynScaling, examples: list[dspy.Example], in_flight: int) -> list[Any]:
    gate = asyncio.Semaphore(in_flight)

    async def answer(example: dspy.Example) -> Any:
        async with gate:
            return await program.acall(**example.inputs())

    return await asyncio.gather(*(answer(example) for example in examples))


@contextlib.contextmanager
def _server(address: str | None) -> Iterator[str]:
    if address:
        yield address.rstrip("/")
        return
    with FakeServer(200, median_latency=0.05) as server:
        yield server.address


if __name__ == "__main__":
    main()
