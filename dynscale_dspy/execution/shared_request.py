"""Several samples from one request: its ``n`` choices are dealt out to as many runs of the program.

Where the program is a predictor of DSPy's own and nobody watches its runs, one run reads all of them, as DSPy does with
``n``, and the others need none; as soon as one choice cannot be read, each is read in a run of its own.

The prompt is then sent, billed and read by the server once. Which routes can do it is not assumed: DSPy's native
engine makes one request a choice, so there it is never tried; through LiteLLM it is, and what a server makes of it is
remembered for the language model. Where it cannot be done each sample asks for itself, as without folding.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dspy

from dynscale_dspy.execution.metering import is_context_overflow, is_permanent

if TYPE_CHECKING:
    from dynscale_dspy.budget.leases import Ticket
    from dynscale_dspy.execution.run import Meter

logger = logging.getLogger(__name__)

ATTEMPTS = 2
"""Requests for several choices that may fail before those samples that are left fail with them."""

_findings: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


class Fold:
    """The samples of one call that are to share a request. They run one after another, in one thread or task.

    The first that asks, asks for as many choices as there are samples; each of the others then finds its own here.

    Args:
        tickets: What pays for each of them.
    """

    def __init__(self, tickets: Sequence[Ticket]) -> None:
        self.tickets = tickets
        self.request: Any = None
        self.choices: dict[int, tuple[Any, str | None]] = {}
        self.predictions: dict[int, tuple[Any, list[Any], str | None]] = {}
        self.failures = 0
        self.error: Exception | None = None

    def keep(self, request: Any, position: int, outputs: Sequence[Any], reasons: Sequence[str | None]) -> None:
        """What came back for the sample at this position and for those after it."""
        if self.request is not None:
            return  # of a request that was given up for a second one
        self.request = request
        padded = [*reasons, *[None] * len(outputs)]
        self.choices = {position + i: (output, padded[i]) for i, output in enumerate(outputs)}

    def read(self, position: int, signature: Any, values: Sequence[Any], trace: Sequence[Any]) -> None:
        """What all choices were read as, at this position and after it, and what the run that did it left in its trace.

        Each gets the prediction and the trace that a run of its own would have made.
        """
        for place, value in enumerate(values, position):
            made = dspy.Prediction.from_completions([value], signature=signature)
            own = [(predictor, {**inputs}, made) for predictor, inputs, _ in trace]
            self.predictions[place] = made, own, self.choices[place][1]

    def failed(self, error: Exception) -> None:
        """The request failed for good; after a second one, or where another would fail alike, nobody asks again."""
        self.failures += 1
        if self.failures >= ATTEMPTS or is_permanent(error):
            self.error = error


class Seat:
    """One sample's place in a fold.

    Args:
        fold: The fold.
        position: Its position there.
    """

    def __init__(self, fold: Fold, position: int) -> None:
        self.fold = fold
        self.position = position
        self.served = False
        """Whether the sample's answer came as one of several choices."""
        self.finish_reason: str | None = None
        """Why that choice ended, if another sample's request brought it: this one has no request to look at then."""
        self.together = False
        """Whether the adapter is to read all choices at once, for the others too."""
        self.failed = False
        """Whether the sample's latest request was for all of them and failed."""
        self._asked = False
        self._handed = False
        self._read: tuple[Any, Sequence[Any]] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the answer is there already."""
        return not self._asked and self.position in self.fold.choices

    def take(self) -> tuple[Any, list[Any]] | None:
        """The sample's prediction and trace, if another one's run has read its choice; it needs no run then."""
        found = self.fold.predictions.get(self.position)
        if found is None:
            return None
        prediction, trace, self.finish_reason = found
        self.served = True
        return prediction, trace

    def own(self, signature: Any, values: list[Any]) -> list[Any]:
        """Of what the adapter made of all choices, the sample's own."""
        if not self._handed:
            return values
        self._handed = False
        self._read = signature, values[1:]
        return values[:1]

    def share(self, signature: Any, trace: Sequence[Any]) -> None:
        """The run is over, and left this trace: the others may have what it read for them.

        Not if the adapter was asked for another signature than the program's: whoever did that had more to do with the
        answers (DSPy's decisions are made around the adapter).
        """
        if self._read is not None and self._read[0] is signature:
            self.fold.read(self.position + 1, *self._read, trace)

    def read_apart(self) -> bool:
        """After a failure: whether it was all choices at once that could not be read. Each is read alone then."""
        if not self._handed:
            return False
        self.together = self._handed = self._asked = False
        return True

    def ask(
        self, lm: Any, meter: Meter, messages: Any, kwargs: dict[str, Any]
    ) -> Generator[dict[str, Any], list[Any], list[Any]]:
        """One request of the sample: yields the settings to make it with, is sent its outputs, returns the sample's."""
        if self._handed:
            raise ReadApart  # an adapter's fallback: it would pay for another request because of one choice of many
        self.failed = False
        fold = self.fold
        request = (messages, {name: _comparable(value) for name, value in kwargs.items() if name != "rollout_id"})
        if self._asked or messages is None:
            return (yield kwargs)  # an adapter's fallback, or the program's second request
        self._asked = True
        if fold.request is not None:
            if fold.request == request and self.position in fold.choices:
                output, self.finish_reason = fold.choices[self.position]
                self.served = True
                return [output]
            return (yield kwargs)
        with meter.shared(lm, messages, kwargs, fold.tickets[self.position + 1 :]) as count:
            if count == 1 or not _findings.get(lm, True):
                return (yield kwargs)
            try:
                outputs = yield {**kwargs, "n": count}
            except Exception as error:
                if not _is_refusal(error):
                    self._asked = False  # whoever asks again for this sample asks for all of them
                    self.failed = True
                    raise
                outputs = None
        if outputs is None:
            outputs = yield kwargs
            _found(lm, False)  # it was the several choices that it would not have
            fold.request = _NOTHING
            return outputs
        fold.keep(request, self.position, outputs, meter.finish_reasons())
        self.served = True
        # A server that counts one choice only is not always caught at it: it is not asked for several again.
        _found(lm, len(outputs) > 1 and not meter.miscounted)
        self._handed = self.together and len(outputs) > 1
        return outputs if self._handed else outputs[:1]


