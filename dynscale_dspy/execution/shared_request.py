"""Several samples from one request: its ``n`` choices are dealt out to as many runs of the program.

The prompt is then sent, billed and read by the server once. Such requests go through LiteLLM
(:mod:`~dynscale_dspy.execution.choices_route`); whether the server can is tried, and remembered for the language model.
Where it cannot, each sample makes a request of its own.

Where the program is a predictor of DSPy's own and nobody watches its runs, the first run reads all choices, as DSPy
does with ``n``, and the other samples need no run. As soon as one choice cannot be read, each is read in a run of its
own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dspy

from dynscale_dspy.execution.capabilities import SEVERAL_CHOICES
from dynscale_dspy.execution.choices_route import Turn, can_borrow, is_borrowed, makes_one_request, through_litellm
from dynscale_dspy.execution.concessions import NEGOTIABLE
from dynscale_dspy.execution.exchange import Exchange
from dynscale_dspy.execution.lm_errors import (
    complaint_of,
    has_crashed,
    is_permanent,
    is_retryable,
    is_unsupported,
    may_be_too_large,
    was_refused,
)
from dynscale_dspy.execution.replies import replies_of
from dynscale_dspy.sampling.replies import Reply

if TYPE_CHECKING:
    from dynscale_dspy.budget.leases import Lease
    from dynscale_dspy.execution.meter import Meter

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""Requests for several choices that may fail before those samples that are left fail with them."""


class SharedRequest:
    """The request that several samples of one call share, and what came back for each of them.

    The samples run one after another, in one thread or task. The first that asks, asks for as many choices as there are
    samples; each of the others then finds its own choice here.

    Args:
        leases: What pays for each of them.
    """

    def __init__(self, leases: Sequence[Lease]) -> None:
        self.leases = leases
        self.asked: Any = None
        """What was asked, comparable with what another sample is about to ask; None before."""
        self.choices: dict[int, tuple[Any, str | None]] = {}
        """Output and finish reason by the sample's position."""
        self.replies: dict[int, Reply | None] = {}
        """What tells its choice from others, by the sample's position."""
        self.predictions: dict[int, tuple[Any, list[Any], str | None]] = {}
        """Prediction, trace and finish reason by position, where one run has read all choices."""
        self.failures = 0
        self.crashed = False
        """Whether a request for several choices was lost or made the server fail, and one for a single was tried."""
        self.error: Exception | None = None
        """Why none of the samples that are left need try, if it has failed for good."""

    def keep(
        self,
        asked: Any,
        position: int,
        outputs: Sequence[Any],
        reasons: Sequence[str | None],
        replies: Sequence[Reply | None] = (),
    ) -> None:
        """Keep what came back.

        Args:
            asked: What was asked.
            position: The position of the sample that asked; the others' choices follow.
            outputs: The choices.
            reasons: Why each ended, as far as that is known.
            replies: What tells each from others, as far as that is known.
        """
        if self.asked is not None:
            return  # of a request that was given up for a second one
        self.asked = asked
        padded = [*reasons, *[None] * len(outputs)]
        self.choices = {position + i: (output, padded[i]) for i, output in enumerate(outputs)}
        self.replies = dict(enumerate(replies, position))

    def read(self, position: int, signature: Any, values: Sequence[Any], trace: Sequence[Any]) -> None:
        """Keep what one run read for the samples from this position on.

        Each gets the prediction and the trace that a run of its own would have made.

        Args:
            position: The position of the first of them.
            signature: The signature that the choices were read by.
            values: The fields of each choice.
            trace: What the run left in DSPy's trace.
        """
        for place, value in enumerate(values, position):
            made = dspy.Prediction.from_completions([value], signature=signature)
            own = [(predictor, {**inputs}, made) for predictor, inputs, _ in trace]
            self.predictions[place] = made, own, self.choices[place][1]

    def failed(self, error: Exception) -> None:
        """Count a failure; after the second one, or where another would fail alike, no sample asks again."""
        self.failures += 1
        if self.failures >= ATTEMPTS or is_permanent(error):
            self.error = error


