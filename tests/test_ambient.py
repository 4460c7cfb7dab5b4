"""What holds inside a ``with`` block, and where it reaches."""

from __future__ import annotations

import asyncio
import threading

import dspy
import pytest

from dynscale_dspy import _ambient, unscaled


def test_the_innermost_pool_is_the_ambient_one():
    assert _ambient.current() is None and _ambient.entered() == ()
    _ambient.enter("outer")
    _ambient.enter("inner")
    _ambient.enter("inner")  # the same once more
    assert _ambient.entered() == ("outer", "inner", "inner") and _ambient.current() == "inner"
    _ambient.leave()
    _ambient.leave()
    assert _ambient.current() == "outer"
    _ambient.leave()
    assert _ambient.current() is None and _ambient.entered() == ()


def test_threads_of_dspy_are_inside_and_other_threads_outside():
    class Look(dspy.Module):
        def forward(self) -> dspy.Prediction:
            return dspy.Prediction(pool=_ambient.current(), thread=threading.get_ident())

    seen = []
    _ambient.enter("pool")
    try:
        inside = dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Look(), {})] * 2)
        thread = threading.Thread(target=lambda: seen.append(_ambient.current()))
        thread.start()
        thread.join()
    finally:
        _ambient.leave()
    assert [look.pool for look in inside] == ["pool", "pool"]
    assert threading.get_ident() not in {look.thread for look in inside}
    assert seen == [None]


async def test_tasks_enter_and_leave_for_themselves():
    seen = {}

    async def inside(name: str) -> None:
        _ambient.enter(name)
        try:
            await asyncio.sleep(0)  # the other enters too
            seen[name] = _ambient.entered()
        finally:
            _ambient.leave()

    await asyncio.gather(inside("one"), inside("other"))
    assert seen == {"one": ("one",), "other": ("other",)}
    assert _ambient.entered() == ()


def test_a_context_of_dspys_own_in_between_changes_nothing():
    _ambient.enter("pool")
    with dspy.context(lm=None):
        assert _ambient.current() == "pool"
        _ambient.enter("inner")
        assert _ambient.current() == "inner"
        _ambient.leave()
        assert _ambient.current() == "pool"
    _ambient.leave()
    assert _ambient.current() is None


def test_unscaled_holds_until_its_block_ends_also_by_an_error():
    assert not _ambient.is_unscaled()
    with pytest.raises(ZeroDivisionError), unscaled():
        with unscaled():
            assert _ambient.is_unscaled()
        assert _ambient.is_unscaled()
        raise ZeroDivisionError
    assert not _ambient.is_unscaled()
