"""Workers that are forked from a process whose pool has been used, and killed in the middle of writes to its file.

The pool is made before the forks, as a preloading server does it, and its process goes on making calls. Every worker
is sent SIGKILL or SIGTERM at a random instant, as long as there are kills left, and another takes over what it had not
begun. Half of the workers die of SIGTERM, the other half raise SystemExit and end their calls, as Gunicorn's do.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import dspy

from dynscale_dspy import BudgetPool
from dynscale_dspy.testing import FakeServer
from storms.common import Books, Calls, finish, language_model, limits, row, start, started, texts_in, texts_of

WORKERS = 4
THREADS = 6
LONGEST_LIFE = 1.5


def run(calls: int, seed: int, quick: bool) -> list[dict[str, Any]]:
    caps = {"calls": calls, "share": 0.9}
    kills = 6 if quick else calls // 30
    with tempfile.TemporaryDirectory() as folder, FakeServer(calls, seed=seed, median_latency=0.02, record=0) as server:
        texts_of(server, folder)
        ends = finish(start("forks", folder=folder, url=server.url, caps=caps, kills=kills, seed=seed))
        served = server.wait_until(lambda now: now.in_flight == 0, timeout=60)
        books = Books.of(BudgetPool(path=Path(folder, "budget.sqlite"), **limits(**caps)))
    met = f"{ends.pop('SIGKILL')} x SIGKILL, {ends.pop('SIGTERM')} x SIGTERM"
    return [row("forked workers, killed", calls, ends, books, [served], met=met)]


def work(folder: str, url: str, caps: dict[str, Any], kills: int, seed: int) -> None:
    dspy.configure(lm=language_model(url))
    pool = BudgetPool(path=Path(folder, "budget.sqlite"), **limits(**caps))
    texts = texts_in(folder)
    own, others = texts[:: WORKERS + 1], [text for place, text in enumerate(texts) if place % (WORKERS + 1)]
    calls = Calls(pool)
    calls.serve(own[:4], 2)  # its connection is open, its threads run
    mine = started(lambda: calls.serve(own[4:], 2))
    master = Master(calls, random.Random(seed), kills)
    for part in range(WORKERS):
        master.hire(others[part::WORKERS])
    while master.workers:
        master.look()
        time.sleep(0.01)
    calls.wait_for([mine])
    calls.left()
    master.ends.update(calls.ends)
    print(json.dumps(master.ends))
    pool.store.close()


class Worker:
    """A forked process and what it has to do; it tells of each call through a pipe."""

    def __init__(self, pid: int, texts: list[str], told: int, dies_at: float) -> None:
        self.pid, self.texts, self.dies_at = pid, texts, dies_at
        self._told = told

    def ends(self) -> dict[str, str]:
        """How its calls ended, and "" for those that were begun. The process is over."""
        with os.fdopen(self._told) as told:
            return dict(line.rstrip("\n").split("\t") for line in told if line.endswith("\n"))


class Master:
    """Forks workers, kills them, and counts what they have told."""

    def __init__(self, calls: Calls, rng: random.Random, kills: int) -> None:
        self.calls, self.rng, self.kills = calls, rng, kills
        self.workers: dict[int, Worker] = {}
        self.ends: Counter[str] = Counter(SIGKILL=0, SIGTERM=0)

    def hire(self, texts: list[str]) -> None:
        read, write = os.pipe()
        os.set_blocking(read, False)
        if hasattr(os, "posix_fallocate"):  # Linux: more lines than fit a small pipe
            import fcntl

            fcntl.fcntl(write, 1031, 1 << 20)
        raises = self.rng.random() < 0.5
        pid = os.fork()
        if pid == 0:
            try:
                serve(self.calls, texts, write, raises)
            finally:
                os._exit(0)
        os.close(write)
        life = self.rng.uniform(0.05, LONGEST_LIFE)
        self.workers[pid] = Worker(pid, texts, read, time.monotonic() + life)

    def look(self) -> None:
        for worker in list(self.workers.values()):
            if time.monotonic() >= worker.dies_at and self.kills > 0:
                self.kills -= 1
                worker.dies_at = float("inf")
                name = self.rng.choice(["SIGKILL", "SIGTERM"])
                self.ends[name] += 1
                os.kill(worker.pid, getattr(signal, name))
            if os.waitpid(worker.pid, os.WNOHANG)[0]:
                self._take_over(worker)

    def _take_over(self, worker: Worker) -> None:
        del self.workers[worker.pid]
        ends = worker.ends()
        for end in ends.values():
            self.ends[end or "cut off"] += 1
        if left := [text for text in worker.texts if text not in ends]:
            self.hire(left)


def serve(before: Calls, texts: list[str], told: int, raises: bool) -> None:
    """What a worker does: the pool and the wrapped program are those from before the fork."""

    def tell(text: str, end: str) -> None:
        os.write(told, f"{text}\t{end}\n".encode())  # one write is whole or not there

    over = threading.Event()

    def stop(*_: Any) -> None:
        over.set()
        raise SystemExit

    def begun() -> Any:
        for text in texts:
            if over.is_set():
                return
            tell(text, "")
            yield text

    signal.signal(signal.SIGTERM, stop if raises else signal.SIG_DFL)
    calls = Calls(before.pool, program=before.program, told=tell)
    calls.scaled = before.scaled
    queue, lock = begun(), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                text = next(queue, None)
            if text is None:
                return
            calls.call(text)

    threads = [started(work) for _ in range(THREADS - 1)]
    try:
        work()  # in the main thread, where signals raise
        calls.wait_for(threads)
    except SystemExit:
        calls.wait_for(threads)
    sys.stdout.flush()
