"""check: says on a few dozen calls whether scaling a program is worth it, with which settings, and at what cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import dspy

from dynscale_dspy import _fields
from dynscale_dspy._naming import name_of, named_predictors
from dynscale_dspy._progress import named
from dynscale_dspy._words import counted
from dynscale_dspy.allocation.policies import Uniform
from dynscale_dspy.config import ScalingSettings
from dynscale_dspy.errors import BudgetExhausted
from dynscale_dspy.execution.answer_reader import AnswerReader
from dynscale_dspy.execution.inputs import inputs_of
from dynscale_dspy.execution.introspection import lm_of
from dynscale_dspy.module import DynScaling
from dynscale_dspy.reporting.explanation import explain
from dynscale_dspy.sampling.escalate import ModelStrategy
from dynscale_dspy.sampling.strategies import Integrated, Parallel, Strategy
from dynscale_dspy.selection.base import Vote
from dynscale_dspy.selection.fields import ABSENT
from dynscale_dspy.tuning.check_report import Check, concluded
from dynscale_dspy.tuning.examples import Judge, Metric, SameAnswer, as_examples, checked_metric
from dynscale_dspy.tuning.funds import Funds
from dynscale_dspy.tuning.records import Call, Outcome, agreement, spending, voted
from dynscale_dspy.tuning.verdict import Spending, Way

T = TypeVar("T")

NUMBERS = {3: "Three", 4: "Four", 5: "Five", 6: "Six", 7: "Seven", 8: "Eight", 9: "Nine", 10: "Ten"}


def check(
    program: dspy.Module,
    examples: Sequence[dspy.Example | Mapping[str, Any]],
    metric: Metric | None = None,
    *,
    samples: int = 4,
    strategies: Sequence[Strategy] | None = None,
    temperatures: Sequence[float | None] | None = None,
    budget: int | Mapping[str, Any] | None = None,
    num_threads: int | None = None,
    seed: int = 0,
    display_progress: bool = False,
) -> Check:
    """Measure on a few dozen calls whether scaling a program on its language model is worth it, and at what cost.

    The same calls are answered by the program as it is, by the program at temperature 0 ("greedy"), by a vote of
    independent samples, and by strategies. A way of several samples is recommended only where it is shown to beat the
    better of the two single runs (:func:`~dynscale_dspy.tuning.verdict.decide`). On few calls that takes a large gain:
    else one request stays the advice.

    Samples are recorded once: votes of fewer samples are evaluated from the same record, in 100 random orders. Where
    DSPy's cache is on, strategies find the replies of the vote there; costs are counted as if it were off.

    Without labels no accuracy is known. What can be told is how many answers more samples would change: a gain, or a
    loss, is at most that. Once the calls in ``disagreements`` are labelled the others need no label: with DSPy's cache
    on, the same check then costs no request and tells the gain.

    Args:
        program: The program. Of a :class:`~dynscale_dspy.DynScaling` module its program is measured, with its settings.
        examples: Calls to answer, labelled or not: ``dspy.Example`` objects, or dicts whose inputs the program's
            signature tells. All else in them are labels.
        metric: ``metric(example, prediction)``, more is better. By default an answer that votes as the label does is
            right. What a metric spends is its own matter.
        samples: Samples a call; a vote of half as many, if these are 3 or more, is measured beside it.
        strategies: Strategies to measure with so many samples. By default the program's own, or the default one, and
            ``Integrated(when="close")``, which need not learn first whether seeing earlier attempts helps.
        temperatures: Temperatures of samples to measure; the program's own by default. None stands for the language
            model's own, 1.0 where it has none or 0.
        budget: What the check may spend: a number of samples; or several caps by name as ``BudgetPool`` takes them,
            ``{"dollars": 0.50}``. Under a cap on samples only the first examples are answered, if that makes it fit.
            What does not fit any more is left out, as ``notes`` say. By default all that is asked for is drawn, about
            ``2 + 3 * samples`` for each example.
        num_threads: Samples at a time; DSPy's setting by default.
        seed: Seeds the pools and the orders.
        display_progress: Whether to show progress bars; where there is no terminal, a line now and then.

    Returns:
        The table, the sentence and the recommended settings.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If there are fewer than two examples, one lacks an input, a setting is out of range, or the budget
            is too small for two examples. Nothing is spent then.
        BudgetExhausted: If the budget ends before the single runs are through.
        Exception: The program's error if every call of it fails, or the metric's if every use of it does.

    Example:
        ```python
        found = check(program, trainset[:40], metric)
        print(found)
        qa = DynScaling(program, **found.settings)
        ```
    """
    if not isinstance(program, dspy.Module):
        raise TypeError(f"program must be a dspy.Module, got {program!r}")
    _fields.check("samples", samples, _fields.Count)
    if samples < 3:
        raise ValueError(f"samples must be at least 3, or no vote decides anything, got {samples!r}")
    return _Checking(
        program,
        examples,
        metric,
        samples=samples,
        strategies=strategies,
        temperatures=temperatures,
        budget=budget,
        num_threads=num_threads,
        seed=seed,
        display_progress=display_progress,
    ).result()


class _Checking:
    """One check under way. See :func:`check` for the arguments."""

    def __init__(
        self,
        program: dspy.Module,
        examples: Sequence[Any],
        metric: Metric | None,
        *,
        samples: int,
        strategies: Sequence[Strategy] | None,
        temperatures: Sequence[float | None] | None,
        budget: int | Mapping[str, Any] | None,
        num_threads: int | None,
        seed: int,
        display_progress: bool,
    ) -> None:
        scaled = program if isinstance(program, DynScaling) else DynScaling(program, samples)
        scaled.scaling_settings.check_one_lm("check() measures")
        self.program: dspy.Module = scaled.module
        # The vote is measured, not what `on_low` answers in its place.
        given: ScalingSettings = scaled.scaling_settings.replace(min_confidence=None, on_low="abstain")
        # These two are the way's: the program as it is has neither.
        self.given = given.replace(sampling=ScalingSettings().sampling, temperature=None)
        self.examples = as_examples(self.program, examples)
        same = SameAnswer(self.program, self.given.answer)
        self.judge = Judge(same if metric is None else checked_metric(metric))
        self.looks_for_labels = metric is None
        self.samples = samples
        # What a strategy learns of a program takes more calls than a check has: one that need not learn is beside it.
        self.strategies = _each_once([given.strategy, Integrated(when="close")] if strategies is None else strategies)
        self.temperatures = _each_once([given.temperature] if temperatures is None else temperatures)
        for strategy in self.strategies:
            for temperature in self.temperatures:
                self.given.replace(sampling=strategy, temperature=temperature)  # refused before anything is spent
        if 0 in self.temperatures:
            raise ValueError("temperatures must be above 0: the greedy run is measured in any case")
        self.num_threads = num_threads
        self.seed = seed
        self.display_progress = display_progress
        self.selector = DynScaling(self.program, samples, **dict(self.given)).scaling_selector
        self.reader = AnswerReader(self.program, self.given.answer)
        self.is_greedy = _is_greedy(self.program)
        self.funds = Funds(budget)
        self.notes: list[str] = []
        self._fit()
        self.inputs = [inputs_of(example) for example in self.examples]

    def _fit(self) -> None:
        """Keep as many examples as a cap on samples can pay for."""
        each = 2 - self.is_greedy + self.samples * len(self.temperatures) * (1 + len(self.strategies))
        affordable = self.funds.left("samples") // each
        if affordable < len(self.examples):
            if affordable < 2:
                raise ValueError(
                    f"budget is too small: {self.funds.left('samples'):g} samples, and each example takes {each}; give "
                    f"at least {2 * each}, or fewer samples= a call"
                )
            left = len(self.examples) - int(affordable)
            verb = "does not fit the budget and is" if left == 1 else "do not fit the budget and are"
            self.notes.append(f"{counted(left, 'example')} {verb} left out")
            self.examples = self.examples[: int(affordable)]
        if len(self.examples) < 2:
            raise ValueError(
                f"at least two examples are needed, a few dozen to tell anything, got {len(self.examples)}"
            )

    def result(self) -> Check:
        """Draw, compare, decide."""
        once = {"budget": 1, "max_samples": 1}
        calls = self._drawn("greedy" if self.is_greedy else "plain", once, 1)
        self.judge.raise_if_useless()  # before more is spent
        singles = [(_single("greedy" if self.is_greedy else "plain", once, calls), calls)]
        plain = singles[0][0].spending
        if not self.is_greedy:
            settings = {**once, "temperature": 0.0}
            greedy = self._drawn_if_it_fits("greedy", settings, 1, plain)
            if greedy is not None:
                singles.append((_single("greedy", settings, greedy), greedy))
        self.reference = [call.vote for call in singles[-1][1]]
        ways = [self._told(way, [call.alone() for call in calls]) for way, calls in singles]
        for temperature in self.temperatures:
            ways += self._several(temperature, plain)
        self._note_labels(ways)
        usual = dict(ScalingSettings())
        return concluded(
            ways,
            own={name: value for name, value in self.given if value != usual[name]},
            program=name_of(self.program),
            spent=self.funds.spent,
            notes=self.notes,
        )

    def _several(self, temperature: float | None, plain: Spending) -> list[Way]:
        """The ways that draw several samples at a temperature, each left out if the budget is too small for it."""
        ways: list[Way] = []
        warm = {} if temperature is None else {"temperature": temperature}
        at = "" if temperature is None or len(self.temperatures) == 1 else f" at {temperature:g}"
        vote = {"sampling": Parallel(first="own"), "policy": Uniform(), **warm}

        def several(name: str, size: int, more: Mapping[str, Any], spent: Spending, drawn: Sequence[Call]) -> Way:
            told = f"{spent.samples:.1f}"  # a strategy may want fewer than it may draw
            return Way(
                name=f"{name} of {size}{at}",
                subject=f"{NUMBERS.get(size, size) if float(told) == size else told} samples a call ({name}{at})",
                settings={"budget": size, **more},
                single=False,
                spending=spent,
                agreement=agreement(drawn, self.selector),
            )

        calls = self._drawn_if_it_fits(
            f"vote of {self.samples}{at}", {**vote, "max_samples": self.samples}, self.samples, plain
        )
        if calls is not None:
            # A language model's own temperature 0 is kept for a call's first sample.
            fixed = int(self.is_greedy and temperature is None)
            whole = spending(calls, calls)
            for size in _sizes(self.samples):
                part = whole if size == self.samples else whole.part(size)
                way = several("vote", size, {**vote, "max_samples": size}, part, calls)
                ways.append(self._told(way, voted(calls, size, self.selector, fixed=fixed, seed=self.seed)))
        for strategy in self.strategies:
            settings = {"sampling": strategy, **warm}
            name = _name(strategy, self.strategies)
            drawn = self._drawn_if_it_fits(f"{name} of {self.samples}{at}", settings, self.samples, plain)
            if drawn is not None:
                way = several(name, self.samples, settings, spending(drawn, [*drawn, *(calls or ())]), drawn)
                ways.append(self._told(way, [call.alone() for call in drawn]))
        return ways

    def _drawn_if_it_fits(
        self, name: str, settings: Mapping[str, Any], samples: int, plain: Spending
    ) -> list[Call] | None:
        """The calls answered with these settings; None, and a note, if the budget is too small, or nothing answers."""
        why = self.funds.shortage(plain, samples * len(self.examples))
        if not why:
            try:
                calls = self._drawn(name, settings, samples)
            except BudgetExhausted as error:
                why = str(error)
            except Exception as error:  # what the other ways have cost is not to be lost
                why = f"every call of it failed, the first with {type(error).__name__}"
            else:
                return calls
        self.notes.append(f"{name} is left out: {why}")
        return None

    def _drawn(self, name: str, settings: Mapping[str, Any], samples: int) -> list[Call]:
        """The calls answered with these settings, so many samples a call on average.

        Raises:
            BudgetExhausted: If the budget cut some of them off.
            Exception: If every call failed, the first error.
        """
        most = samples * len(self.examples)
        own = {name: value for name, value in settings.items() if name not in ("budget", "policy")}
        more: dict[str, Any] = {"seed": self.seed}
        if "policy" in settings:
            more |= {"policy": settings["policy"], "max_per_call": samples}
        pool = self.funds.pool(most, **more)
        module = DynScaling(self.program, pool, **dict(self.given.replace(**own)))
        try:
            with named(name):
                predictions, _, errors = module.batch(
                    self.inputs,
                    num_threads=self.num_threads,
                    return_failed_examples=True,
                    disable_progress_bar=not self.display_progress,
                )
        except Exception:
            self.funds.spent += pool.statistics().spent
            raise
        self.funds.book(pool, module, most)
        reports = [
            report for prediction in predictions if prediction is not None for report in explain(prediction).samples
        ]
        for error in [*errors, *(report.error for report in reports)]:
            if isinstance(error, BudgetExhausted):
                raise error
        if len(errors) == len(self.examples):
            raise errors[0]
        pairs = zip(predictions, self.examples, strict=True)
        return [Call.of(prediction, example, self.judge, self._read) for prediction, example in pairs]

    def _read(self, prediction: Any) -> Vote | None:
        """The vote of a prediction."""
        answer = self.reader.read(self.program, prediction)
        return None if answer is ABSENT else self.selector.read(answer)

    def _note_labels(self, ways: Sequence[Way]) -> None:
        """Note which fields of the examples may have been meant as labels, if none is one."""
        others = sorted({name for example in self.examples for name in example.labels().keys()})  # noqa: SIM118
        is_labelled = any(not math.isnan(score) for way in ways for score in way.scores)
        if others and self.looks_for_labels and not is_labelled:
            self.notes.append(
                "nothing in the examples labels an output field of the program (beside its inputs they have "
                f"{', '.join(others)}): rename the label, or pass metric="
            )

    def _told(self, way: Way, outcomes: Sequence[Outcome]) -> Way:
        """The way with what each call scored, and whether its answer is another than the greedy run's."""
        pairs = zip(outcomes, self.reference, strict=True)
        changed = tuple(outcome.unlike(wanted, self.selector) for outcome, wanted in pairs)
        return dataclasses.replace(way, scores=tuple(outcome.score for outcome in outcomes), changed=changed)


