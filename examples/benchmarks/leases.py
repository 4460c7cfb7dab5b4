"""One budget on paper: what leasing costs, from one worker to ten thousand, in accuracy, messages and lag.

    python examples/benchmarks/leases.py [--queries 1000000] [--workers 1 10 100 1000] [--shift] [--pools FOLDER]
        [--quick] [--json OUT]

The lease book, its holders, their pace and their prices are the library's own; only the model, the network and the
clock are simulated. Queries have answer laws of mixed difficulty (`dynscale_dspy.testing.questions`), or those of
recorded pools. Calls take log-normal times, and a message waits for the actor, which answers one at a time. With
`--shift` the easier half of the laws comes first, so that the price has to move: `lag` is how many samples a worker
draws until its price has gone nine tenths of the way.

The first row of each size is the central bandit: one pool in one process, 64 calls in flight, no lease.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
import time
from bisect import bisect
from collections.abc import Iterator
from copy import copy
from itertools import accumulate
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.allocation.policies import make_policy
from dynscale_dspy.allocation.pricing import Allowance, ShadowPrice
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.budget.accounts import Ledger
from dynscale_dspy.distributed.lease_book import CHUNK, LEAST, Grant, Holder, LeaseBook
from dynscale_dspy.replay import load_pool
from dynscale_dspy.testing import questions

SERVICE, FLIGHT = 0.0005, 0.002
"""Seconds that the actor takes for a message, as measured, and that a message travels, there and back."""
MEDIAN, SPREAD = 1.5, 0.6
"""Seconds that a round of samples takes: log-normal."""

Law = tuple[list[float], int]
"""Thresholds of the answers' chances, and which answer is right."""


def laws(folder: str | None) -> list[Law]:
    """Easier ones first, by the chance of the most frequent answer."""
    found: list[tuple[float, Law]] = []
    if folder is None:
        for question in questions(2000, seed=5):
            whole = sum(question.answers.values())
            chances = [chance / whole for chance in question.answers.values()]
            found.append((max(chances), (list(accumulate(chances)), list(question.answers).index(question.answer))))
    else:
        for path in sorted(Path(folder).glob("*.json*")):
            for question in load_pool(path).questions:
                # What was not parsed votes for nobody: the last answer stands for it, and is never right.
                names = [*dict.fromkeys(a for a in question.answers if a is not None), None]
                chances = [question.answers.count(name) / len(question.answers) for name in names]
                right = next((i for i, name in enumerate(names) if name in question.right), len(names))
                found.append((max(chances), (list(accumulate(chances)), right)))
    return [law for _, law in sorted(found, key=lambda entry: -entry[0])]


class Pace:
    """What a pool paces its calls by."""

    def __init__(self, allowance: Allowance) -> None:
        self.allowances = {"samples": allowance}
        self.price: ShadowPrice | None = None


class Worker:
    """A process: its calls, its lease, its pace."""

    def __init__(self, name: int, pace: Pace, limits: dict[str, int | None]) -> None:
        self.pace = pace
        self.holder = Holder(str(name), limits, pace)
        self.limits = limits
        self.spent = self.held = self.told = self.open = 0
        self.waiting: list[Call] = []
        self.asking = False
        self.retry = 0.0

    @property
    def room(self) -> float:
        limit = self.limits["samples"]
        return math.inf if limit is None else limit - self.spent - self.held


class Call:
    __slots__ = ("counts", "flying", "law", "samples", "worker")

    def __init__(self, law: Law, worker: Worker) -> None:
        self.law = law
        self.worker = worker
        self.counts: dict[int, int] = {}
        self.samples = self.flying = 0


