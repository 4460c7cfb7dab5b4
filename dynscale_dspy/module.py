"""DynScaling: any DSPy program, answering better for a given budget."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import logging
import math
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import dspy
import pydantic
from tqdm.auto import tqdm

from dynscale_dspy import _ambient
from dynscale_dspy._naming import name_of, named_predictors
from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.budget.pool import BudgetPool
from dynscale_dspy.config import KEY, MOST_CHOICES, PRIVATE, PoolSettings, ScalingSettings
from dynscale_dspy.errors import BudgetExhausted
from dynscale_dspy.execution.answer_reader import Answer, AnswerReader
from dynscale_dspy.execution.drivers import adrive, drive, drive_known, in_thread
from dynscale_dspy.execution.fallback import Fallback, check_sync
from dynscale_dspy.execution.notices import explanation_of, with_notices
from dynscale_dspy.execution.run import SampleRun, SampleSettings, current_meter
from dynscale_dspy.execution.shared_request import can_fold
from dynscale_dspy.reporting import explanation as report
from dynscale_dspy.reporting import tracing
from dynscale_dspy.reporting.history import CallRecord
from dynscale_dspy.sampling.plan import Job, Plan, conduct, coordinate
from dynscale_dspy.sampling.sample import SPARED, Sample
from dynscale_dspy.sampling.strategies import Strategy

logger = logging.getLogger(__name__)

LONG = 4096
"""Characters of inputs from which a server's cache of prompts matters: about the 1,024 tokens that providers cache."""


