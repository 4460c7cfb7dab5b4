"""Status messages for DSPy's streaming: how a call stands after each round of samples."""

from __future__ import annotations

from collections.abc import Mapping

import dspy
from dspy.streaming import StatusMessage, StatusMessageProvider
from dspy.streaming.messages import StatusStreamingCallback

from dynscale_dspy.reporting.explanation import Explanation


class SamplingStatus(StatusMessageProvider):
    """A status message provider for ``dspy.streamify`` that also reports how each scaled call stands.

    After each round of samples the stream gets a message such as ``8 samples, 3 answers, 62% agree``; with several
    language models before each round one such as ``asking small for 4 samples``. At the end come the winner's fields,
    for listeners to them, and the final prediction.

    Example:
        ```python
        stream = dspy.streamify(qa, status_message_provider=SamplingStatus())
        async for message in stream(question="..."):
            ...
        ```
    """

    def sampling_status_message(self, explanation: Explanation) -> str | None:
        """The message after a round. Override it to change the words, or return None to send nothing.

        Args:
            explanation: The call so far, in the form that :func:`explain` gives for the finished call.
        """
        return explanation.summary

    def asking_status_message(self, models: Mapping[str, int]) -> str | None:
        """The message before a round of a call that draws from several language models. Override it like the other.

        Args:
            models: How many samples are drawn now, by the name of the language model that is asked.

        Example:
            >>> SamplingStatus().asking_status_message({"small": 4, "large": 1})
            'asking small for 4 samples and large for 1'
        """
        first, *others = (f"{name} for {count}" for name, count in models.items())
        word = "sample" if next(iter(models.values())) == 1 else "samples"
        return " and ".join([f"asking {first} {word}", *others])


def status_provider() -> SamplingStatus | None:
    """The provider that the user streams with here; None if there is none, or none that reports samples."""
    callbacks = dspy.settings.get("callbacks") or []
    providers = (c.status_message_provider for c in callbacks if isinstance(c, StatusStreamingCallback))
    return next((provider for provider in providers if isinstance(provider, SamplingStatus)), None)


def status_message(provider: SamplingStatus, explanation: Explanation) -> StatusMessage | None:
    """The message for the stream; None if the provider has nothing to say."""
    return _message(provider.sampling_status_message(explanation))


def asking_message(provider: SamplingStatus, models: Mapping[str, int]) -> StatusMessage | None:
    """The message that says which of several language models are asked; None if there is nothing to say."""
    return _message(provider.asking_status_message(models)) if models else None


def _message(words: str | None) -> StatusMessage | None:
    return StatusMessage(words) if words else None
