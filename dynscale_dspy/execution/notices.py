"""Status messages in the steps of a call, and the explanation of a call whose plan is at hand."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable
from typing import Any

import dspy
from dspy.streaming import StatusMessage
from dspy.streaming.messages import sync_send_to_stream

from dynscale_dspy.reporting.explanation import Explanation, explanation
from dynscale_dspy.reporting.streaming import status_message, status_provider
from dynscale_dspy.sampling.plan import Notice, Plan
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.selection.base import Group

logger = logging.getLogger(__name__)


def explanation_of(plan: Plan, winner: Sample, *, min_confidence: float | None = None) -> Explanation:
    """How a call stands.

    Args:
        plan: The call's plan.
        winner: The winner so far.
        min_confidence: The confidence that the module asked for.
    """
    return explanation(
        plan.samples,
        groups_of(plan.samples),
        winner,
        agreement=plan.tally.agreement,
        confidence=plan.tally.confidence,
        cost=plan.cost,
        min_confidence=min_confidence,
    )


def groups_of(samples: Iterable[Sample]) -> list[Group]:
    """Samples of equal keys as one group each, heaviest first; of equal ones the one with the earliest sample first."""
    voters: dict[Any, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: sample.draw.index):
        if sample.key is not None:
            voters.setdefault(sample.key, []).append(sample)
    groups = []
    for key, alike in voters.items():
        conditioned = sum(sample.draw.conditioned for sample in alike)
        indices = tuple(sample.draw.index for sample in alike)
        groups.append(Group(alike[0].answer, key, len(alike) - conditioned, conditioned, indices))
    return sorted(groups, key=lambda group: (-group.weight, group.samples[0]))


def with_notices(steps: Generator[Any, Any, Any], plan: Plan) -> Generator[Any, Any, Any]:
    """The steps of a call, with a notice after each round if the user streams a :class:`SamplingStatus`.

    Args:
        steps: The call's steps.
        plan: The call's plan.
    """
    provider = status_provider()
    stream = dspy.settings.send_stream
    if provider is None or stream is None:
        return (yield from steps)
    reply: Any = None
    outcome: Any = None
    told = 0
    try:
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as stop:
                step, outcome = None, stop.value
            if len(plan.samples) > told:
                told = len(plan.samples)
                message = status_message(provider, explanation_of(plan, plan.winner()))
                if message is not None:
                    yield _notice(stream, message)
            if step is None:
                return outcome
            reply = yield step
    finally:
        steps.close()


def _notice(stream: Any, message: StatusMessage) -> Notice:
    async def asend() -> None:
        await stream.send(message)

    def send() -> None:
        try:
            sync_send_to_stream(stream, message)
        except Exception as error:
            # Only the thread that DSPy started for the stream can write to it. A call must not fail for a status.
            logger.debug("no status message from this thread: %r", error)

    return Notice(send, asend)
