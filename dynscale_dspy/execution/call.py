"""One call of a wrapped program: its plan, how its samples are run, and how its outcome is handed over."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Generator, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dspy

from dynscale_dspy._naming import name_of, named_predictors
from dynscale_dspy.allocation.confidence import Answers
from dynscale_dspy.allocation.evidence import falls_short
from dynscale_dspy.budget.leases import ONE_REQUEST
from dynscale_dspy.budget.locking import running_loop
from dynscale_dspy.budget.pool import BudgetPool
from dynscale_dspy.config import ScalingSettings
from dynscale_dspy.errors import BudgetExhausted
from dynscale_dspy.execution.answer_reader import AnswerReader
from dynscale_dspy.execution.asked import Asked
from dynscale_dspy.execution.books import unblocked, unwaited
from dynscale_dspy.execution.calibrated import as_voted, calibration_of
from dynscale_dspy.execution.choices_route import Turn
from dynscale_dspy.execution.desk import CallDesk
from dynscale_dspy.execution.drivers import in_thread
from dynscale_dspy.execution.embedding import Embedding
from dynscale_dspy.execution.fallback import Fallback
from dynscale_dspy.execution.flights import once, submitted_item
from dynscale_dspy.execution.hints import hint
from dynscale_dspy.execution.inputs import inputs_key, is_lasting, is_long, lasting_name, own_inputs
from dynscale_dspy.execution.introspection import (
    are_labels,
    check_ready,
    has_aforward,
    innermost,
)
from dynscale_dspy.execution.judging import Hearing
from dynscale_dspy.execution.listener import listen_around
from dynscale_dspy.execution.lm_errors import is_permanent
from dynscale_dspy.execution.meter import Meter, current_meter, is_alone
from dynscale_dspy.execution.notices import explanation_of, with_notices
from dynscale_dspy.execution.outcome import Outcome, add_to_trace, spoken
from dynscale_dspy.execution.run import SampleRun, SampleSettings
from dynscale_dspy.execution.shared_request import Slot
from dynscale_dspy.execution.tariffs import put_at_prices
from dynscale_dspy.execution.token_probabilities import LONGEST_REPLY, label_reader, may_tell
from dynscale_dspy.execution.user_stream import UserStream, is_listened_to, winning_chunks
from dynscale_dspy.reporting import tracing
from dynscale_dspy.reporting.explanation import keep
from dynscale_dspy.reporting.history import CallRecord
from dynscale_dspy.sampling.plan import Plan
from dynscale_dspy.sampling.play import play
from dynscale_dspy.sampling.sample import SPARED, Sample
from dynscale_dspy.sampling.steps import Consult, Job, Record, Step
from dynscale_dspy.selection.base import Choice, Selector
from dynscale_dspy.selection.embeddings import embeds
from dynscale_dspy.selection.judge import Judge
from dynscale_dspy.selection.plurality import Plurality

logger = logging.getLogger(__name__)

_AS_IT_IS: AbstractContextManager[None] = nullcontext()


@dataclass(frozen=True)
class Scaled:
    """What a call needs to know of the wrapper that is called, as it is at that moment.

    Args:
        owner: The wrapper. The pool learns by it what a sample takes, and DSPy calls it.
        program: The user's program.
        pool: Pays.
        reader: Reads the program's answers.
        selector: Says which answer wins.
        settings: How samples are drawn and answers handed out.
        speaker: The predictor that DSPy takes the program for, in traces and streams; None for the program itself.
        why: Why this selector, for reports; empty for plurality by default.
        is_beside: Whether the call helps another one that has its answer, as a judge's does: that it fails is no
            reason for the pool to stop itself.
    """

    owner: dspy.Module
    program: dspy.Module
    pool: BudgetPool
    reader: AnswerReader
    selector: Selector
    settings: ScalingSettings
    speaker: dspy.Predict | None = None
    why: str = ""
    is_beside: bool = False

    @property
    def choice(self) -> Choice:
        """The selector, and why it is this one."""
        return Choice(self.selector, self.why)


class Call:
    """One call: build it, drive :meth:`steps` with :meth:`run` or :meth:`arun`, then :meth:`finish` and :meth:`answer`.

    Args:
        scaled: The wrapper that is called.
        args: The call's positional arguments.
        kwargs: Its arguments by name.
        known: Whether it is one of a known set, which is to make the same requests each time.
        in_task: Whether a task makes it: what blocks holds up all of its event loop.

    Raises:
        ValueError: If every sample would fail or be the same; nothing is spent then.
    """

    def __init__(
        self,
        scaled: Scaled,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        known: bool = False,
        in_task: bool = False,
    ) -> None:
        self.scaled = scaled
        self.args = args
        self.kwargs = kwargs
        self._outcome: Outcome | None = None
        self._unrecorded: CallRecord | None = None
        pool, program, settings = scaled.pool, scaled.program, scaled.settings
        admission = pool.admission
        vary = settings.max_samples > 1 and admission.varies
        predictors = [predictor for _, predictor in named_predictors(program)]
        listen_around(program, kwargs)
        strategy, brings_lms = settings.strategy, settings.lms is not None
        check_ready(predictors, program, kwargs, temperature=settings.temperature, vary=vary, brings_lms=brings_lms)
        self.requests_guess = max(1, len(predictors))
        """The language-model requests a sample makes, as far as the program tells."""
        asked = Asked.by(program, predictors, kwargs, settings.lms)
        lm = asked.only
        self._stream = UserStream.here()
        learned, types = admission.program(scaled.owner).learned, scaled.reader.output_types
        if asked.several:
            put_at_prices(learned, strategy.samplers, admission.prices)
        written = learned.cost.mean("completion_tokens")
        at_once = asked.decide_at_once(types, written)
        labels = None
        # What one of several language models thinks of all labels is not all that can be said.
        tells_all = at_once and not asked.several
        # One sample that tells all would be no draw of its own.
        if vary and settings.probabilities and written <= LONGEST_REPLY and not asked.wants_a_draw:
            labels = label_reader(innermost(program), types, scaled.selector, at_once=tells_all)
        calibration = None
        if settings.probabilities == "calibrated" and not asked.several:
            calibration = calibration_of(innermost(program), lm, labels, learned.labels)
        self._calibrated = labels.field if labels is not None and calibration is not None else None
        self._settings = SampleSettings(
            program,
            scaled.reader,
            scaled.selector,
            admission,
            settings.temperature,
            vary,
            scaled.owner,
            lm,
            self._stream,
            scaled.speaker if self._stream is not None and is_listened_to(scaled.speaker) else None,
            at_once,
            labels,
            asked.instead,
            scaled.is_beside,
        )
        self._inputs = inputs_key((args, kwargs))
        in_loop = in_task and running_loop() is not None

        def may_wait() -> bool:
            """Whether to wait would make neither the call late nor hold up anything else."""
            return admission.seconds_left() == math.inf and is_alone(in_task=in_loop)

        turn = Turn(hash(self._inputs), may_wait)
        sharing = asked.sharing(settings.max_choices, wait=known, turn=turn) if vary and not pool.is_durable else {}
        choices = max(sharing.values(), default=1)
        # Where requests are capped, all samples at once must not find out that their temperature is refused.
        careful = vary and settings.temperature is None and admission.caps("requests") and asked.is_unproven
        # One sample may tell of all labels: the others are drawn once it is known that it does not.
        tells_all = tells_all and labels is not None and may_tell(lm)
        self.plan = Plan(
            strategy,
            seed=pool.seed,
            key=self._inputs,
            max_samples=int(min(settings.max_samples, admission.most_per_call)) if vary else 1,
            selection=scaled.selector.empty(),
            learned=learned,
            varies=vary,
            max_choices=choices,
            sharing=sharing,
            stop_when_decided=settings.stop_when_decided,
            leader=tells_all or (choices == 1 and (careful or (settings.leader and is_long((args, kwargs))))),
            at_once=at_once,
            answers=Answers.AT_ONCE if at_once else Answers.CLOSED if are_labels(types) else Answers.OPEN,
            calibration=calibration,
        )
        self.embedding: Embedding | None = None
        """What embeds the texts of its samples, where the selector compares by that."""
        if self.plan.max_samples > 1 and embeds(settings.selector):  # no default does
            self.embedding = Embedding(partial(self._pay_beside, current_meter()), admission.patience)
        called = dspy.settings.caller_modules or [None]
        self._is_sample_itself = self.plan.max_samples == 1 and called[-1] is program
        if self._stream is not None:
            # Nothing but the answer may be streamed, so only a sample streams itself whose answer is sure to be handed
            # out, and of which no second request is made.
            hedges = admission.throttle is not None and admission.throttle.hedge is not None
            self._stream.has_one_writer = self.plan.max_samples == 1 and settings.min_confidence is None and not hedges
        # The same call is the same program with the same inputs under the same language model and enclosing sample
        # (whose adapter is its own object), not for another item of a list.
        around = (id(dspy.settings.lm), id(dspy.settings.adapter), submitted_item())
        self._key: Hashable = (id(scaled.owner), self._inputs, around)

    def desk(self) -> CallDesk:
        """Where the plan's questions to the pool are answered."""
        meter, pool = current_meter(), self.scaled.pool
        return CallDesk(
            pool,
            outer=meter.lease if meter is not None else None,
            program=self.scaled.owner,
            requests=self.requests_guess,
            key=self.name if pool.is_durable else None,
            beside=self.scaled.is_beside,
        )

    def steps(self) -> Generator[Step, Any, Outcome]:
        """The steps to drive; they return what the call came to."""
        steps = once(self.scaled.pool.flights, self._key, self._played(), copied=Outcome.copied)
        steps = with_notices(self._recorded(steps), self.plan, self._stream)
        return steps if self._stream is None else self._streamed(steps, self._stream)

    def _played(self) -> Generator[Step, Any, Outcome]:
        steps = play(self.plan)
        winner = yield from (steps if self.embedding is None else self.embedding.steps(steps))
        if self.hearing is not None and winner.error is None:
            hearing = self.hearing
            winner = yield Consult(partial(hearing.winner, winner), partial(hearing.awinner, winner))
        return self.outcome(winner)

    @property
    def hearing(self) -> Hearing | None:
        """What a judge is to say of the answers, where the selector is one."""
        judge = self.scaled.selector
        if not isinstance(judge, Judge):
            return None
        inputs = {**{f"input {place}": value for place, value in enumerate(self.args, 1)}, **self.kwargs}
        return Hearing(judge, self.plan, inputs, self._judged_by)

    def _judged_by(self, program: dspy.Module, inputs: dict[str, Any]) -> Call:
        """A call of a judge's program: one sample, as it is."""
        settings, reader = ScalingSettings(max_samples=1, probabilities=False), AnswerReader(program)
        judge = Scaled(program, program, self.scaled.pool, reader, Plurality(), settings, is_beside=True)
        return Call(judge, (), inputs)

    def _pay_beside(self, around: Meter | None) -> bool:
        """Whether a request that is no sample's is paid, here and by the samples around."""
        payer = self.scaled.pool.admission
        return (around is None or around.pay_beside(payer)) and payer.pay(ONE_REQUEST, self.scaled.owner)

    @property
    def name(self) -> bytes | None:
        """A name of the call that outlives the process: the program's kind and fields, and a hash of the inputs.

        None if an input has no lasting name of its own. The cache decides whether a sample is the same; this only tells
        whether it was paid for.
        """
        if not is_lasting(self._inputs):
            return None
        program = self.scaled.program
        fields = [list(predictor.signature.fields) for _, predictor in named_predictors(program)]  # type: ignore[union-attr]
        return lasting_name(type(program).__qualname__, fields, self._inputs, self.scaled.pool.seed)

    def run(self, job: Job, slot: Slot | None = None) -> Sample:
        """Draw one sample in this thread.

        Args:
            job: The sample.
            slot: Its place in a request that several samples share, if it has one.
        """
        run = self._run_of(job, slot)
        try:
            sample = self._without_a_run(job, slot)
        except BaseException:
            run.conclude()  # it may have begun
            raise
        if sample is not None:
            self._spare(run, job)
            return sample
        try:
            if not run.take():
                with run, self._within() as plain:
                    program = plain("forward") if plain else self.scaled.program
                    run.prediction = program(*own_inputs(self.args), **own_inputs(self.kwargs))
        finally:
            run.conclude()
        return run.sample

    async def arun(self, job: Job, slot: Slot | None = None) -> Sample:
        """Draw one sample in this task; see :meth:`run`. A program that cannot be awaited runs in a thread."""
        if not has_aforward(self.scaled.program):
            return await in_thread(lambda: self.run(job, slot))
        may_block = self.scaled.pool.is_durable
        run = self._run_of(job, slot, awaited=True)
        sample = await unblocked(may_block, partial(self._without_a_run, job, slot), undo=partial(_undo, run))
        if sample is not None:
            self._spare(run, job)
            return sample
        try:
            if not run.take():
                with Cancellable(self.scaled.pool), run, self._within() as plain:
                    program = plain("aforward") if plain else self.scaled.program.acall
                    run.prediction = await program(*own_inputs(self.args), **own_inputs(self.kwargs))
        except asyncio.CancelledError:
            sample = await unblocked(may_block, partial(self._called_off, run))
            if sample is None:
                raise
            return sample
        except BaseException:
            unwaited(may_block, run.conclude)
            raise
        await unblocked(may_block, run.conclude)
        return run.sample

    def _within(self) -> AbstractContextManager[Callable[[str], Any] | None]:
        """Around a sample, which calls the program: unless it is the only one of a call of the program itself.

        Then to DSPy, and to whoever watches, the sample is that call, and not another one in it.

        Returns:
            A block that is given what gets a method of the program by its name, in this case; None if the program is
            to be called.
        """
        return self._as_the_call() if self._is_sample_itself else _AS_IT_IS

    @contextmanager
    def _as_the_call(self) -> Iterator[Callable[[str], Any]]:
        program = self.scaled.program
        with dspy.context(caller_modules=[*dspy.settings.caller_modules, program]):
            # Not by `getattr`: DSPy warns of it.
            yield partial(object.__getattribute__, program)

    def _run_of(self, job: Job, slot: Slot | None, *, awaited: bool = False) -> SampleRun:
        """The run of a job. What is set aside for it is settled when it is over, however it ends."""
        run = SampleRun(job.draw, job.lease, self._settings, slot, awaited=awaited)
        if job.lease is not None:
            job.lease.lock.hold(run, job.lease.settle, running_loop())
        return run

    def _spare(self, run: SampleRun, job: Job) -> None:
        """The run has not begun and will not: its lease is the call's again."""
        if job.lease is not None:
            job.lease.lock.release(run)

    def _without_a_run(self, job: Job, slot: Slot | None) -> Sample | None:
        """The sample if it is not to be run: it is not needed, cannot succeed, or must not begin. Else it has begun."""
        if self.plan.decided:
            return Sample(job.draw, problem=SPARED)
        lost = self._settings.lost.get(job.draw.sampler.model)
        failed = lost if slot is None or slot.request.error is None else slot.request.error
        if failed is not None:
            permanent = lost is not None or is_permanent(failed)
            return Sample(job.draw, problem="failed", error=failed, permanent=permanent)
        if job.lease is None or job.lease.start():
            return None
        admission = self.scaled.pool.admission
        if admission.is_halted:
            error = admission.exhausted()
        else:
            error = BudgetExhausted("the call was over before this sample began")
        return Sample(job.draw, problem="failed", error=error)

    def _called_off(self, run: SampleRun) -> Sample | None:
        """Conclude a sample whose task was cancelled; None if the call was, and not the sample alone."""
        run.conclude()
        pool = self.scaled.pool
        if pool.stopped or pool.admission.is_late:  # an empty vote, and the call answers with what it has
            return Sample(run.draw, problem="failed", error=pool.admission.exhausted(), cost=run.cost)
        if self.plan.decided:
            return Sample(run.draw, problem=SPARED, cost=run.cost)
        return None

    def _recorded(self, steps: Generator[Step, Any, Outcome]) -> Generator[Step, Any, Outcome]:
        """These steps; then the pool remembers the call."""
        outcome = self._outcome = yield from steps
        record = self._take_record()
        if record is not None:
            yield Record(record)
        return outcome

    def _streamed(self, steps: Generator[Step, Any, Outcome], stream: UserStream) -> Generator[Step, Any, Outcome]:
        """These steps; then the user's listeners hear the answer if it has not streamed itself, and is handed out."""
        outcome = yield from steps
        winner = outcome.winner
        if not stream.is_handed_on and winner.error is None and self._fallback(winner.prediction) is None:
            # DSPy traces nothing if it is told to keep no traces; of a lone predictor it is known what it said.
            trace = winner.trace or [(innermost(self.scaled.program), {}, winner.prediction)]
            for chunk in winning_chunks(trace, dspy.settings.stream_listeners or []):
                yield stream.notice(chunk)
        return outcome

    def _take_record(self) -> CallRecord | None:
        """What the pool is to remember of the call, once; nothing if the same call in flight drew the samples."""
        record, self._unrecorded = self._unrecorded, None
        return record

    def finish(self, outcome: Outcome) -> Any:
        """Hand over to DSPy what a call came to: the winner's trace to the caller's, all usage to the caller's tracker.

        Args:
            outcome: What the call came to.

        Returns:
            The winner's prediction.

        Raises:
            BaseException: The winner's error, if every sample failed.
        """
        settings, winner = dspy.settings, outcome.winner
        if settings.usage_tracker is not None:
            for model, entries in outcome.usage.items():
                settings.usage_tracker.usage_data[model].extend(entries)
        record = self._take_record()
        if record is not None:  # a call of a known set, which has no steps of its own
            self.scaled.pool.record(record)
        if winner.error is not None:
            raise winner.error
        add_to_trace(winner.trace)
        if tracing.is_on():
            tracing.annotate(outcome.explanation.attributes)
        return winner.prediction

    def answer(self, prediction: Any) -> Any:
        """What the caller gets: the winner, or where the vote is not sure enough, what ``on_low`` says.

        Raises:
            LowConfidence: If that is to be raised.
        """
        fallback = self._fallback(prediction)
        return prediction if fallback is None else fallback.answer(self.args, self.kwargs)

    async def aanswer(self, prediction: Any) -> Any:
        """As :meth:`answer`, in a task."""
        fallback = self._fallback(prediction)
        return prediction if fallback is None else await fallback.aanswer(self.args, self.kwargs)

    def outcome(self, winner: Sample) -> Outcome:
        """What the call came to, made once. The explanation is attached before anyone has the prediction."""
        if self._outcome is None:
            if self._calibrated is not None:
                winner = as_voted(winner, self._calibrated)
            returned = self._composed(winner)
            made = explanation_of(
                self.plan,
                winner,
                min_confidence=self.scaled.settings.min_confidence,
                choice=self.scaled.choice if self.embedding is None else self.embedding.told(self.scaled.choice),
                is_composed=returned is not winner,
            )
            for prediction in (winner.prediction, returned.prediction):
                keep(prediction, made)
            winner = returned
            usage: dict[str, list[dict[str, Any]]] = {}
            for sample in self.plan.samples:
                for model, used in sample.usage.items():
                    usage.setdefault(model, []).extend(used)
            trace = spoken(winner.trace, self.scaled.program, self.scaled.speaker)
            self._outcome = Outcome(replace(winner, trace=trace), usage, made)
            numbers: dict[Any, int] = {}
            answers = tuple(
                None if s.group is None else numbers.setdefault(s.group, len(numbers)) for s in made.samples
            )
            won = next((s.group for s in made.samples if s.index == made.winner), None)
            name = name_of(self.scaled.owner)
            samplers = tuple(s.sampler for s in made.samples)
            models = {model.name: model.cost for model in made.models}
            figures = made.agreement, made.confidence, made.cost
            self._unrecorded = CallRecord(name, answers, *figures, samplers, models, numbers.get(won))
            # Numbers only: an answer may hold what does not belong in a log.
            fields = {f"dynscale_{name}": value for name, value in made.attributes.items() if name != "vote"}
            logger.debug("%s answered: %s", type(self.scaled.program).__name__, made.summary, extra=fields)
            hint(self.scaled.owner, name, self.plan)
        return self._outcome

    def _composed(self, winner: Sample) -> Sample:
        """The winner, with the answer that the selection has put together if it has one."""
        composed = self.plan.composed
        if composed is None or composed.whose != winner.draw.index or winner.error is not None:
            return winner
        scaled = self.scaled
        prediction = scaled.reader.written(scaled.program, winner.prediction, composed.answer)
        return winner if prediction is None else replace(winner, prediction=prediction, answer=composed.answer)

    def _fallback(self, prediction: Any) -> Fallback | None:
        asked = self.scaled.settings.min_confidence
        if asked is None or self._outcome is None:
            return None
        explanation = self._outcome.explanation
        if not falls_short(explanation.confidence, asked):
            return None
        return Fallback(self.scaled.settings.on_low, prediction, explanation, asked)


def _undo(run: SampleRun, sample: Sample | None) -> None:
    """A task was cancelled while it looked whether its sample is to run."""
    if sample is None:
        run.conclude()  # it has begun for nobody


class Cancellable:
    """A block in which ``pool.stop(cancel=True)`` cancels this task. After it, even one on its way does nothing.

    Args:
        pool: The pool.
    """

    # A class, and not a generator: it is there for each sample under way, in half as many objects.
    __slots__ = ("_is_running", "_listed", "_loop", "_task")

    def __init__(self, pool: BudgetPool) -> None:
        self._loop, self._task, self._is_running = asyncio.get_running_loop(), asyncio.current_task(), True
        self._listed: AbstractContextManager[object] | None = pool.cancellable(self._cancel_soon)

    def __enter__(self) -> None:
        assert self._listed is not None and self._task is not None
        self._listed.__enter__()

    def __exit__(self, *error: object) -> None:
        listed, self._listed, self._is_running = self._listed, None, False  # no circle stays
        if listed is not None:
            listed.__exit__(None, None, None)

    def _cancel_soon(self) -> None:
        with suppress(RuntimeError):  # its loop was closed: nothing runs there any more
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._is_running and self._task is not None:
            self._task.cancel()