class ReadApart(BaseException):
    """Cuts an adapter off that would ask again, since it could not read all choices at once.

    Not an ``Exception``, for adapters take those as a reason to ask again.
    """


class SharingLM:
    """Stands where a language model is expected, and asks through a seat. Everything else is the language model's.

    Args:
        lm: What asks.
        known_as: The language model that findings are kept for.
        seat: The sample's seat.
        meter: The sample's meter.
    """

    def __init__(self, lm: Any, known_as: Any, seat: Seat, meter: Meter) -> None:
        self._lm = lm
        self._known_as = known_as
        self._seat = seat
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_lm"], name)

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """Ask, or be handed what another sample's request brought."""
        exchange = _Exchange(self._seat.ask(self._known_as, self._meter, messages, kwargs))
        while exchange.asked is not None:
            with exchange.answering(), _calling(self._lm, messages):
                exchange.outputs = self._lm(prompt, messages=messages, **exchange.asked)
        return exchange.result

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        """The same from a task."""
        exchange = _Exchange(self._seat.ask(self._known_as, self._meter, messages, kwargs))
        while exchange.asked is not None:
            with exchange.answering(), _calling(self._lm, messages):
                exchange.outputs = await self._lm.acall(prompt, messages=messages, **exchange.asked)
        return exchange.result


class _Exchange:
    """Steps of asking, for a caller that only makes the requests: what is asked now, and in the end the result."""

    def __init__(self, steps: Generator[dict[str, Any], list[Any], list[Any]]) -> None:
        self.asked: dict[str, Any] | None = None
        self.outputs: Any = None
        self.result: Any = None
        self._steps = steps
        self._go_on(lambda: next(steps))

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Around one request: afterwards the steps know what came of it, or raise it."""
        try:
            yield
        except Exception as error:
            failure = error
            self._go_on(lambda: self._steps.throw(failure))
        except BaseException:
            self._steps.close()  # an interruption: what was set aside for others is free again
            raise
        else:
            self._go_on(lambda: self._steps.send(self.outputs))

    def _go_on(self, step: Callable[[], dict[str, Any]]) -> None:
        try:
            self.asked = step()
        except StopIteration as stop:
            self.asked, self.result = None, stop.value


def can_fold(lm: Any, config: Mapping[str, Any]) -> bool:
    """Whether several choices of this language model may come of one request.

    Args:
        lm: The language model.
        config: What the predictor sets for it.
    """
    if getattr(lm, "model_type", None) != "chat" or not _findings.get(lm, True):
        return False
    settings = {**lm.kwargs, **config}
    if settings.get("n") not in (None, 1) or settings.get("num_generations") is not None:
        return False
    if settings.get("seed") is not None:
        return False  # what a server makes of one seed for several choices differs
    return one_request(lm, settings)


def one_request(lm: Any, settings: Mapping[str, Any]) -> bool:
    """Whether a call for several choices is one request: so it is through LiteLLM, and not with the native engine."""
    engine = getattr(lm, "_engine_spec", None)
    if engine is None:
        return isinstance(lm, dspy.LM)  # DSPy before 3.4 has nothing but LiteLLM
    if engine == "auto":
        try:
            from dspy.clients.backend_selection import select_backend

            return not select_backend(lm, {"model": lm.model, **settings}).native
        except Exception:  # another DSPy than this was written for, or settings it will refuse itself
            return False
    return engine == "litellm"


def _comparable(value: Any) -> Any:
    """A setting as it can be compared: DSPy's JSON adapter makes a new class for the same format each time."""
    schema = getattr(value, "model_json_schema", None) if isinstance(value, type) else None
    return schema() if schema is not None else value


def _found(lm: Any, able: bool) -> None:
    with _lock:
        known, _findings[lm] = _findings.get(lm), able
    if not able and known is not False:
        logger.info("%s gives one choice a request: each sample asks for itself", getattr(lm, "model", lm))


def _is_refusal(error: Exception) -> bool:
    """Whether the request was turned away for what it asked, so that asking for less may help."""
    names = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(error, "status_code", None) or getattr(error, "status", None)
    refused = status in (400, 404, 405, 415, 422, 501) or bool(
        names & {"UnsupportedParamsError", "LMUnsupportedFeatureError", "LMInvalidRequestError"}
    )
    return refused and not is_context_overflow(error)


try:
    # DSPy 3.4 deprecates OpenAI-style messages except where an adapter of its own sends them, as here.
    from dspy.clients._deprecation import adapter_message_call as _calling
except ImportError:

    def _calling(lm: Any, messages: Any) -> Any:
        return contextlib.nullcontext()


_NOTHING = object()
"""Equal to no request."""