class DynScaling(dspy.Module):
    """Wraps a DSPy program: each call is sampled as often as it is worth, and the vote's winner is returned.

    The result is the winning run's own ``Prediction``; :func:`explain` tells how it came about. The wrapper is
    transparent: parameters, demos, saved state and traces are the program's own, so optimizers and ``save``/``load``
    work as without it. The program is never copied; its samples run side by side on the same object, so a program
    whose ``forward`` changes ``self`` is not safe to wrap, and tools with side effects run once a sample.

    Args:
        module: The program.
        budget: A :class:`BudgetPool`, shared with other wrapped modules; or a number, the samples a call may take on
            average, which makes a private pool. None for the pool of the enclosing ``with BudgetPool(...):``.
        sampling: :class:`Integrated` (the default), :class:`Sequential` or :class:`Parallel`.
        policy: Whom a private pool samples next; a shared pool has its own.
        answer: The output field or fields that are the answer, or a function from a prediction to a value (None for
            no answer). By default every output field but reasoning and the like.
        temperature: Overrides the language model's. By default its own is kept, and 1.0 used where it has none.
        max_samples: Most samples one call may take.
        max_choices: Most samples to draw with one request, as its ``n`` choices, so that the prompt is sent and paid
            for once. Done where the program has one predictor and the route can: through LiteLLM, which is tried, not
            with DSPy's native engine. 1 for never.
        stop_when_decided: Whether a call ends, and its samples in flight are called off, once they cannot change the
            winner. Requests of tasks are closed, so that a local server stops writing; threads finish what they have
            begun. What was asked for is paid for, confidence is about the votes there are, and which they are depends
            on timing.
        leader: Whether the first sample of a call with long inputs (4,096 characters or more) is asked for alone, and
            the others once it is answered: they then find its prompt in the server's cache, where there is one.
            Costs the time of one reply. Where samples share a request, nobody has to wait.
        min_confidence: An answer whose confidence is below this goes to ``on_low``. Confidence is about the vote, not
            about the truth; docs/confidence.md says what it was worth. One sample alone has 0.75, so a call that can
            afford only one never reaches 0.9.
        on_low: ``"abstain"`` returns a prediction with every field None, ``"raise"`` raises :class:`LowConfidence`.
            Another DSPy module, such as one with a stronger model, answers in its place. A function is called with
            the winner and the call's inputs by name, ``on_low(prediction, question=...)``, and its result returned; it
            may be ``async`` if the module is only called so. Either way :func:`explain` tells of the vote.
        seed: Seeds a private pool.

    Raises:
        TypeError: If ``module`` is not a ``dspy.Module``, or an argument has the wrong type.
        ValueError: If an argument is out of range, or ``answer`` names a field the program does not have.

    Example:
        ```python
        qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=8)
        qa(question="What is 17 * 24?").answer
        ```
    """

    scaled_predictor: str | None = None
    """The name, for reports, of the predictor that :func:`wrap` scales in place; None for any other module."""

    def __init__(
        self,
        module: dspy.Module,
        budget: BudgetPool | float | None = None,
        *,
        sampling: Strategy | None = None,
        policy: Policy | None = None,
        answer: Answer | None = None,
        temperature: float | None = None,
        max_samples: int = 64,
        max_choices: int = MOST_CHOICES,
        stop_when_decided: bool = False,
        leader: bool = False,
        min_confidence: float | None = None,
        on_low: Literal["abstain", "raise"] | Callable[..., Any] = "abstain",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(module, dspy.Module):
            raise TypeError(
                f"module must be a dspy.Module such as dspy.ChainOfThought('question -> answer'), got {module!r}"
            )
        self._settings = ScalingSettings.among(locals())
        self.module = module
        self._budget = _as_pool(budget, policy, seed)
        self._private = self._budget is not budget
        self._reader = AnswerReader(module, self._settings.answer)
        # A compiled program stays frozen inside an outer one, wrapped or not.
        self._compiled = getattr(module, "_compiled", False)

    @property
    def scaling_settings(self) -> ScalingSettings:
        """All settings but the program and the budget. Each but ``answer`` can be read and assigned by its own name."""
        return self._settings

    @property
    def pool(self) -> BudgetPool:
        """The pool that pays: this module's, or the ambient one.

        Raises:
            ValueError: If there is neither.
        """
        pool = self._budget.active() if self._budget is not None else _ambient.current()
        if pool is None:
            raise ValueError(
                "this module has no budget: pass budget=8 (samples a call) or budget=BudgetPool(...), "
                "or call it inside `with BudgetPool(...):`"
            )
        return pool

    # ---- calls

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Answer one call. Takes the program's own arguments.

        Raises:
            BudgetExhausted: If nothing is left for a first sample.
            ValueError: If no language model is configured, or temperature 0 would make all samples the same.
            LowConfidence: If the vote is less sure than ``min_confidence`` and ``on_low="raise"``.
            Exception: The first sample's error, unchanged, if every sample failed.
        """
        if _ambient.is_unscaled():
            return self.module(*args, **kwargs)
        check_sync(self.on_low)
        call = _Call(self, args, kwargs)
        return call.settle(call.finish(*drive(call.steps(), call.run)))

    async def aforward(self, *args: Any, **kwargs: Any) -> Any:
        """Answer one call from a task; see :meth:`forward`. A program without ``aforward`` runs in threads."""
        known = _ambient.known_call.get()
        if known is not None and known.owner is self:
            return await known.wait()
        if _ambient.is_unscaled():
            if _has_aforward(self.module):
                return await self.module.acall(*args, **kwargs)
            return await in_thread(lambda: self.module(*args, **kwargs))
        call = _Call(self, args, kwargs)
        return await call.asettle(call.finish(*await adrive(call.steps(), call.arun)))

    def batch(
        self,
        examples: Sequence[dspy.Example | Mapping[str, Any]],
        num_threads: int | None = None,
        max_errors: int | None = None,
        return_failed_examples: bool = False,
        provide_traceback: bool | None = None,
        disable_progress_bar: bool = False,
        timeout: int = 120,
        straggler_limit: int = 3,
        *,
        in_order: bool = True,
    ) -> Any:
        """Answer a known set of calls: the exact bandit, comparing all of them for every sample.

        The allocation depends on answers, the seed and ``num_threads``, never on timing: with DSPy's cache warm, a
        second run draws the same samples and makes no request. (Under a cap on calls, a sample that needs more of them
        than any before it may find them taken by others.) Nothing that was answered is lost to a failure elsewhere: a
        call whose samples all failed is None in the results.

        Args:
            examples: ``dspy.Example`` objects with inputs set, or dicts of inputs.
            num_threads: Samples at a time; DSPy's setting by default.
            max_errors: If this many samples fail before any succeeds, the first error is raised: the set-up is wrong.
            return_failed_examples: Also return the examples that failed and their errors.
            provide_traceback: Log tracebacks of failed calls.
            disable_progress_bar: Whether to hide the progress bar.
            timeout: Accepted for compatibility: samples are never submitted twice.
            straggler_limit: Accepted for compatibility.
            in_order: Whether decisions are made in the order of issue, with fewer requests under way towards the end.
                False keeps ``num_threads`` of them under way to the last: faster where latencies differ much, at the
                price of an allocation that depends on timing and whose last samples are placed with less care.

        Returns:
            Predictions in the order of the examples, None for those that failed; with ``return_failed_examples`` a
            tuple ``(predictions, failed_examples, errors)``.

        Raises:
            BudgetExhausted: If there is not one sample for each example; nothing is spent then.
        """
        inputs = [_inputs_of(example) for example in examples]
        if not inputs:
            return ([], [], []) if return_failed_examples else []
        # Optimizers may put a `forward` of their own into a program (`KNNFewShot`), which then is what a call means.
        if _ambient.is_unscaled() or "forward" in vars(self):
            return super().batch(
                [e if isinstance(e, dspy.Example) else dspy.Example(**e).with_inputs(*e) for e in examples],
                num_threads,
                max_errors,
                return_failed_examples,
                provide_traceback,
                disable_progress_bar,
                timeout,
                straggler_limit,
            )
        check_sync(self.on_low)
        num_threads = num_threads or dspy.settings.num_threads
        max_errors = dspy.settings.max_errors if max_errors is None else max_errors
        calls = [_KnownCall(self, kwargs) for kwargs in inputs]
        plans = [call.plan for call in calls]
        pool = self.pool
        names = [call.name for call in calls] if pool.lasting else None
        arms, limit, requests_left = pool.open_known(
            len(calls), program=self, requests=calls[0].requests_guess, keys=names
        )
        failures: list[BaseException] = []
        succeeded = False
        spent = Cost()

        def done(job: Job, sample: Sample) -> None:
            nonlocal succeeded
            nonlocal spent
            spent += sample.cost
            progress.set_postfix_str(_money(spent), refresh=False)
            progress.update()
            pool.note()
            succeeded = succeeded or sample.error is None
            if sample.error is not None and not succeeded:
                failures.append(sample.error)
                if len(failures) >= max_errors:
                    raise failures[0]

        known = limit != float("inf")
        progress = tqdm(total=int(limit) if known else None, unit="sample", disable=disable_progress_bar)
        results, failed, errors = [], [], []
        try:
            for call in calls:
                call.begin()
            drive_known(
                coordinate(
                    plans,
                    arms,
                    pool.policy,
                    limit=limit,
                    # In order, twice as many outstanding as run at once: one slow answer is not to idle the rest.
                    window=2 * num_threads if in_order else num_threads,
                    requests=requests_left,
                    narrowing=in_order,
                ),
                lambda job: calls[job.call].run(job),
                num_threads=num_threads,
                done=done,
                in_order=in_order,
            )
            settle_together(calls, num_threads)
            for position, (call, example) in enumerate(zip(calls, examples, strict=True)):
                try:
                    results.append(call.end())
                except Exception as error:
                    # Neither the example nor the error's words: both may hold what does not belong in a log.
                    logger.error(
                        "every sample of example %d failed, the first with %s",
                        position,
                        type(error).__name__,
                        exc_info=bool(provide_traceback),
                    )
                    results.append(None)
                    failed.append(example)
                    errors.append(error)
        finally:
            progress.close()
            for arm in arms:
                arm.close()
            for call in calls:
                call.abandon()
        return (results, failed, errors) if return_failed_examples else results

    # ---- transparency: what DSPy sees is the program

    def named_parameters(self) -> list[tuple[str, Any]]:
        """The program's own parameters under their own names."""
        return self.module.named_parameters()

    def map_named_predictors(self, func: Callable[[Any], Any]) -> DynScaling:
        """Replace the program's predictors."""
        if isinstance(self.module, dspy.Predict):
            self.module = func(self.module)
        else:
            self.module.map_named_predictors(func)
        return self

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """The program's own state, loadable without the wrapper, and beside it the scaling settings.

        The settings are those of :class:`~dynscale_dspy.config.ScalingSettings` and those of a private pool. A shared
        pool belongs to others too and is not stored, nor is a function or a class of the user's.
        """
        return {**self.module.dump_state(json_mode=json_mode), KEY: self.dump_settings()}

    def load_state(self, state: dict[str, Any], **options: Any) -> Any:
        """Load a state saved by the plain program, by a wrapped one, or by ``BestOfN``/``Refine`` around it.

        Scaling settings in it replace those of this module. A shared pool stays, whatever the file says.
        """
        settings = state.get(KEY)
        state = {name: value for name, value in state.items() if name not in (KEY, "metadata")}
        if isinstance(self.module, dspy.Predict):
            state = state.get("module", state.get("self", state))
        else:
            state = {name.removeprefix("module."): value for name, value in state.items()}
        loaded = self.module.load_state(state, **options)
        if settings:
            self.load_settings(settings)
        return loaded

    def dump_settings(self) -> dict[str, Any]:
        """The scaling settings as JSON values, as they stand in a saved state."""
        state = self._settings.to_json()
        if self._budget is not None and self._private:
            budget = self._budget.settings.to_json()
            if all(name in budget for name in PRIVATE):
                state["budget"] = {name: budget[name] for name in PRIVATE}
        return state

    def load_settings(self, saved: Any) -> None:
        """Take over the scaling settings of a saved state. What does not fit this program is logged and left as it is.

        Args:
            saved: What :meth:`dump_settings` wrote, here or in another version.
        """
        saved = dict(saved) if isinstance(saved, Mapping) else saved
        budget = saved.pop("budget", None) if isinstance(saved, dict) else None
        settings = self._settings.updated(saved)
        try:
            reader = AnswerReader(self.module, settings.answer)
        except ValueError as error:
            logger.warning("the saved answer is left as it is: %s", error)
            settings, reader = settings.replace(answer=self._settings.answer), self._reader
        self._settings, self._reader = settings, reader
        if budget is not None and self._private and self._budget is not None:
            # All or nothing: an allowance is meant for its policy.
            own = PoolSettings.read(budget)
            if all(name in own for name in PRIVATE):
                self._budget = BudgetPool(**{name: own[name] for name in PRIVATE})

    def __setattr__(self, name: str, value: Any) -> None:
        # What is the program's is set on the program: `qa.demos = ...`, `outer.map_named_predictors`.
        own = name in _OWN or name in self.__dict__ or hasattr(type(self), name)
        if own or not hasattr(self.__dict__.get("module"), name):
            super().__setattr__(name, value)
        else:
            setattr(self.module, name, value)

    def __setstate__(self, saved: dict[str, Any]) -> None:
        if "_settings" not in saved:  # of version 0.1, which kept each setting by itself
            own = {name: value for name, value in saved.items() if name in ScalingSettings.model_fields}
            settings = ScalingSettings(**own, answer=saved["_reader"].answer)
            saved = {**{name: value for name, value in saved.items() if name not in own}, "_settings": settings}
        # Copies begin with a history and callbacks of their own, not with what `__getattr__` finds in the program.
        super().__setstate__({"history": [], "callbacks": [], **saved})

    if TYPE_CHECKING:
        # The settings and whatever the program has.
        def __getattribute__(self, name: str) -> Any: ...

    def __getattr__(self, name: str) -> Any:
        # Only reached for what the wrapper itself lacks: `qa.signature`, `qa.predict` are the program's.
        if name.startswith("__") or "module" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.__dict__["module"], name)

    def __repr__(self) -> str:  # type: ignore[override]  # DSPy's own is inferred as a literal string
        return f"DynScaling({self.module!r})"


