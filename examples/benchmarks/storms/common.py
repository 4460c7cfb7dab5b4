"""What all kinds of fault have in common: calls that are counted as they end, and books that are compared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy

from dynscale_dspy import BudgetExhausted, BudgetPool, Cost, DynScaling, Price, StorageError
from dynscale_dspy.testing import FakeServer, FakeStatistics

SCRIPT = Path(__file__).parents[1] / "chaos.py"
PER_CALL = 4
MAX_TOKENS = 64
PRICE = Price(prompt=0.5, completion=1.5)
BOUND = 120.0
"""Seconds in which a call has to end, where its kind of fault does not say otherwise: many at once share few cores."""
PATIENCE = 20.0
"""Seconds that what outlives its calls has to end."""
ENDS = ("answered", "failed", "refused", "cut off", "lost", "hung")
"""What can become of a call: an answer; the error of the language model, if all samples failed; that of the budget or
its file, if there was no sample; an end from outside. Lost is one that raised though a sample of it succeeded, or
raised what nobody could expect; hung is one that did not end in time."""


@dataclass
class Books:
    """What a pool says in the end.

    Args:
        requests: Requests paid for, without those that dead processes had set aside.
        set_aside: Those.
        passed: Caps that were passed; and one more if the server's bill is higher than what is booked.
        leaked: Calls that stayed open, and samples or requests that stayed reserved, after ``reconcile()`` too.
        samples: Samples paid for.
    """

    requests: int = 0
    set_aside: int = 0
    passed: int = 0
    leaked: int = 0
    samples: int = 0
    nanodollars: int = 0

    @classmethod
    def of(cls, pool: BudgetPool) -> Books:
        """Reconcile a pool that nobody uses any more, and look."""
        before, at_kill = pool.statistics(), pool.reconcile()
        after = pool.statistics()
        living = sum((before.reserved.samples - at_kill.samples, before.reserved.requests - at_kill.requests))
        limits, spent = after.limits, after.spent
        dollars = limits["dollars"]
        return cls(
            requests=spent.requests - spent.cached_requests - at_kill.requests,
            set_aside=at_kill.requests,
            passed=sum(
                limit is not None and used > limit
                for used, limit in (
                    (spent.samples, limits["samples"]),
                    (spent.requests, limits["requests"]),
                    (spent.tokens, limits["tokens"]),
                    (spent.nanodollars, None if dollars is None else round(dollars * 1e9)),
                )
            ),
            leaked=max(living, 0) + _held(after.reserved) + after.open_calls,
            samples=spent.samples,
            nanodollars=spent.nanodollars,
        )

    def __add__(self, other: Books) -> Books:
        return Books(*(here + there for here, there in zip(astuple(self), astuple(other), strict=True)))


def _held(reserved: Cost) -> int:
    """What is reserved, in samples or requests."""
    return max(reserved.samples, reserved.requests, int(reserved != Cost()))


class Noting(dspy.Module):
    """A program that notes which questions have had a good sample."""

    def __init__(self, lm: Any = None, **options: Any) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer", **options)
        self.predict.lm = lm
        self._good: dict[str, float] = {}

    def forward(self, question: str) -> Any:
        prediction = self.predict(question=question)
        self._good[question] = time.monotonic()
        return prediction

    async def aforward(self, question: str) -> Any:
        prediction = await self.predict.acall(question=question)
        self._good[question] = time.monotonic()
        return prediction

    def was_good(self, question: str, seconds: float) -> bool:
        """Whether it has had one for so long."""
        return time.monotonic() - self._good.get(question, float("inf")) >= seconds


class Calls:
    """Makes calls, and counts how they end.

    Args:
        pool: Pays for them.
        bound: Seconds in which each has to end.
        pause: Seconds that whoever was refused waits before the next one.
        grace: Seconds before the end of a call by which a sample must have been there to count, where there is a
            deadline: a sample that comes later is too late.
        program: What is wrapped.
        told: Called with each question and how its call ended.
        around: What each is made in.
    """

    def __init__(
        self,
        pool: BudgetPool,
        *,
        bound: float = BOUND,
        pause: float = 0.0,
        grace: float = 0.0,
        program: Noting | None = None,
        told: Callable[[str, str], object] | None = None,
        around: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self.pool = pool
        self.bound = bound
        self.pause = pause
        self._grace = grace
        self.program = program or Noting()
        self.scaled = DynScaling(self.program, budget=pool)
        self.ends: Counter[str] = Counter()
        self._told = told
        self._around = around
        self._lock = threading.Lock()
        self._begun: dict[str, float] = {}
        self._ended: set[str] = set()

    def call(self, text: str) -> str:
        """Make one from this thread and say how it ended. An interrupt passes through, counted."""
        with self._noted(text) as ended:
            self._check(text, self.scaled(question=text))
        return ended[0]

    async def acall(self, text: str) -> str:
        """Make one from this task."""
        with self._noted(text) as ended:
            self._check(text, await self.scaled.acall(question=text))
        return ended[0]

    @contextlib.contextmanager
    def _noted(self, text: str) -> Iterator[list[str]]:
        """Around a call: notes how it ended, and keeps its error unless it is an interrupt."""
        ended: list[str] = []
        self._begun[text] = time.monotonic()
        try:
            with self._around():
                yield ended
        except Exception as error:
            ended.append(self.note(text, error))
        except BaseException as error:
            self.note(text, error)
            raise
        else:
            ended.append(self.note(text, None))

    @staticmethod
    def _check(text: str, prediction: Any) -> None:
        """An answer that a question cannot have is that of another. One that the server cut off is half of one."""
        if text in _answers and not any(answer.startswith(prediction.answer) for answer in _answers[text]):
            raise AssertionError(f"{prediction.answer!r} is no answer to {text!r}")

    def note(self, text: str, error: BaseException | None) -> str:
        """A call has ended: say how."""
        with self._lock:
            begun = self._begun.pop(text, None)
            self._ended.add(text)
            late = begun is not None and time.monotonic() - begun > self.bound
            end = "hung" if late else self._end(text, error)
            self.ends[end] += 1
        if self._told is not None:
            self._told(text, end)
        return end

    def _end(self, text: str, error: BaseException | None) -> str:
        if error is None:
            return "answered"
        if not isinstance(error, Exception) or isinstance(error, asyncio.CancelledError):
            return "cut off"
        if not self.program.was_good(text, self._grace):
            if isinstance(error, (BudgetExhausted, StorageError)):
                return "refused"
            if {kind.__module__.partition(".")[0] for kind in type(error).__mro__} & {"dspy", "litellm", "httpx"}:
                return "failed"
        print(f"lost: {type(error).__name__}: {error}", file=sys.stderr)
        return "lost"

    def serve(self, texts: Iterable[str], threads: int) -> None:
        """Make calls from so many threads, and wait for them."""
        queue, lock = iter(texts), threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    text = next(queue, None)
                if text is None:
                    return
                if self.call(text) == "refused":
                    time.sleep(self.pause)

        self.wait_for([started(work) for _ in range(threads)])

    def wait_for(self, threads: Iterable[threading.Thread]) -> None:
        """Wait as long as calls end in time; those that do not are hung."""
        for thread in threads:
            while thread.is_alive():
                thread.join(1.0)
                oldest = min(list(self._begun.values()), default=time.monotonic())
                if time.monotonic() - oldest > self.bound:
                    return

    def gather(self, texts: list[str], tasks: int) -> None:
        """Make calls from so many tasks, and wait for them."""

        async def serve() -> None:
            queue = iter(texts)

            async def work() -> None:
                for text in queue:
                    if await self.acall(text) == "refused":
                        await asyncio.sleep(self.pause)

            await asyncio.wait([asyncio.ensure_future(work()) for _ in range(tasks)], timeout=None)

        asyncio.run(serve())

    def both(self, texts: list[str], threads: int, tasks: int) -> None:
        """Make half of the calls from threads and half from tasks."""
        half = len(texts) // 2
        in_tasks = started(lambda: self.gather(texts[half:], tasks))
        self.serve(texts[:half], threads)
        self.wait_for([in_tasks])

    def cut(self, texts: Iterable[str]) -> None:
        """Count those of these calls that have not ended, or never began, as cut off."""
        with self._lock:
            for text in set(texts) - self._ended:
                self._begun.pop(text, None)
                self._ended.add(text)
                self.ends["cut off"] += 1

    def left(self) -> None:
        """Count calls that have not ended as hung."""
        with self._lock:
            self.ends["hung"] += len(self._begun)

    def settle(self) -> None:
        """Wait for what outlives its calls: threads in the middle of a request."""
        last = time.monotonic() + PATIENCE
        while time.monotonic() < last:
            now = self.pool.statistics()
            if now.reserved == Cost() and not now.open_calls:
                return
            time.sleep(0.05)


def started(work: Callable[[], object]) -> threading.Thread:
    """A thread that ends with the process if nobody waits for it."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def language_model(url: str, **options: Any) -> dspy.LM:
    """The server's, without a cache, as in production but for what options say."""
    settings: dict[str, Any] = {"temperature": 1.0, "timeout": 60, "max_tokens": MAX_TOKENS, "num_retries": 2}
    return dspy.LM("openai/fake", api_base=url, api_key="local", cache=False, **{**settings, **options})


