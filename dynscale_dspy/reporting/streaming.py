"""Status messages for streaming: how a call stands after each round of samples."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

import dspy
from dspy.streaming import StatusMessage, StatusMessageProvider
from dspy.streaming.messages import StatusStreamingCallback, sync_send_to_stream

from dynscale_dspy.reporting import explanation as report
from dynscale_dspy.reporting.explanation import Explanation
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.steps import Notice

logger = logging.getLogger(__name__)


class SamplingStatus(StatusMessageProvider):
    """A status message provider for ``dspy.streamify`` that also tells how each scaled call stands.

    After each round of samples the stream gets a message such as ``8 samples, 3 answers, 62% agree``, and at the end
    the final prediction. The samples' own chunks and messages are not streamed: they would interleave.

    Example:
        ```python
        stream = dspy.streamify(qa, status_message_provider=SamplingStatus())
        async for message in stream(question="..."):
            ...
        ```
    """

    def sampling_status_message(self, explanation: Explanation) -> str | None:
        """The message after a round; override it to say it in other words, or return None to say nothing.

        Args:
            explanation: The call so far, as :func:`explain` gives it in the end.
        """
        return explanation.summary


def with_notices(steps: Generator[Any, Any, Any], plan: Plan) -> Generator[Any, Any, Any]:
    """The steps of a call, with a notice after each round where the user streams a :class:`SamplingStatus`.

    Args:
        steps: The call's steps.
        plan: Its plan.
    """
    provider = _provider()
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
                message = provider.sampling_status_message(report.explanation(plan, plan.winner()))
                if message:
                    yield _notice(stream, StatusMessage(message))
            if step is None:
                return outcome
            reply = yield step
    finally:
        steps.close()


def _provider() -> SamplingStatus | None:
    callbacks = dspy.settings.get("callbacks") or []
    providers = (c.status_message_provider for c in callbacks if isinstance(c, StatusStreamingCallback))
    return next((provider for provider in providers if isinstance(provider, SamplingStatus)), None)


def _notice(stream: Any, message: StatusMessage) -> Notice:
    async def asend() -> None:
        await stream.send(message)

    def send() -> None:
        try:
            sync_send_to_stream(stream, message)
        except Exception as error:
            # Only the thread that DSPy started for the stream can write to it. A status is not worth a call.
            logger.debug("no status message from this thread: %r", error)

    return Notice(send, asend)
