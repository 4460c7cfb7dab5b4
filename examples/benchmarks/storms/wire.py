"""A tenth of all requests go wrong in every way the fake server knows, and a process is killed with SIGKILL twice.

Three processes with threads and tasks share a file. The third has DSPy's cache on disk: it is killed when a third of
its calls are answered and again when two thirds are, and goes through all of its calls again each time.
"""

from __future__ import annotations

import json
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import dspy

from dynscale_dspy import BudgetPool
from dynscale_dspy.testing import FAULTS, PERMANENT_FAULTS, FakeServer
from storms.common import Books, Calls, finish, language_model, limits, row, start, texts_in, texts_of


def run(calls: int, seed: int, quick: bool) -> list[dict[str, Any]]:
    threads, tasks = (6, 12) if quick else (12, 36)
    faults = (*FAULTS, *PERMANENT_FAULTS)
    caps = {"calls": calls, "spare": 8 * (threads + tasks)}
    with (
        tempfile.TemporaryDirectory() as folder,
        FakeServer(calls, seed=seed, median_latency=0.02, fault_rate=0.1, faults=faults, hang=1.0, record=0) as server,
    ):
        texts_of(server, folder)
        shared = {"folder": folder, "url": server.url, "threads": threads, "tasks": tasks, "caps": caps}
        processes = [start("wire", part=part, **shared) for part in range(3)]
        share, kills = len(range(2, calls, 3)), 0
        for goal in (share // 3,) if quick else (share // 3, 2 * share // 3):
            if _reached(processes[2], goal):
                processes[2].send_signal(signal.SIGKILL)
                processes[2].communicate()
                kills += 1
                processes[2] = start("wire", part=2, **shared)
        ends = sum((Counter(finish(process)) for process in processes), Counter())
        served = server.wait_until(lambda now: now.in_flight == 0, timeout=60)
        books = Books.of(BudgetPool(path=Path(folder, "budget.sqlite"), **limits(**caps)))
    met = f"{sum(served.faults.values()):,} faults of {len(served.faults)} kinds, {kills} x SIGKILL"
    return [row("of the wire", calls, ends, books, [served], met=met)]


def _reached(process: subprocess.Popen[str], goal: int) -> bool:
    """Read a worker's progress until it has answered so many calls; False if it ended before."""
    assert process.stdout is not None
    return any(line.startswith("answered") and int(line.split()[1]) >= goal for line in process.stdout)


def work(folder: str, url: str, threads: int, tasks: int, caps: dict[str, Any], part: int) -> None:
    cached = part == 2
    if cached:
        dspy.configure_cache(disk_cache_dir=str(Path(folder, "cache")), enable_memory_cache=True)
    dspy.configure(lm=language_model(url).copy(cache=cached))
    texts = texts_in(folder)[part::3]
    pool = BudgetPool(path=Path(folder, "budget.sqlite"), **limits(**caps))

    def tell() -> None:
        print(f"answered {calls.ends['answered']}\n", end="")  # in one piece, whatever other threads print

    calls = Calls(pool, told=lambda *_: tell())
    calls.both(texts, threads, tasks)
    calls.left()
    print(f"{json.dumps(calls.ends)}\n", end="")
