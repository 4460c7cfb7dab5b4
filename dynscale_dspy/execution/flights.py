"""The same call made again while it runs waits for the first one's winner."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from concurrent.futures import Future
from typing import Any

from dynscale_dspy.budget.single_flight import SingleFlight
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.sampling.steps import Step, Wait


class Abandoned(Exception):
    """The call that others waited for was interrupted; one of them must take over."""


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
    while True:
        future, mine = flights.join(key)
        if mine:
            break
        if not (yield Wait(future)):
            future = None  # it cannot be waited for here, so this call goes alone
            break
        if not isinstance(future.exception(), Abandoned):
            return future.result(), False
    try:
        winner = yield from steps
        decided(winner)
    except BaseException as error:
        if future is not None:
            flights.leave(key)
            future.set_exception(error if isinstance(error, Exception) else Abandoned())
        raise
    if future is not None:
        flights.leave(key)
        future.set_result(winner)
    return winner, True