def limits(calls: int, *, share: float = 1.1, spare: int = 0, **others: Any) -> dict[str, Any]:
    """Caps for so many calls, of which only that on samples is near to what they take.

    Args:
        calls: Calls.
        share: Of the samples that they would take, how many there are.
        spare: Samples on top.
        others: Further settings of a pool.
    """
    return {
        "samples": int(share * PER_CALL * calls) + spare,
        "requests": 3 * PER_CALL * calls + 1000,
        "tokens": 4_000 * calls + 10**6,
        "dollars": 0.004 * calls + 1,
        "strict": True,
        "per_call": PER_CALL,
        "prices": {"openai/fake": PRICE},
        "max_failures": None,
        **others,
    }


# ---- workers


def start(kind: str, **settings: Any) -> subprocess.Popen[str]:
    """A worker of a kind of fault."""
    command = [sys.executable, "-u", "-W", "ignore", str(SCRIPT), "--worker", kind, json.dumps(settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], timeout: float = 3000.0) -> Any:
    """What a worker said last."""
    try:
        out, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, process.returncode
    return json.loads(next(line for line in reversed(out.splitlines()) if line.startswith(("{", "["))))


def texts_of(server: FakeServer, folder: str) -> list[str]:
    """The server's questions, which workers find in a file."""
    answers = {question.text: list(question.answers) for question in server.questions}
    Path(folder, "questions.json").write_text(json.dumps(answers))
    return list(answers)


