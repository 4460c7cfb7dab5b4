"""DynScaling: a wrapper around a DSPy program that gives better answers for a given budget."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import dspy

from dynscale_dspy import _ambient
from dynscale_dspy._naming import named_predictors
from dynscale_dspy.allocation.evidence import Detail
from dynscale_dspy.allocation.learned import Learned
from dynscale_dspy.allocation.policies import Policy
from dynscale_dspy.budget.pool import BudgetPool
from dynscale_dspy.budget.source import BudgetSource
from dynscale_dspy.config import KEY, MOST_CHOICES, PRIVATE, PoolSettings, ScalingSettings
from dynscale_dspy.execution.answer_reader import Answer, AnswerReader
from dynscale_dspy.execution.batch import answer_all
from dynscale_dspy.execution.call import Call, Scaled
from dynscale_dspy.execution.drivers import adrive, drive, in_thread
from dynscale_dspy.execution.fallback import check_sync
from dynscale_dspy.execution.inputs import inputs_of
from dynscale_dspy.execution.introspection import has_aforward
from dynscale_dspy.execution.outcome import traced_as
from dynscale_dspy.sampling.escalate import ModelStrategy
from dynscale_dspy.sampling.models import Choosing
from dynscale_dspy.sampling.strategies import Strategy
from dynscale_dspy.selection.base import Choice, Selector, check_policy
from dynscale_dspy.selection.default import default_choice, told

logger = logging.getLogger(__name__)


class DynScaling(dspy.Module):
    """A wrapper around a DSPy program that runs it several times for a call and returns the answer that wins the vote.

    How many samples a call gets depends on how much one more is expected to help. The result is the winning sample's
    own ``Prediction``; :func:`explain` tells how it came about. The wrapper is transparent: parameters, demos, saved
    state and traces are the program's own, so optimizers and ``save``/``load`` work as without it. Around a bare
    ``dspy.Predict`` it is a ``dspy.Predict`` itself (:class:`ScaledPredictor`). The program is never copied: its
    samples run side by side on the same object. So a program whose ``forward`` changes ``self`` is not safe to wrap,
    and tools with side effects run once a sample.

    Args:
        module: The program.
        budget: A :class:`BudgetPool`, shared with other wrapped modules; or a number, the samples a call may take on
            average, which makes a private pool. None for the pool of the enclosing ``with BudgetPool(...):``.
        sampling: :class:`Integrated` (the default), :class:`Sequential` or :class:`Parallel`; with several ``lms`` the
            rule that chooses between them: :class:`ByPrice` (the default), :class:`Escalate` or :class:`BestOf`.
        lms: Language models to draw samples from, cheapest first, in place of the program's own: a list, or a dict of
            them by the names they are to have in reports (docs/models.md). ``sampling`` chooses between them sample by
            sample, and all predictors of the program ask the one that was chosen. A dict of such lists or dicts is by
            predictor, named as in ``program.named_predictors()``: ``{"answer": [cheap, dear], "plan": [cheap]}``. The
            first of each are asked together, the second, and so on; a single one each time; and predictors that are
            left out ask the program's own. They are not saved: a program that loads a file keeps those that it has.
        selector: The rule by which an answer wins. By default it goes by the types of the outputs: plurality for texts,
            labels and numbers, what is nearest to the others for lists and code, field by field for records and several
            outputs (docs/selection.md). A dict has a selector or a similarity for output fields by name, such as
            ``{"summary": Medoid(), "label": Plurality()}``; else any object with the methods of
            :class:`~dynscale_dspy.selection.base.Selector`.
        policy: The rule by which a private pool decides which call gets the next sample; a shared pool has its own.
        answer: The output field or fields that are the answer, or a function from a prediction to a value (None for
            no answer). By default every output field but reasoning and the like, and where another one votes, text
            that explains it (``explanation``, ``reason``, ``notes``) and numbers that rate it (``confidence``,
            ``score``). ``repr`` tells which vote, where some do not.
        temperature: Overrides the language model's. By default its own is kept, and where it has none or 0, 1.0 used,
            or 0.3 for a program that answers from a few given labels without reasoning first. A call's first sample is
            drawn at 0, unless ``sampling`` says otherwise. No temperature is sent to a model that was found to take
            none.
        max_samples: Most samples one call may take.
        max_choices: Most samples to draw with one request, as its ``n`` choices, so that the prompt is sent and paid
            for once. Done where the program has one predictor and the provider can, which is tried. Such a request goes
            through LiteLLM, also where DSPy's native engine makes all others. 1 for never.
        stop_when_decided: Whether a call ends, and its samples in flight are cancelled, once they cannot change the
            winner. Requests of tasks are closed, so that a local server stops writing; threads finish what they have
            begun. Cancelled requests are paid for all the same. Confidence is about the votes that were cast, and which
            ones were depends on timing.
        leader: Whether the first sample of a call with long inputs (4,096 characters or more) is drawn alone, and the
            others after it: they then find its prompt in the server's cache, where there is one. This costs the time
            of one reply. It has no effect where samples share a request.
        probabilities: Whether samples of a program that answers with one of a few labels (a Literal, an Enum, a bool)
            ask for the probabilities of tokens (``logprobs``). A sample then votes for every label as much as the
            language model thinks of it, and where nothing is written before the label, one sample tells all: the call
            draws no more. Routes that do not tell them are asked as without; docs/probabilities.md says more.
            ``"calibrated"`` divides each label's probability by its mean over the program's calls, from the 16th call
            on, where a label is all that is written: a model's preference for a label goes. For labels that are about
            as frequent only: on other calls it loses, up to half of all answers.
        min_confidence: An answer whose confidence is below this goes to ``on_low``. Confidence estimates how often
            such answers are right, from agreement between samples; docs/confidence.md says what it rests on, and
            docs/confidence-measured.md what it was worth. One sample of an unknown program has at most 0.5. A program
            that answers from given labels without reasoning first hardly ever passes 0.7.
        on_low: ``"abstain"`` returns a prediction with every field None, ``"raise"`` raises :class:`LowConfidence`.
            Another DSPy module, such as one with a stronger model, answers in its place. A function is called with
            the winner and the call's inputs by name, ``on_low(prediction, question=...)``, and its result returned; it
            may be ``async`` if the module is only called so. Either way :func:`explain` tells of the vote.
        seed: Seeds a private pool.

    Raises:
        TypeError: If ``module`` is not a ``dspy.Module``, or an argument has the wrong type.
        ValueError: If an argument is out of range, ``answer`` names a field the program does not have, or the pool's
            policy needs more of the votes than the selector tells.

    Example:
        ```python
        qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=8)
        qa(question="What is 17 * 24?").answer
        ```
    """

    scaled_predictor: str | None = None
    """The name, for reports, of the predictor that :func:`wrap` scales in place; None for any other module."""

    def __new__(cls, module: Any = None, *arguments: Any, **options: Any) -> DynScaling:
        """Make a wrapper of the kind that fits the program; a copy in the making has none yet."""
        return object.__new__(_class_for(cls, module))

    def __init__(
        self,
        module: dspy.Module,
        budget: BudgetSource | float | None = None,
        *,
        sampling: Strategy | ModelStrategy | None = None,
        lms: Sequence[Any] | Mapping[str, Any] | None = None,
        selector: Selector | Mapping[str, Any] | None = None,
        policy: Policy | None = None,
        answer: Answer | None = None,
        temperature: float | None = None,
        max_samples: int = 64,
        max_choices: int = MOST_CHOICES,
        stop_when_decided: bool = False,
        leader: bool = False,
        probabilities: bool | Literal["calibrated"] = True,
        min_confidence: float | None = None,
        on_low: Literal["abstain", "raise"] | Callable[..., Any] = "abstain",
        seed: int = 0,
    ) -> None:
        dspy.Module.__init__(self)
        if not isinstance(module, dspy.Module):
            raise TypeError(
                f"module must be a dspy.Module such as dspy.ChainOfThought('question -> answer'), got {module!r}"
            )
        settings = ScalingSettings.among(locals())
        self.module = module
        self._budget = _as_pool(budget, policy, seed)
        self._private = self._budget is not budget
        self._take(settings, AnswerReader(module, settings.answer))
        # A compiled program stays frozen inside an outer one, wrapped or not.
        self._compiled = getattr(module, "_compiled", False)

    @property
    def scaling_settings(self) -> ScalingSettings:
        """All settings other than the program and the budget.

        Each can be read and assigned as an attribute of its own name, except ``answer``.
        """
        return self._settings

    @property
    def scaling_selector(self) -> Selector:
        """The selector that says which answer wins, told of the outputs' types: ``selector=``, or the default one."""
        return self._choice.selector

    @property
    def budget_source(self) -> BudgetSource | None:
        """The budget it was given; None if it uses the pool around it."""
        return self._budget

    @property
    def pool(self) -> BudgetPool:
        """The pool that pays: this module's, or the ambient one.

        Raises:
            ValueError: If there is neither.
        """
        pool = self._pool_here()
        if pool is None:
            raise ValueError(
                "this module has no budget: pass budget=8 (samples a call) or budget=BudgetPool(...), "
                "or call it inside `with BudgetPool(...):`"
            )
        return pool

    def _pool_here(self) -> BudgetPool | None:
        source: BudgetSource | None = self._budget if self._budget is not None else _ambient.current()
        return None if source is None else source.active()

    # ---- calls

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Answer one call. Takes the program's own arguments.

        Raises:
            BudgetExhausted: If nothing is left for a first sample.
            ValueError: If a predictor has no language model, or ``temperature=0`` would make all samples the same.
            LowConfidence: If confidence is below ``min_confidence``, and ``on_low="raise"``.
            Exception: The first sample's error, unchanged, if every sample failed.
        """
        if _ambient.is_unscaled():
            with traced_as(self.module, self._speaker):
                return self.module(*args, **kwargs)
        check_sync(self.on_low)
        call = Call(self._scaled(), args, kwargs)
        return call.answer(call.finish(drive(call.steps(), call.run, call.desk())))

    async def aforward(self, *args: Any, **kwargs: Any) -> Any:
        """Answer one call from a task; see :meth:`forward`. A program without ``aforward`` runs in threads."""
        known = _ambient.known_call.get()
        if known is not None and known.owner is self:
            return await known.wait()
        if _ambient.is_unscaled():
            with traced_as(self.module, self._speaker):
                if has_aforward(self.module):
                    return await self.module.acall(*args, **kwargs)
                return await in_thread(lambda: self.module(*args, **kwargs))
        call = Call(self._scaled(), args, kwargs, in_task=True)
        return await call.aanswer(call.finish(await adrive(call.steps(), call.arun, call.desk())))

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
        """Answer a known set of calls. Every sample goes to the one call among all of them where it is worth most.

        The allocation depends on answers, the seed, ``num_threads`` and what was learned of the program before, never
        on timing: with DSPy's cache warm, a second run by a module made anew draws the same samples and makes no
        request. (Under a cap on calls, a sample that needs more of them than any before it may find them taken by
        others.) Nothing that was answered is lost to a failure elsewhere: a
        call whose samples all failed is None in the results.

        Args:
            examples: ``dspy.Example`` objects with inputs set, or dicts of inputs.
            num_threads: Samples at a time; DSPy's setting by default.
            max_errors: If this many samples fail before any succeeds, of each language model where there are several,
                the first error is raised: the set-up is wrong.
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
        inputs = [inputs_of(example) for example in examples]
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
        results, errors = answer_all(
            self._scaled(),
            inputs,
            num_threads=num_threads or dspy.settings.num_threads,
            max_errors=dspy.settings.max_errors if max_errors is None else max_errors,
            in_order=in_order,
            provide_traceback=bool(provide_traceback),
            disable_progress_bar=disable_progress_bar,
        )
        if not return_failed_examples:
            return results
        return results, [examples[position] for position in errors], list(errors.values())

    def _scaled(self) -> Scaled:
        """This module as a call sees it."""
        pool, choice = self.pool, self._choice
        if self._budget is None:  # the pool around the call, which may be another one each time
            choice = self._choice_for(pool.policy, self._settings, self._reader)
        return Scaled(self, self.module, pool, self._reader, choice.selector, self._settings, self._speaker, choice.why)

    @staticmethod
    def _choice_for(policy: Policy | None, settings: ScalingSettings, reader: AnswerReader) -> Choice:
        """The selector under a policy, and why this one; under any, without a policy.

        Raises:
            ValueError: If the user's selector cannot feed the policy, or names fields that are no part of the answer.
        """
        given: Selector | None = settings.selector
        if given is None:
            return default_choice(reader.output_types, needs=Detail.TOP_TWO if policy is None else policy.needs)
        selector = told(given, reader.output_types)
        if policy is not None:
            check_policy(policy, selector)
        return Choice(selector, "selector= says so")

    @property
    def _speaker(self) -> dspy.Predict | None:
        """The predictor that DSPy takes the program for, if that is not the program itself."""
        return None

    def _take(self, settings: ScalingSettings, reader: AnswerReader) -> None:
        """Use these settings, and this reader of their ``answer``, from now on.

        Raises:
            ValueError: If the module's own pool has a policy that the selector cannot feed, or ``lms`` names a
                predictor that the program does not have; nothing is changed then.
        """
        policy = None if self._budget is None else self._budget.active().policy
        choice = self._choice_for(policy, settings, reader)
        if settings.lms is not None:
            settings.lms.check_predictors(name for name, _ in named_predictors(self.module))
        self._settings, self._reader, self._choice = settings, reader, choice
        # DSPy's `named_sub_modules` looks into `__dict__`, where settings are not: the module that answers instead is
        # put there as well. It is read and assigned through `_Setting`, which comes first.
        attributes = vars(self)
        attributes.pop("on_low", None)
        if isinstance(settings.on_low, dspy.Module):
            attributes["on_low"] = settings.on_low

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
        pool belongs to others too and is not stored, nor is a function or a class of the user's. With them is kept what
        was learned of the program's samples: whether those that see earlier ones check them, what a greedy label is
        worth, and where votes are calibrated, how probable each label is on average.
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
            budget = self._budget.active().settings.to_json()
            if all(name in budget for name in PRIVATE):
                state["budget"] = {name: budget[name] for name in PRIVATE}
        if learned := self._told():
            state["learned"] = learned
        return state

    def load_settings(self, saved: Any) -> None:
        """Take over the scaling settings of a saved state. What does not fit this program is logged and left as it is.

        Args:
            saved: What :meth:`dump_settings` wrote, here or in another version.
        """
        saved = dict(saved) if isinstance(saved, Mapping) else saved
        budget, learned = (saved.pop(name, None) if isinstance(saved, dict) else None for name in ("budget", "learned"))
        own, settings, reader = self._settings, self._settings.updated(saved), self._reader
        try:
            reader = AnswerReader(self.module, settings.answer)
        except ValueError as error:
            logger.warning("the saved answer is left as it is: %s", error)
            settings = settings.replace(answer=own.answer)
        try:
            self._take(settings, reader)
        except ValueError as error:
            logger.warning("the saved selector, and answer, are left as they are: %s", error)
            self._take(settings.replace(selector=own.selector, answer=own.answer), self._reader)
        if budget is not None and self._private and self._budget is not None:
            # All or nothing: an allowance is meant for its policy.
            own = PoolSettings.read(budget)
            if all(name in own for name in PRIVATE):
                try:
                    choice = self._choice_for(own["policy"], self._settings, self._reader)
                except ValueError as error:
                    logger.warning("the saved budget is left as it is: %s", error)
                else:
                    self._budget = BudgetPool(**{name: own[name] for name in PRIVATE})
                    self._choice = choice
        self._recall(learned)

    def _told(self) -> dict[str, Any]:
        """What the pool here has learned of the program that lasts; nothing without one."""
        pool = self._pool_here()
        return {} if pool is None else pool.admission.program(self).learned.told()

    def _recall(self, learned: Any) -> None:
        """Begin with what was learned elsewhere, if there is a pool that can know."""
        if learned and (pool := self._pool_here()) is not None:
            pool.admission.program(self).learned.recall(learned)

    def __setattr__(self, name: str, value: Any) -> None:
        # What is the program's is set on the program: `qa.demos = ...`, `outer.map_named_predictors`.
        own = name in _OWN or name in self.__dict__ or hasattr(type(self), name)
        if own or not hasattr(self.__dict__.get("module"), name):
            super().__setattr__(name, value)
        else:
            setattr(self.module, name, value)

    def __getstate__(self) -> dict[str, Any]:
        # A copy, here or in another process, begins with what is known of the program.
        state = super().__getstate__()
        return {**state, _LEARNED: learned} if (learned := self._told()) else state

    def __setstate__(self, saved: dict[str, Any]) -> None:
        learned = saved.get(_LEARNED)
        saved = {name: value for name, value in saved.items() if name != _LEARNED}
        settings = saved.get("_settings")
        if settings is None:  # of version 0.1, which kept each setting by itself
            own = {name: value for name, value in saved.items() if name in ScalingSettings.model_fields}
            settings = ScalingSettings(answer=saved["_reader"].answer)
            for name, value in own.items():
                settings = settings.assigned(name, value)
            saved = {name: value for name, value in saved.items() if name not in own}
        # Copies begin with a history and callbacks of their own, not with what `__getattr__` finds in the program.
        super().__setstate__({"history": [], "callbacks": [], **saved})
        self.__class__ = _class_for(type(self), self.module)  # type: ignore[assignment]  # a subclass: versions before had none
        self._take(settings, self._reader)
        self._recall(learned)

    if TYPE_CHECKING:
        # The settings and whatever the program has.
        def __getattribute__(self, name: str) -> Any: ...

    def __getattr__(self, name: str) -> Any:
        # Only reached for what the wrapper itself lacks: `qa.signature`, `qa.predict` are the program's.
        if name.startswith("__") or "module" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.__dict__["module"], name)

    @property
    def _drawn_from(self) -> str:
        """Which language models samples ask in place of the program's own, and what chooses, for ``repr``."""
        settings = self._settings
        if settings.lms is None:
            return ""
        try:
            strategy = settings.strategy
        except ValueError:  # settings that are assigned one after the other
            return f", lms={settings.lms!r}"
        pool = self._pool_here()
        learned = pool.admission.program(self).learned if pool is not None else Learned()
        return f", lms={settings.lms!r}" + (f" by {strategy.told(learned)}" if isinstance(strategy, Choosing) else "")

    def __repr__(self) -> str:  # type: ignore[override]  # DSPy's own is inferred as a literal string
        voting = f", answer={list(self._reader.output_types)!r}" if self._reader.left_out else ""
        calibrated = ", probabilities='calibrated'" if self.probabilities == "calibrated" else ""
        chosen = ""
        if self._choice.why:
            selector = repr(self._choice.selector)
            if len(selector) > _LONGEST:
                selector = f"{type(self._choice.selector).__name__}(...)"
            chosen = f", selector={selector}: {self._choice.why}"
        return f"DynScaling({self.module!r}{self._drawn_from}{voting}{calibrated}{chosen})"