class _Setting:
    """Attribute that reads and assigns one setting of a wrapped program.

    Args:
        name: The setting.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.__doc__ = f"The setting ``{name}``; see :class:`DynScaling`."

    def __get__(self, module: Any, owner: type) -> Any:
        return self if module is None else getattr(module.scaling_settings, self._name)

    def __set__(self, module: Any, value: Any) -> None:
        module._settings = module.scaling_settings.assigned(self._name, value)


for _name in ScalingSettings.model_fields:
    if _name != "answer":  # programs may well have a predictor of that name: it is theirs
        setattr(DynScaling, _name, _Setting(_name))

_OWN = frozenset({"module", "history", "callbacks", "_budget", "_private", "_reader", "_compiled", "_settings"})
"""Attributes of the wrapper itself besides its settings; a program may have others of the same names."""


class _Call:
    """One invocation: its plan, how its samples are run, and how its outcome is handed over."""

    def __init__(self, owner: DynScaling, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.owner = owner
        self._args = args
        self._kwargs = kwargs
        self._explanation: report.Explanation | None = None
        self._pool = owner.pool
        inputs = _inputs_key((args, kwargs))
        vary = owner.max_samples > 1 and self._pool.varies
        predictors = [predictor for _, predictor in named_predictors(owner.module)]
        _check_ready(predictors, owner.module, kwargs, owner.temperature, vary)
        self.requests_guess = max(1, len(predictors))
        lm = _lm_of(predictors[0], owner.module, kwargs) if len(predictors) == 1 else None
        self._settings = SampleSettings(owner.module, owner._reader, owner.temperature, vary, owner, lm)
        choices = _choices(owner, predictors, kwargs) if vary and not self._pool.lasting else 1
        self.plan = Plan(
            owner.sampling,
            seed=self._pool.seed,
            key=inputs,
            max_samples=int(min(owner.max_samples, self._pool.most_per_call)),
            tally=self._pool.policy.tally(),
            max_choices=choices,
            stop_when_decided=owner.stop_when_decided,
            leader=owner.leader and choices == 1 and _is_long((args, kwargs)),
            conditioning=self._pool.conditioning(owner) if owner.sampling.learned else None,
            unit=lambda: self._pool.binding_unit,
        )
        # The same call is the same program with the same inputs under the same language model and enclosing sample
        # (whose adapter overlay is its own object).
        self._inputs = inputs
        self._key: Hashable = (id(owner), inputs, id(dspy.settings.lm), id(dspy.settings.adapter))

    def steps(self) -> Any:
        """The plan's generator."""
        meter = current_meter()
        steps = conduct(
            self._pool,
            self.plan,
            key=self._key,
            outer=meter.ticket if meter else None,
            program=self.owner,
            requests=self.requests_guess,
            name=self.name if self._pool.lasting else None,
            decided=self._explain,
        )
        return with_notices(steps, self.plan)

    @property
    def name(self) -> bytes | None:
        """A name of the call that outlives the process: the program's kind and fields, and a hash of the inputs.

        None if an input has no lasting name of its own. The cache decides whether a sample is the same; this only tells
        whether it was paid for.
        """
        if not _is_lasting(self._inputs):
            return None
        module = self.owner.module
        fields = [list(predictor.signature.fields) for _, predictor in named_predictors(module)]  # type: ignore[union-attr]
        text = repr((type(module).__qualname__, fields, self._inputs, self._pool.seed))
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

    def run(self, job: Job) -> Sample:
        """Draw one sample in this thread."""
        if self.plan.decided:
            return Sample(job.draw, problem=SPARED)
        if not _begin(job):
            return _never_ran(job)
        run = SampleRun(job.draw, job.ticket, self._settings, job.seat)
        if not run.take():
            with run:
                run.prediction = self.owner.module(*_own(self._args), **_own(self._kwargs))
        return run.sample

    async def arun(self, job: Job) -> Sample:
        """Draw one sample in this task."""
        if not _has_aforward(self.owner.module):
            return await in_thread(lambda: self.run(job))
        if self.plan.decided:
            return Sample(job.draw, problem=SPARED)
        if not _begin(job):
            return _never_ran(job)
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        run = SampleRun(job.draw, job.ticket, self._settings, job.seat)
        if run.take():
            return run.sample
        with self._pool.cancellable(lambda: loop.call_soon_threadsafe(task.cancel)):
            try:
                with run:
                    run.prediction = await self.owner.module.acall(*_own(self._args), **_own(self._kwargs))
            except asyncio.CancelledError:
                if self._pool.stopped:  # by stop(cancel=True): an empty vote, and the call answers with what it has
                    return Sample(job.draw, problem="failed", error=self._pool.exhausted(), cost=run.cost)
                if self.plan.decided:
                    return Sample(job.draw, problem=SPARED, cost=run.cost)
                raise
        return run.sample

    def finish(self, winner: Sample, own: bool) -> Any:
        """Hand the winner over to DSPy: its trace to the caller's, all samples' usage to the caller's tracker.

        Raises:
            BaseException: The winner's error, if every sample failed.
        """
        settings = dspy.settings
        if own and settings.usage_tracker is not None:
            for model, entries in self._entries().items():
                settings.usage_tracker.usage_data[model].extend(entries)
        if own and self._explanation is None:
            self._explain(winner)
        if winner.error is not None:
            raise winner.error
        if settings.trace is not None:
            settings.trace.extend(winner.trace)
        if own:
            assert self._explanation is not None
            if tracing.is_on():
                tracing.annotate(self._explanation.attributes)
        return winner.prediction

    def settle(self, prediction: Any) -> Any:
        """What the caller gets: the winner, or where the vote is not sure enough, what ``on_low`` says.

        Raises:
            LowConfidence: If that is to be raised.
        """
        fallback = self._fallback(prediction)
        return prediction if fallback is None else fallback.answer(self._args, self._kwargs)

    async def asettle(self, prediction: Any) -> Any:
        """As :meth:`settle`, in a task."""
        fallback = self._fallback(prediction)
        return prediction if fallback is None else await fallback.aanswer(self._args, self._kwargs)

    def _fallback(self, prediction: Any) -> Fallback | None:
        asked = self.owner.min_confidence
        if asked is None:
            return None
        # A call that shares the outcome of the same one in flight has no samples of its own.
        explanation = self._explanation or report.explain(prediction)
        if explanation.confidence >= asked:
            return None
        return Fallback(self.owner.on_low, prediction, explanation, asked)

    def _explain(self, winner: Sample) -> report.Explanation:
        """Attach the explanation, before anyone has the prediction: the same call in flight twice returns it twice."""
        made = explanation_of(self.plan, winner, min_confidence=self.owner.min_confidence)
        report.keep(winner.prediction, made)
        self._explanation = made
        numbers: dict[Any, int] = {}
        answers = (None if s.key is None else numbers.setdefault(s.key, len(numbers)) for s in made.samples)
        self._pool.record(CallRecord(name_of(self.owner), tuple(answers), made.agreement, made.confidence, made.cost))
        # Numbers only: an answer may hold what does not belong in a log.
        fields = {f"dynscale_{name}": value for name, value in made.attributes.items() if name != "vote"}
        logger.debug("%s answered: %s", type(self.owner.module).__name__, made.summary, extra=fields)
        return made

    def _entries(self) -> dict[str, list[dict[str, Any]]]:
        entries: dict[str, list[dict[str, Any]]] = {}
        for sample in self.plan.samples:
            for model, used in sample.usage.items():
                entries.setdefault(model, []).extend(used)
        return entries


