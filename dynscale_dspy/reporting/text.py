"""Pools and explanations as text for terminals, and the words and numbers that their HTML and live views share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dynscale_dspy._words import counted as count
from dynscale_dspy.allocation.costs import Cost
from dynscale_dspy.reporting.history import History, Part
from dynscale_dspy.reporting.pool_report import PoolReport
from dynscale_dspy.reporting.statistics import STATISTIC_UNITS, PoolStatistics

if TYPE_CHECKING:
    from dynscale_dspy.reporting.explanation import Explanation, SampleReport, Votes

MOST_SAMPLES = 64
"""Most samples of a prediction that HTML shows."""
MOST_LINES = 16
"""Most samples of a prediction that text shows: unlike a page, it cannot fold them away."""
MOST_ANSWERS = 12
"""Most answers of a prediction that are shown."""
LONGEST = 100
"""Most characters of a selector that are shown of a prediction; `explain(...).selector` has all of them."""
MOST_PROGRAMS = 10
"""Most programs, and most parts, of a pool that are shown."""
_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, the beginnings of terminal escapes among them; not tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # the direction of writing
    "\u2028\u2029\ufff9-\ufffb\U000e0000-\U000e007f"  # separators, annotations and tags, none of which can be seen
    "\ud800-\udfff]"  # halves of characters, which nothing can print
)
_BLOCKS = "▁▂▃▄▅▆▇█"


def harmless(words: str) -> str:
    r"""Text that acts on nobody who prints it: control characters and the like become U+FFFD.

    Example:
        >>> harmless("\x1b[2Jgone")
        '�[2Jgone'
    """
    return _ACTING.sub("\ufffd", words)


def said(value: Any) -> str:
    """The text of any value, harmless; its type where its own class fails to give one."""
    try:
        return harmless(str.__str__(str(value)))
    except Exception:
        return harmless(f"({type(value).__name__} without text)")


def written(value: Any) -> str:
    """As :func:`said`; of a ``dspy.Code`` the code alone."""
    try:
        code = value.code if hasattr(type(value), "language") else None
    except Exception:  # of its class
        code = None
    return said(code if isinstance(code, str) else value)


def repr_of(value: Any) -> str:
    """The ``repr`` of any value, harmless; its type where its own class fails to give one."""
    try:
        return harmless(str.__str__(repr(value)))
    except Exception:
        return harmless(type(value).__name__)


class Use(NamedTuple):
    """One unit of a budget: what is spent, held by samples in flight, and the cap."""

    unit: str
    spent: float
    held: float
    limit: float | None

    @property
    def left(self) -> float | None:
        """How much may still be reserved; None without a cap."""
        return None if self.limit is None else max(self.limit - self.spent - self.held, 0)

    def __str__(self) -> str:
        spent = f"{amount(self.spent, self.unit)} spent"
        held = f", {amount(self.held, self.unit)} in flight" if self.held else ""
        return spent + held + ("" if self.left is None else f", {amount(self.left, self.unit)} left")


def uses(spent: Cost, held: Cost, limits: Mapping[str, float | None]) -> list[Use]:
    """Every unit that has a cap or was spent; samples and requests always."""
    found = []
    for unit in STATISTIC_UNITS:
        use = Use(unit, getattr(spent, unit), getattr(held, unit), limits.get(unit))
        if use.limit is not None or use.spent or unit in ("samples", "requests"):
            found.append(use)
    return found


def facts(now: PoolStatistics, history: History) -> list[str]:
    """What is shown of a pool beside its units, such as ``3 calls answered``."""
    told = [f"{count(now.closed_calls, 'call')} answered", f"{now.open_calls:,} open"]
    if now.unscaled_runs:
        told.append(f"{now.unscaled_runs:,} outside the budget")
    if history.agreement is not None:
        told.append(f"{history.agreement:.0%} mean agreement")
    if now.price is not None:
        told.append(f"price {now.price:.3g}")
    if now.seconds_left is not None:
        told.append(f"{now.seconds_left:.0f} s left")
    return told


def halt(now: PoolStatistics) -> str:
    """Whether and why a pool grants nothing, such as ``stopped by TimeoutError``; empty while it is open."""
    return "" if now.state == "open" else now.state + (f" by {now.cause}" if now.cause else "")


def one_line(now: PoolStatistics, title: str = "BudgetPool") -> str:
    """A pool in one line: its ``repr``."""
    told = []
    for unit in STATISTIC_UNITS:
        limit, spent = now.limits[unit], getattr(now.spent, unit)
        if limit is not None:
            digits = ".9g" if unit == "dollars" else ""
            told.append(f"{spent:{digits}} of {limit:{digits}} {unit}")
        elif unit in ("samples", "requests"):
            told.append(count(spent, unit.removesuffix("s")))
    if now.seconds_left is not None:
        told.append(f"{now.seconds_left:.3g} s left")
    state = f"; {halt(now)}" if now.state != "open" else ""
    words = (
        f"{title}({', '.join(told)} spent; {count(now.closed_calls, 'call')} answered, {now.open_calls} open{state})"
    )
    return harmless(words)


def pool(report: PoolReport) -> str:
    """A pool in several lines, with the figures that its HTML shows."""
    now, history = report.statistics, report.history
    head = ", ".join(filter(None, (report.title, halt(now))))
    lines = [f"{head}: {', '.join(facts(now, history))}"]
    lines += [f"  {use.unit:9} {use}" for use in uses(now.spent, now.reserved, now.limits)]
    if now.samples_per_call:
        told = ", ".join(f"{calls:,} x {span}" for _, span, calls in histogram(now.samples_per_call) if calls)
        lines.append(f"  calls by samples drawn: {told}")
    if len(history.moments) > 1:
        spent = [moment.spent.samples for moment in history.moments]
        seconds = history.moments[-1].time - history.moments[0].time
        lines.append(f"  samples over time: {sparkline(spent)} {spent[-1]:,} in {seconds:.3g} s")
        prices = [moment.price for moment in history.moments if moment.price is not None]
        if moves(prices):
            lines.append(f"  price over time:   {sparkline(prices)} at most {max(prices):.3g}")
    shown = (
        ("by program", spenders(history.programs)),
        ("by language model", spenders(history.models)),
        ("within it", parts(report.parts)),
    )
    for title, rows in shown:
        if rows:
            lines += [f"  {title}:", *(f"    {short(name, 200)}: {told}" for name, _, told in rows)]
    return harmless("\n".join(lines))


def histogram(counts: Mapping[int, int]) -> list[tuple[int, str, int]]:
    """Calls by samples drawn, in at most 16 bins: where each begins, its range in words, and how many calls.

    Example:
        >>> histogram({2: 10, 3: 4})
        [(2, '2', 10), (3, '3', 4)]
    """
    low, high = min(counts), max(counts)
    step = -(-(high - low + 1) // 16)
    bins = dict.fromkeys(range(low, high + 1, step), 0)
    for samples, calls in counts.items():
        bins[low + (samples - low) // step * step] += calls
    return [(start, f"{start}" if step == 1 else f"{start}-{start + step - 1}", calls) for start, calls in bins.items()]


def spenders(costs: Mapping[str, Cost]) -> list[tuple[str, float, str]]:
    """What each program or model has spent, largest first: its name, its share of the samples, all units in words."""
    total = sum(cost.samples for cost in costs.values()) or 1
    ranked = sorted(costs.items(), key=lambda item: -item[1].samples)
    rows = [
        (name, cost.samples / total, f"{cost.samples / total:.0%}, {in_units(cost)}")
        for name, cost in ranked[:MOST_PROGRAMS]
    ]
    if len(ranked) > MOST_PROGRAMS:
        rest = sum((cost for _, cost in ranked[MOST_PROGRAMS:]), Cost())
        share = rest.samples / total
        rows.append((f"{len(ranked) - MOST_PROGRAMS} more", share, f"{share:.0%}, {in_units(rest)}"))
    return rows


def parts(shown: Sequence[Part]) -> list[tuple[str, float, str]]:
    """Shares and open scopes of a pool: the name, how much of the tightest cap is used, and all caps in words."""
    rows = []
    for part in shown[:MOST_PROGRAMS]:
        capped = [use for use in uses(part.spent, Cost(), part.limits) if use.limit]
        used = max((use.spent / use.limit for use in capped if use.limit), default=0.0)
        told = ", ".join(
            f"{amount(use.spent, use.unit)} of {amount(use.limit or 0, use.unit)}"
            + ("" if use.unit == "dollars" else f" {use.unit}")
            for use in capped
        )
        late = "" if part.seconds_left is None else f"{part.seconds_left:.0f} s left"
        rows.append((part.name, used, ", ".join(filter(None, (told, late)))))
    return rows


def explanation(made: Explanation) -> str:
    """A call: what its HTML shows, one line per sample. Errors by class only: their messages may hold a secret."""
    low = f", below the {made.min_confidence:g} asked for" if made.is_low else ""
    lines = [
        f"{count(len(made.samples), 'sample')} in {count(made.rounds, 'round')}, {answers(made)}, "
        f"{agreement(made)}, confidence {made.confidence:.2f}{source(made)}{low}"
    ]
    for votes in made.votes[:MOST_ANSWERS]:
        seen = f" ({votes.conditioned:g} of them saw earlier attempts)" if votes.conditioned else ""
        told = "" if votes.probability is None else f" (probability {votes.probability:.3f})"
        lines.append(f"  {votes.total:3g}  {short(votes.answer)}{versions(votes)}{seen}{told}{of_models(votes)}")
    if len(made.votes) > MOST_ANSWERS:
        lines.append(f"       and {len(made.votes) - MOST_ANSWERS} more")
    problems = [sample.problem for sample in made.samples if sample.problem]
    if problems:
        lines.append(f"  {len(problems):3d}  cast no vote: {', '.join(sorted(set(problems)))}")
    lines += [f"  {told}" for told in chosen(made)]
    lines.append(f"  cost: {cost(made.cost)}")
    lines += [f"  {short(name)}: {told}" for name, _, told in models(made)]
    lines += map(_sample, made.samples[:MOST_LINES])
    if len(made.samples) > MOST_LINES:
        lines.append(f"  and {count(len(made.samples) - MOST_LINES, 'more sample')}")
    return harmless("\n".join(lines))


def answers(made: Explanation) -> str:
    """How many answers there are, such as ``3 answers``; where some are much alike, ``3 groups of answers``."""
    return f"{count(made.answers, 'group')} of answers" if is_grouped(made) else count(made.answers, "answer")


def agreement(made: Explanation) -> str:
    """The winner's share of the samples, such as ``62% agree``; where some are alike only, ``62% like the winner``."""
    return f"{made.agreement:.0%} {'like the winner' if is_grouped(made) else 'agree'}"