class ScaledPredictor(DynScaling, dspy.Predict):
    """A :class:`DynScaling` around a bare ``dspy.Predict``; ``DynScaling(...)`` makes one.

    To DSPy it is that predictor: an attribute of a program under the same name, in ``named_predictors`` and so for
    optimizers, in saved state, in traces and for stream listeners. Demos, signature, language model and all else that
    a predictor has are those of the one inside.
    """

    @property
    def _speaker(self) -> dspy.Predict | None:
        return self if self.scaled_predictor is None else None

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Itself, as for a predictor."""
        return [("self", self)]


ScaledPredictor.__name__ = DynScaling.__name__  # callbacks and spans are named after it: what the user wrote


def _class_for(kind: type[DynScaling], module: Any) -> type[DynScaling]:
    return ScaledPredictor if kind is DynScaling and isinstance(module, dspy.Predict) else kind


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
        module._take(module.scaling_settings.assigned(self._name, value), module._reader)


for _name in ScalingSettings.model_fields:
    if _name != "answer":  # programs may well have a predictor of that name: it is theirs
        setattr(DynScaling, _name, _Setting(_name))

_LEARNED = "_learned"
"""Where a copy in the making has what was learned of the program."""
_LONGEST = 100
"""Characters of a selector that are shown of a module."""
_OWN = frozenset(
    {"module", "history", "callbacks", "_budget", "_private", "_reader", "_choice", "_compiled", "_settings"}
)
"""Attributes of the wrapper itself besides its settings; a program may have others of the same names."""


def _as_pool(budget: Any, policy: Policy | None, seed: int) -> BudgetSource | None:
    if budget is None or (isinstance(budget, BudgetSource) and not isinstance(budget, type)):
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