class _KnownCall(_Call):
    """One call of a known set as DSPy sees it: a module call like any other, with its callbacks, callers and usage.

    All of them are open at once while their samples are drawn, so each is a coroutine in a context of its own, begun
    with the batch and resumed at its end. There is no event loop: it waits for nothing but the batch.
    """

    def __init__(self, owner: DynScaling, kwargs: dict[str, Any]) -> None:
        super().__init__(owner, (), kwargs)
        self._context = contextvars.copy_context()
        self._coroutine: Any = None
        self._settled: Future[Any] | None = None

    def begin(self) -> None:
        """DSPy's side of the call, up to where its samples are drawn."""
        self._coroutine = self.owner.acall(**self._kwargs)
        self._context.run(_ambient.known_call.set, self)
        self._context.run(self._coroutine.send, None)

    async def wait(self) -> Any:
        """What the module does meanwhile: nothing, then hand over the winner."""
        _ambient.known_call.set(None)  # its samples run in copies of this context, and may call the module again
        await _Pause()
        if not self.plan.samples:
            raise self._pool.exhausted()
        return self.settle(self.finish(self.plan.winner(), True))

    @property
    def is_low(self) -> bool:
        """Whether ``on_low`` will have to answer."""
        asked = self.owner.min_confidence
        return asked is not None and bool(self.plan.samples) and self.plan.tally.confidence < asked

    def settle_early(self) -> Any:
        """Ask ``on_low`` now, beside other calls, rather than in turn when the batch ends."""
        winner = self.plan.winner()
        if winner.error is not None:
            return None  # the call fails with it
        self._explanation = self._explanation or self._explain(winner)
        return self._context.copy().run(super().settle, winner.prediction)

    def settle(self, prediction: Any) -> Any:
        """What was settled early, or is settled now."""
        return super().settle(prediction) if self._settled is None else self._settled.result()

    def run(self, job: Job) -> Sample:
        """Draw one sample, inside this call."""
        return self._context.copy().run(super().run, job)

    def end(self) -> Any:
        """The call's prediction.

        Raises:
            BaseException: Its first sample's error, if every sample failed.
        """
        try:
            self._context.run(self._coroutine.send, None)
        except StopIteration as stop:
            return stop.value
        raise RuntimeError("the call waits for something other than its batch")

    def abandon(self) -> None:
        """Leave a call that has not ended; one that has stays as it is."""
        if self._coroutine is not None:
            self._context.run(self._coroutine.close)


