"""What a replay of several language models says, as text and as values to save."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynscale_dspy.replay.models import BOUND, Comparison, difference

FAR = 8.0
"""The ratio of prices a sample at which summaries tell groups of models apart."""


def render(found: Sequence[Comparison]) -> str:
    """Tables of all comparisons, then means over those alike, and the worst of them."""
    lines: list[str] = []
    for comparison in found:
        lines += [*_table(comparison), ""]
    rows = summaries(found)
    for dataset, kind in dict.fromkeys((row["dataset"], row["kind"]) for row in rows):
        lines += [*_summary([row for row in rows if (row["dataset"], row["kind"]) == (dataset, kind)]), ""]
    return "\n".join(lines).rstrip() + "\n"


def values(found: Sequence[Comparison]) -> dict[str, Any]:
    """The same as values to save: a row for each comparison, way and budget, and the :func:`summaries`."""
    rows = []
    for comparison in found:
        bound = comparison.curve(BOUND)
        for curve in comparison.curves:
            for place, budget in enumerate(comparison.budgets):
                gain, error = curve.gain(bound, place) or (None, None)
                rows.append(
                    {
                        "dataset": comparison.dataset,
                        "models": comparison.models,
                        "costs": [round(cost, 3) for cost in comparison.costs],
                        "way": curve.way,
                        "budget": budget,
                        "cost": round(budget * max(comparison.costs), 3),
                        "accuracy": curve.mean(place),
                        "gain": gain,
                        "se": error,
                    }
                )
    return {"rows": rows, "summaries": summaries(found)}


def summaries(found: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Gains over the bound of each way at each budget: means over comparisons that are alike, and the worst of them.

    Errors are over questions, which are paired; ways of a model go by its place among prices.
    """
    rows = []
    for dataset, kind in dict.fromkeys((each.dataset, kind_of(each)) for each in found):
        alike = [each for each in found if (each.dataset, kind_of(each)) == (dataset, kind)]
        for way in _ways(alike[0]):
            for place, budget in enumerate(alike[0].budgets):
                pairs = [(each.curves[_ways(each).index(way)], each.curve(BOUND)) for each in alike]
                gains = [gain[0] for one, bound in pairs if (gain := one.gain(bound, place)) is not None]
                accuracy = [mean for one, _ in pairs if (mean := one.mean(place)) is not None]
                gain, error = difference(pairs, place) or (None, None)
                rows.append(
                    {
                        "dataset": dataset,
                        "kind": kind,
                        "groups": len(alike),
                        "way": way,
                        "budget": budget,
                        "accuracy": sum(accuracy) / len(accuracy) if accuracy else None,
                        "gain": gain,
                        "se": error,
                        "worst": min(gains, default=None),
                    }
                )
    return rows


def kind_of(comparison: Comparison) -> str:
    """Whether prices are far apart, and whether the dearest model is the better one where there is most to spend."""
    far = max(comparison.costs) >= FAR * min(comparison.costs)
    dearest = comparison.costs.index(max(comparison.costs))
    alone = [curve.mean(len(comparison.budgets) - 1) or 0.0 for curve in comparison.curves[: len(comparison.models)]]
    better = alone[dearest] > max(value for place, value in enumerate(alone) if place != dearest)
    ratio = f"a price ratio of {FAR:g} or more" if far else f"a price ratio below {FAR:g}"
    return f"{ratio}, the dearest model {'better' if better else 'no better'}"


def _ways(comparison: Comparison) -> list[str]:
    """Names of the ways that do not name models, but their places: ``"KG cheapest"``, ``"KG dearest"``."""
    order = sorted(range(len(comparison.models)), key=comparison.costs.__getitem__)
    words = {place: f"model {rank + 1}" for rank, place in enumerate(order)}
    words |= {order[0]: "cheapest", order[-1]: "dearest"}
    names = {f" {model}": f" {words[place]}" for place, model in enumerate(comparison.models)}
    ways = [curve.way for curve in comparison.curves]
    for way in range(len(comparison.models) + 1):  # each alone, and the dearest uniformly
        head, _, model = ways[way].partition(" ")
        ways[way] = f"{head}{names[f' {model}']}"
    return ways


def _table(comparison: Comparison) -> list[str]:
    costs = " : ".join(f"{cost:.3g}" for cost in comparison.costs)
    head = f"{comparison.dataset}: {', '.join(comparison.models)} (a sample costs {costs})"
    width = max(len(curve.way) for curve in comparison.curves)
    most = max(comparison.costs)
    lines = [
        f"{head}: accuracy in %, and points over {BOUND}",
        f"  {'samples of the dearest':{width}}" + "".join(f"{budget:>8g}{'':14}" for budget in comparison.budgets),
        f"  {'of the cheapest':{width}}" + "".join(f"{budget * most:>8.1f}{'':14}" for budget in comparison.budgets),
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


def _summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Points over the bound of comparisons that are alike, by way and budget."""
    ways = [way for way in dict.fromkeys(row["way"] for row in rows) if way != BOUND]
    width = max(len(way) for way in ways) + len(", worst")
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    head = f"{rows[0]['dataset']}, {rows[0]['kind']}"
    lines = [
        f"{head}: points over {BOUND}, mean of {rows[0]['groups']} and the worst of them",
        f"  {'samples of the dearest':{width}}" + "".join(f"{budget:>16g}" for budget in budgets),
    ]
    for way in ways:
        owned = [row for row in rows if row["way"] == way]
        told = [_points(None if row["gain"] is None else (row["gain"], row["se"])) or "–" for row in owned]
        worst = ["–" if row["worst"] is None else f"{100 * row['worst']:+.1f}" for row in owned]
        lines.append(f"  {way:{width}}" + "".join(f"{cell:>16}" for cell in told))
        lines.append(f"  {f'{way}, worst':{width}}" + "".join(f"{cell:>16}" for cell in worst))
    return lines


def _points(gain: tuple[float, float] | None) -> str:
    return "" if gain is None else f"{100 * gain[0]:+.1f} ± {100 * gain[1]:.1f}"
