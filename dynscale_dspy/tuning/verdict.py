"""Whether scaling is worth it: ways to answer the same calls, compared pair by pair. Pure: numbers in, a choice out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from dynscale_dspy.tuning.paired import LEVEL, Interval, deviation, gain, quantile, range_of

PRICE = 0.25
"""The price of a token read, in tokens written, where dollars are not known: about 1/4 at most providers."""
SMALL = 0.02
"""A gain of at most this share of the metric's range is none worth asking for: 2 points."""
WORTH = 0.05
"""The least gain for which a sentence tells how many labelled calls would show it: 5 points."""
POWER = 0.8
"""How likely so many calls would show it."""


class Spending(NamedTuple):
    """What a call costs on average, one way.

    Attributes:
        samples: Runs of the program.
        requests: Language-model requests.
        prompt_tokens: Tokens read; None if no reply told.
        completion_tokens: Tokens written; None if no reply told.
        dollars: Money; None if no price is known.
    """

    samples: float
    requests: float
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    dollars: float | None = None

    @property
    def tokens(self) -> float | None:
        """Prompt and completion tokens together."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens

    @property
    def work(self) -> float | None:
        """Tokens written, plus :data:`PRICE` times those read."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.completion_tokens + PRICE * self.prompt_tokens

    def part(self, samples: int) -> Spending:
        """The cost of so many of the samples, drawn alike. Those that share a request still pay for its prompt once."""
        share = samples / self.samples
        asked = max(min(1.0, self.requests), share * self.requests)
        repeated = asked / self.requests if self.requests else share
        prompt = None if self.prompt_tokens is None else self.prompt_tokens * repeated
        written = None if self.completion_tokens is None else self.completion_tokens * share
        fewer = Spending(samples, asked, prompt, written)
        cheaper = fewer.work / self.work if fewer.work and self.work else share
        return Spending(samples, asked, prompt, written, None if self.dollars is None else self.dollars * cheaper)