class Slot:
    """One sample's place in a shared request.

    Args:
        request: The shared request.
        position: The sample's position among those that share it.
    """

    def __init__(self, request: SharedRequest, position: int) -> None:
        self.request = request
        self.position = position
        self.served = False
        """Whether the sample's answer came as one of several choices."""
        self.finish_reason: str | None = None
        """Why that choice ended, if another sample made the request: this one has no history entry to look at then."""
        self.together = False
        """Whether the adapter is to read all choices at once, for the other samples too."""
        self.failed = False
        """Whether the latest request was for all of the samples and failed."""
        self._asked = False
        self._failures = 0
        self._handed = False
        self._read: tuple[Any, Sequence[Any]] | None = None

    @property
    def replies(self) -> tuple[Reply, ...]:
        """What tells the sample's choice from others; empty if that is not known."""
        reply = self.request.replies.get(self.position)
        return () if reply is None else (reply,)

    @property
    def is_ready(self) -> bool:
        """Whether the sample's choice is there already."""
        return not self._asked and self.position in self.request.choices

    def take(self) -> tuple[Any, list[Any]] | None:
        """The sample's prediction and trace, if another sample's run has read its choice; it needs no run then."""
        found = self.request.predictions.get(self.position)
        if found is None:
            return None
        prediction, trace, self.finish_reason = found
        self.served = True
        return prediction, trace

    def own(self, signature: Any, values: list[Any]) -> list[Any]:
        """Of what the adapter read, the sample's own part. The rest is kept for :meth:`share`."""
        if not self._handed:
            return values
        self._handed = False
        self._read = signature, values[1:]
        return values[:1]

    def share(self, signature: Any, trace: Sequence[Any]) -> None:
        """Hand what this sample's run has read to the other samples, now that the run is over.

        Nothing is handed over if the adapter was asked for another signature than the program's: whoever did that had
        more to do with the answers (DSPy's decisions are made around the adapter).

        Args:
            signature: The program's.
            trace: What the run left in DSPy's trace.
        """
        if self._read is not None and self._read[0] is signature:
            self.request.read(self.position + 1, *self._read, trace)

    def read_apart(self) -> bool:
        """After a failure, return True if one of all choices could not be read; each is read alone then."""
        if not self._handed:
            return False
        self.together = self._handed = self._asked = False
        return True

    def ask(
        self, lm: Any, meter: Meter, messages: Any, kwargs: dict[str, Any]
    ) -> Generator[dict[str, Any], list[Any], list[Any]]:
        """Ask once for this sample, or for all of them.

        Args:
            lm: The language model.
            meter: The sample's meter.
            messages: The prompt; None if it is not in messages.
            kwargs: The request's settings.

        Yields:
            The settings to make a request with; its outputs are sent back.

        Returns:
            The outputs for this sample; for all of them where :attr:`together` is set.
        """
        if self._handed:
            raise ReadApart  # an adapter's fallback: it would pay for another request because of one choice of many
        self.failed = False
        request = self.request
        asked = (messages, {name: _comparable(value) for name, value in kwargs.items() if name != "rollout_id"})
        if self._asked or messages is None:
            return (yield kwargs)  # an adapter's fallback, or the program's second request
        self._asked = True
        if request.asked is not None:
            if request.asked == asked and self.position in request.choices:
                output, self.finish_reason = request.choices[self.position]
                self.served = True
                return [output]
            return (yield kwargs)
        with meter.shared(lm, messages, kwargs, request.leases[self.position + 1 :]) as count:
            if count == 1 or not SEVERAL_CHOICES.is_expected(lm):
                return (yield kwargs)
            crashed = False
            try:
                outputs = yield {**kwargs, "n": count}
            except Exception as error:
                settings = {**getattr(lm, "kwargs", {}), **kwargs}
                borrowed = is_borrowed(lm, settings)
                # A reply that LiteLLM cannot get, or cannot read, the language model's own engine may.
                lost = borrowed and is_retryable(error) and not was_refused(error)
                is_last = self._failures >= (getattr(lm, "num_retries", None) or 0)
                self._failures += 1
                again = request.failures > 0
                crashed = lost or has_crashed(error, again=again or is_last) or (again and may_be_too_large(error))
                sent = [name for name in NEGOTIABLE if settings.get(name) is not None]
                another = bool(complaint_of(error, sent, settings).refused)
                # What LiteLLM will not do, the language model's own engine may.
                elsewhere = borrowed and not is_retryable(error)
                if another or not (is_unsupported(error) or elsewhere or (crashed and not request.crashed)):
                    self._asked = False  # the next request for this sample is for all of them again
                    self.failed = True
                    raise
                request.crashed |= crashed
                outputs = None
        if outputs is None:
            try:
                outputs = yield kwargs
            except Exception:
                self.failed = True  # so it was not the several choices
                raise
            if crashed:
                _told(lm, SEVERAL_CHOICES.doubted(lm))  # it may have been chance
            else:
                _told(lm, SEVERAL_CHOICES.found(lm, False))  # it was the several choices that it would not have
            request.asked = _NOTHING
            return outputs
        replies = replies_of(meter.history[-1]) if meter.history else []
        request.keep(asked, self.position, outputs, meter.finish_reasons(), replies)
        self.served = True
        # A server that counts one choice only is not always caught at it: it is not asked for several again.
        able = len(outputs) > 1 and not meter.miscounted
        _told(lm, SEVERAL_CHOICES.found(lm, able) and not able)
        self._handed = self.together and len(outputs) > 1
        return outputs if self._handed else outputs[:1]


