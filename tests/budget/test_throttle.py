"""How many requests of a pool are under way, and what is done about slow ones."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynscale_dspy import BudgetPool, Cost, DynScaling, Parallel, Uniform, explain
from dynscale_dspy.budget import throttle as module
from dynscale_dspy.budget.throttle import ENOUGH, Limit, NoTurn, Throttle
from dynscale_dspy.testing import FakeQuestion, questions
from tests.support import needs_lm_errors, vote

ONE = [FakeQuestion("heads or tails?", {"heads": 0.5, "tails": 0.5}, "heads")]


@given(st.integers(1, 50), st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=200))
def test_a_limit_stays_between_one_and_its_most(most, endings):
    limit, now = Limit(most), 0.0
    for latency, pushed_back in endings:
        now += 0.01
        before = limit.value
        limit.ended(begun=now - latency, now=now, pushed_back=pushed_back)
        assert 1 <= limit.allowed <= limit.value <= most
        assert limit.value >= before / 2


def test_a_limit_halves_once_for_a_congestion_and_grows_by_one_a_round():
    limit = Limit(16)
    for begun in (0.0, 0.1, 0.2):  # three of one burst
        limit.ended(begun=begun, now=1.0 + begun, pushed_back=True)
    assert limit.allowed == 8
    for request in range(9):
        limit.ended(begun=2.0 + request, now=3.0 + request, pushed_back=False)
    assert limit.allowed == 9


def test_replies_that_take_much_longer_than_at_best_push_back_too():
    limit = Limit(16)
    for request in range(64):
        limit.ended(begun=request, now=request + 0.1, pushed_back=False)
    assert limit.allowed == 16
    for request in range(64, 128):
        limit.ended(begun=request, now=request + 1.0, pushed_back=False)
    assert limit.allowed < 16


class Counted:
    """Counts how many are inside at once. Each stays until a group of so many has come, or all are there."""

    def __init__(self, group, in_all):
        self.lock = threading.Lock()
        self.group, self.in_all = group, in_all
        self.inside = self.peak = self.total = 0
        self.together = Future()

    def enter(self):
        """What the one that has come is to wait for."""
        with self.lock:
            self.inside += 1
            self.total += 1
            self.peak = max(self.peak, self.inside)
            together = self.together
            if self.total % self.group == 0 or self.total == self.in_all:
                self.together = Future()
                together.set_result(None)
            return together

    def leave(self):
        with self.lock:
            self.inside -= 1


def test_threads_and_tasks_share_one_limit():
    # By a clock that stands still: where requests seem to have become slow, fewer than three would be let in.
    throttle, counted = Throttle(3, None, clock=lambda: 0.0), Counted(3, 80)
    both = threading.Barrier(2)

    def ask():
        counted.enter().result(10)
        counted.leave()

    async def aask():
        await asyncio.wait_for(asyncio.wrap_future(counted.enter()), 10)
        counted.leave()

    async def many():
        await asyncio.gather(*(throttle.arun(aask) for _ in range(40)))

    def tasks():
        both.wait(10)
        asyncio.run(many())

    thread = threading.Thread(target=tasks)
    thread.start()
    both.wait(10)
    with ThreadPoolExecutor(16) as executor:
        list(executor.map(lambda _: throttle.run(ask), range(40)))
    thread.join()
    assert counted.total == 80
    assert counted.peak == 3


def test_a_request_within_a_request_needs_no_place_of_its_own():
    throttle = Throttle(1, None)
    assert throttle.run(lambda: throttle.run(lambda: "done")) == "done"


@pytest.mark.parametrize("way", ["run", "passed"])
def test_an_interrupt_as_a_request_ends_lets_none_pass_without_a_turn(monkeypatch, way):
    """What this code is within is taken back by a step that an interrupt can keep from being made."""

    def interrupted(token):
        raise KeyboardInterrupt

    def ask():
        if way == "run":
            throttle.run(lambda: None)
        else:
            with throttle.passed():
                pass

    throttle = Throttle(1, None)
    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(module, "_reset", interrupted)
        ask()
    holding, over, order = threading.Event(), threading.Event(), []

    def hold():
        throttle.run(lambda: (holding.set(), over.wait(10), order.append("first")))

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(10)

    def patience():
        over.set()
        return math.inf

    throttle.run(lambda: order.append("second"), patience=patience)
    thread.join()
    assert order == ["first", "second"]


def test_a_synchronous_call_in_a_running_loop_does_not_wait_for_the_loop():
    throttle = Throttle(1, None)

    async def outer():
        return throttle.run(lambda: "inner")  # within the loop whose task holds the only place

    async def main():
        holding, release = asyncio.Event(), asyncio.Event()

        async def hold():
            holding.set()
            await release.wait()

        task = asyncio.ensure_future(throttle.arun(hold))
        await holding.wait()
        assert await outer() == "inner"
        release.set()
        await task

    asyncio.run(main())


def test_a_cancelled_task_gives_its_place_back():
    throttle = Throttle(1, None)

    async def main():
        release = asyncio.Event()
        holder = asyncio.ensure_future(throttle.arun(release.wait))
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(throttle.arun(release.wait))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        release.set()
        await holder
        assert await asyncio.wait_for(throttle.arun(lambda: asyncio.sleep(0, "free")), 5) == "free"

    asyncio.run(main())


def test_waiting_for_a_thousand_requests_does_not_look_at_each_of_them_each_time(monkeypatch):
    looks = 0
    is_lost = module._Turn.is_lost.fget

    def counted(turn) -> bool:
        nonlocal looks
        looks += 1
        return is_lost(turn)

    monkeypatch.setattr(module._Turn, "is_lost", property(counted))
    most = 300
    throttle = Throttle(most, None)

    async def ask() -> None:
        await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(throttle.arun(ask) for _ in range(3 * most)))

    asyncio.run(main())
    assert throttle.under_way == 0
    assert looks < 20 * most, "a few for each request"


@pytest.mark.parametrize("most", [1, 300])
def test_places_of_a_closed_loop_are_found_though_not_each_look_goes_over_all(most):
    throttle = Throttle(most, None)
    kept = []

    async def abandoned() -> None:
        kept.extend(asyncio.ensure_future(throttle.arun(asyncio.Event().wait)) for _ in range(most))
        for task in kept:
            task._log_destroy_pending = False
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(abandoned())
    loop.close()
    asyncio.run(asyncio.wait_for(throttle.arun(_done), timeout=30))


def test_a_request_that_has_no_second_to_wait_finds_places_of_a_closed_loop_at_once():
    throttle = Throttle(4, None)
    kept = []

    def left_behind(ask) -> None:
        task = asyncio.ensure_future(throttle.arun(ask))
        task._log_destroy_pending = False
        kept.append(task)

    async def abandoned() -> None:
        for _ in range(4):
            left_behind(asyncio.Event().wait)
        await asyncio.sleep(0)
        left_behind(_done)  # it has just looked, in vain
        for _ in range(5):
            await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(abandoned())
    loop.close()
    end = time.monotonic() + 0.5
    asyncio.run(throttle.arun(_done, patience=lambda: end - time.monotonic()))


async def _done() -> None:
    pass


@pytest.mark.parametrize("tasks", [False, True], ids=["threads", "tasks"])
def test_a_pool_keeps_to_its_concurrency(server, tasks):
    bank = questions(12)
    fake = server(bank, median_latency=0.01)
    pool = BudgetPool(samples=48, policy=Uniform(), max_concurrency=3).expect(12)
    qa = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())

    async def gather():
        return await asyncio.gather(*(qa.acall(question=question.text) for question in bank))

    with dspy.context(lm=fake.lm()):
        if tasks:
            asyncio.run(gather())
        else:
            qa.batch([{"question": q.text} for q in bank], num_threads=16, disable_progress_bar=True)
    counted = fake.statistics()
    assert counted.requests == 48
    assert counted.peak_in_flight <= 3
    assert pool.statistics().concurrency == 3


@needs_lm_errors
def test_a_pool_gives_way_to_a_server_that_is_full(server):
    bank = questions(20)
    fake = server(bank, median_latency=0.02, sigma=0.0, capacity=4, retry_after=0.03)
    pool = BudgetPool(samples=100, policy=Uniform(), max_concurrency=32).expect(20)
    qa = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())

    async def gather():
        return await asyncio.gather(*(qa.acall(question=question.text) for question in bank))

    with dspy.context(lm=fake.lm(num_retries=8)):
        predictions = asyncio.run(gather())
    assert all(prediction.answer for prediction in predictions)
    assert fake.statistics().faults["429_retry_after"] > 0
    assert pool.statistics().concurrency < 32


def test_an_interrupted_thread_gives_its_place_back():
    throttle = Throttle(1, None)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        throttle.run(interrupted)
    assert throttle.under_way == 0
    holding, release = threading.Event(), threading.Event()

    def hold():
        holding.set()
        release.wait(10)

    thread = threading.Thread(target=lambda: throttle.run(hold))
    thread.start()
    assert holding.wait(10)
    with pytest.raises(KeyboardInterrupt):  # while it waits for its turn
        throttle.run(lambda: "never", patience=interrupted)
    release.set()
    thread.join(10)
    assert throttle.run(lambda: "free") == "free"


def settled(throttle: Throttle) -> None:
    for _ in range(ENOUGH):
        throttle.run(lambda: None)


def test_a_slow_request_is_made_again_and_the_first_answer_wins():
    throttle = Throttle(None, 0.5)
    settled(throttle)
    made, release = [], threading.Event()

    def ask():
        made.append(len(made))
        if len(made) == 1:
            release.wait(10)
            return "slow"
        return "fast"

    try:
        assert throttle.run(ask) == "fast"
    finally:
        release.set()
    assert len(made) == 2


def test_a_slow_task_is_made_again_and_the_other_closed():
    throttle = Throttle(None, 0.5)
    settled(throttle)
    made, closed = [], []

    async def ask():
        made.append(len(made))
        if len(made) == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                closed.append(True)
                raise
        return "fast"

    assert asyncio.run(throttle.arun(ask)) == "fast"
    assert len(made) == 2
    assert closed == [True]


@pytest.mark.parametrize("tasks", [False, True], ids=["thread", "task"])
def test_a_failure_of_one_of_two_is_not_the_answer(tasks):
    throttle = Throttle(None, 0.5)
    settled(throttle)
    made, second = [], Future()

    def ask():
        made.append(len(made))
        if len(made) == 1:
            second.result(10)
            return "good"
        second.set_result(None)
        raise ZeroDivisionError

    async def aask():
        made.append(len(made))
        if len(made) == 1:
            await asyncio.wait_for(asyncio.wrap_future(second), 10)
            return "good"
        second.set_result(None)
        raise ZeroDivisionError

    assert (asyncio.run(throttle.arun(aask)) if tasks else throttle.run(ask)) == "good"


def test_hedged_requests_are_both_paid_for(server, release_when):
    bank = questions(6)
    fake = server(bank, median_latency=0.01, sigma=1.0)
    pool = BudgetPool(per_call=20, policy=Uniform(), hedge=0.5)
    qa = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())

    async def gather(asked):
        for question in asked:
            await qa.acall(question=question.text)

    with dspy.context(lm=fake.lm()):
        asyncio.run(gather(bank[:5]))  # how long a request takes is known from here on
        drawn = pool.statistics().spent.samples
        so_far = fake.statistics().requests
        # No reply comes before at least one request more is made than there are samples.
        with release_when(fake, lambda now: now.requests > so_far + 20):
            asyncio.run(gather(bank[5:]))
    counted, now = fake.statistics(), pool.statistics()
    assert now.spent.samples == drawn + 20
    assert counted.requests > so_far + 20
    assert counted.requests > now.spent.samples
    assert now.spent.requests >= counted.requests
    assert now.reserved == Cost()


# ---- votes that are decided


def test_tasks_that_cannot_change_the_vote_are_called_off(server):
    bank = [FakeQuestion("sure?", {"yes": 1.0}, "yes")]
    fake = server(bank, median_latency=0.02, sigma=2.0)
    pool = BudgetPool(per_call=16, policy=Uniform())
    qa = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel(), stop_when_decided=True)

    async def main():
        return await qa.acall(question="sure?")

    with dspy.context(lm=fake.lm()):
        prediction = asyncio.run(main())
    explanation = explain(prediction)
    assert prediction.answer == "yes"
    spared = [sample for sample in explanation.samples if sample.problem == "not needed"]
    # Nine of sixteen decide; some more may have come in the same instant.
    assert 0 < len(spared) <= 7
    fake.wait_until(lambda now: now.in_flight == 0, timeout=5)
    # A reply may have been on its way when its connection was closed.
    assert 0 < fake.statistics().aborted <= len(spared)
    assert pool.statistics().reserved == Cost()
    assert pool.statistics().open_calls == 0


@given(st.lists(st.sampled_from("ABC"), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_calling_off_never_changes_the_winner(answers, random):
    from dynscale_dspy.sampling.plan import Plan
    from dynscale_dspy.sampling.sample import Sample
    from dynscale_dspy.sampling.samplers import ALONE

    def finished(draw, answer):
        return Sample(draw, prediction=answer, answer=answer, vote=vote(answer))

    plan = Plan(Parallel(), seed=0, key="x", max_samples=64, stop_when_decided=True)
    draws = [plan.draw(ALONE) for _ in answers]
    order = random.sample(range(len(answers)), len(answers))
    seen = []
    for position in order:
        seen.append(finished(draws[position], answers[position]))
        if plan._decides(seen):
            break
    whole = Plan(Parallel(), seed=0, key="x", max_samples=64)
    for draw, answer in zip([whole.draw(ALONE) for _ in answers], answers, strict=True):
        whole.tell(finished(draw, answer))
    for sample in seen:
        plan.tell(sample)
    if plan.decided:
        assert plan.winner().answer == whole.winner().answer
        assert plan.room == 0


# ---- a wire that is kept full


def test_out_of_order_a_batch_spends_the_same_and_answers_all(server):
    bank = questions(20)
    fake = server(bank, median_latency=0.01, sigma=1.0)
    pool = BudgetPool(samples=80)
    qa = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel())
    with dspy.context(lm=fake.lm()):
        predictions = qa.batch(
            [{"question": q.text} for q in bank], num_threads=8, disable_progress_bar=True, in_order=False
        )
    assert None not in predictions
    assert pool.statistics().spent.samples == fake.statistics().requests == 80
    assert fake.statistics().peak_in_flight <= 8


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_concurrency": 0}, ValueError),
        ({"max_concurrency": 1.5}, TypeError),
        ({"hedge": 1}, ValueError),
        ({"hedge": "0.9"}, TypeError),
    ],
)
def test_bad_options_are_named(options, error):
    with pytest.raises(error, match=next(iter(options))):
        BudgetPool(samples=1, **options)


def test_a_servers_wish_to_be_left_alone_holds_for_its_model():
    now = [0.0]
    throttle = Throttle(4, None, clock=lambda: now[0])

    def refuse():
        error = OSError("full")
        error.status_code, error.retry_after = 429, 30.0  # type: ignore[attr-defined]
        raise error

    def ask(model):
        return throttle.run(lambda: model, model=model, patience=lambda: 0.0)

    with pytest.raises(OSError, match="full"):
        throttle.run(refuse, model="a")
    assert ask("b") == "b"
    with pytest.raises(NoTurn):
        ask("a")
    now[0] = 29.9
    with pytest.raises(NoTurn):
        ask("a")
    now[0] = 30.1
    assert ask("a") == "a"
    assert throttle.under_way == 0
