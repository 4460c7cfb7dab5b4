"""One run of the user's program as a sample: what surrounds it, and what came of it. The program is unchanged."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import dspy

from dynscale_dspy.allocation.costs import NOTHING
from dynscale_dspy.budget.admission import Admission
from dynscale_dspy.budget.leases import Lease
from dynscale_dspy.execution.adapter import SampleAdapter
from dynscale_dspy.execution.answer_reader import AnswerReader, MissingField
from dynscale_dspy.execution.asks import PredictorsAsk, asks_in
from dynscale_dspy.execution.introspection import asks_one_model, innermost, needs_each_run
from dynscale_dspy.execution.listener import LISTENER, listen_to
from dynscale_dspy.execution.lm_errors import is_permanent
from dynscale_dspy.execution.meter import CUT_OFF, SETTING, CallRefused, Meter, current_meter, finish_reasons
from dynscale_dspy.execution.replies import made_of
from dynscale_dspy.execution.sample_lm import SampleLM, original
from dynscale_dspy.execution.shared_request import Slot
from dynscale_dspy.execution.token_probabilities import LabelReader
from dynscale_dspy.execution.user_stream import UserStream, status_callbacks
from dynscale_dspy.reporting import tracing
from dynscale_dspy.sampling.sample import Draw, Sample
from dynscale_dspy.selection.base import Selector, Vote
from dynscale_dspy.selection.fields import ABSENT

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleSettings:
    """How one wrapped module wants its samples drawn.

    Args:
        module: The user's program.
        reader: Reads its answers.
        selector: Reads what an answer says.
        payer: The pool that pays.
        temperature: Overrides the language model's temperature if not None.
        vary: Whether samples must differ, so that an unset temperature becomes 1.
        owner: Whose samples these are.
        lm: What the program's only predictor asks, if it has one.
        instead: The language model that samples ask in place of the program's own, unless their sampler has one; None
            for the program's own.
        stream: The stream that the call was made in, if any.
        heard_as: The predictor that listeners to the stream take the program for, if that is not the program itself.
        at_once: Whether the program answers from a few given labels without reasoning first, so that an unset
            temperature becomes 0.3.
        labels: How votes get the probabilities of labels; None where they get none.
        is_beside: Whether the pool is not to stop itself by samples that fail.
        lost: The errors with which samples of the call have failed for good so far, by language model: others of that
            one that have made no request need not make any.
    """

    module: dspy.Module
    reader: AnswerReader
    selector: Selector
    payer: Admission
    temperature: float | None
    vary: bool
    owner: object = None
    lm: Any = None
    stream: UserStream | None = None
    heard_as: dspy.Predict | None = None
    at_once: bool = False
    labels: LabelReader | None = None
    instead: Any = None
    is_beside: bool = False
    lost: dict[str, BaseException] = field(default_factory=dict)


class SampleRun(AbstractContextManager):
    """Everything around one run of the program; afterwards :attr:`sample` tells what came of it.

    Inside, DSPy's settings carry this sample's adapter, meter, trace and usage tracker. Afterwards :meth:`conclude`
    has to be called, whatever happened. Errors of the program are kept for the sample; an interruption passes through.

    Args:
        draw: What to draw.
        lease: What pays for it; None for a run outside the budget.
        settings: How the module wants its samples drawn.
        slot: Its place in a request that several samples share, if it has one.
        awaited: Whether it runs in a task, not in a thread.

    Example:
        run = SampleRun(draw, lease, settings)
        try:
            with run:
                run.prediction = settings.module(**inputs)
        finally:
            run.conclude()
        run.sample
    """

    def __init__(
        self,
        draw: Draw,
        lease: Lease | None,
        settings: SampleSettings,
        slot: Slot | None = None,
        *,
        awaited: bool = False,
    ) -> None:
        self.draw = draw
        self.prediction: Any = None
        self.sample: Sample
        self.cost = self.saved = NOTHING
        self._lease = lease
        self._settings = settings
        self._slot = slot
        self._awaited = awaited
        outer = current_meter()
        chosen = draw.sampler.lm if draw.sampler.lm is not None else settings.instead
        asks = asks_in(settings.module, chosen, outer.asks if outer is not None else None)
        lost = partial(settings.lost.get, draw.sampler.model)
        self._meter = Meter(lease, settings.payer, outer, settings.owner, asks, lost)
        self._recorder = _Recorder(self._meter.history, settings.owner)
        self._trace: list[Any] = []
        self._error: BaseException | None = None
        self._is_framed = False
        self._adapter: SampleAdapter | None = None
        self._reading: tuple[Any, Vote | None, str] | None = None

    def __enter__(self) -> SampleRun:
        settings = dspy.settings
        callbacks = [
            c for c in settings.get("callbacks") or [] if c is not LISTENER and not isinstance(c, tracing.SpanMark)
        ]
        stream = self._settings.stream
        callbacks = status_callbacks(callbacks, stream, self._settings.module, first=self.draw.index == 0)
        adapter = settings.adapter or dspy.ChatAdapter()
        asks = self._meter.asks
        lm = original(settings.lm if asks is None else asks)
        if isinstance(asks, PredictorsAsk):
            asks, lm = None, asks.beside(original(settings.lm))
        self._is_framed = type(adapter).__module__.startswith("dspy.adapters.")  # they name the fields in a reply
        known = original(self._settings.lm) if asks is None else lm
        # With a callback in its settings DSPy binds the arguments of every module and adapter call to tell it of them,
        # which takes longer than all else around a sample. Only a program that may make a language model of its own
        # needs it there: all others tell of requests themselves.
        alone = asks_one_model(self._settings.module, known, adapter)
        if self._slot is not None:
            self._slot.together = alone and not callbacks and not needs_each_run(self._settings.module)
        listen_to(lm)
        if known is not lm:
            listen_to(known)
        if tracing.is_on():
            callbacks = [
                tracing.SpanMark(ended=self._vote_attributes),
                *callbacks,
                tracing.SpanMark(started=self._draw_attributes),
            ]
        program = self._settings.module
        own = self._adapter = SampleAdapter(adapter, self.draw, self._settings, self._meter, self._slot)
        handed_on = None if stream is None else stream.hand_on(awaited=self._awaited)
        self._context = dspy.context(
            adapter=own,
            callbacks=callbacks if alone else [*callbacks, LISTENER],
            # A predictor that is scaled in place is called twice, by its caller and here: its history has entries once.
            caller_modules=[*(m for m in settings.caller_modules or [] if m is not program), self._recorder],
            trace=self._trace,
            usage_tracker=self._meter.tracker,
            # Chunks of several samples would interleave: a stream gets the winner's.
            send_stream=handed_on,
            # A predictor streams to listeners that name it. With none it streams to all; who it is, its adapter says.
            stream_listeners=settings.stream_listeners if self._settings.heard_as is None else [],
            # Through LiteLLM a stream tells its usage only if DSPy asks for it.
            track_usage=settings.track_usage or handed_on is not None,
            lm=lm if alone or lm is None else SampleLM(lm, own.requests, self._settings.payer.throttle),
            **{SETTING: self._meter},
        )
        self._meter.open()
        self._context.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        self._context.__exit__(None, None, None)
        self._meter.close()
        if self._slot is not None and error is None:
            self._slot.share(getattr(innermost(self._settings.module), "signature", None), self._trace)
        self._error = error
        return error is None or isinstance(error, (Exception, CallRefused))

    def take(self) -> bool:
        """Need no run, if another sample's run has read this one's answer too.

        Returns:
            Whether it has.
        """
        taken = self._slot.take() if self._slot is not None else None
        if taken is None:
            return False
        self.prediction, self._trace = taken
        return True

    def conclude(self) -> None:
        """Settle the lease and make the sample; of a run that was interrupted there is none. Needs no event loop.

        Where the pool is kept in a file this may block.
        """
        error = self._error
        self._meter.close()
        self._meter.settle_ended()
        usage = {model: list(entries) for model, entries in self._meter.tracker.usage_data.items()}
        failure = error if isinstance(error, Exception) else None
        if self._lease is not None:
            # One that was spared its first request by another one's error was no sample.
            cut_off = error is not failure and (not isinstance(error, CallRefused) or error.in_vain)
            permanent, several = is_permanent(failure), bool(self.draw.sampler.model)
            counted = None if self._settings.is_beside else failure
            self.cost = self._lease.settle(counted, permanent=permanent, cut_off=cut_off, one_of_several=several)
            self.saved = self._lease.saved
            self._lease.lock.release(self)
        if isinstance(error, CallRefused):
            error = error.error
        elif error is not None and not isinstance(error, Exception):
            return
        if self._slot is not None and error is not None and self._slot.failed:
            self._slot.request.failed(error)
        permanent = is_permanent(error)
        try:
            answer, vote, problem = self._read(self.prediction, error)
        except MissingField as missing:
            answer, vote, problem, error, permanent = None, None, "failed", missing, True  # the next one would lack it
        if permanent and error is not None:
            self._settings.lost.setdefault(self.draw.sampler.model, error)
        self.sample = Sample(
            draw=self.draw,
            prediction=self.prediction,
            answer=answer,
            vote=vote,
            problem=problem,
            error=error,
            permanent=permanent,
            trace=tuple(self._trace),
            usage=usage,
            cost=self.cost,
            saved=self.saved,
            replies=self._slot.replies
            if self._slot is not None and self._slot.served
            else made_of(self._recorder.history),
        )

    def _read(self, prediction: Any, failure: BaseException | None) -> tuple[Any, Vote | None, str]:
        """The answer, its vote and why it casts none; read once, since the user's own function may do the reading."""
        if failure is not None:
            return None, None, "failed"
        if self._reading is None:
            answer = None
            try:
                read = self._settings.reader.read(self._settings.module, prediction, self._reply())
                answer = None if read is ABSENT else read
                if self._finish_reason() in CUT_OFF:
                    self._reading = answer, None, "truncated"
                elif read is ABSENT:
                    self._reading = None, None, "no answer"
                else:
                    vote = self._weighed(self._settings.selector.read(answer))
                    hash(None if vote is None else vote.key)  # by which selections look it up
                    self._reading = answer, vote, "" if vote is not None else "no answer"
            except MissingField:
                raise
            except Exception as error:
                # What was returned is odd, or a selector chokes on it: the sample is paid for, and loses its vote only.
                # The type only: the message may quote what the model said.
                logger.warning("a sample's answer cannot be read, and casts no vote: %s", type(error).__name__)
                self._reading = answer, None, "unreadable"
        return self._reading

    def _weighed(self, vote: Vote | None) -> Vote | None:
        """The vote, with what the language model thought of every label where it has told."""
        labels = self._settings.labels
        if labels is None or vote is None:
            return vote
        if self._slot is not None and self._slot.served:
            return labels.weighed(vote, self._slot.request.choices[self._slot.position][0])
        probing = self._adapter.probing if self._adapter is not None else None
        return vote if probing is None else labels.weighed(vote, probing.output)

    def _reply(self) -> str | None:
        """All that the model wrote, where that is known and in the framing of one of DSPy's adapters."""
        if self._slot is not None and self._slot.served:
            outputs = [self._slot.request.choices[self._slot.position][0]]
        else:
            outputs = [output for entry in self._recorder.history for output in entry.get("outputs") or ()]
        return "\n".join(map(_text_of, outputs)) if outputs and self._is_framed else None

    def _finish_reason(self) -> str | None:
        """Why the sample's last answer ended."""
        if self._recorder.history:
            return next(iter(finish_reasons(self._recorder.history[-1])), None)
        return self._slot.finish_reason if self._slot is not None else None

    def _draw_attributes(self) -> dict[str, Any]:
        draw = self.draw
        return {"sample": draw.index, "round": draw.round, "conditioned": draw.conditioned, "shown": draw.shown}

    def _vote_attributes(self, prediction: Any, error: BaseException | None) -> dict[str, Any]:
        try:
            answer, vote, problem = self._read(prediction, error)
        except MissingField:
            return {"vote": "", "problem": "failed"}
        return {"vote": "" if vote is None else "None" if answer is None else answer, "problem": problem}


def _text_of(output: Any) -> str:
    return str(output.get("text") if isinstance(output, dict) else output)


def is_sample_of(owner: object) -> bool:
    """Return True if one of this owner's samples called the module that is being called here, and called it itself."""
    callers = dspy.settings.caller_modules or []
    return len(callers) > 1 and isinstance(callers[-2], _Recorder) and callers[-2].owner is owner


class _Recorder:
    """Stands among the calling modules, so that DSPy appends the sample's entries to ``history``."""

    def __init__(self, history: list[Any], owner: object) -> None:
        self.history = history
        self.owner = owner
