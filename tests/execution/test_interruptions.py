"""A call that is interrupted at any line, or by any error of a part that is the user's, leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dis
import functools
import gc
import math
import sqlite3
import sys
import threading

import dspy
import pytest

import dynscale_dspy
from dynscale_dspy import BudgetPool, Cost, DynScaling, Uniform
from dynscale_dspy.budget import throttle
from dynscale_dspy.budget.stores.memory import MemoryStore
from dynscale_dspy.execution import books, drivers
from dynscale_dspy.execution.desk import CallDesk
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.sampling.steps import Job, Open, Round
from dynscale_dspy.selection.base import Vote
from dynscale_dspy.selection.plurality import Plurality
from tests.support import ScriptedModel, until

HOME = dynscale_dspy.__path__[0]
SAMPLES = 2

# Here any line of a thread may raise, also one that nothing is around.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class OfOurOwn(BaseException):
    """What no code expects."""


@functools.cache
def unreachable(code):
    """Where lines begin at which CPython raises nothing of itself.

    It looks for signals as a function begins, after a call and at the end of a loop: neither at the ``try`` of a
    statement, which is no instruction, nor between a ``with`` block and the call that leaves it.
    """
    found, entered, line = set(), {}, None
    for each in dis.get_instructions(code):
        begins = each.starts_line if sys.version_info < (3, 13) else each.line_number if each.starts_line else None
        if begins:
            line = begins
            if each.opname in ("NOP", "POP_BLOCK") or each.offset > entered.get(line, each.offset):
                found.add(each.offset)
        if each.opname in ("BEFORE_WITH", "SETUP_WITH", "BEFORE_ASYNC_WITH", "SETUP_ASYNC_WITH", "LOAD_SPECIAL"):
            entered.setdefault(line, each.offset)
    return found


class Interrupting:
    """Raises an error as the so-manieth line of the package begins, in whatever thread that is, once."""

    def __init__(self, place, error):
        self.place, self.error, self.seen, self.raised = place, error, 0, False
        self.helper, self.where = False, None
        self._lock = threading.Lock()

    def line(self, frame, event, argument):
        if event == "line" and not self.raised and frame.f_lasti not in unreachable(frame.f_code):
            with self._lock:
                self.seen += 1
                here = self.seen > self.place and not self.raised
                self.raised = self.raised or here
            if here:
                self.helper = threading.current_thread() is not threading.main_thread()
                self.where = frame.f_code.co_filename.removeprefix(HOME), frame.f_lineno, self.helper
                raise type(self.error)  # one that nobody else holds: its traceback keeps what its frames hold
        return self.line


class Lines:
    """Follows the package's lines in all threads that begin from now on, for one :class:`Interrupting` at a time."""

    def __init__(self):
        self._now = None

    def __call__(self, frame, event, argument):
        now = self._now
        return now.line if now is not None and frame.f_code.co_filename.startswith(HOME) else None

    def interrupt(self, act, place, error):
        """Do something, and raise the error in it. Returns where that was; None if the place was not reached."""
        before, self._now = sys.gettrace(), Interrupting(place, error)
        sys.settrace(self)
        try:
            act()
        except BaseException as raised:
            if type(raised) not in (type(error), asyncio.CancelledError):
                raise
        finally:
            sys.settrace(before)
            ended, self._now = self._now, None
            ended.error = None  # frames that were followed hold it
        if ended.helper:  # Python follows no thread any more in which that has raised
            begin_anew()
        return ended.where


def begin_anew():
    """Threads that help are made when they are needed next."""
    drivers._begin_anew()
    books._begin_anew()


@pytest.fixture
def lines():
    """The helper threads are made anew, so that they are followed too."""
    following = Lines()
    threading.settrace(following)
    begin_anew()
    yield following
    threading.settrace(None)
    begin_anew()