def settle_together(calls: Sequence[_KnownCall], num_threads: int) -> None:
    """Ask a function or another module about all unsure calls side by side."""
    unsure = [call for call in calls if call.is_low and callable(call.owner.on_low)]
    if not unsure:
        return
    with ThreadPoolExecutor(min(num_threads, len(unsure)), thread_name_prefix="dynscale-on-low") as executor:
        for call in unsure:
            call._settled = executor.submit(call.settle_early)


class _Pause:
    """Hands control back to whoever drives the coroutine."""

    def __await__(self) -> Generator[None, None, None]:
        yield


def _own(inputs: Any) -> Any:
    """The same inputs for one sample alone: DSPy's agents write into the chat history they are given."""
    if isinstance(inputs, dspy.History):
        return inputs.model_copy(update={"messages": list(inputs.messages)})
    if isinstance(inputs, dict):
        return {name: _own(value) if isinstance(value, dspy.History) else value for name, value in inputs.items()}
    return [_own(value) if isinstance(value, dspy.History) else value for value in inputs]


def _money(spent: Cost) -> str:
    """Tokens and dollars so far, for a progress bar."""
    return f"{spent.tokens:,} tokens" + (f", ${spent.dollars:.4f}" if spent.nanodollars else "")


def _begin(job: Job) -> bool:
    if job.fold is not None and job.fold.error is not None:
        return False  # the request it was to share has failed
    return job.ticket is None or job.ticket.start()


