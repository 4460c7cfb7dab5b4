"""Status messages in the steps of a call, and the explanation of a call whose plan is at hand."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

import dspy
from dspy.streaming import StatusMessage
from dspy.streaming.messages import sync_send_to_stream

from dynscale_dspy.reporting.explanation import Explanation, explanation
from dynscale_dspy.reporting.streaming import status_message, status_provider
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.sample import Sample
from dynscale_dspy.sampling.steps import Notice

logger = logging.getLogger(__name__)


def explanation_of(plan: Plan, winner: Sample, *, min_confidence: float | None = None) -> Explanation:
    """How a call stands.

    Args:
        plan: The call's plan.
        winner: The winner so far.
        min_confidence: The confidence that the module asked for.
    """
    selection = plan.selection
    groups, evidence = selection.groups(), selection.evidence()
    total = sum(group.weight for group in groups)
    voting = (evidence.samples - evidence.blanks) / evidence.samples if evidence.samples else 0.0
    return explanation(
        plan.samples,
        groups,
        winner,
        agreement=evidence.lead / total * voting if total else 0.0,
        confidence=evidence.confidence,
        cost=plan.cost,
        min_confidence=min_confidence,
    )


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
            logger.debug("no status message from this thread: %s", type(error).__name__)

    return Notice(send, asend)