@pytest.fixture(autouse=True)
def quick_collections():
    """What there is already need not be looked at again whenever garbage is collected, in later tests either."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def model():
    model = ScriptedModel(lambda prompt, number: {"answer": "42"})
    with dspy.context(lm=model.lm(max_tokens=50)):
        yield model


def in_thread(qa, question):
    return qa(question=question).answer


def in_task(qa, question):
    return asyncio.run(qa.acall(question=question)).answer


def in_batch(qa, question):
    examples = [{"question": question}, {"question": question + "!"}]
    return getattr(qa.batch(examples, num_threads=2, disable_progress_bar=True)[0], "answer", None)


def fresh(path=None, **options):
    options = {"path": path, **options} if path is not None else options
    pool = BudgetPool(
        samples=10**6,
        requests=10**6,
        tokens=10**9,
        max_concurrency=2,
        policy=Uniform(),
        min_per_call=SAMPLES,
        **options,
    )
    return pool, DynScaling(dspy.Predict("question -> answer"), pool, max_samples=SAMPLES)


def left(pool):
    """What a pool still holds of calls that are over; helpers may be about to end what they have begun."""

    def held():
        gc.collect()
        now, throttle = pool.statistics(), pool.admission.throttle
        under_way = throttle.under_way if throttle is not None else 0
        return now.reserved, now.open_calls, under_way, len(pool.flights)

    with contextlib.suppress(TimeoutError):
        until(lambda: held() == (Cost(), 0, 0, 0), timeout=2)
    return held()


NOTHING = (Cost(), 0, 0, 0)


def another(ask, qa, question):
    """The answer of another call, in another thread: whatever is locked for ever is locked for it."""
    answers = []
    ours = contextvars.copy_context()  # with DSPy's settings
    asking = threading.Thread(target=ours.run, args=(lambda: answers.append(ask(qa, question)),), daemon=True)
    asking.start()
    asking.join(10)
    return answers


@pytest.mark.parametrize(
    "ask, options, error, stride",
    [
        pytest.param(in_thread, {}, KeyboardInterrupt, 53, id="thread"),
        pytest.param(in_thread, {}, OfOurOwn, 97, id="thread-other"),
        pytest.param(in_task, {}, KeyboardInterrupt, 89, id="task"),
        pytest.param(in_task, {}, asyncio.CancelledError, 83, id="task-cancelled"),
        pytest.param(in_batch, {}, KeyboardInterrupt, 251, id="batch"),
        pytest.param(in_thread, {"file": True}, KeyboardInterrupt, 79, id="thread-file"),
        pytest.param(in_task, {"file": True}, asyncio.CancelledError, 73, id="task-file"),
        pytest.param(in_thread, {"hedge": 0.5}, KeyboardInterrupt, 101, id="hedge"),
    ],
)
def test_an_interrupt_at_any_line_leaves_nothing_behind(lines, model, tmp_path, ask, options, error, stride):
    """Each so-manieth line of a call: a stride of 1 tries every one."""
    path = tmp_path / "budget.db" if options.get("file") else None
    pool, qa = fresh(path, **{name: value for name, value in options.items() if name != "file"})
    for number in range(11 if "hedge" in options else 1):
        ask(qa, f"warm {number}")
    place, reached = 0, True
    while reached:
        before = pool.statistics().spent.requests - len(model.requests)
        reached = lines.interrupt(lambda: ask(qa, f"question {place}"), place, error())  # noqa: B023
        assert left(pool) == NOTHING, (place, reached)
        beyond = pool.statistics().spent.requests - len(model.requests)
        # What was under way is booked at its bound, though it may not have been sent; what was sent is booked.
        assert 0 <= beyond <= before + 2 * SAMPLES, (place, reached)
        assert another(ask, qa, f"after {place}") == ["42"], (place, reached)
        place += stride
    assert place > 20 * stride


class Holder:
    """What a sample is lost with."""


def opened(pool, program):
    """A call with a sample that has begun, and two that have not."""
    desk, holder = CallDesk(pool, outer=None, program=program, requests=1, key=None), Holder()
    lease = desk.carry_out(Open(("independent",) * 3)).leases[0]
    lease.lock.hold(holder, lease.settle)
    lease.start()
    return desk, lease, holder


def ends(pool, program):
    """The end of a call."""
    return opened(pool, program)[0].close


def ends_with_a_sample(pool, program):
    """The same while its sample is still to be settled."""
    desk, lease, holder = opened(pool, program)

    def end():
        try:
            lease.settle()
            lease.lock.release(holder)
        finally:
            desk.close()

    return end


def is_lost(pool, program):
    """The step at which is given back what a call held that was lost."""
    opened(pool, program)
    return pool.statistics


@pytest.mark.parametrize("file", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize("call", [ends, ends_with_a_sample, is_lost])
def test_an_interrupt_at_any_line_of_giving_back_keeps_nothing(lines, tmp_path, call, file):
    pool = BudgetPool(
        samples=10**6, requests=10**6, policy=Uniform(), min_per_call=3, path=tmp_path / "budget.db" if file else None
    )
    program = dspy.Predict("question -> answer")
    place, reached = 0, True
    while reached:
        reached = lines.interrupt(call(pool, program), place, KeyboardInterrupt())
        assert left(pool) == NOTHING, (place, reached)
        place += 1
    assert place > 100


def test_an_interrupt_at_any_line_of_waking_those_who_wait_keeps_nobody_waiting(lines):
    pool = BudgetPool(samples=10)
    place, reached = 0, True
    while reached:
        waiting = [pool.admission.change() for _ in range(3)]
        reached = lines.interrupt(pool.admission.wake, place, KeyboardInterrupt())
        pool.admission.wake()
        assert all(future.done() for future in waiting), (place, reached)
        place += 1
    assert place > 20


def test_an_interrupt_at_any_line_of_beginning_to_wait_keeps_nobody_waiting(lines, tmp_path):
    pool = BudgetPool(samples=10, path=tmp_path / "budget.db")
    place, reached = 0, True
    while reached:
        reached = lines.interrupt(pool.admission.change, place, KeyboardInterrupt())
        assert pool.admission.change().result(timeout=10) is None, (place, reached)  # since it looks again by itself
        place += 1
    assert place > 20


def waits_in_a_thread(turns, patience):
    turns.run(lambda: None, patience=patience)


def waits_in_a_task(turns, patience):
    async def ask():
        pass

    asyncio.run(turns.arun(ask, patience=patience))


def waits_past_run(turns, patience):
    with turns.passed(patience=patience):
        pass


@pytest.mark.parametrize("wait", [waits_in_a_thread, waits_in_a_task, waits_past_run])
def test_an_interrupt_at_any_line_of_waiting_for_a_turn_keeps_nobody_waiting(lines, monkeypatch, wait):
    """The only place is held until the one who is interrupted waits, and another waits behind."""
    monkeypatch.setattr(throttle, "LOOK_AGAIN", 0.05)
    place, reached = 0, True
    while reached:
        turns = throttle.Throttle(1, None)
        holding, over, behind = threading.Event(), threading.Event(), threading.Event()

        def asking(ask):
            def run():
                sys.settrace(None)
                turns.run(ask)  # noqa: B023

            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            return thread

        others = [asking(lambda: (holding.set(), over.wait(10)))]  # noqa: B023
        assert holding.wait(10)

        def patience():
            """Asked once the one who is interrupted is in the queue."""
            if not over.is_set():  # noqa: B023
                others.append(asking(behind.set))  # noqa: B023
                over.set()  # noqa: B023
            return math.inf

        reached = lines.interrupt(lambda: wait(turns, patience), place, KeyboardInterrupt())  # noqa: B023
        gc.collect()  # the error, whose frames hold the turn
        over.set()
        others.append(asking(lambda: None))
        for thread in others:
            thread.join(10)
            assert not thread.is_alive(), (place, reached)
        assert turns.under_way == 0, (place, reached)
        place += 1
    assert behind.is_set()
    assert place > 40


# ---- errors of parts that are the user's


class Failing:
    """Does as a function does, and raises an error at the so-manieth time."""

    def __init__(self, function):
        self.function, self.place, self.seen, self.error = function, None, 0, None

    def __call__(self, *args, **kwargs):
        if self.error is not None:
            self.seen += 1
            if self.seen > self.place:
                error, self.error = self.error, None
                raise error
        return self.function(*args, **kwargs)

    def fail(self, place, error):
        self.place, self.seen, self.error = place, 0, error

    @property
    def has_failed(self):
        return self.error is None


class Choosing(Plurality):
    """Votes are read by a function of ours."""

    def __init__(self, reads):
        super().__init__()
        self.reads = reads

    def read(self, answer):
        return self.reads(answer)


def failing_policy():
    policy = Uniform()
    part = Failing(policy.index)
    object.__setattr__(policy, "index", part)
    return part, {"policy": policy}, {}


def failing_clock():
    now = iter(range(10**9))
    part = Failing(lambda: float(next(now)))
    return part, {"clock": part, "deadline": 10**8, "period": 10**7}, {}


def failing_warning():
    part = Failing(lambda warning: None)
    return part, {"warn_at": 0.1, "on_warning": part, "samples": 6}, {}


def failing_answer():
    part = Failing(lambda prediction: prediction.answer)
    return part, {}, {"answer": part}


def failing_selector():
    part = Failing(lambda answer: Vote(answer, answer))
    return part, {}, {"selector": Choosing(part)}


def failing_on_low():
    part = Failing(lambda prediction, **inputs: prediction)
    return part, {}, {"min_confidence": 0.999, "on_low": part}


@pytest.mark.parametrize("ask", [in_thread, in_task, in_batch])
@pytest.mark.parametrize("error", [ValueError, OfOurOwn])
@pytest.mark.parametrize(
    "failing", [failing_policy, failing_clock, failing_warning, failing_answer, failing_selector, failing_on_low]
)
def test_an_error_of_what_the_user_gave_leaves_nothing_behind(model, failing, error, ask):
    place, part = 0, None
    while part is None or part.has_failed:
        part, for_pool, for_module = failing()
        pool = BudgetPool(**{"samples": 1000, "max_concurrency": 2, "min_per_call": 1, **for_pool})
        qa = DynScaling(dspy.Predict("question -> answer"), pool, max_samples=SAMPLES, **for_module)
        part.fail(place, error("of ours"))
        with contextlib.suppress(ValueError, OfOurOwn):
            assert ask(qa, f"question {place}") in ("42", None)  # of a batch that goes on past errors
        part.error, failed = None, part.has_failed
        assert left(pool) == NOTHING, place
        assert another(ask, qa, f"after {place}") == ["42"], place
        if not failed:
            break
        place += 1 + place // 2
    assert place > 0


def one_round():
    """A plan of one round of two samples."""
    samples = yield Round([Job(Draw(index), None) for index in range(2)])
    return samples


def ends_after(lines):
    """Have the helper thread in which this is called end after so many more lines of its work. Returns those lines."""
    reached = []

    def follow(frame, event, argument):
        if event == "line" and frame.f_code.co_name == "work" and frame.f_lasti not in unreachable(frame.f_code):
            reached.append(frame.f_lineno)
            if len(reached) > lines:
                sys.settrace(None)
                raise SystemExit
        return follow

    frame = sys._getframe()
    while frame.f_code.co_name != "work":
        frame = frame.f_back
    frame.f_trace = follow
    sys.settrace(lambda *_: None)
    return reached


def test_a_helper_that_is_ended_at_any_line_is_not_waited_for(monkeypatch):
    """Whoever waits looks for it: its own last words may be lost with it."""
    monkeypatch.setattr(drivers, "LOOK_AGAIN", 0.02)

    def ask(lines):
        """Draw two samples, one of them in a helper that is ended. Returns the lines at which it could have been."""
        reached, helping, ended = [], threading.Event(), []

        def run(job, slot=None):
            if threading.current_thread() is asking:
                assert helping.wait(10)  # so that a helper has the other
            else:
                helping.set()
                reached.append(ends_after(lines))
            return Sample(job.draw)

        def act():
            try:
                ended.append(
                    drivers.drive(
                        one_round(), run, CallDesk(BudgetPool(1), outer=None, program=None, requests=1, key=None)
                    )
                )
            except SystemExit as error:
                ended.append(error)

        drivers._begin_anew()
        asking = threading.Thread(target=act, daemon=True)
        asking.start()
        asking.join(10)
        assert ended, f"it still waits, for a helper that was ended at line {reached[0][-1]}"
        return len(reached[0])

    lines = 0
    while ask(lines) > lines:
        lines += 1
    drivers._begin_anew()
    assert lines > 4


class FailingStore(MemoryStore):
    """A store of which one call fails."""

    def __init__(self):
        super().__init__()
        self.calls, self.fails_at = 0, None

    def _count(self):
        self.calls += 1
        if self.fails_at is not None and self.calls > self.fails_at:
            self.fails_at = None
            raise OSError("the disk is full")

    def totals(self):
        self._count()
        return super().totals()

    def reserve(self, amount, limits):
        self._count()
        return super().reserve(amount, limits)

    def amend(self, handle, amount, limits):
        self._count()
        return super().amend(handle, amount, limits)

    def settle(self, handle, used, sample=None):
        self._count()
        super().settle(handle, used, sample)


@pytest.mark.parametrize("ask", [in_thread, in_task, in_batch])
def test_a_store_that_fails_in_the_middle_loses_nothing_that_was_paid(model, ask):
    place, failed = 0, True
    while failed:
        store = FailingStore()
        pool, qa = fresh(store=store)
        ask(qa, "warm")
        store.calls, store.fails_at = 0, place
        with contextlib.suppress(dynscale_dspy.StorageError):
            ask(qa, f"question {place}")
        failed, store.fails_at = store.fails_at is None, None
        assert another(ask, qa, f"after {place}") == ["42"], place  # and what could not be settled is settled
        assert left(pool) == NOTHING, place
        place += 1 + place // 4
    assert place > 5


# ---- loops


class Silent(dspy.BaseLM):
    """Never answers."""

    def __init__(self):
        super().__init__(model="openai/silent", max_tokens=50)
        self.asked = 0

    async def aforward(self, prompt=None, messages=None, **kwargs):
        self.asked += 1
        await asyncio.Event().wait()


@pytest.mark.parametrize("file", [False, True], ids=["memory", "file"])
def test_a_loop_that_is_closed_with_calls_in_flight_leaves_nothing_behind(model, tmp_path, file):
    pool, qa = fresh(tmp_path / "budget.db" if file else None)
    silent = Silent()

    async def asked(count):
        while silent.asked < count:
            await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    with dspy.context(lm=silent):
        calls = [loop.create_task(qa.acall(question=f"question {number}")) for number in range(3)]
        loop.run_until_complete(asked(1))  # the others wait for what the first one tells
    loop.set_exception_handler(lambda loop, context: None)
    loop.close()
    # Though the tasks are still held. The same calls are new ones: nobody waits for what was in flight.
    assert another(in_task, qa, "question 0") == ["42"]
    assert another(in_thread, qa, "question 1") == ["42"]
    until(lambda: left(pool) == NOTHING)
    assert len(calls) == 3
    for call in calls:
        call._log_destroy_pending = False


def test_a_timeout_while_a_file_is_locked_leaves_nothing_behind(model, tmp_path):
    pool, qa = fresh(tmp_path / "budget.db")
    in_task(qa, "warm")
    other = sqlite3.connect(tmp_path / "budget.db", isolation_level=None, check_same_thread=False)

    async def run():
        other.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(qa.acall(question="question"), 0.2)
        finally:
            other.execute("ROLLBACK")
        return (await qa.acall(question="after")).answer

    assert asyncio.run(run()) == "42"
    assert left(pool) == NOTHING
    other.close()
