"""Calibrate: a teleprompter that measures on labelled examples which settings answer best for a budget."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import dspy
from dspy.teleprompt import Teleprompter

from dynscale_dspy.allocation.policies import KnowledgeGradient, Policy, Uniform
from dynscale_dspy.budget.pool import BudgetPool
from dynscale_dspy.config import ScalingSettings
from dynscale_dspy.module import DynScaling
from dynscale_dspy.reporting.explanation import SampleReport, explain
from dynscale_dspy.sampling.escalate import ModelStrategy
from dynscale_dspy.sampling.strategies import Integrated, Parallel, Strategy
from dynscale_dspy.tuning.paired import Interval, paired_gain

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """The measurement of the plain program, or of one combination of settings at one number of samples.

    Args:
        policy: Decides which example gets the next sample.
        sampling: The strategy that draws samples.
        temperature: The temperature of samples; None for the language model's own.
        samples: Samples a call, on average.
        cost: Cost of a call, on average, in runs of the plain program.
        score: The metric's mean over the labelled set.
        error: Its standard error.
        scores: The metric of each example.
        plain: Whether it is the program alone, run once a call with nothing to make its samples differ.
    """

    policy: Policy
    sampling: Strategy | ModelStrategy
    temperature: float | None
    samples: float
    cost: float
    score: float
    error: float
    scores: tuple[float, ...]
    plain: bool = False

    @property
    def name(self) -> str:
        """What it is, in words: ``plain program, temperature 0``, or policy, strategy and temperature."""
        what = "plain program" if self.plain else f"{type(self.policy).__name__}, {self.sampling}"
        return what if self.temperature is None else f"{what}, temperature {self.temperature:g}"


@dataclass(frozen=True)
class Calibration:
    """The measurements of :class:`Calibrate`, and its choice.

    Args:
        points: Every measurement, in the order in which they were made: the plain program as it is first, then it at
            temperature 0 (unless the language model fails there), then the combinations.
        chosen: The one whose settings were chosen.
        best: The combination that answered best.
    """

    points: tuple[Point, ...]
    chosen: Point
    best: Point

    @property
    def baseline(self) -> Point:
        """The better of the two runs of the plain program, by its score."""
        return max((point for point in self.points if point.plain), key=lambda point: point.score)

    @property
    def gain(self) -> Interval:
        """What the best combination gains over the better plain run: paired over the examples, a 95% interval."""
        return paired_gain(self.best.scores, self.baseline.scores)

    @property
    def verdict(self) -> str:
        """The outcome in a sentence."""
        best, baseline = self.best, self.baseline
        times = f"at {best.cost / baseline.cost:.1f} times the cost"
        if self.gain.is_sure:
            return f"Scaling pays: {self.gain} points over the {baseline.name}, {times}."
        enough = f"The {self.chosen.name} is enough" if self.chosen.plain else "It takes votes only for min_confidence"
        return f"{enough}: scaling gains {self.gain} points over the {baseline.name}, {times}."

    def __str__(self) -> str:
        lines = ["   samples   cost   score"]
        for point in self.points:
            mark = "*" if point is self.chosen else " "
            lines.append(
                f"{mark} {point.samples:8.2f} {point.cost:6.2f}   {point.score:.3f} ± {point.error:.3f}   {point.name}"
            )
        return "\n".join([*lines, self.verdict])


class Calibrate(Teleprompter):
    """A DSPy teleprompter that chooses strategy, policy and temperature for a budget, measured on labelled examples.

    All combinations are compared at the same cost: one whose samples cost more, since they read a chain, gets fewer of
    them. Cost is counted in tokens, those written plus ``price`` times those read, as the language model reports them;
    where it reports none, in samples. Combinations share replies through DSPy's cache, where that is on; cost is
    counted as if it were off.

    The plain program is measured first, as it is and at temperature 0. A combination is only chosen if the 95% interval
    of its gain over the better of the two is above 0. Else the plain program is enough, and what is returned runs it
    once a call. A student with ``min_confidence`` is scaled all the same, since it takes votes to be confident.

    Among the combinations, and between the two plain runs, the first is kept unless another one is better by more than
    the standard error of the paired difference, so that noise on a small set does not decide.

    Args:
        metric: ``metric(example, prediction, trace=None)``, a number or a bool, more is better.
        budget: What a call may cost on average, in plain samples.
        sampling: Strategies to compare; the first is the one to beat.
        policies: Policies to compare.
        temperatures: Temperatures to compare, None among them for the language model's. By default the student's.
        price: The price of a token read, in tokens written: about 1/4 at most providers.
        num_threads: Samples at a time; DSPy's setting by default.
        seed: Seeds the pools.

    Raises:
        ValueError: If ``budget`` is below 2, or there is nothing to compare.
        TypeError: If ``metric`` is not callable.

    Example:
        ```python
        metric = lambda example, prediction, trace=None: prediction.answer == example.answer
        tuned = Calibrate(metric=metric, budget=8).compile(DynScaling(program, budget=8), trainset=trainset)
        print(tuned.calibration)
        ```
    """

    def __init__(
        self,
        metric: Callable[..., Any],
        budget: float = 8,
        *,
        sampling: Sequence[Strategy] | None = None,
        policies: Sequence[Policy] | None = None,
        temperatures: Sequence[float | None] | None = None,
        price: float = 0.25,
        num_threads: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not callable(metric):
            raise TypeError(f"metric must be a function of an example and a prediction, got {metric!r}")
        if not (isinstance(budget, (int, float)) and 2 <= budget < math.inf):
            raise ValueError(f"budget must be at least 2 samples a call, or there is nothing to choose, got {budget!r}")
        if not price >= 0:
            raise ValueError(f"price must not be negative, got {price!r}")
        self.metric = metric
        self.budget = budget
        self.sampling = list(sampling) if sampling is not None else default_strategies(budget)
        self.policies = list(policies) if policies is not None else [KnowledgeGradient()]
        self.temperatures = None if temperatures is None else list(temperatures)
        self.price = price
        self.num_threads = num_threads
        self.seed = seed
        if not (self.sampling and self.policies) or self.temperatures == []:
            raise ValueError("there is nothing to compare: give at least one strategy, policy and temperature")

    def compile(
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
        **options: Any,
    ) -> DynScaling:
        """Measure, choose, and wrap the student's program anew.

        Args:
            student: A :class:`DynScaling` module, whose program and other settings are kept; or a program that is not
                wrapped.
            trainset: Labelled examples.
            teacher: Not used.
            valset: More labelled examples, measured together with the others: nothing is fitted to either.
            **options: Not used.

        Returns:
            A new module with the chosen settings and a budget of its own; :class:`Calibration` is its
            ``calibration``. Where the plain program is enough, it draws one sample a call (``max_samples=1``), at the
            language model's own temperature or at 0. The student is unchanged.

        Raises:
            ValueError: If there are fewer than two examples, or a policy needs more of the votes than the student's
                selector tells. Nothing is spent then.
        """
        examples = [*trainset, *(valset or ())]
        if len(examples) < 2:
            raise ValueError(f"at least two labelled examples are needed, got {len(examples)}")
        scaled = student if isinstance(student, DynScaling) else DynScaling(student, self.budget)
        scaled.scaling_settings.check_one_lm("Calibrate chooses")
        for policy in self.policies:  # one that the selector cannot feed is refused before anything is spent
            DynScaling(scaled.module, self.budget, policy=policy, **dict(scaled.scaling_settings))
        meter = _Meter(self.price)
        points = [self._plain(scaled, examples, None, meter)]
        try:
            points.append(self._plain(scaled, examples, 0.0, meter))
        except Exception as error:  # some servers take no temperature of 0: what can be measured is
            logger.warning("the plain program fails at temperature 0, and is compared without: %r", error)
        single = _best(points)
        last: list[Point] = []  # of each combination, the measurement at the budget's cost
        temperatures = [scaled.scaling_settings.temperature] if self.temperatures is None else self.temperatures
        combinations = product(temperatures, self.policies, self.sampling)
        for temperature, policy, sampling in combinations:
            last.append(self._last_of(scaled, examples, policy, sampling, temperature, meter, points))
        best = _best(last)
        calibration = Calibration(tuple(points), best, best)
        settings = scaled.scaling_settings
        if settings.min_confidence is None and not calibration.gain.is_sure:
            calibration = replace(calibration, chosen=single)
            settings = settings.replace(max_samples=1)
        chosen = calibration.chosen
        settings = settings.replace(sampling=chosen.sampling, temperature=chosen.temperature)
        budget = max(1.0, chosen.samples)
        calibrated = DynScaling(scaled.module, budget, policy=chosen.policy, seed=self.seed, **dict(settings))
        setattr(calibrated, "calibration", calibration)  # noqa: B010  # not the program's state
        return calibrated

    def _plain(
        self, scaled: DynScaling, examples: Sequence[dspy.Example], temperature: float | None, meter: _Meter
    ) -> Point:
        """Measure the program alone, at a temperature; None for the language model's own."""
        settings = scaled.scaling_settings.replace(sampling=Parallel(), temperature=temperature, max_samples=1)
        return self._point(scaled, examples, Uniform(), settings, 1, meter)

    def _last_of(
        self,
        scaled: DynScaling,
        examples: Sequence[dspy.Example],
        policy: Policy,
        sampling: Strategy,
        temperature: float | None,
        meter: _Meter,
        points: list[Point],
    ) -> Point:
        """Measure a combination with more and more samples, until it costs the budget; return the last measurement."""
        samples = 2.0
        point = self._measure(scaled, examples, policy, sampling, temperature, samples, meter)
        points.append(point)
        while point.cost < 0.97 * self.budget:
            # As many more as the rest of the budget buys at the cost just measured; at most twice as many.
            samples = min(2 * samples, samples + (self.budget - point.cost) * samples / point.cost)
            samples = round(samples * len(examples)) / len(examples)
            if samples <= point.samples:
                break
            point = self._measure(scaled, examples, policy, sampling, temperature, samples, meter)
            points.append(point)
        if point.cost > 1.03 * self.budget and point.samples > 1:  # too many, since the share of dear samples grew
            samples = max(1.0, point.samples * self.budget / point.cost)
            point = self._measure(scaled, examples, policy, sampling, temperature, samples, meter)
            points.append(point)
        return point

    def _measure(
        self,
        scaled: DynScaling,
        examples: Sequence[dspy.Example],
        policy: Policy,
        sampling: Strategy,
        temperature: float | None,
        samples: float,
        meter: _Meter,
    ) -> Point:
        """Measure a combination at so many samples a call."""
        settings = scaled.scaling_settings.replace(sampling=sampling, temperature=temperature)
        return self._point(scaled, examples, policy, settings, samples, meter)

    def _point(
        self,
        scaled: DynScaling,
        examples: Sequence[dspy.Example],
        policy: Policy,
        settings: ScalingSettings,
        samples: float,
        meter: _Meter,
    ) -> Point:
        pool = BudgetPool(samples=max(len(examples), round(samples * len(examples))), policy=policy, seed=self.seed)
        # The vote is measured, not what `on_low` answers in its place.
        settings = settings.replace(min_confidence=None, on_low="abstain")
        module = DynScaling(scaled.module, pool, **dict(settings))
        predictions = module.batch(examples, num_threads=self.num_threads, disable_progress_bar=True)
        scores = [
            float(self.metric(example, prediction)) if prediction is not None else 0.0
            for example, prediction in zip(examples, predictions, strict=True)
        ]
        drawn = [report for p in predictions if p is not None for report in explain(p).samples]
        cost = meter.cost(drawn, (settings.sampling, settings.temperature)) / len(examples)
        score, error = _mean_and_error(scores)
        point = Point(
            policy=policy,
            sampling=settings.strategy,
            temperature=settings.temperature,
            samples=pool.statistics().spent.samples / len(examples),
            cost=cost,
            score=score,
            error=error,
            scores=tuple(scores),
            plain=settings.max_samples == 1,
        )
        logger.info("%s", point)
        return point