@dataclass(frozen=True)
class Way:
    """One way to answer calls, as measured.

    Args:
        name: What a table calls it.
        subject: What a sentence calls it, in the plural if it takes several samples, such as ``Four samples a call``.
        settings: The arguments of :class:`~dynscale_dspy.DynScaling` that make it so.
        single: Whether it is one run of the program: what scaling has to beat.
        spending: What a call costs.
        scores: What each labelled call scored, in the same order for all ways; empty without labels.
        changed: For each call the probability that its answer is another one than the greedy run's.
        agreement: How often two samples of a call agree; None for a single run.
    """

    name: str
    subject: str
    settings: Mapping[str, Any]
    single: bool
    spending: Spending
    scores: tuple[float, ...] = ()
    changed: tuple[float, ...] = ()
    agreement: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What a comparison comes to.

    Args:
        recommended: The way to take.
        base: The better single run, over which gains are counted.
        gains: Gain of each other way over the base, by name; all of several samples hold together with probability
            :data:`LEVEL`. Empty without labels.
        times: Cost of each way in units of the base's, by name.
        unit: What costs are compared in: ``dollars`` if all are known, else ``tokens``, written ones and :data:`PRICE`
            times those read, else ``requests``.
        sentence: The outcome in words.
    """

    recommended: Way
    base: Way
    gains: Mapping[str, Interval]
    times: Mapping[str, float]
    unit: str
    sentence: str


def share(values: Sequence[float], span: tuple[float, float] = (0.0, 1.0)) -> Interval:
    """The mean of scores with Wilson's interval, which is on the safe side for scores between the ends of the span.

    Args:
        values: At least one.
        span: The least and the greatest value possible.

    Example:
        >>> [round(bound, 3) for bound in share([1.0] * 8 + [0.0] * 2)]
        [0.8, 0.49, 0.943]
    """
    low, high = span
    width = high - low
    z = quantile((1 + LEVEL) / 2)
    count = len(values)
    mean = sum(values) / count
    part = (mean - low) / width
    centre = (part + z * z / (2 * count)) / (1 + z * z / count)
    spread = z * math.sqrt(max(part * (1 - part), 0.0) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    bounds = (round(min(max(bound, 0.0), 1.0), 12) for bound in (centre - spread, centre + spread))
    return Interval(mean, *(low + width * bound for bound in bounds))


def decide(ways: Sequence[Way]) -> Verdict:
    """Choose a way, and say why.

    With labels: a way of several samples is taken only if the whole interval of its gain over the better single run is
    above 0, all such intervals holding together. Of several the cheapest is taken, unless a dearer one is shown in the
    same manner to be better than it. Otherwise the better single run is, the greedy one if they are equal. Without
    labels no gain can be shown: the program stays as it is, unless no way changes any answer of the greedy run.

    Args:
        ways: At least one single run, the greedy one last among these; all measured on the same calls.

    Raises:
        ValueError: If no way is a single run.
    """
    singles = [way for way in ways if way.single]
    if not singles:
        raise ValueError("there is nothing to compare with: no way is a single run of the program")
    return _labelled(ways, singles) if ways[0].scores else _unlabelled(ways, singles)


def span_of(ways: Sequence[Way]) -> tuple[float, float]:
    """The range of the metric, as the scores of all ways show it."""
    return range_of([score for way in ways for score in way.scores])


def _labelled(ways: Sequence[Way], singles: Sequence[Way]) -> Verdict:
    low, high = span_of(ways)
    width = high - low
    base = max(reversed(singles), key=lambda way: sum(way.scores))
    several = [way for way in ways if not way.single]
    unit, times = _times(ways, base)
    cost = "cost" if unit in ("dollars", "tokens") else unit  # of requests alone it is not known what each costs
    family = max(len(several), 1)

    def over(way: Way, other: Way) -> Interval:
        pairs = zip(way.scores, other.scores, strict=True)
        return gain([mine - theirs for mine, theirs in pairs], width=width, comparisons=family)

    gains = {way.name: over(way, base) for way in ways if way is not base}
    points = _Points(width if high > 1 or low < 0 else None)
    helping = sorted((way for way in several if gains[way.name].low > 0), key=lambda way: times[way.name])
    if helping:
        chosen = helping[0]
        for way in helping[1:]:
            if over(way, chosen).low > 0:
                chosen = way
        sentence = (
            f"{chosen.subject} gain {points(gains[chosen.name])} over {_the(base)} "
            f"for {_number(times[chosen.name])} times its {cost}."
        )
        return Verdict(chosen, base, gains, times, unit, sentence)
    if all(score == low for way in ways for score in way.scores):
        sentence = "No answer scored anything, so that nothing can be compared: look at the labels and the metric."
        return Verdict(singles[0], base, gains, times, unit, sentence)
    if not several:
        return Verdict(base, base, gains, times, unit, _alone(base))
    best = max(several, key=lambda way: (gains[way.name].mean, -times[way.name]))
    best_gain, spent = gains[best.name], f"for {_number(times[best.name])} times its {cost}"
    if best_gain.high < 0:
        lost = Interval(-best_gain.mean, -best_gain.high, -best_gain.low)
        sentence = f"{base.subject} is best here: {_lower(best.subject)} lose {points(lost)} {spent}."
    elif best_gain.high <= SMALL * width:
        sentence = f"{base.subject} is enough here: {_lower(best.subject)} gain {points(best_gain)} {spent}."
    else:
        pairs = [mine - theirs for mine, theirs in zip(best.scores, base.scores, strict=True)]
        worth = max(WORTH * width, best_gain.mean)
        enough = _calls_to_show(worth, deviation(pairs, width), family)
        sentence = (
            f"{base.subject} is enough here, as far as {len(base.scores)} calls show: "
            f"{_lower(best.subject)} gain {points(best_gain)} {spent}, and it takes about {enough:,} calls to show a "
            f"gain of {points.of(worth)}."
        )
    return Verdict(base, base, gains, times, unit, sentence)


def _unlabelled(ways: Sequence[Way], singles: Sequence[Way]) -> Verdict:
    greedy, plain = singles[-1], singles[0]
    several = [way for way in ways if not way.single]
    changes = max((share(way.changed) for way in several), default=share(greedy.changed))
    base = greedy if several and not changes.mean else plain
    unit, times = _times(ways, base)
    if not several:
        sentence = _alone(base)
    elif not changes.mean:
        sentence = (
            f"{base.subject} is enough here: more samples change none of its {len(base.changed)} answers "
            f"(at most {_percent(changes.high)} of all calls)."
        )
    else:
        most = max(several, key=lambda way: sum(way.changed))
        sentence = (
            f"Without labels more samples are not shown to help, so keep {_the(base)}: {_lower(most.subject)} change "
            f"{_percent(changes.mean)} [{100 * changes.low:.0f}, {100 * changes.high:.0f}] of the answers of "
            f"{_the(greedy)}, for better or worse; label the calls in `disagreements` to know which."
        )
    return Verdict(base, base, {}, times, unit, sentence)


def _alone(base: Way) -> str:
    return f"{base.subject} is all that the budget let the check measure."


def _times(ways: Sequence[Way], base: Way) -> tuple[str, dict[str, float]]:
    """What costs are compared in, and each way's over the base's."""
    for unit in ("dollars", "work", "requests"):
        costs: dict[str, float | None] = {way.name: getattr(way.spending, unit) for way in ways}
        known = {name: cost for name, cost in costs.items() if cost}
        if len(known) == len(costs):
            break
    else:
        unit, known = "samples", {way.name: way.spending.samples or 1.0 for way in ways}
    return "tokens" if unit == "work" else unit, {name: cost / known[base.name] for name, cost in known.items()}


def _calls_to_show(worth: float, deviation: float, comparisons: int) -> int:
    """Calls with which a gain of this size would be shown with probability :data:`POWER`, to two digits."""
    quantiles = quantile(1 - (1 - LEVEL) / (2 * comparisons)) + quantile(POWER)
    calls = (quantiles * deviation / worth) ** 2
    scale = 10 ** max(math.floor(math.log10(calls)) - 1, 0) if calls > 1 else 1
    return math.ceil(calls / scale) * scale


@dataclass(frozen=True)
class _Points:
    """Writes gains: in points of a hundred, or in the metric's own unit if that has another range.

    Args:
        width: That range; None for 0 to 1.
    """

    width: float | None

    def of(self, value: float) -> str:
        return (
            f"{f'{100 * value:.1f}'.removesuffix('.0')} points" if self.width is None else f"{value:.3g} of the metric"
        )

    def __call__(self, interval: Interval) -> str:
        if self.width is not None:
            return f"{interval.mean:.3g} [{interval.low:.3g}, {interval.high:.3g}] of the metric"
        mean, low, high = (f"{100 * value:.1f}" for value in interval)
        return f"{mean} [{low}, {high}] points"


def _the(way: Way) -> str:
    return "the greedy run" if way.name == "greedy" else "the program as it is"


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"