def versions(votes: Votes) -> str:
    """That the answers of a group are alike and not the same, such as `` (in 4 versions)``; empty if they are."""
    return f" (in {votes.versions} versions)" if votes.versions > 1 else ""


def is_grouped(made: Explanation) -> bool:
    """Whether answers that are alike, and not the same, are told as one."""
    return any(votes.versions > 1 for votes in made.votes)


def of_models(votes: Votes) -> str:
    """Which of several language models gave an answer, such as `` (cheap 2, dear 1)``; empty if there is one."""
    told = ", ".join(f"{short(name, 40)} {count}" for name, count in votes.by_model.items())
    return f" ({told})" if told else ""


def models(made: Explanation) -> list[tuple[str, float, str]]:
    """Each of several language models of a call: its name, its share of what was spent, and what it did in words."""
    unit = "nanodollars" if made.cost.nanodollars else "tokens" if made.cost.tokens else "samples"
    total = sum(getattr(model.cost, unit) for model in made.models) or 1
    return [
        (
            model.name,
            getattr(model.cost, unit) / total,
            f"{count(model.samples, 'sample')}, {model.agreeing} for the answer, {cost(model.cost)}",
        )
        for model in made.models
    ]


def source(made: Explanation) -> str:
    """Where a confidence comes from, if not from counting votes."""
    if made.calibrated_on:
        return f" (the model's own probability, calibrated on {made.calibrated_on} calls)"
    return " (the model's own probability)" if made.is_told else ""


