"""The same call made again while it runs waits for the first one's winner."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from concurrent.futures import Future
from typing import Any

from dynscale_dspy.budget.single_flight import Abandoned, SingleFlight
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.sampling.steps import Step, Wait


def once(
    flights: SingleFlight,
    key: Hashable,
    steps: Generator[Step, Any, Sample],
    *,
    decided: Callable[[Sample], object] = lambda winner: None,
) -> Generator[Step, Any, tuple[Sample, bool]]:
    """The steps of a call, or a wait for the same call in flight.

    Args:
        flights: The calls under way.
        key: Names the call, inputs and all.
        steps: The call's own steps, which return its winner.
        decided: Told the winner before any call that waits for it.

    Returns:
        The winning sample, and whether this call drew it itself; False if it came from the same call in flight.
    """
    future: Future[Sample] | None = None
    mine = False
    try:
        while True:
            future, mine = flights.join(key)
            if mine or not (yield Wait(future)):
                break  # what cannot be waited for here goes alone
            if not isinstance(future.exception(), Abandoned):
                return future.result(), False
        winner = yield from steps
        decided(winner)
        if mine and future is not None:
            flights.leave(key, future)
            future.set_result(winner)
        return winner, True
    except BaseException as error:
        if mine and future is not None and not future.done():
            flights.leave(key, future)
            future.set_exception(error if isinstance(error, Exception) else Abandoned())
        raise