def _never_ran(job: Job) -> Sample:
    if job.fold is not None and job.fold.error is not None:
        return Sample(job.draw, problem="failed", error=job.fold.error)
    if job.ticket is not None and job.ticket.pool.halted:
        error = job.ticket.pool.exhausted()
    else:
        error = BudgetExhausted("the call was over before this sample began")
    return Sample(job.draw, problem="failed", error=error)


def _choices(owner: DynScaling, predictors: Sequence[dspy.Predict], kwargs: Mapping[str, Any]) -> int:
    """How many samples of a call may share a request."""
    if owner.max_choices == 1 or len(predictors) != 1 or isinstance(owner.module, DynScaling):
        return 1
    predictor = predictors[0]
    config = predictor.config
    if predictor is owner.module and kwargs.get("config"):
        config = {**config, **kwargs["config"]}
    return owner.max_choices if can_fold(_lm_of(predictor, owner.module, kwargs), config) else 1


def _is_long(inputs: Any) -> bool:
    """Whether a server's cache of prompts matters for these inputs."""
    return len(str(inputs)) >= LONG


def _lm_of(predictor: dspy.Predict, program: dspy.Module, kwargs: Mapping[str, Any]) -> Any:
    """What a predictor will ask in a call of its program."""
    handed_on = predictor is program or type(program) is dspy.ChainOfThought
    return (kwargs.get("lm") if handed_on else None) or predictor.lm or dspy.settings.lm


