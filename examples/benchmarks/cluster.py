"""One budget on a Ray cluster of three nodes on this machine: throughput, messages, accuracy, and what kills cost.

    python examples/benchmarks/cluster.py [--queries 2000] [--quick] [--json OUT]

The model is a stand-in whose answers depend on the question and on how many were drawn of it before, so that runs can
be compared; it runs in a process of its own and counts what it was asked. The first row is one process with as many
calls in flight as all workers of the third have together. In the row with kills a worker, the actor that keeps the
budget and a node with its workers are killed, in this order, while the rows are answered. The last row has no model: it
is how many reports the actor answers when two processes send them as fast as they can.

`unpaid` is what the server answered beyond what the budget says was spent: it has to be 0. `unseen` is the reverse:
samples in flight at a kill, and the lease of the lost node, which count as spent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import dspy
import ray
from ray.cluster_utils import Cluster
from rich.console import Console
from rich.table import Table

from dynscale_dspy import BudgetPool, Cost, DynScaling
from dynscale_dspy.distributed import LeasedPool, run
from dynscale_dspy.distributed.lease_book import Report
from dynscale_dspy.testing import FakeServer, questions

EACH = 4
"""Samples a query, on average."""
IN_FLIGHT = 16
"""Calls at a time in each worker."""
COLUMNS = (
    "run",
    "queries",
    "right_percent",
    "samples",
    "seconds",
    "samples_a_second",
    "messages",
    "samples_a_message",
    "lost",
    "twice",
    "failed",
    "over_spend",
    "unpaid",
    "unseen",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--latency", type=float, default=0.2, help="the server's median, in seconds")
    parser.add_argument("--quick", action="store_true", help="120 queries, two workers, nobody is killed")
    parser.add_argument("--json", metavar="OUT", help="write the rows here")
    arguments = parser.parse_args()
    count = 120 if arguments.quick else arguments.queries
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there, count, arguments.latency), daemon=True)
    server.start()
    bench = Bench(here.recv(), count)
    rows = [bench.alone(4)]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        rows += [bench.shared(workers) for workers in ((2,) if arguments.quick else (1, 2, 4))]
        if not arguments.quick:
            rows.append(bench.killed(cluster, nodes[-1]))
        rows.append(messages(200 if arguments.quick else 4000))
    finally:
        ray.shutdown()
        cluster.shutdown()
        here.send("stop")
        server.join(10)
    table = Table(title="One budget on three nodes")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "run" else "right")
    for row in rows:
        table.add_row(*("" if row[column] is None else str(row[column]) for column in COLUMNS))
    Console(width=180).print(table)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


def _serve(pipe: Any, count: int, latency: float) -> None:
    with FakeServer(questions(count, seed=7), median_latency=latency) as server:
        pipe.send(server.url)
        pipe.recv()


class Bench:
    """The questions, and where they are answered."""

    def __init__(self, address: str, count: int) -> None:
        self.bank = questions(count, seed=7)
        self.address = address
        lm = dspy.LM(
            "openai/fake",
            api_base=address,
            api_key="local",
            cache=False,
            num_retries=0,
            max_tokens=200,
            temperature=1.0,
        )
        dspy.configure(lm=lm)

    def alone(self, workers: int) -> dict[str, Any]:
        """One process, one event loop, and as many calls in flight as so many workers have."""
        pool = BudgetPool(samples=EACH * len(self.bank)).expect(len(self.bank))
        qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool)

        async def answer_all() -> list[Any]:
            free = asyncio.Semaphore(workers * IN_FLIGHT)

            async def one(question: str) -> Any:
                async with free:
                    return await qa.acall(question=question)

            return await asyncio.gather(*(one(question.text) for question in self.bank), return_exceptions=True)

        self._reset()
        began = time.perf_counter()
        answers = asyncio.run(answer_all())
        rows = [{"id": i, "answer": getattr(a, "answer", None)} for i, a in enumerate(answers)]
        failed = sum(isinstance(answer, BaseException) for answer in answers)
        spent = pool.statistics().spent
        return self._row("one process", rows, failed, spent, time.perf_counter() - began, self._counted(), None)

    def shared(self, workers: int) -> dict[str, Any]:
        """The rows of a dataset, by so many workers."""
        return self._run(f"{workers} worker{'s' * (workers > 1)}", workers, lambda pool, done: None)

    def killed(self, cluster: Cluster, node: Any) -> dict[str, Any]:
        """The same while a worker, the actor and a node are killed."""

        def kill(pool: LeasedPool, done: threading.Event) -> None:
            def spent(part: float) -> bool:
                while not done.wait(0.1):
                    if pool.statistics().spent.samples >= part * EACH * len(self.bank):
                        return True
                return False

            if spent(0.2):
                processes = [int(holder.rpartition(":")[2]) for holder in pool.leases().holders]
                os.kill(next(process for process in processes if process != os.getpid()), signal.SIGKILL)
            if spent(0.4):
                ray.kill(pool._actor, no_restart=False)
            if spent(0.6):
                cluster.remove_node(node, allow_graceful=False)

        row = self._run("3 workers; one, the actor and a node killed", 3, kill)
        return {**row, "messages": None, "samples_a_message": None}  # the actor counts from its last start

    def _run(self, name: str, workers: int, meanwhile: Any) -> dict[str, Any]:
        count = len(self.bank)
        items = [{"id": i, "question": question.text} for i, question in enumerate(self.bank)]
        pool = BudgetPool(samples=EACH * count).expect(count).publish(f"cluster {uuid.uuid4().hex}")
        qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool)
        done = threading.Event()
        beside = threading.Thread(target=meanwhile, args=(pool, done))
        self._reset()
        began = time.perf_counter()
        beside.start()
        with tempfile.TemporaryDirectory() as folder:
            answered = run(
                qa,
                ray.data.from_items(items, override_num_blocks=min(count // 10, 64)),
                pool,
                workers=workers,
                in_flight=IN_FLIGHT,
                rows_per_task=16,
                key="id",
                checkpoint=folder,
            ).take_all()
        seconds = time.perf_counter() - began
        done.set()
        beside.join()
        pool.reconcile()
        leases = pool.leases()
        spent = pool.end().spent
        failed = sum(bool(row["dynscale_error"]) for row in answered)
        for row in answered:
            if row["dynscale_error"]:
                print(row["id"], row["dynscale_error"], file=sys.stderr)
        return self._row(name, answered, failed, spent, seconds, self._counted(), leases.messages)

    def _row(
        self,
        name: str,
        rows: list[dict[str, Any]],
        failed: int,
        spent: Cost,
        seconds: float,
        served: int,
        messages: int | None,
    ) -> dict[str, Any]:
        ids = [row["id"] for row in rows]
        right = sum((row["answer"] or "").strip() == self.bank[row["id"]].answer for row in rows)
        return {
            "run": name,
            "queries": len(self.bank),
            "right_percent": round(100 * right / len(self.bank), 2),
            "samples": spent.samples,
            "seconds": round(seconds, 1),
            "samples_a_second": round(spent.samples / seconds, 1),
            "messages": messages,
            "samples_a_message": round(spent.samples / messages, 1) if messages else None,
            "lost": len(self.bank) - len(set(ids)),
            "twice": len(ids) - len(set(ids)),
            "failed": failed,
            "over_spend": max(spent.samples - EACH * len(self.bank), 0),
            "unpaid": max(served - spent.samples, 0),
            "unseen": max(spent.samples - served, 0),
        }

    def _reset(self) -> None:
        """Every run is given the same answers to the same draws."""
        address = self.address.removesuffix("/v1") + "/reset"
        urllib.request.urlopen(urllib.request.Request(address, data=b"{}", method="POST")).close()

    def _counted(self) -> int:
        with urllib.request.urlopen(self.address.removesuffix("/v1") + "/stats") as reply:
            return json.load(reply)["requests"]


@ray.remote(num_cpus=1)
class Sender:
    """Sends reports of a lease as fast as they are answered, a few at a time."""

    def send(self, actor: Any, count: int) -> None:
        """So many reports."""
        lease, limits, waiting = uuid.uuid4().hex, {"samples": None}, []
        for number in range(1, count + 1):
            waiting.append(actor.renew.remote(Report(lease, number, Cost(), Cost(), limits, want=Cost(samples=1))))
            if len(waiting) == 8:
                ray.get(waiting.pop(0))
        ray.get(waiting)


def messages(count: int) -> dict[str, Any]:
    """How many reports the actor answers."""
    pool = BudgetPool(samples=10**9).publish(f"cluster {uuid.uuid4().hex}")
    senders: list[Any] = [Sender.remote() for _ in range(2)]  # type: ignore[attr-defined]
    ray.get([sender.send.remote(pool._actor, 10) for sender in senders])
    began = time.perf_counter()
    ray.get([sender.send.remote(pool._actor, count // 2) for sender in senders])
    seconds = time.perf_counter() - began
    pool.reconcile()
    pool.end()
    row = dict.fromkeys(COLUMNS)
    return {**row, "run": f"the actor alone: {count / seconds:.0f} messages a second", "messages": count} | {
        "seconds": round(seconds, 1)
    }


if __name__ == "__main__":
    main()
