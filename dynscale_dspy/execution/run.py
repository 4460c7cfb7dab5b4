"""What surrounds one sample: its adapter overlay, its meter, its trace. The user's program runs inside, unchanged."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback
from dspy.utils.usage_tracker import UsageTracker

from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.budget.pool import Charge, Ticket
from dynscale_dspy.budget.throttle import Throttle
from dynscale_dspy.execution.answer_reader import AnswerReader
from dynscale_dspy.execution.metering import (
    MISCOUNTED,
    Bound,
    answered_by_cache,
    choice_bound,
    is_context_overflow,
    is_permanent,
    reading,
    request_bound,
    split,
)
from dynscale_dspy.execution.prefill import StartedMessage
from dynscale_dspy.execution.shared_request import ReadApart, Seat, SharingLM
from dynscale_dspy.reporting import tracing
from dynscale_dspy.sampling import chain
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.selection.answers import canonical

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleSettings:
    """How one wrapped module wants its samples drawn.

    Args:
        module: The user's program.
        reader: Reads its answers.
        temperature: Overrides the language model's temperature if not None.
        vary: Whether samples must differ, so that an unset temperature becomes 1.
        owner: Whose samples these are.
        lm: What the program's only predictor asks, if it has one.
    """

    module: dspy.Module
    reader: AnswerReader
    temperature: float | None
    vary: bool
    owner: object = None
    lm: Any = None


def derive_rollout(base: int | None, index: int) -> int | None:
    """The rollout id of sample ``index``, distinct for every pair of base and index.

    Sample 0 of a program without a rollout id keeps none, so that it *is* the plain program's own run and shares its
    cache entry. Under an enclosing rollout (an optimizer's, or an outer wrapper's) all ids are hashed: adding or
    multiplying small numbers would make different nestings collide, and DSPy's cache would hand out one sample twice.
    """
    if base is None:
        return index or None
    digest = hashlib.blake2b(f"{base}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 11  # below 2**53: exact wherever JSON numbers are doubles


class SampleAdapter:
    """Delegates to the user's adapter, and gives each predictor call its rollout, temperature, seed and chain.

    A plain object on purpose: subclasses of ``dspy.Adapter`` fire adapter callbacks twice.
    """

    def __init__(
        self,
        inner: Any = None,
        draw: Draw | None = None,
        settings: SampleSettings | None = None,
        meter: Meter | None = None,
        seat: Seat | None = None,
        listener: Meter | None = None,
    ) -> None:
        # `dspy.Refine` inside a sample makes a subclass of this and an instance without arguments, which calls the
        # adapter around it: this sample's own.
        self.inner = inner or dspy.settings.adapter
        self._draw: Draw = draw  # type: ignore[assignment]
        self._settings: SampleSettings = settings  # type: ignore[assignment]
        self._meter: Meter = meter  # type: ignore[assignment]
        self._seat = seat
        self._listener = listener

    def __getattr__(self, name: str) -> Any:
        # DSPy's agents call the adapter's formatting methods directly.
        return getattr(self.__dict__["inner"], name)

    def __call__(self, lm: Any, lm_kwargs: dict, signature: Any, demos: list, inputs: dict) -> list[dict]:
        """Format, call and parse as the user's adapter does, with this sample's settings."""
        asking = self._asking(lm)
        while True:
            try:
                overlaid = self._overlay(lm, lm_kwargs, signature, demos, inputs, asking)
                throttle = self._throttle
                if throttle is None:
                    values = asking.adapter(asking.lm, *overlaid)
                else:
                    values = throttle.run(lambda: asking.adapter(asking.lm, *_again(overlaid)))  # noqa: B023
                return self._own(signature, values)
            except (Exception, ReadApart) as error:
                pause = self._pause(asking, error)
                if pause is None:
                    raise
            time.sleep(pause)

    async def acall(self, lm: Any, lm_kwargs: dict, signature: Any, demos: list, inputs: dict) -> list[dict]:
        """The same from a task."""
        asking = self._asking(lm)
        while True:
            try:
                overlaid = self._overlay(lm, lm_kwargs, signature, demos, inputs, asking)
                throttle = self._throttle
                if throttle is None:
                    values = await asking.adapter.acall(asking.lm, *overlaid)
                else:
                    values = await throttle.arun(lambda: asking.adapter.acall(asking.lm, *_again(overlaid)))  # noqa: B023
                return self._own(signature, values)
            except (Exception, ReadApart) as error:
                pause = self._pause(asking, error)
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    def _own(self, signature: Any, values: list[dict]) -> list[dict]:
        """Of what was read, what is this sample's."""
        return values if self._seat is None else self._seat.own(signature, values)

    def _pause(self, asking: _Asking, error: BaseException) -> float | None:
        """Seconds to wait before asking, or only reading, again; None to let the error out."""
        if self._seat is not None and self._seat.read_apart():
            return 0.0
        return asking.again(error) if isinstance(error, Exception) else None

    @property
    def _throttle(self) -> Throttle | None:
        """What the request has to pass, unless another sample's has brought its answer."""
        ticket = self._meter.ticket if self._meter is not None else None
        if ticket is None or (self._seat is not None and self._seat.is_ready):
            return None
        return ticket.pool.throttle

    def _asking(self, lm: Any) -> _Asking:
        text = chain.text_for((dspy.settings.caller_modules or [None])[-1], self._draw.chain)
        asking = _Asking(self.inner, lm, text, prefill=self._draw.prefill, listener=self._listener)
        if self._seat is not None:
            asking.lm = SharingLM(asking.lm, lm, self._seat, self._meter)
        return asking

    def _overlay(
        self, lm: Any, lm_kwargs: dict, signature: Any, demos: list, inputs: dict, asking: _Asking
    ) -> tuple[dict, Any, list, dict]:
        # Everything is copied, never changed: DSPy records the caller's own dicts in traces and demos.
        merged = {**getattr(lm, "kwargs", {}), **lm_kwargs}
        kwargs = dict(lm_kwargs)
        rollout = derive_rollout(merged.get("rollout_id"), self._draw.index)
        if rollout is not None:
            kwargs["rollout_id"] = rollout
        if merged.get("seed") is not None:
            # One fixed seed for every sample would make a local server answer the same each time.
            kwargs["seed"] = merged["seed"] + self._draw.index
        if self._settings.temperature is not None:
            kwargs["temperature"] = self._settings.temperature
        elif merged.get("temperature") is None and self._settings.vary:
            kwargs["temperature"] = 1.0
        text = asking.chain
        if asking.started is not None:
            return asking.started.kwargs(kwargs), signature, demos, inputs
        if text is None:
            return kwargs, signature, demos, inputs
        name = chain.FIELD
        while name in signature.fields:
            name += "_"
        signature = signature.append(name, dspy.InputField(desc=chain.describe(text)), type_=str)
        # Demos without the new field would be shown as incomplete examples.
        demos = [{**dict(demo), name: "N/A"} for demo in demos]
        return kwargs, signature, demos, {**inputs, name: text}