class ReadApart(BaseException):
    """Cuts an adapter off that could not read all choices at once and is about to ask again.

    Not an ``Exception``: adapters take those as a reason to ask again.
    """


class SharingLM:
    """Stands where a language model is expected, and asks through a slot. Everything else is the language model's.

    Args:
        lm: The language model that makes the request.
        known_as: The language model that findings are kept for; the user's own, where ``lm`` is a copy.
        slot: The sample's slot.
        meter: The sample's meter.
    """

    def __init__(self, lm: Any, known_as: Any, slot: Slot, meter: Meter) -> None:
        self._lm = lm
        self._known_as = known_as
        self._slot = slot
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_lm"], name)

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Ask, or return what another sample's request brought."""
        exchange = Exchange(self._slot.ask(self._known_as, self._meter, messages, kwargs))
        while exchange.asked is not None:
            lm = self._for(exchange.asked)
            with exchange, calling(lm, messages):
                exchange.outputs = lm(prompt, messages=messages, **exchange.asked)
        return exchange.result

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """The same from a task."""
        exchange = Exchange(self._slot.ask(self._known_as, self._meter, messages, kwargs))
        while exchange.asked is not None:
            lm = self._for(exchange.asked)
            with exchange, calling(lm, messages):
                exchange.outputs = await lm.acall(prompt, messages=messages, **exchange.asked)
        return exchange.result

    def _for(self, settings: Mapping[str, Any]) -> Any:
        """The language model to make a request with: for several choices, one whose engine makes one of them."""
        if (settings.get("n") or 1) > 1 and is_borrowed(self._lm, settings):
            return through_litellm(self._lm)
        return self._lm


def can_share(lm: Any, config: Mapping[str, Any], *, wait: bool = False, turn: Turn | None = None) -> bool:
    """Return True if one request may bring several choices of this language model.

    Args:
        lm: The language model.
        config: What the predictor sets for it.
        wait: Whether to wait for LiteLLM's import where the request is to go through it.
        turn: The call it is for, if it is to be made alike each time.
    """
    if getattr(lm, "model_type", None) != "chat" or not SEVERAL_CHOICES.is_expected(lm):
        return False
    settings = {**lm.kwargs, **config}
    if settings.get("n") not in (None, 1) or settings.get("num_generations") is not None:
        return False
    if settings.get("seed") is not None:
        return False  # what a server makes of one seed for several choices differs
    return makes_one_request(lm, settings) or can_borrow(lm, settings, wait=wait, turn=turn)


def _comparable(value: Any) -> Any:
    """A setting as it can be compared: DSPy's JSON adapter makes a new class for the same format each time."""
    schema = getattr(value, "model_json_schema", None) if isinstance(value, type) else None
    return schema() if schema is not None else value


def _told(lm: Any, news: bool) -> None:
    if news:
        logger.info("%s gives one choice a request: each sample asks for itself", getattr(lm, "model", lm))


try:
    # DSPy 3.4 deprecates OpenAI-style messages except where an adapter of its own sends them, as here.
    from dspy.clients._deprecation import adapter_message_call as calling
except ImportError:

    def calling(lm: Any, messages: Any) -> Any:
        """Nothing is to be done before 3.4."""
        return contextlib.nullcontext()


_NOTHING = object()
"""Equal to no request."""
