"""A fork copies connections; parent and child must not answer each other's questions through them."""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import dspy
import pytest

from dynscale_dspy import BudgetPool, DynScaling
from dynscale_dspy.execution.connections import MARK, open_anew
from dynscale_dspy.testing import FakeServer
from tests.support import ENGINES, HAS_ENGINES, forked

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

CHILDREN = 3
EACH = 8
needs_engines = pytest.mark.skipif(not HAS_ENGINES, reason="before DSPy 3.4 all connections are LiteLLM's")


def wrapped(**options: Any) -> DynScaling:
    """Without a vote that could outvote a stranger's answer."""
    return DynScaling(dspy.Predict("question -> answer"), budget=BudgetPool(per_call=1), max_samples=1, **options)


def strangers(qa: Callable[..., Any], questions: list[Any]) -> int:
    """How many questions got an answer that they cannot have."""
    return sum(qa(question=question.text).answer not in question.answers for question in questions)


@contextlib.contextmanager
def children(act: Callable[[int], int], count: int = CHILDREN) -> Iterator[Callable[[], list[int]]]:
    """Forks children that act at the same time; call what is yielded for what they said."""
    statuses: list[int] = []
    # Each is forked by a child of its own, which waits for it, so that all of them run at once.
    pids = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            os._exit(forked(lambda number=number: act(number)) & 0xFF)
        pids.append(pid)

    def wait() -> list[int]:
        while pids:
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pids.pop(), 0)[1]))
        return statuses

    try:
        yield wait
    finally:
        wait()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("settings", ["context", "own"])
def test_children_get_the_answers_to_their_own_questions(engine: str, settings: str, server: Any) -> None:
    fake: FakeServer = server(200, median_latency=0.01)
    bank = fake.questions
    lm = fake.lm(engine, timeout=20)
    qa = wrapped()
    if settings == "own":
        qa.module.lm = lm
    with dspy.context(lm=lm if settings == "context" else None):
        assert strangers(qa, bank[:4]) == 0  # its connections are open now
        with children(lambda number: strangers(qa, bank[10 + number * EACH :][:EACH])) as wait:
            assert strangers(qa, bank[150:160]) == 0
            assert wait() == [0] * CHILDREN
    assert MARK not in vars(lm)  # the parent keeps what it has


@needs_engines
def test_a_lock_that_a_thread_held_at_the_fork_stops_nobody(server: Any) -> None:
    fake: FakeServer = server(20, median_latency=0.01)
    lm, qa = fake.lm(timeout=20), wrapped()
    taken, over = threading.Event(), threading.Event()
    with dspy.context(lm=lm):
        assert strangers(qa, fake.questions[:2]) == 0

        def hold() -> None:
            with lm._engine_lock:  # as whoever opens a connection does
                taken.set()
                over.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        taken.wait()
        try:
            assert forked(lambda: strangers(qa, fake.questions[2:4]), timeout=15) == 0
        finally:
            over.set()
            thread.join()


@needs_engines
def test_a_child_opens_them_once_and_copies_share_them(server: Any) -> None:
    lm = server(1, median_latency=0).lm()

    def child() -> int:
        open_anew(lm)
        first = lm._engine_store
        copied = lm.copy(temperature=0.5)
        open_anew(lm)
        open_anew(copied)
        assert lm._engine_store is copied._engine_store is first
        assert forked(grandchild) == 0  # in which they are inherited again
        return 0

    def grandchild() -> int:
        inherited = lm._engine_store
        open_anew(lm)
        return lm._engine_store is inherited

    before = lm._engine_store
    open_anew(lm)
    assert lm._engine_store is before
    assert forked(child) == 0
    assert MARK not in lm.dump_state()
    assert pickle.loads(pickle.dumps(lm)).model == lm.model


def test_what_is_no_language_model_of_dspys_is_left_alone() -> None:
    class Own(dspy.BaseLM):
        def __setstate__(self, state: dict[str, Any]) -> None:
            raise AssertionError

    own = Own("own")

    def child() -> int:
        open_anew(own)
        open_anew(None)
        return 0

    assert forked(child) == 0