class _Asking:
    """What to do when a request fails: ask again after a pause, ask with a shorter chain or a field, or give up.

    The retries are DSPy's own, as many and after the same pauses; only that each is a call of its own here, so that
    every request is seen and paid for. DSPy's loop, inside the call, would hide them.
    """

    def __init__(self, inner: Any, lm: Any, text: str | None, *, prefill: bool, listener: Meter | None) -> None:
        self.chain = text
        self.started: StartedMessage | None = None
        if text is not None and prefill and StartedMessage.possible(inner, lm):
            self.started = StartedMessage(inner, lm, text)
        self._inner = inner
        self._left = getattr(lm, "num_retries", 0) if _is_retryable is not None else 0
        self._failed = 0
        changes: dict[str, Any] = {"num_retries": 0} if self._left else {}
        if listener is not None:
            changes["callbacks"] = [*lm.callbacks, listener]
        self.lm: Any = _like(lm, changes) if changes else lm

    @property
    def adapter(self) -> Any:
        """The user's adapter, or what begins the model's message around it."""
        return self._inner if self.started is None else self.started.adapter

    def again(self, error: Exception) -> float | None:
        """Seconds to wait before asking again; None to let the error out."""
        if self.chain is not None and is_context_overflow(error):
            self.chain, self.started = chain.shorten(self.chain), None
            return 0.0
        if self.started is not None and self.started.failed(error):
            self.started = None
            return 0.0
        if self._left <= 0 or _is_retryable is None or not _is_retryable(error):
            return None
        self._left -= 1
        self._failed += 1
        asked = getattr(error, "retry_after", None)
        if isinstance(asked, (int, float)) and 0 <= asked < float("inf"):
            return float(asked)
        return float(min(2 ** (self._failed - 1), 60))


_is_retryable = getattr(dspy, "is_retryable_lm_error", None)  # since 3.4; before, LiteLLM retries unseen


def _again(overlaid: tuple[dict, Any, list, dict]) -> tuple[dict, Any, list, dict]:
    # Adapters write into the settings they are given; a hedged request is made from the same ones.
    kwargs, *others = overlaid
    return (dict(kwargs), *others)  # type: ignore[return-value]