def chosen(made: Explanation) -> Iterator[str]:
    """How the answer was chosen, where it was not by plurality as ever, and whether it is composed."""
    if made.selector_reason:
        selector = made.selector if len(made.selector) <= LONGEST else f"{made.selector.partition('(')[0]}(...)"
        yield f"chosen by {short(selector, 200)}: {made.selector_reason}"
    if made.composed_on is not None:
        yield f"the answer is composed from several samples, all else is of sample #{made.composed_on}"
    if made.rule:
        yield f"drawn by {short(made.rule, 300)}"


def _sample(sample: SampleReport) -> str:
    told = short(sample.answer, 40) if sample.key is not None else f"no vote: {sample.problem}"
    if sample.error is not None:
        told += f" with {type(sample.error).__name__}"
    thought = thought_of(sample.prediction)
    thinking = f"  | {short(thought, 60)}" if thought else ""
    return f"  #{sample.index} {told}  ({'; '.join(of_sample(sample))}){thinking}"


def thought_of(prediction: Any) -> str:
    """The reasoning of a prediction; empty if it has none."""
    try:
        thought = getattr(prediction, "reasoning", None)
    except Exception:
        return ""
    return "" if thought is None else said(thought)


def of_sample(sample: SampleReport) -> Iterator[str]:
    """What is shown of a sample beside its answer: its round, its language model, which samples it saw, its cost."""
    yield f"round {sample.round}"
    if sample.model:
        yield short(sample.model, 40)
    if sample.shown:
        yield "saw " + ", ".join(f"#{index}" for index in sample.shown)
    yield cost(sample.cost)