def texts_in(folder: str) -> list[str]:
    """The questions; from here on answers are checked."""
    _answers.update(json.loads(Path(folder, "questions.json").read_text()))
    return list(_answers)


_answers: dict[str, list[str]] = {}
"""What questions can be answered."""


def parts(texts: list[str], names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """The questions, dealt out."""
    names = list(names)
    for place, name in enumerate(names):
        yield name, texts[place :: len(names)]


# ---- the table


def row(
    fault: str, calls: int, ends: Mapping[str, int], books: Books, servers: Iterable[FakeStatistics], *, met: str
) -> dict[str, Any]:
    """What came of one kind of fault: calls and how they ended, the books and what the servers counted."""
    servers = list(servers)
    counts = {end: ends.get(end, 0) for end in ENDS}
    counts["lost"] += max(0, calls - sum(counts.values()))  # of which nobody has heard
    bill = sum(PRICE.nanodollars(server.prompt_tokens, server.completion_tokens) for server in servers)
    return {
        "fault": fault,
        "calls": calls,
        **counts,
        "over-spent": books.passed + (bill > books.nanodollars),
        "leaked": books.leaked,
        "booked": books.requests,
        "server": sum(server.requests for server in servers),
        "at a kill": books.set_aside,
        "met": met,
    }