def _like(lm: Any, changes: Mapping[str, Any]) -> Any:
    """The same language model, sharing its connections and history, but for some of its attributes."""
    other = object.__new__(type(lm))
    other.__dict__.update(vars(lm), **changes)
    return other


class CallRefused(BaseException):
    """Cuts a sample off at a language-model call the pool cannot pay.

    Not an ``Exception``: it must pass through the program's own error handling, as cancellation does, or a retry or a
    fallback inside would simply ask again, and DSPy would go on to make the call.

    Args:
        error: What the sample fails with.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Meter(BaseCallback):
    """Charges every language-model call of one sample just before it is made, and settles it when it is over.

    A DSPy callback sees each call whatever made it: a predictor, an adapter's fallback, a tool loop, or the program
    itself. Meters of enclosing samples are told too, and each pool is charged once, at the leaf.
    """

    def __init__(self, ticket: Ticket | None, outer: Meter | None) -> None:
        self.ticket = ticket
        self.outer = outer
        self.miscounted = False
        """Whether the latest request for several choices cannot be counted, where it has to be."""
        self.tracker = _Tracker()
        self.history = _History()
        self._open: dict[str, _OpenCall] = {}
        self._shares: list[_Share] = []

    @contextmanager
    def shared(self, lm: Any, messages: Any, kwargs: Mapping[str, Any], tickets: Sequence[Ticket]) -> Iterator[int]:
        """Inside, the next call brings choices for this sample and others of its call, and each pays for its own.

        Args:
            lm: The language model.
            messages: The prompt.
            kwargs: The call's settings.
            tickets: What pays for the others.

        Yields:
            For how many samples that can be paid, this one included.
        """
        shares = self._shares = []
        for ticket in tickets:
            pool = ticket.pool
            bound = Cost()
            if pool.metered:
                dollars = pool._ledger.capped("nanodollars")
                bound = choice_bound(lm, {"messages": messages, "kwargs": kwargs}, dollars=dollars, prices=pool.prices)
            charge = ticket.call(bound)
            if charge is None:
                break
            shares.append(_Share(ticket, charge, bound))
        try:
            yield 1 + len(shares)
        finally:
            for share in self._shares:  # the call was not made
                share.ticket.answered(share.charge, Cost())
            self._shares = []

    def finish_reasons(self) -> list[str | None]:
        """Why each choice of the latest call ended."""
        return _finish_reasons(self.history[-1]) if self.history else []

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Reserve the call with every pool above, innermost ticket of each."""
        charged: dict[int, tuple[Ticket, Charge, Bound]] = {}
        shares: list[_Share] = []
        if self._shares and (inputs.get("kwargs") or {}).get("n") == 1 + len(self._shares):
            shares, self._shares = self._shares, []
        meter: Meter | None = self
        while meter is not None:
            ticket = meter.ticket
            if ticket is not None and id(ticket.pool._root) not in charged:
                try:
                    paid = self._reserve(ticket, instance, inputs, shared=bool(shares) and meter is self)
                except Exception as error:
                    for other, charge in [*(c[:2] for c in charged.values()), *((s.ticket, s.charge) for s in shares)]:
                        other.answered(charge, Cost())
                    raise CallRefused(error) from None
                charged[id(ticket.pool._root)] = (ticket, *paid)
            meter = meter.outer
        tracked = dspy.settings.usage_tracker is self.tracker
        self._open[call_id] = _OpenCall(instance, inputs, list(charged.values()), tracked, shares)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Settle the call at what was reported, or at its bound if that is missing or cannot be."""
        call = self._open.pop(call_id, None)
        reports, entry = self.tracker.calls.pop(call_id, None), self.history.calls.pop(call_id, None)
        if call is None:
            return
        if exception is None and outputs is None:
            exception = asyncio.CancelledError()  # before DSPy 3.3 callbacks are not told of an interruption
        if not call.tracked and entry is not None and entry.get("usage"):
            reports = [entry["usage"]]  # the program has a tracker of its own around the call
        for ticket, charge, bound in call.charged:
            shares = call.shares if ticket is self.ticket else []
            used, distrust = reading(
                call.lm,
                call.inputs,
                bound=sum((share.bound for share in shares), bound.cost) if shares else bound.cost,
                lacking=bound.lacking,
                metered=ticket.pool.metered,
                reports=reports,
                entry=entry,
                outputs=outputs,
                error=exception,
                prices=ticket.pool.prices,
            )
            used, *others = split(used, 1 + len(shares))
            ticket.answered(charge, used)
            for share, part in zip(shares, others, strict=True):
                share.ticket.answered(share.charge, part)
            if distrust:
                ticket.pool.distrust(distrust)
            if distrust == MISCOUNTED and ticket.pool.metered:
                self.miscounted = True

    @staticmethod
    def _reserve(ticket: Ticket, lm: Any, inputs: dict[str, Any], *, shared: bool) -> tuple[Charge, Bound]:
        pool = ticket.pool
        if shared:  # those who share the request pay for their own choices
            inputs = {**inputs, "kwargs": {**(inputs.get("kwargs") or {}), "n": 1}}
        bound = request_bound(
            lm,
            inputs,
            tokens=pool._ledger.capped("tokens"),
            dollars=pool._ledger.capped("nanodollars"),
            prices=pool.prices,
            retries=getattr(lm, "num_retries", 0) if pool.strict else 0,
        )
        if bound.lacking:
            pool.unbounded(str(getattr(lm, "model", "")), bound.lacking, bound.overshoot)
        charge = ticket.call(bound.cost, bounded=not bound.lacking, cached=lambda: answered_by_cache(lm, inputs))
        if charge is None:
            raise pool.refused()
        return charge, bound

    # A deep copy of a callback list must keep charging the same sample.
    def __deepcopy__(self, memo: dict) -> Meter:
        return self


@dataclass(frozen=True)
class _OpenCall:
    lm: Any
    inputs: dict[str, Any]
    charged: list[tuple[Ticket, Charge, Bound]]
    tracked: bool
    shares: list[_Share]


@dataclass(frozen=True)
class _Share:
    """Another sample's part in a request."""

    ticket: Ticket
    charge: Charge
    bound: Cost


