from __future__ import annotations

import os
import threading

import pytest

from dynscale_dspy.execution.threads import Threads
from tests.support import forked


@pytest.mark.parametrize("kept", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_what_is_submitted_may_wait_for_what_it_submits_itself(kept, depth):
    threads, width = Threads(kept, name="test"), 8
    together = threading.Barrier(width, timeout=20)

    def run(left):
        if left == depth:
            together.wait()  # all of them are at work, whatever is kept
        return 1 + (threads.submit(run, left - 1).result(20) if left else 0)

    futures = [threads.submit(run, depth) for _ in range(width)]
    assert [future.result(30) for future in futures] == [depth + 1] * width


def test_a_few_threads_are_kept_and_the_others_end():
    threads, ended = Threads(2, name="kept"), threading.Event()
    begun = threading.Barrier(6, timeout=20)
    futures = [threads.submit(lambda: (begun.wait(), ended.wait(20))) for _ in range(5)]
    begun.wait()
    named = [thread for thread in threading.enumerate() if thread.name.startswith("kept")]
    assert len(named) == 5
    ended.set()
    for future in futures:
        future.result(20)
    for thread in named:
        if "further" in thread.name:
            thread.join(20)
    assert sum(thread.is_alive() for thread in named) == 2
    idents = {threads.submit(threading.get_ident).result(20) for _ in range(9)}
    assert idents <= {thread.ident for thread in named if thread.is_alive()}


@pytest.mark.parametrize("full", [False, True])
def test_an_error_comes_out(full):
    threads, ended = Threads(1, name="test"), threading.Event()
    if full:
        threads.submit(ended.wait, 20)
    assert isinstance(threads.submit(lambda: 1 / 0).exception(20), ZeroDivisionError)
    ended.set()


def test_without_a_thread_left_it_waits_for_one_that_is_kept(monkeypatch):
    threads, ended = Threads(1, name="test"), threading.Event()
    threads.submit(ended.wait, 20)

    def no_thread(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        future = threads.submit(lambda: "later")
    assert not future.done()
    ended.set()
    assert future.result(20) == "later"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_child_has_threads_of_its_own_however_many_are_at_work_in_the_parent():
    threads, ended = Threads(2, name="test"), threading.Event()
    futures = [threads.submit(ended.wait, 20) for _ in range(3)]
    assert forked(lambda: threads.submit(lambda: 7).result(10)) == 7
    ended.set()
    assert all(future.result(20) for future in futures)