def _has_aforward(module: dspy.Module) -> bool:
    return hasattr(module, "aforward")


def _as_pool(budget: Any, policy: Policy | None, seed: int) -> BudgetPool | None:
    if budget is None or isinstance(budget, BudgetPool):
        if policy is not None:
            raise ValueError("policy belongs to the pool that several modules share: pass it to BudgetPool(policy=...)")
        return budget
    if isinstance(budget, bool) or not isinstance(budget, (int, float)):
        raise TypeError(
            f"budget must be a number of samples a call, or a BudgetPool, got {budget!r}; "
            "for a cap over all calls use BudgetPool(samples=...)"
        )
    if not budget >= 1:
        raise ValueError(f"budget must be at least 1 sample a call, got {budget!r}")
    if budget == math.inf:
        raise ValueError(f"budget must be a finite number of samples a call, got {budget!r}")
    return BudgetPool(per_call=budget, policy=policy, seed=seed)


def _check_ready(
    predictors: Sequence[dspy.Predict],
    module: dspy.Module,
    kwargs: Mapping[str, Any],
    temperature: float | None,
    vary: bool,
) -> None:
    """Find, before anything is spent, what would make every sample fail or be the same."""
    for predictor in predictors:
        lm = _lm_of(predictor, module, kwargs)
        if lm is None:
            raise ValueError(
                "No LM is loaded. Please configure the LM using `dspy.configure(lm=dspy.LM(...))`, e.g. "
                "`dspy.configure(lm=dspy.LM('openai/gpt-4o-mini'))`"
            )
        if not vary:
            continue
        own = predictor.config.get("temperature", getattr(lm, "kwargs", {}).get("temperature"))
        used = temperature if temperature is not None else own
        if used == 0:
            raise ValueError(
                "temperature is 0, so every sample would be the same: give the language model a temperature above 0, "
                "or pass DynScaling(..., temperature=1.0)"
            )