def current_meter() -> Meter | None:
    """The meter of the sample this code runs in, if any."""
    callbacks = dspy.settings.get("callbacks") or []
    return next((callback for callback in reversed(callbacks) if isinstance(callback, Meter)), None)


def _asks_one(settings: SampleSettings, adapter: Any) -> bool:
    """Whether all that the program asks goes through its adapter to the language model that is known: DSPy's own."""
    return (
        type(_innermost(settings.module)) is dspy.Predict
        and type(settings.lm) is dspy.LM
        and type(adapter) in (dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter)
    )


def _innermost(program: dspy.Module) -> Any:
    """The predictor inside a `ChainOfThought`; any other program itself."""
    return getattr(program, "predict", None) if type(program) is dspy.ChainOfThought else program


def _needs_each_run(program: dspy.Module) -> bool:
    """Whether each run of a program that asks once has to be made: it has callbacks or a `forward` of its own."""
    return any(
        getattr(module, "callbacks", None) or vars(module).keys() & {"forward", "aforward", "acall"}
        for module in (program, _innermost(program))
    )


class _Tracker(UsageTracker):
    """A usage tracker that also knows which call a report is of. An answer from DSPy's cache has none."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[Mapping[str, Any]]] = {}

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        """One report; called inside the language-model call."""
        super().add_usage(lm, usage_entry)
        call_id = ACTIVE_CALL_ID.get()
        if call_id is not None:
            self.calls.setdefault(call_id, []).append(dict(usage_entry))

    # DSPy's executors copy the tracker into each of their threads, and lose what is added there.
    def __deepcopy__(self, memo: dict) -> _Tracker:
        return self


class _History(list):
    """A history that also knows which call an entry is of."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, Mapping[str, Any]] = {}

    def append(self, entry: Any) -> None:
        super().append(entry)
        call_id = ACTIVE_CALL_ID.get()
        if call_id is not None:
            self.calls[call_id] = entry


class _Recorder:
    """Stands among the calling modules, so that DSPy appends this sample's language-model entries to ``history``."""

    def __init__(self, history: list[Any], owner: object) -> None:
        self.history = history
        self.owner = owner


def is_sample_of(owner: object) -> bool:
    """Whether the module that is being called here was called by one of this owner's samples directly."""
    callers = dspy.settings.caller_modules or []
    return len(callers) > 1 and isinstance(callers[-2], _Recorder) and callers[-2].owner is owner