def _single(name: str, settings: Mapping[str, Any], calls: Sequence[Call]) -> Way:
    spent = spending(calls, calls)
    run = "request" if spent.requests <= 1 else "run"
    subject = f"One greedy {run}" if name == "greedy" else f"One plain {run}"
    return Way(name, subject, settings, single=True, spending=spent)


def _each_once(values: Sequence[T]) -> list[T]:
    """The different ones among some values, which may have no hash."""
    return [value for place, value in enumerate(values) if value not in values[:place]]


def _sizes(samples: int) -> list[int]:
    """How many samples take part in a vote: all, half of them, and so on, down to three."""
    sizes = []
    while samples >= 3:
        sizes.append(samples)
        samples //= 2
    return sizes[::-1]


def _name(strategy: Strategy | ModelStrategy, among: Sequence[Strategy | ModelStrategy]) -> str:
    """The class of a strategy; with the settings that are not the usual ones, where another one has the same class."""
    kind = type(strategy)
    if sum(type(each) is kind for each in among) == 1:
        return kind.__name__
    if not dataclasses.is_dataclass(strategy):
        return str(strategy)
    usual = {each.name: each.default for each in dataclasses.fields(strategy)}
    own = {name: getattr(strategy, name) for name in usual if getattr(strategy, name) != usual[name]}
    return kind.__name__ + (f"({', '.join(f'{name}={value!r}' for name, value in own.items())})" if own else "")


def _is_greedy(program: dspy.Module) -> bool:
    """Whether the program as it is asks at temperature 0, as far as its predictors tell."""
    found = []
    for _, predictor in named_predictors(program):
        settings: Callable[..., Any] = getattr(lm_of(predictor, program, {}), "kwargs", {}).get
        found.append(predictor.config.get("temperature", settings("temperature")))
    return bool(found) and all(temperature == 0 for temperature in found)
