"""Threads in which tasks have the books of pools kept, so that no event loop waits for a file."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dynscale_dspy.budget.stores.forks import in_child

T = TypeVar("T")

KEEPERS = 8
"""How many there are. They are not the helpers of the drivers, which may be full of samples that wait."""

_lock = threading.Lock()
_threads: ThreadPoolExecutor | None = None


def _begin_anew() -> None:
    """Of a fork the child has none of the threads."""
    global _lock, _threads
    _lock, _threads = threading.Lock(), None


in_child(_begin_anew)


async def unblocked(may_block: bool, act: Callable[[], T], *, undo: Callable[[T], object] | None = None) -> T:
    """Do something in the books of a pool from a task: in a thread if it may block, else at once.

    Args:
        may_block: Whether it may, since the pool is kept in a file that others may hold.
        act: What to do, in a copy of the task's context. It is done even if the task is cancelled meanwhile.
        undo: Called in a thread with what came of it, if the task was cancelled meanwhile.
    """
    if not may_block:
        return act()
    done = _keepers().submit(contextvars.copy_context().run, act)
    try:
        return await asyncio.shield(asyncio.wrap_future(done))
    except asyncio.CancelledError:
        if undo is not None:
            # What was submitted earlier has begun when this does, so that this waits for a thread that is at work.
            _keepers().submit(lambda: undo(done.result()))
        raise


def unwaited(may_block: bool, act: Callable[[], object]) -> None:
    """The same where nothing can be waited for: in a thread it is done some time later."""
    if may_block:
        _keepers().submit(act)
    else:
        act()


def _keepers() -> ThreadPoolExecutor:
    global _threads
    with _lock:
        if _threads is None:
            _threads = ThreadPoolExecutor(max_workers=KEEPERS, thread_name_prefix="dynscale-books")
        return _threads