def _best(points: Sequence[Point]) -> Point:
    """The first point, unless a later one is better beyond noise."""
    best, *others = points
    for point in others:
        gain, error = _mean_and_error([a - b for a, b in zip(point.scores, best.scores, strict=True)])
        if gain > error:
            best = point
    return best


def default_strategies(budget: float) -> list[Strategy]:
    """The strategies that are compared by default: independent samples, and chains that begin early or late."""
    late = max(2, int(budget) // 2)
    integrated: list[Strategy] = [Integrated(independent=n, share=s) for n in sorted({2, late}) for s in (0.5, 1.0)]
    return [Parallel(), *integrated]


class _Meter:
    """Counts what samples cost, in plain samples.

    A reply from DSPy's cache reports no usage, so each kind of sample counts the mean of those that reported some.
    """

    def __init__(self, price: float) -> None:
        self._price = price
        self._seen: dict[Any, list[float]] = {}
        self._plain: float | None = None

    def cost(self, samples: Iterable[SampleReport], setting: Any) -> float:
        kinds = []
        for sample in samples:
            kind = (setting, True) if sample.shown else (setting[1], False)
            kinds.append(kind)
            tokens = [_tokens(entry, self._price) for entries in sample.usage.values() for entry in entries]
            if sum(tokens):
                self._seen.setdefault(kind, []).append(sum(tokens))
        means = {kind: sum(values) / len(values) for kind, values in self._seen.items()}
        if self._plain is None:
            self._plain = means.get((setting[1], False))
        if not self._plain:
            return float(len(kinds))
        return sum(means.get(kind, self._plain) for kind in kinds) / self._plain


def _tokens(usage: Any, price: float) -> float:
    return (usage.get("completion_tokens") or 0) + price * (usage.get("prompt_tokens") or 0)


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
    return mean, math.sqrt(variance / len(values))