def _inputs_of(example: Any) -> dict[str, Any]:
    if isinstance(example, dspy.Example):
        return dict(example.inputs())
    if isinstance(example, Mapping):
        return dict(example)
    raise TypeError(f"examples must be dspy.Example objects with inputs, or dicts, got {type(example).__name__}")


def _is_lasting(key: Any) -> bool:
    """Whether a key of inputs means the same in another process: it holds no object known by identity alone."""
    if isinstance(key, tuple):
        return all(map(_is_lasting, key))
    return not isinstance(key, _Identity)


class _Identity(int):
    """An object's identity, good for this process only."""


def _inputs_key(value: Any) -> Hashable:
    """A key equal for equal inputs, exactly: nothing is normalised. Unknown objects are told apart by identity."""
    if value is None or isinstance(value, (str, bytes, bool, int, float)):
        return (type(value).__name__, value)
    if isinstance(value, Mapping):
        return ("dict", tuple(sorted((str(name), _inputs_key(item)) for name, item in value.items())))
    if isinstance(value, (list, tuple)):
        return ("list", tuple(_inputs_key(item) for item in value))
    if isinstance(value, pydantic.BaseModel):
        return (type(value).__qualname__, value.model_dump_json())
    if isinstance(value, dspy.Example):
        return (type(value).__qualname__, _inputs_key(value.toDict()))
    return (type(value).__qualname__, _Identity(id(value)))
