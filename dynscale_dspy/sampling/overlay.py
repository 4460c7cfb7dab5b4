"""What surrounds one sample: its adapter overlay, its meter, its trace. The user's program runs inside, unchanged."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.usage_tracker import UsageTracker

from dynscale_dspy import tracing
from dynscale_dspy.answers import AnswerReader, canonical
from dynscale_dspy.errors import BudgetExhausted
from dynscale_dspy.pool import Ticket
from dynscale_dspy.sampling import chain
from dynscale_dspy.sampling.sample import Draw, Sample

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
    """

    module: dspy.Module
    reader: AnswerReader
    temperature: float | None
    vary: bool
    owner: object = None


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

    def __init__(self, inner: Any = None, draw: Draw | None = None, settings: SampleSettings | None = None) -> None:
        # `dspy.Refine` inside a sample makes a subclass of this and an instance without arguments, which calls the
        # adapter around it: this sample's own.
        self.inner = inner or dspy.settings.adapter
        self._draw: Draw = draw  # type: ignore[assignment]
        self._settings: SampleSettings = settings  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        # DSPy's agents call the adapter's formatting methods directly.
        return getattr(self.__dict__["inner"], name)

    def __call__(self, lm: Any, lm_kwargs: dict, signature: Any, demos: list, inputs: dict) -> list[dict]:
        """Format, call and parse as the user's adapter does, with this sample's settings."""
        return self.inner(lm, *self._overlay(lm, lm_kwargs, signature, demos, inputs))

    async def acall(self, lm: Any, lm_kwargs: dict, signature: Any, demos: list, inputs: dict) -> list[dict]:
        """The same from a task."""
        return await self.inner.acall(lm, *self._overlay(lm, lm_kwargs, signature, demos, inputs))

    def _overlay(
        self, lm: Any, lm_kwargs: dict, signature: Any, demos: list, inputs: dict
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
        caller = (dspy.settings.caller_modules or [None])[-1]
        text = chain.text_for(caller, self._draw.chain)
        if text is None:
            return kwargs, signature, demos, inputs
        name = chain.FIELD
        while name in signature.fields:
            name += "_"
        signature = signature.append(name, dspy.InputField(desc=chain.DESCRIPTION), type_=str)
        # Demos without the new field would be shown as incomplete examples.
        demos = [{**dict(demo), name: "N/A"} for demo in demos]
        return kwargs, signature, demos, {**inputs, name: text}


class CallRefused(BaseException):
    """Cuts a sample off at a language-model call the pool cannot pay.

    Not an ``Exception``: it must pass through the program's own error handling, as cancellation does, or a retry or a
    fallback inside would simply ask again.
    """


class Meter(BaseCallback):
    """Charges every language-model call of one sample, just before it is made.

    A DSPy callback sees each call whatever made it: a predictor, an adapter's fallback, a tool loop, or the program
    itself. Meters of enclosing samples are told too, and each pool is charged once, at the leaf.
    """

    def __init__(self, ticket: Ticket | None, outer: Meter | None) -> None:
        self.ticket = ticket
        self.outer = outer
        self.calls = 0

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Reserve one call with every pool above, innermost ticket of each."""
        charged: set[int] = set()
        meter: Meter | None = self
        while meter is not None:
            meter.calls += 1
            ticket = meter.ticket
            if ticket is not None and id(ticket.pool) not in charged:
                charged.add(id(ticket.pool))
                if not ticket.call():
                    raise CallRefused
            meter = meter.outer

    # A deep copy of a callback list must keep charging the same sample.
    def __deepcopy__(self, memo: dict) -> Meter:
        return self


def current_meter() -> Meter | None:
    """The meter of the sample this code runs in, if any."""
    callbacks = dspy.settings.get("callbacks") or []
    return next((callback for callback in reversed(callbacks) if isinstance(callback, Meter)), None)


class _Recorder:
    """Stands among the calling modules, so that DSPy appends this sample's language-model entries to ``history``."""

    def __init__(self, owner: object) -> None:
        self.history: list[Any] = []
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

    def __init__(self, draw: Draw, ticket: Ticket | None, settings: SampleSettings) -> None:
        self.draw = draw
        self.prediction: Any = None
        self.sample: Sample
        self._ticket = ticket
        self._settings = settings
        self._meter = Meter(ticket, current_meter())
        self._recorder = _Recorder(settings.owner)
        self._usage = UsageTracker()
        self._trace: list[Any] = []
        self._vote: tuple[Any, Any, str] | None = None

    def __enter__(self) -> SampleRun:
        settings = dspy.settings
        callbacks = [c for c in settings.get("callbacks") or [] if not isinstance(c, (Meter, tracing.SpanMark))]
        if tracing.is_on():
            callbacks = [
                tracing.SpanMark(ended=self._vote_attributes),
                *callbacks,
                tracing.SpanMark(started=self._draw_attributes),
            ]
        self._context = dspy.context(
            adapter=SampleAdapter(settings.adapter or dspy.ChatAdapter(), self.draw, self._settings),
            callbacks=[*callbacks, self._meter],
            caller_modules=[*(settings.caller_modules or []), self._recorder],
            trace=self._trace,
            usage_tracker=self._usage,
            # Chunks of several samples would interleave; a stream gets the final prediction.
            send_stream=None,
        )
        self._context.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        self._context.__exit__(None, None, None)
        usage = {model: list(entries) for model, entries in self._usage.usage_data.items()}
        tokens = sum(_tokens(entry) for entries in usage.values() for entry in entries)
        dollars = sum(_dollars(entry) for entry in self._recorder.history)
        cost = self._ticket.settle(tokens=tokens, dollars=dollars) if self._ticket else None
        if isinstance(error, CallRefused):
            error = BudgetExhausted("the pool could not pay the next language-model call in the middle of a sample")
        elif error is not None and not isinstance(error, Exception):
            return False
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
            **({"cost": cost} if cost else {}),
        )
        return True

    def _read(self, prediction: Any, error: BaseException | None) -> tuple[Any, Any, str]:
        """The answer, its key and why it casts no vote; read once, since the user's own function may do the reading."""
        if error is not None:
            return None, None, "failed"
        if self._vote is None:
            answer = self._settings.reader.read(self._settings.module, prediction)
            if self._recorder.history and _finish_reason(self._recorder.history[-1]) == "length":
                self._vote = answer, None, "truncated"
            else:
                key = canonical(answer)
                self._vote = answer, key, "" if key is not None else "no answer"
        return self._vote

    def _draw_attributes(self) -> dict[str, Any]:
        draw = self.draw
        return {"sample": draw.index, "round": draw.round, "conditioned": draw.conditioned, "shown": draw.shown}

    def _vote_attributes(self, prediction: Any, error: BaseException | None) -> dict[str, Any]:
        answer, key, problem = self._read(prediction, error)
        return {"vote": "" if key is None else answer, "problem": problem}


def _tokens(usage: Mapping[str, Any]) -> int:
    total = usage.get("total_tokens")
    if total is None:
        total = (usage.get("prompt_tokens") or 0) + (usage.get("completion_tokens") or 0)
    return int(total)


def _dollars(entry: Mapping[str, Any]) -> float:
    # A cached answer reports its old price beside empty usage.
    return float(entry.get("cost") or 0.0) if entry.get("usage") else 0.0


def _finish_reason(entry: Mapping[str, Any]) -> str | None:
    response = entry.get("response")
    choices = getattr(response, "choices", None)  # LiteLLM's shape; the native engine has the reason at the top
    return getattr(choices[0] if choices else response, "finish_reason", None)