class Simulation:
    """So many queries over so many workers; with ``workers=0`` over one pool without leases."""

    def __init__(
        self, laws: list[Law], queries: int, workers: int, *, budget: float, in_flight: int, shift: bool, seed: int
    ) -> None:
        self.random = random.Random(seed)
        self.policy = make_policy("knowledge_gradient")
        self.budget, self.queries, self.shift, self.laws = budget, queries, shift, laws
        self.cap = int(budget * queries)
        self.first = min(self.policy.first, int(budget))
        self.coming = self._coming()
        whole = Allowance(budget, first=self.first, expected=queries)
        self.book = LeaseBook(Ledger(samples=self.cap), {"samples": whole}) if workers else None
        self.in_flight = in_flight
        self.pool = [self._worker(i, whole) for i in range(max(workers, 1))]
        self.clock = self.actor_free = 0.0
        self.events: list[tuple[float, int, object]] = []
        self.number = 0
        self.worths: dict[tuple[int, int, int, int], float] = {}
        self.drawn = self.answered = self.unanswered = self.messages = self.peak = 0
        self.right = 0.0
        self.prices: list[tuple[int, float]] = []

    def _worker(self, name: int, whole: Allowance) -> Worker:
        if self.book is None:
            return Worker(name, Pace(whole), {"samples": self.cap})
        return Worker(name, Pace(copy(whole)), {"samples": 0})

    def _coming(self) -> Iterator[Law]:
        half = len(self.laws) // 2
        for number in range(self.queries):
            if self.shift:
                easy = number < self.queries // 2
                yield self.laws[self.random.randrange(half) + (0 if easy else half)]
            else:
                yield self.laws[self.random.randrange(len(self.laws))]

    # ---- the world

    def run(self) -> None:
        for _ in range(self.in_flight):
            for worker in self.pool:
                self._next(worker)
        events = self.events
        while events:
            self.clock, _, event = heapq.heappop(events)
            if isinstance(event, Call):
                self._round_over(event)
            elif isinstance(event, Worker):
                event.asking = False
                self._look(event)
            else:
                worker, grant = event  # type: ignore[misc]
                self._answer(worker, grant)
        for worker in self.pool:
            if self.book is not None:
                self.book.close(worker.holder.lease, Cost(samples=worker.spent))

    def _after(self, seconds: float, event: object) -> None:
        self.number += 1
        heapq.heappush(self.events, (self.clock + seconds, self.number, event))

    def _next(self, worker: Worker) -> None:
        law = next(self.coming, None)
        if law is not None:
            self._open(Call(law, worker))

    def _open(self, call: Call) -> None:
        worker = call.worker
        if worker.room < 1:
            if self.book is None or not worker.holder.more:
                self.unanswered += 1
                self._next(worker)
            else:
                worker.waiting.append(call)
                self._look(worker)
            return
        worker.open += 1
        worker.pace.allowances["samples"].open()
        self._take(call, int(min(self.first, worker.room)))
        self._grant(call)
        self._fly(call)

    def _take(self, call: Call, samples: int) -> None:
        call.flying += samples
        call.worker.held += samples

    def _grant(self, call: Call) -> None:
        """As an arm does."""
        worker = call.worker
        pace = worker.pace
        if pace.price is None:
            pace.price = ShadowPrice.opening(self.policy, self.budget, first=self.first)
            worker.holder.opened(pace.price)
        credit = min(pace.allowances["samples"].credit(worker.spent + worker.held), worker.room, 64 - call.samples)
        granted = 0
        a, b = self._leaders(call)
        while granted < credit and self._worth(call.samples, a, b, call.flying) > pace.price.value:
            self._take(call, 1)
            granted += 1
        if granted:
            pace.price.granted(granted, per_call=self.budget)

    def _fly(self, call: Call) -> None:
        self._after(MEDIAN * math.exp(SPREAD * self.random.gauss(0, 1)), call)
        self._look(call.worker)

    def _round_over(self, call: Call) -> None:
        worker = call.worker
        thresholds = call.law[0]
        for _ in range(call.flying):
            answer = bisect(thresholds, self.random.random() * thresholds[-1])
            call.counts[answer] = call.counts.get(answer, 0) + 1
        call.samples += call.flying
        worker.held -= call.flying
        worker.spent += call.flying
        self.drawn += call.flying
        call.flying = 0
        self._grant(call)
        if call.flying:
            self._fly(call)
            return
        best = max(call.counts.values())
        leaders = [answer for answer, count in call.counts.items() if count == best]
        self.right += (call.law[1] in leaders) / len(leaders)
        self.answered += 1
        worker.open -= 1
        self._close(worker, call.samples)
        self._next(worker)
        self._look(worker)
        if self.answered % max(1, self.queries // 2000) == 0 and worker.pace.price is not None:
            some = [w.pace.price.value for w in self.pool[:50] if w.pace.price is not None]
            self.prices.append((self.answered, sum(map(math.log, some)) / len(some)))

    def _close(self, worker: Worker, used: int) -> None:
        target = worker.pace.allowances["samples"].close(used)
        assert worker.pace.price is not None
        worker.pace.price.closed(max(target - self.first, 0), per_call=self.budget, used=max(used - self.first, 0))

    def _leaders(self, call: Call) -> tuple[int, int]:
        counts = sorted(call.counts.values(), reverse=True)
        return (counts[0] if counts else 0), (counts[1] if len(counts) > 1 else 0)

    def _worth(self, n: int, a: int, b: int, pending: int) -> float:
        key = (n, a, b, pending)
        found = self.worths.get(key)
        if found is None:
            votes = {name: count for name, count in enumerate((a, b)) if count}
            found = self.worths[key] = self.policy.index(Tally(votes, n - a - b), pending=pending)
        return found

    # ---- leasing

    def _look(self, worker: Worker) -> None:
        """Whether to write to the actor: as a client's thread does."""
        if self.book is None or worker.asking or self.clock < worker.retry:
            return
        taken = worker.spent + worker.held
        idle = not worker.open and not worker.waiting and worker.room >= 1
        if taken - worker.told < LEAST and worker.room >= 1 and not idle:
            return
        used, held, need = Cost(samples=worker.spent), Cost(samples=worker.held), Cost(samples=1)
        low = (worker.open or worker.waiting) and worker.holder.is_low(used, held, need)
        if not low and not idle:
            return
        worker.asking = True
        worker.told = taken
        report = worker.holder.report(
            used,
            held,
            committed={"samples": taken},
            want=Cost(samples=max(CHUNK, 2 * (worker.open + len(worker.waiting)))) if low else Cost(),
            need=need if low else Cost(),
            waiting=len(worker.waiting),
            give_back=idle or worker.holder.fruitless > 0,
            open_calls=worker.open,
        )
        self.messages += 1
        self.actor_free = max(self.actor_free, self.clock + FLIGHT / 2) + SERVICE
        grant = self.book.renew(report, self.clock)
        spent, reserved = self.book.ledger.store.totals()
        self.peak = max(self.peak, spent.samples + reserved.samples)
        self._after(self.actor_free + FLIGHT / 2 - self.clock, (worker, grant))

    def _answer(self, worker: Worker, grant: Grant) -> None:
        worker.asking = False
        worker.holder.apply(grant)
        fruitless = worker.holder.fruitless
        if fruitless:
            wait = min(0.05 * 2 ** min(fruitless - 1, 10), 2.0)
            worker.retry = self.clock + wait
            if worker.waiting:
                worker.asking = True
                self._after(wait + 1e-9, worker)
        waiting, worker.waiting = worker.waiting, []
        for call in waiting:
            self._open(call)
        self._look(worker)


def lag(simulation: Simulation, workers: int) -> float:
    """Samples a worker draws from the shift on until the mean price has gone nine tenths of its way."""
    half = simulation.queries / 2
    before = [price for answered, price in simulation.prices if 0.4 <= answered / simulation.queries < 0.5]
    after = [price for answered, price in simulation.prices if 0.75 <= answered / simulation.queries < 0.9]
    start, end = float(np.mean(before)), float(np.mean(after))
    for answered, price in simulation.prices:
        if answered >= half and (price - start) * (end - start) >= 0.9 * (end - start) ** 2:
            return (answered - half) * simulation.budget / max(workers, 1)
    return math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 100, 1000, 10_000])
    parser.add_argument("--budget", type=float, default=4, help="samples a query")
    parser.add_argument("--in-flight", type=int, default=16, help="calls in flight in a worker")
    parser.add_argument("--shift", action="store_true", help="the easier half of the laws comes first")
    parser.add_argument("--pools", metavar="FOLDER", help="answer laws of recorded pools instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="20,000 queries, up to 100 workers, with and without shift"
    )
    parser.add_argument("--json", metavar="OUT", help="write the rows here")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.queries, arguments.workers = [20_000], [1, 100]
    found = laws(arguments.pools)
    rows = []
    for shift in (False, True) if arguments.quick else (arguments.shift,):
        for queries in arguments.queries:
            central = None
            for workers in (0, *arguments.workers):
                simulation = Simulation(
                    found,
                    queries,
                    workers,
                    budget=arguments.budget,
                    in_flight=arguments.in_flight if workers else 64,
                    shift=shift,
                    seed=arguments.seed,
                )
                started = time.perf_counter()
                simulation.run()
                accuracy = 100 * simulation.right / queries
                central = accuracy if central is None else central
                rows.append(
                    {
                        "queries": queries,
                        "shift": shift,
                        "workers": workers or "central",
                        "accuracy": round(accuracy, 2),
                        "loss": round(central - accuracy, 2),
                        "spent_percent": round(100 * simulation.drawn / simulation.cap, 2),
                        "samples_a_message": round(simulation.drawn / simulation.messages, 1) if workers else None,
                        "lag": round(lag(simulation, workers)) if shift else None,
                        "over_spend": max(simulation.drawn, simulation.peak) - simulation.cap
                        if max(simulation.drawn, simulation.peak) > simulation.cap
                        else 0,
                        "unanswered": simulation.unanswered,
                        "messages_a_second": round(simulation.messages / simulation.clock),
                        "seconds": round(time.perf_counter() - started, 1),
                    }
                )
                print(json.dumps(rows[-1]), flush=True) if not arguments.quick else None
    table = Table(*rows[0])
    for row in rows:
        table.add_row(
            *("" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in row.values())
        )
    Console(width=150).print(table)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
