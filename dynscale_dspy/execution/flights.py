"""The same call made again while it runs waits for the first one's outcome."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Hashable
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from dynscale_dspy.budget.single_flight import Abandoned, SingleFlight
from dynscale_dspy.sampling.steps import Step, Wait

T = TypeVar("T")


def once(
    flights: SingleFlight, key: Hashable, steps: Generator[Step, Any, T], *, copied: Callable[[T], T]
) -> Generator[Step, Any, T]:
    """The steps of a call, or a wait for the same call in flight.

    Args:
        flights: The calls under way.
        key: Names the call, inputs and all.
        steps: The call's own steps, which return its outcome.
        copied: Makes a copy of an outcome. Each call that waits gets one, made before the first call goes on: what its
            caller then does with the outcome shows in no other.

    Returns:
        The outcome.
    """
    future: Future[T] | None = None
    mine = False
    try:
        while True:
            future, mine = flights.join(key)
            if mine or not (yield Wait(future, partial(flights.give_up_lost, key))):
                break  # what cannot be waited for here goes alone
            if not isinstance(future.exception(), Abandoned):
                return copied(future.result())
        outcome = yield from steps
        if mine and future is not None:
            kept = copied(outcome) if flights.leave(key, future) else outcome
            future.set_result(kept)
        return outcome
    except BaseException as error:
        if mine and future is not None and not future.done():
            flights.leave(key, future)
            future.set_exception(error if isinstance(error, Exception) else Abandoned())
        raise


def submitted_item() -> Hashable:
    """Which item of DSPy's parallel executor this thread is at work on; None outside it.

    ``Evaluate``, ``dspy.Parallel`` and ``Module.batch`` submit an item that is slow a second time: that is the same
    call again. Equal inputs in two items are two calls, as they are in a loop. DSPy does not tell them apart, so it is
    read off the executor's frame below this one.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "worker" and frame.f_globals.get("__name__") == "dspy.utils.parallelizer":
            return id(frame.f_locals.get("self")), frame.f_locals.get("index")
        frame = frame.f_back
    return None
