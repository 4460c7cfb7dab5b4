"""A file that fails under a pool: locked by another process, read-only, on a full disk, gone, or another one.

SQLite's wait for a lock is shortened, so that a lock of a few seconds is longer than that.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy

from dynscale_dspy import BudgetPool
from dynscale_dspy.testing import FakeServer
from storms.common import Books, Calls, finish, language_model, limits, row, start, started, texts_in, texts_of

_HOLDER = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for line in sys.stdin:
    held.execute(line)
    print(flush=True)
"""


def run(calls: int, seed: int, quick: bool) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, FakeServer(calls, seed=seed, median_latency=0.1, record=0) as server:
        texts_of(server, folder)
        ends = finish(
            start("storage", folder=folder, url=server.url, seed=seed, calls=calls, longest=0.5 if quick else 2.5)
        )
        served = server.wait_until(lambda now: now.in_flight == 0, timeout=60)
        books = Books.of(BudgetPool(path=Path(folder, "budget.sqlite"), **limits(calls)))
    met = ", ".join(f"{ends.pop(name)} x {name}" for name in Trouble.names)
    return [row("storage that fails", calls + 2, ends, books, [served], met=met)]


def work(folder: str, url: str, seed: int, calls: int, longest: float) -> None:
    dspy.configure(lm=language_model(url))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write too many is an error then
    path = Path(folder, "budget.sqlite")
    trouble = Trouble(path, longest)
    pool = BudgetPool(path=path, **limits(calls))
    made = Calls(pool, pause=0.5)
    over = threading.Event()
    made.call("before the storm")
    storm = started(lambda: trouble.storm(random.Random(seed), over))
    made.both(texts_in(folder), 6, 12)
    over.set()
    storm.join()
    made.call("after the storm")
    made.settle()
    made.left()
    print(json.dumps({**made.ends, **trouble.met}))
    pool.store.close()


class Connection(sqlite3.Connection):
    """One that can be found again: SQLite's own cannot be referred to weakly."""


class Trouble:
    """What befalls a file, each for so many seconds at most."""

    names = ("locked", "read-only", "full", "gone", "replaced")

    def __init__(self, path: Path, longest: float) -> None:
        self.met: Counter[str] = Counter(dict.fromkeys(self.names, 0))
        self._path, self._longest = path, longest
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._is_read_only = False
        self._holder = subprocess.Popen(
            [sys.executable, "-S", "-c", _HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        connect: Callable[..., Any] = sqlite3.connect

        def connected(*args: Any, **options: Any) -> Any:
            connection = connect(*args, **{**options, "timeout": 0.4 * longest, "factory": Connection})
            self._connections.add(connection)
            if self._is_read_only:
                connection.execute("PRAGMA query_only = 1")
            return connection

        sqlite3.connect = connected

    def storm(self, rng: random.Random, over: threading.Event) -> None:
        """One trouble after another, with a pause between two."""
        makers = (self._locked, self._read_only, self._full, self._gone, self._replaced)
        places = itertools.cycle(rng.sample(range(len(makers)), len(makers)))
        while not over.wait(rng.uniform(0.1, 0.5 * self._longest)):
            place = next(places)
            self.met[self.names[place]] += 1
            with makers[place]():
                over.wait(rng.uniform(0.05, self._longest))
        self._holder.communicate()

    def _tell(self, statement: str) -> None:
        assert self._holder.stdin is not None and self._holder.stdout is not None
        self._holder.stdin.write(f"{statement}\n")
        self._holder.stdin.flush()
        self._holder.stdout.readline()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._tell("BEGIN EXCLUSIVE")
        yield
        self._tell("ROLLBACK")

    @contextlib.contextmanager
    def _read_only(self) -> Iterator[None]:
        """As root, the permissions of a file forbid nothing."""
        self._set_read_only(True)
        yield
        self._set_read_only(False)

    def _set_read_only(self, whether: bool) -> None:
        self._is_read_only = whether
        for connection in list(self._connections):
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed
                connection.execute(f"PRAGMA query_only = {int(whether)}")

    @contextlib.contextmanager
    def _full(self) -> Iterator[None]:
        most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, most[1]))
        yield
        resource.setrlimit(resource.RLIMIT_FSIZE, most)

    @contextlib.contextmanager
    def _gone(self) -> Iterator[None]:
        kept = self._path.with_suffix(".kept")
        os.rename(self._path, kept)
        yield
        os.rename(kept, self._path)

    @contextlib.contextmanager
    def _replaced(self) -> Iterator[None]:
        kept, other = self._path.with_suffix(".kept"), self._path.with_suffix(".other")
        os.link(self._path, kept)
        shutil.copyfile(self._path, other)
        os.replace(other, self._path)
        yield
        os.replace(kept, self._path)
