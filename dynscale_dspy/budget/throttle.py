"""How many requests of a pool are under way at once, and when a slow one is asked for a second time."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")

DECREASE = 0.5
"""What is left of the limit when the server pushes back: additive increase, multiplicative decrease (Chiu and Jain,
1989)."""
SLOWER = 2.5
"""A server that takes so many times longer than at its best is overloaded: that is pushing back as well."""
WINDOW = 32
"""Requests over which latency is looked at."""
REMEMBERED = 256
"""Latencies that a quantile is taken from."""
ENOUGH = 20
"""Latencies before a quantile is worth anything."""

_admitted: contextvars.ContextVar[frozenset[int]] = contextvars.ContextVar("dynscale_admitted", default=frozenset())


class Limit:
    """The number of requests that may be under way: halved when the server pushes back, else growing by one a round.

    Knows no clock and no thread: it is told when things happened.

    Args:
        most: Where it starts, and the most it can be.

    Example:
        >>> limit = Limit(8)
        >>> limit.ended(begun=0.0, now=1.0, pushed_back=True)
        >>> limit.allowed
        4
        >>> limit.ended(begun=0.5, now=1.1, pushed_back=True)  # sent before the limit fell: the same congestion
        >>> limit.allowed
        4
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.value = float(most)
        self._fell = -math.inf
        self._latencies: list[float] = []
        self._best = math.inf

    @property
    def allowed(self) -> int:
        """Requests that may be under way now, at least one."""
        return max(1, int(self.value))

    def ended(self, *, begun: float, now: float, pushed_back: bool) -> None:
        """A request is over.

        Args:
            begun: When it was sent.
            now: When it ended.
            pushed_back: Whether the server would not have it for now.
        """
        if not pushed_back:
            pushed_back = self._has_slowed(now - begun)
        if not pushed_back:
            self.value = min(self.most, self.value + 1 / self.value)
        elif begun >= self._fell:
            self.value = max(1.0, self.value * DECREASE)
            self._fell = now

    def _has_slowed(self, latency: float) -> bool:
        self._latencies.append(latency)
        if len(self._latencies) < WINDOW:
            return False
        median = sorted(self._latencies)[WINDOW // 2]
        self._latencies.clear()
        slowed = median > SLOWER * self._best
        # The best drifts towards what is seen, so that a server that has become slower for good is not held back.
        self._best = min(median, self._best * 1.05)
        return slowed


class Throttle:
    """Lets a pool's requests through, first come first served. Nothing is locked while one is under way.

    Args:
        most: Most requests under way; None for any number.
        hedge: The quantile of latency after which a second request is made for a slow one; None for never.
        clock: Seconds, for latencies.
    """

    def __init__(self, most: int | None, hedge: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.hedge = hedge
        self._limit = Limit(most) if most is not None else None
        self._clock = clock
        self._lock = threading.Lock()
        self._under_way = 0
        self._queue: deque[Future[None]] = deque()
        self._closed_until = -math.inf
        self._timer: threading.Timer | None = None
        self._latencies: deque[float] = deque(maxlen=REMEMBERED)
        self._executor: ThreadPoolExecutor | None = None

    @property
    def allowed(self) -> int | None:
        """Requests that may be under way now."""
        return self._limit.allowed if self._limit is not None else None

    def run(self, ask: Callable[[], T]) -> T:
        """Make a request from this thread, when it may be made."""
        with self._inside() as first:
            if not first:
                return ask()
            with self._slot(self._enter()):
                return self._hedged(ask) if self.hedge is not None else ask()

    async def arun(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The same from a task."""
        with self._inside() as first:
            if not first:
                return await ask()
            async with self._aslot(self._enter()):
                return await (self._ahedged(ask) if self.hedge is not None else ask())

    @contextlib.contextmanager
    def passed(self) -> Iterator[None]:
        """In the block a request is under way that was asked for past :meth:`run`. None is made a second time."""
        with self._inside() as first:
            if not first:
                yield
                return
            with self._slot(self._enter()):
                yield

    # ---- admission

    @contextlib.contextmanager
    def _inside(self) -> Iterator[bool]:
        """Whether this is the outermost request of the pool here: an adapter around another asks once."""
        around = _admitted.get()
        token = _admitted.set(around | {id(self)})
        try:
            yield id(self) not in around
        finally:
            _admitted.reset(token)

    def _enter(self) -> Future[None]:
        """Done when the request may be made."""
        turn: Future[None] = Future()
        with self._lock:
            self._queue.append(turn)
        self._admit()
        return turn

    @contextlib.contextmanager
    def _slot(self, turn: Future[None]) -> Iterator[None]:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            try:
                turn.result()
            except BaseException:
                self._withdraw(turn)
                raise
        else:
            # A synchronous call inside a running loop: those under way may need this very loop to end.
            if not turn.done():
                with self._lock:
                    if not turn.done():
                        self._queue.remove(turn)
                        self._under_way += 1
        with self._observed():
            yield

    @contextlib.asynccontextmanager
    async def _aslot(self, turn: Future[None]) -> AsyncIterator[None]:
        try:
            if not turn.done():
                await asyncio.wrap_future(turn)
        except BaseException:
            self._withdraw(turn)
            raise
        with self._observed():
            yield

    def _withdraw(self, turn: Future[None]) -> None:
        """Whoever waited was interrupted, perhaps just after its turn had come."""
        with self._lock:
            if turn in self._queue:
                self._queue.remove(turn)
            else:
                self._under_way -= 1
        self._admit()

    @contextlib.contextmanager
    def _observed(self) -> Iterator[None]:
        begun = self._clock()
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._leave(begun, error)

    def _leave(self, begun: float, error: BaseException | None) -> None:
        now = self._clock()
        with self._lock:
            self._under_way -= 1
            if error is None:
                self._latencies.append(now - begun)
            if self._limit is not None and (error is None or _pushed_back(error)):
                self._limit.ended(begun=begun, now=now, pushed_back=error is not None)
                asked = getattr(error, "retry_after", None)
                if isinstance(asked, (int, float)) and 0 < asked < math.inf:
                    self._closed_until = max(self._closed_until, now + asked)
        self._admit()

    def _admit(self) -> None:
        """Let in whoever is next. Futures are resolved outside the lock."""
        admitted = []
        with self._lock:
            closed = self._closed_until - self._clock()
            if closed > 0:
                if self._queue and self._timer is None:
                    self._timer = threading.Timer(closed, self._reopen)
                    self._timer.daemon = True
                    self._timer.start()
                return
            while self._queue and (self._limit is None or self._under_way < self._limit.allowed):
                self._under_way += 1
                admitted.append(self._queue.popleft())
        for turn in admitted:
            turn.set_result(None)

    def _reopen(self) -> None:
        with self._lock:
            self._timer = None
        self._admit()

    # ---- hedging

    def _patience(self) -> float | None:
        """Seconds after which a request is slow; None while that is not known."""
        with self._lock:
            known = sorted(self._latencies)
        if self.hedge is None or len(known) < ENOUGH:
            return None
        return known[min(len(known) - 1, int(self.hedge * len(known)))]

    def _hedged(self, ask: Callable[[], T]) -> T:
        patience = self._patience()
        if patience is None:
            return ask()
        requests = [self._in_thread(ask)]
        if not wait(requests, timeout=patience).done:
            requests.append(self._in_thread(ask))
        while True:
            done, others = wait(requests, return_when=FIRST_COMPLETED)
            good = next((request for request in done if request.exception() is None), None)
            if good is not None or not others:
                return (good or next(iter(done))).result()
            requests = list(others)

    def _in_thread(self, ask: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(max_workers=1024, thread_name_prefix="dynscale-hedge")
        return self._executor.submit(contextvars.copy_context().run, ask)

    async def _ahedged(self, ask: Callable[[], Awaitable[T]]) -> T:
        patience = self._patience()
        if patience is None:
            return await ask()
        requests: set[asyncio.Future[T]] = {asyncio.ensure_future(ask())}
        everyone = set(requests)
        try:
            if not (await asyncio.wait(requests, timeout=patience))[0]:
                requests.add(asyncio.ensure_future(ask()))
                everyone |= requests
            while True:
                done, others = await asyncio.wait(requests, return_when=asyncio.FIRST_COMPLETED)
                good = next((request for request in done if request.exception() is None), None)
                if good is not None or not others:
                    return (good or next(iter(done))).result()
                requests = others
        finally:
            late = [request for request in everyone if not request.done()]
            for request in late:
                request.cancel()  # closes its connection, so that a local server stops writing
            await asyncio.gather(*late, return_exceptions=True)


def _pushed_back(error: BaseException) -> bool:
    status: Any = getattr(error, "status_code", None) or getattr(error, "status", None)
    names = {kind.__name__ for kind in type(error).__mro__}
    return status in (429, 503, 529) or bool(names & {"LMRateLimitError", "RateLimitError"})
