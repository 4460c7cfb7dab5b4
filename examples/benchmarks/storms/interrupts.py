"""SIGINT at random instants, in a process that catches KeyboardInterrupt and calls on.

In turn: calls from the main thread on a pool in memory, with ``max_concurrency``, in a file; several calls in an event
loop that the interrupt breaks; and ``batch``. In the end every pool still has to answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import dspy

from dynscale_dspy import BudgetExhausted, BudgetPool
from dynscale_dspy.testing import FakeServer
from storms.common import Books, Calls, finish, language_model, limits, parts, row, start, started, texts_in, texts_of

KINDS = ("in memory", "max_concurrency", "in a file", "event loop", "batch")
TOGETHER = 8
"""Calls in one event loop or batch."""


def run(calls: int, seed: int, quick: bool) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, FakeServer(calls, seed=seed, median_latency=0.01, record=0) as server:
        texts_of(server, folder)
        told = finish(start("interrupts", folder=folder, url=server.url, seed=seed))
        served = server.wait_until(lambda now: now.in_flight == 0, timeout=60)
    calls += len(KINDS)
    met = f"{told['interrupts']:,} x SIGINT"
    return [row("SIGINT storm", calls, told["ends"], Books(**told["books"]), [served], met=met)]


class Storm:
    """Interrupts the main thread while a call is under way there."""

    def __init__(self, seed: int, mean: float = 0.05) -> None:
        self.sent = 0
        self._armed = False
        self._over = threading.Event()
        self._rng, self._mean = random.Random(seed), mean
        signal.signal(signal.SIGINT, self._interrupt)
        started(self._send)

    def _send(self) -> None:
        while not self._over.wait(self._rng.expovariate(1 / self._mean)):
            if self._armed:
                os.kill(os.getpid(), signal.SIGINT)

    def _interrupt(self, *_: Any) -> None:
        if self._armed:
            self._armed = False
            self.sent += 1
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def around(self) -> Any:
        try:
            self._armed = True
            try:
                yield
            finally:
                self._armed = False
        except KeyboardInterrupt:
            pass

    def end(self) -> None:
        self._over.set()


def work(folder: str, url: str, seed: int) -> None:
    dspy.configure(lm=language_model(url, num_retries=0))
    sys.unraisablehook = lambda _: None  # an interrupt in a finalizer passes, and Python says so
    storm, ends, books = Storm(seed), Counter(), Books()
    for kind, texts in parts(texts_in(folder), KINDS):
        path = Path(folder, "budget.sqlite") if kind == "in a file" else None
        most = 4 if kind == "max_concurrency" else None
        pool = BudgetPool(path=path, max_concurrency=most, **limits(len(texts)))
        calls = Calls(pool)
        if kind == "event loop":
            _in_groups(calls, texts, storm, partial(calls.gather, tasks=TOGETHER))
        elif kind == "batch":
            _in_groups(calls, texts, storm, partial(_batch, calls))
        else:
            for text in texts:
                with storm.around():
                    calls.call(text)
                calls.cut([text])
        after = started(lambda calls=calls: calls.call("after the storm"))
        calls.wait_for([after])
        calls.settle()
        calls.left()
        ends += calls.ends
        books += Books.of(pool)
    storm.end()
    print(json.dumps({"ends": ends, "books": asdict(books), "interrupts": storm.sent}))


def _in_groups(calls: Calls, texts: list[str], storm: Storm, make: Any) -> None:
    """Of a group that was interrupted, all that were not answered were cut off."""
    for place in range(0, len(texts), TOGETHER):
        group, sent = texts[place : place + TOGETHER], storm.sent
        with storm.around():
            make(group)
        if storm.sent > sent:
            calls.cut(group)


def _batch(calls: Calls, group: list[str]) -> None:
    examples = [dspy.Example(question=text).with_inputs("question") for text in group]
    predictions = calls.scaled.batch(examples, num_threads=4, disable_progress_bar=True)
    for text, prediction in zip(group, predictions, strict=True):
        calls.note(text, BudgetExhausted() if prediction is None else None)