def cost(spent: Cost) -> str:
    """A cost in requests, how many of them the cache answered, tokens and dollars."""
    which = f"{spent.cached_requests} of them " if spent.cached_requests < spent.requests else ""
    source = f" ({which}from the cache)" if spent.cached_requests else ""
    dollars = f", {amount(spent.dollars, 'dollars')}" if spent.nanodollars else ""
    return f"{count(spent.requests, 'request')}{source}, {count(spent.tokens, 'token')}{dollars}"


def in_units(spent: Cost) -> str:
    """A cost in samples, requests, tokens and dollars."""
    return f"{count(spent.samples, 'sample')}, {cost(spent)}"


def amount(value: float, unit: str) -> str:
    """An amount of a unit, such as ``1,200`` or ``$0.25``."""
    if unit != "dollars":
        return f"{value:,.0f}"
    return f"${value:,.4f}" if value >= 0.01 or not value else f"${value:.6f}"


def short(value: Any, most: int = 80) -> str:
    """A value on one line, cut off after so many characters."""
    line = " ".join(written(value).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def moves(values: Sequence[float]) -> bool:
    """Whether a curve is worth drawing: its values differ by more than 1 % of the largest."""
    return len(values) > 1 and max(values) - min(values) > 0.01 * max(values)


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """A curve in a line of text, from 0 to its largest value.

    Example:
        >>> sparkline([0, 1, 2, 4, 7])
        '▁▂▃▅█'
    """
    step = max(len(values) / width, 1)
    picked = [values[min(int((place + 1) * step) - 1, len(values) - 1)] for place in range(int(len(values) / step))]
    top = max(values) or 1
    return "".join(_BLOCKS[round(7 * max(value, 0) / top)] for value in picked)
