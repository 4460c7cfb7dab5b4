"""How many requests of a pool are under way at once, and when a slow one is asked for a second time."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

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
LONGEST_PATIENCE = 120.0
"""Seconds for which a server's ``Retry-After`` is followed, at most: rates are per minute, and who asks for hours is
tried again before."""
LOOK_AGAIN = 1.0
"""Seconds between two looks of whoever waits, whatever happens: what was lost in between is then found."""

_turns: contextvars.ContextVar[tuple[weakref.ref[_Turn], ...]] = contextvars.ContextVar("dynscale_turns", default=())
"""The turns that this code is within. Weakly: an interrupt may keep one from being taken off again."""


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


class NoTurn(Exception):
    """Whoever waited for its turn has no more time for it: the pool was stopped, or its deadline has passed."""


def _forever() -> float:
    return math.inf


class _Turn:
    """One request that waits to be let in, or is under way.

    It is held by whoever makes the request and by nobody else: one that is lost, since whoever had it was cut off in an
    instant at which nothing could be given back, neither waits nor counts any more.

    Args:
        model: What is asked.
        number: Its place among all.
        wake: Called when it has come, from any thread.
        loop: That of the task that makes it, if one does.
    """

    __slots__ = ("__weakref__", "is_over", "loop", "model", "number", "wake")

    def __init__(
        self,
        model: Hashable,
        number: int,
        wake: Callable[[], object],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.model = model
        self.number = number
        self.wake = wake
        self.loop = loop
        self.is_over = False

    @property
    def is_lost(self) -> bool:
        """Whether it will not be made: its loop was closed, and connections that outlive it may keep its task."""
        return self.is_over or (self.loop is not None and self.loop.is_closed())


class Throttle:
    """Lets a pool's requests through, first come first served. Nothing is locked while one is under way.

    Args:
        most: Most requests under way; None for any number.
        hedge: The quantile of latency after which a second request is made for a slow one; None for never. It waits for
            its turn as any other does, and counts as one.
        clock: Seconds, for latencies.
    """

    def __init__(self, most: int | None, hedge: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.hedge = hedge
        self._limit = Limit(most) if most is not None else None
        self._clock = clock
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._under_way: weakref.WeakSet[_Turn] = weakref.WeakSet()
        self._queues: dict[Hashable, deque[weakref.ref[_Turn]]] = {}
        self._closed_until: dict[Hashable, float] = {}
        self._latencies: deque[float] = deque(maxlen=REMEMBERED)
        self._looks, self._swept = 0, -math.inf

    @property
    def allowed(self) -> int | None:
        """Requests that may be under way now."""
        return self._limit.allowed if self._limit is not None else None

    @property
    def under_way(self) -> int:
        """Requests that are under way."""
        return sum(not turn.is_lost for turn in list(self._under_way))

    def run(self, ask: Callable[[], T], *, model: Hashable = None, patience: Callable[[], float] = _forever) -> T:
        """Make a request from this thread, when it may be made.

        Args:
            ask: Makes it.
            model: What it asks: a server that wants to be left alone is one model's.
            patience: Seconds that are left to wait; asked again and again.

        Raises:
            NoTurn: If no time is left, for its turn or for the answer to a request that another thread makes.
        """
        if self._has_turn:  # an adapter around another asks once
            return ask()
        slow = self._slow_after()
        if slow is None or _in_loop():
            return self._in_turn(ask, model, patience)
        return self._hedged(ask, slow, model, patience)

    async def arun(
        self, ask: Callable[[], Awaitable[T]], *, model: Hashable = None, patience: Callable[[], float] = _forever
    ) -> T:
        """The same from a task."""
        if self._has_turn:
            return await ask()
        slow = self._slow_after()
        if slow is None:
            return await self._ain_turn(ask, model, patience)
        return await self._ahedged(ask, slow, model, patience)

    @contextlib.contextmanager
    def passed(self, *, model: Hashable = None, patience: Callable[[], float] = _forever) -> Iterator[None]:
        """In the block a request is under way that was asked for past :meth:`run`. None is made a second time.

        Raises:
            NoTurn: If no time is left to wait for its turn.
        """
        if self._has_turn:
            yield
            return
        with self._turn(model, patience):
            yield

    # ---- admission

    @property
    def _has_turn(self) -> bool:
        """Whether this code is within a request that is under way here."""
        return any((turn := ref()) is not None and turn in self._under_way for ref in _turns.get())

    def _in_turn(self, ask: Callable[[], T], model: Hashable, patience: Callable[[], float]) -> T:
        with self._turn(model, patience):
            return ask()

    @contextlib.contextmanager
    def _turn(self, model: Hashable, patience: Callable[[], float]) -> Iterator[None]:
        come = threading.Lock()
        come.acquire()
        turn = _Turn(model, next(self._numbers), come.release)
        try:
            if _in_loop():
                # A synchronous call inside a running loop: those under way may need this very loop to end.
                with self._lock:
                    self._under_way.add(turn)
            else:
                self._join(turn)
                while (pause := self._pause(turn, patience)) > 0:
                    come.acquire(timeout=pause)
            begun, token = self._clock(), _within(turn)
            try:
                yield
            except BaseException as error:
                self._tell(turn, begun, error)
                raise
            finally:
                _reset(token)
            self._tell(turn, begun, None)
        finally:
            self._leave(turn)

    async def _ain_turn(self, ask: Callable[[], Awaitable[T]], model: Hashable, patience: Callable[[], float]) -> T:
        loop = asyncio.get_running_loop()
        come: asyncio.Future[None] = loop.create_future()

        def has_come() -> None:
            if not come.done():
                come.set_result(None)

        turn = _Turn(model, next(self._numbers), lambda: loop.call_soon_threadsafe(has_come), loop)
        try:
            self._join(turn)
            while (pause := self._pause(turn, patience)) > 0:
                await asyncio.wait([come], timeout=pause)
            begun, token = self._clock(), _within(turn)
            try:
                result = await ask()
            except BaseException as error:
                self._tell(turn, begun, error)
                raise
            finally:
                _reset(token)
            self._tell(turn, begun, None)
            return result
        finally:
            self._leave(turn)

    def _join(self, turn: _Turn) -> None:
        """Take the last place in the queue, and go in at once where there is room."""
        with self._lock:
            self._queues.setdefault(turn.model, deque()).append(weakref.ref(turn))
        self._admit()

    def _pause(self, turn: _Turn, patience: Callable[[], float]) -> float:
        """Seconds to wait before looking again; 0 once the turn has come.

        Raises:
            NoTurn: If no time is left.
        """
        if turn in self._under_way:
            return 0.0
        left = patience()
        self._sweep(at_once=left < LOOK_AGAIN)
        self._admit()
        if turn in self._under_way:
            return 0.0
        if left <= 0:
            raise NoTurn
        closed = self._closed_until.get(turn.model, -math.inf) - self._clock()
        return min(left, LOOK_AGAIN, closed) if closed > 0 else min(left, LOOK_AGAIN)

    def _sweep(self, *, at_once: bool) -> None:
        """Free places that were lost without a word.

        To look at all of a thousand each time that a thousand wait takes longer than all else: as many looks go by as
        there are requests under way, or a second.

        Args:
            at_once: Whether somebody has no time for that.
        """
        with self._lock:
            now, self._looks = self._clock(), self._looks + 1
            if not at_once and self._looks < len(self._under_way) and 0 <= now - self._swept < LOOK_AGAIN:
                return
            self._looks, self._swept = 0, now
            # No comprehension: on Python 3.13 an interrupt in one leaves the lock held.
            for other in tuple(self._under_way):
                if other.is_lost:
                    self._under_way.discard(other)

    def _leave(self, turn: _Turn) -> None:
        """A request is over, or is not to be made any more; leaving twice does nothing."""
        with self._lock:
            turn.is_over = True
            self._under_way.discard(turn)
        self._admit()

    def _tell(self, turn: _Turn, begun: float, error: BaseException | None) -> None:
        """How a request ended."""
        now = self._clock()
        with self._lock:
            if error is None:
                self._latencies.append(now - begun)
            if self._limit is None or (error is not None and not _pushed_back(error)):
                return
            self._limit.ended(begun=begun, now=now, pushed_back=error is not None)
            asked = getattr(error, "retry_after", None)
            if isinstance(asked, (int, float)) and 0 < asked < math.inf:
                until = now + min(asked, LONGEST_PATIENCE)
                self._closed_until[turn.model] = max(self._closed_until.get(turn.model, until), until)

    def _admit(self) -> None:
        """Let in whoever is next. They are woken outside the lock."""
        admitted = []
        with self._lock:
            while self._limit is None or len(self._under_way) < self._limit.allowed:
                turn = self._next()
                if turn is None:
                    break
                self._under_way.add(turn)
                self._queues[turn.model].popleft()  # only now: an interrupt in between must lose nobody's place
                admitted.append(turn)
        for turn in admitted:
            # One that was interrupted meanwhile, with its loop closed say, cannot be woken; it gives its place back.
            with contextlib.suppress(RuntimeError):
                turn.wake()

    def _next(self) -> _Turn | None:
        """The turn that has waited longest, of models that are not left alone; inside the lock."""
        now, first = self._clock(), None
        for model, queue in list(self._queues.items()):
            turn = None
            while queue and ((turn := queue[0]()) is None or turn.is_lost):
                queue.popleft()
            if not queue:
                del self._queues[model]
                continue
            if self._closed_until.get(model, -math.inf) > now:
                continue
            self._closed_until.pop(model, None)
            if turn is not None and (first is None or turn.number < first.number):
                first = turn
        return first

    # ---- hedging

    def _slow_after(self) -> float | None:
        """Seconds after which a request is slow; None while that is not known, or nobody asks."""
        if self.hedge is None:
            return None
        with self._lock:
            known = sorted(self._latencies)
        if len(known) < ENOUGH:
            return None
        return known[min(len(known) - 1, int(self.hedge * len(known)))]

    def _hedged(self, ask: Callable[[], T], slow: float, model: Hashable, patience: Callable[[], float]) -> T:
        """Threads make the requests: the slower one keeps its place until it ends, though nobody waits for it."""
        over = threading.Event()
        ended: SimpleQueue[_Outcome[T]] = SimpleQueue()

        def left() -> float:
            return 0.0 if over.is_set() else patience()

        def begin() -> None:
            context = contextvars.copy_context()
            asking = threading.Thread(
                target=lambda: ended.put(_Outcome.of(lambda: context.run(self._in_turn, ask, model, left))),
                name="dynscale-hedge",
                daemon=True,
            )
            asking.start()

        begin()
        running, slow_at = 1, self._clock() + slow
        failed: _Outcome[T] | None = None
        try:
            while True:
                wait = min(LOOK_AGAIN, patience())
                if wait <= 0:
                    raise NoTurn
                try:
                    outcome = ended.get(timeout=min(wait, max(slow_at - self._clock(), 0.0)))
                except Empty:
                    if self._clock() >= slow_at:
                        begin()
                        running, slow_at = running + 1, math.inf
                    continue
                running -= 1
                failed = failed or outcome
                if outcome.error is None or not running:
                    return (outcome if outcome.error is None else failed).get()
        finally:
            over.set()

    async def _ahedged(
        self, ask: Callable[[], Awaitable[T]], slow: float, model: Hashable, patience: Callable[[], float]
    ) -> T:
        def begin() -> asyncio.Task[T]:
            return asyncio.ensure_future(self._ain_turn(ask, model, patience))

        requests = {begin()}
        everyone = set(requests)
        try:
            if not (await asyncio.wait(requests, timeout=slow))[0]:
                requests.add(begin())
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
            if late:
                await asyncio.gather(*late, return_exceptions=True)


class _Outcome(Generic[T]):
    """What came of a request that another thread has made."""

    def __init__(self, error: BaseException | None, values: list[T]) -> None:
        self.error = error
        self._values = values

    @classmethod
    def of(cls, ask: Callable[[], T]) -> _Outcome[T]:
        """Make the request."""
        try:
            return cls(None, [ask()])
        except BaseException as error:
            return cls(error, [])

    def get(self) -> T:
        """The answer; the error is raised."""
        if self.error is not None:
            raise self.error
        return self._values[0]


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _within(turn: _Turn) -> contextvars.Token[tuple[weakref.ref[_Turn], ...]]:
    around = tuple(ref for ref in _turns.get() if ref() is not None)  # an interrupt may have left some that are lost
    return _turns.set((*around, weakref.ref(turn)))


def _reset(token: contextvars.Token[tuple[weakref.ref[_Turn], ...]]) -> None:
    with contextlib.suppress(ValueError):  # of a task that was thrown away, and ends in the context of whoever did that
        _turns.reset(token)


def _pushed_back(error: BaseException) -> bool:
    status: Any = getattr(error, "status_code", None) or getattr(error, "status", None)
    names = {kind.__name__ for kind in type(error).__mro__}
    return status in (429, 503, 529) or bool(names & {"LMRateLimitError", "RateLimitError"})
