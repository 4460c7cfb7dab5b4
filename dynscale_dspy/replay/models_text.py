"""What a replay of several language models says, as text and as values to save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynscale_dspy.replay.models import BOUND, Comparison, difference
from dynscale_dspy.sampling.by_price import APART


def render(found: Sequence[Comparison]) -> str:
    """Tables of all comparisons, and for each data set with several the mean over them and the worst."""
    lines: list[str] = []
    for comparison in found:
        lines += [*_table(comparison), ""]
    for dataset in dict.fromkeys(comparison.dataset for comparison in found):
        owned = [comparison for comparison in found if comparison.dataset == dataset]
        for kind in sorted({_kind(comparison) for comparison in owned}):
            alike = [comparison for comparison in owned if _kind(comparison) == kind]
            lines += [*_summary(f"{dataset}, {kind}", alike), ""]
    return "\n".join(lines).rstrip() + "\n"


def values(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The same as values to save: accuracies, and differences from the bound with their standard errors."""
    rows = []
    for comparison in found:
        bound = comparison.curve(BOUND)
        for curve in comparison.curves:
            for place, budget in enumerate(comparison.budgets):
                gain = curve.gain(bound, place)
                rows.append(
                    {
                        "dataset": comparison.dataset,
                        "models": comparison.models,
                        "costs": [round(cost, 3) for cost in comparison.costs],
                        "way": curve.way,
                        "budget": budget,
                        "cost": round(budget * max(comparison.costs), 3),
                        "accuracy": curve.mean(place),
                        "gain": None if gain is None else gain[0],
                        "se": None if gain is None else gain[1],
                    }
                )
    return rows


def _table(comparison: Comparison) -> list[str]:
    costs = " : ".join(f"{cost:.3g}" for cost in comparison.costs)
    head = f"{comparison.dataset}: {', '.join(comparison.models)} (a sample costs {costs})"
    width = max(len(curve.way) for curve in comparison.curves)
    lines = [
        f"{head}: accuracy in %, and points over {BOUND}",
        f"  {'samples of the dearest':{width}}" + "".join(f"{budget:>8g}{'':14}" for budget in comparison.budgets),
        f"  {'in those of the cheapest':{width}}"
        + "".join(f"{budget * max(comparison.costs):>8.1f}{'':14}" for budget in comparison.budgets),
    ]
    bound = comparison.curve(BOUND)
    for curve in comparison.curves:
        cells = ""
        for place in range(len(comparison.budgets)):
            mean = curve.mean(place)
            gain = curve.gain(bound, place) if curve is not bound else None
            cells += f"{'–' if mean is None else f'{100 * mean:.1f}':>8} {_points(gain):13}"
        lines.append(f"  {curve.way:{width}}{cells}")
    return [line.rstrip() for line in lines]


def _kind(comparison: Comparison) -> str:
    """Whether prices are far apart, and whether the dearest model is the better one where there is most to spend."""
    apart = max(comparison.costs) >= APART * min(comparison.costs)
    dearest = comparison.costs.index(max(comparison.costs))
    alone = [curve.mean(len(comparison.budgets) - 1) or 0.0 for curve in comparison.curves[: len(comparison.models)]]
    better = alone[dearest] > max(value for place, value in enumerate(alone) if place != dearest)
    ratio = f"a price ratio of {APART:g} or more" if apart else f"a price ratio below {APART:g}"
    return f"{ratio}, the dearest model {'better' if better else 'no better'}"


def _summary(dataset: str, found: Sequence[Comparison]) -> list[str]:
    """Means over comparisons, and the worst of them."""
    ways = [curve.way for curve in found[0].curves if all(curve.way in _ways(each) for each in found)]
    budgets = found[0].budgets
    width = max(len(way) for way in ways) + len(", worst")
    lines = [f"{dataset}: points over {BOUND}, mean of {len(found)} and the worst of them"]
    lines.append(f"  {'samples of the dearest':{width}}" + "".join(f"{budget:>16g}" for budget in budgets))
    for way in ways:
        if way == BOUND:
            continue
        pairs = [(each.curve(way), each.curve(BOUND)) for each in found]
        places = range(len(budgets))
        lines.append(f"  {way:{width}}" + "".join(f"{_points(difference(pairs, place)):>16}" for place in places))
        worst = [
            min((gain[0] for one, other in pairs if (gain := one.gain(other, place))), default=None) for place in places
        ]
        cells = "".join(f"{'–' if value is None else f'{100 * value:+.1f}':>16}" for value in worst)
        lines.append(f"  {f'{way}, worst':{width}}{cells}")
    return lines


def _ways(comparison: Comparison) -> list[str]:
    return [curve.way for curve in comparison.curves]


def _points(gain: tuple[float, float] | None) -> str:
    return "" if gain is None else f"{100 * gain[0]:+.1f} ± {100 * gain[1]:.1f}"