class SampleRun(AbstractContextManager):
    """Everything around one run of the program; afterwards :attr:`sample` tells what came of it.

    Inside, DSPy's settings carry this sample's adapter, meter, trace and usage tracker. On the way out the ticket is
    settled, whatever happened. Errors of the program are kept in the sample; an interruption passes through.

    Example:
        with SampleRun(draw, ticket, settings) as run:
            run.prediction = settings.module(**inputs)
        run.sample
    """

    def __init__(self, draw: Draw, ticket: Ticket | None, settings: SampleSettings, seat: Seat | None = None) -> None:
        self.draw = draw
        self.prediction: Any = None
        self.sample: Sample
        self.cost = Cost()
        self._ticket = ticket
        self._settings = settings
        self._seat = seat
        self._meter = Meter(ticket, current_meter())
        self._recorder = _Recorder(self._meter.history, settings.owner)
        self._trace: list[Any] = []
        self._vote: tuple[Any, Any, str] | None = None

    def __enter__(self) -> SampleRun:
        settings = dspy.settings
        callbacks = [c for c in settings.get("callbacks") or [] if not isinstance(c, (Meter, tracing.SpanMark))]
        adapter = settings.adapter or dspy.ChatAdapter()
        # With a callback in its settings DSPy binds the arguments of every module and adapter call to tell it of them,
        # which takes longer than all else around a sample. Where only one language model can be asked, that is enough.
        listener = self._meter if _asks_one(self._settings, adapter) else None
        if self._seat is not None:
            self._seat.together = listener is not None and not callbacks and not _needs_each_run(self._settings.module)
        if tracing.is_on():
            callbacks = [
                tracing.SpanMark(ended=self._vote_attributes),
                *callbacks,
                tracing.SpanMark(started=self._draw_attributes),
            ]
        self._context = dspy.context(
            adapter=SampleAdapter(adapter, self.draw, self._settings, self._meter, self._seat, listener),
            callbacks=callbacks if listener is not None else [*callbacks, self._meter],
            caller_modules=[*(settings.caller_modules or []), self._recorder],
            trace=self._trace,
            usage_tracker=self._meter.tracker,
            # Chunks of several samples would interleave; a stream gets the final prediction.
            send_stream=None,
        )
        self._context.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        self._context.__exit__(None, None, None)
        if self._seat is not None and error is None:
            self._seat.share(getattr(_innermost(self._settings.module), "signature", None), self._trace)
        return self._conclude(error)

    def take(self) -> bool:
        """Conclude without a run, if another sample's has read this one's answer too.

        Returns:
            Whether it has.
        """
        taken = self._seat.take() if self._seat is not None else None
        if taken is None:
            return False
        self.prediction, self._trace = taken
        return self._conclude(None)

    def _conclude(self, error: BaseException | None) -> bool:
        """Settle the ticket and say what came of the sample; False for an interruption, which is to pass through."""
        usage = {model: list(entries) for model, entries in self._meter.tracker.usage_data.items()}
        failure = error if isinstance(error, Exception) else None
        if self._ticket is not None:
            self.cost = self._ticket.settle(failure, permanent=is_permanent(failure))
        if isinstance(error, CallRefused):
            error = error.error
        elif error is not None and not isinstance(error, Exception):
            return False
        if self._seat is not None and error is not None and self._seat.failed:
            self._seat.fold.failed(error)
        answer, key, problem = self._read(self.prediction, error)
        self.sample = Sample(
            draw=self.draw,
            prediction=self.prediction,
            answer=answer,
            key=key,
            problem=problem,
            error=error,
            trace=tuple(self._trace),
            usage=usage,
            cost=self.cost,
        )
        return True

    def _read(self, prediction: Any, error: BaseException | None) -> tuple[Any, Any, str]:
        """The answer, its key and why it casts no vote; read once, since the user's own function may do the reading."""
        if error is not None:
            return None, None, "failed"
        if self._vote is None:
            answer = self._settings.reader.read(self._settings.module, prediction)
            if self._finish_reason() == "length":
                self._vote = answer, None, "truncated"
            else:
                key = canonical(answer)
                self._vote = answer, key, "" if key is not None else "no answer"
        return self._vote

    def _finish_reason(self) -> str | None:
        """Why the sample's last answer ended."""
        if self._recorder.history:
            return _finish_reasons(self._recorder.history[-1])[0]
        return self._seat.finish_reason if self._seat is not None else None

    def _draw_attributes(self) -> dict[str, Any]:
        draw = self.draw
        return {"sample": draw.index, "round": draw.round, "conditioned": draw.conditioned, "shown": draw.shown}

    def _vote_attributes(self, prediction: Any, error: BaseException | None) -> dict[str, Any]:
        answer, key, problem = self._read(prediction, error)
        return {"vote": "" if key is None else answer, "problem": problem}


def _finish_reasons(entry: Mapping[str, Any]) -> list[str | None]:
    response = entry.get("response")
    choices = getattr(response, "choices", None)  # LiteLLM's shape; the native engine has the reason at the top
    return [getattr(choice, "finish_reason", None) for choice in choices or [response]]
