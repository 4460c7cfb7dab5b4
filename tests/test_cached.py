from __future__ import annotations

import os
import threading
from dataclasses import dataclass

import pytest

from dynscale_dspy._cached import cached_property
from dynscale_dspy.selection.plurality import Plurality
from tests.support import forked, vote


@dataclass(frozen=True)
class Slow:
    begun: threading.Event
    go_on: threading.Event

    @cached_property
    def value(self) -> object:
        """What takes long."""
        self.begun.set()
        assert self.go_on.wait(20)
        return object()


def slow(is_ready: bool) -> Slow:
    each = Slow(threading.Event(), threading.Event())
    if is_ready:
        each.go_on.set()
    return each


def test_it_is_computed_once_and_kept_in_the_object():
    each = slow(is_ready=True)
    assert "value" not in vars(each)
    assert each.value is each.value is vars(each)["value"]
    assert slow(is_ready=True).value is not each.value
    assert isinstance(Slow.value, cached_property) and Slow.value.__doc__ == "What takes long."


def test_an_error_is_not_kept():
    class Fails:
        times = 0

        @cached_property
        def value(self) -> int:
            self.times += 1
            if self.times == 1:
                raise ValueError("not yet")
            return self.times

    each = Fails()
    with pytest.raises(ValueError, match="not yet"):
        _ = each.value
    assert (each.value, each.value) == (2, 2)


def test_threads_that_ask_at_once_get_the_same_value():
    each, found = slow(is_ready=False), []
    threads = [threading.Thread(target=lambda: found.append(each.value)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert each.begun.wait(20)
    each.go_on.set()
    for thread in threads:
        thread.join(20)
    assert len(found) == 4 and all(value is each.value for value in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_child_forked_while_a_thread_computes_one_computes_others():
    """Python 3.11's own has one lock for all objects, which nobody ever releases in the child."""
    busy = slow(is_ready=False)
    thread = threading.Thread(target=lambda: busy.value)
    thread.start()
    assert busy.begun.wait(20)

    def child() -> bool:
        return slow(is_ready=True).value is not None and Plurality().empty().add(vote("A")).evidence().lead == 1

    try:
        assert forked(child) == 1
    finally:
        busy.go_on.set()
        thread.join(20)
