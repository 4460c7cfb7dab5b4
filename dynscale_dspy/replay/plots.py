"""Plots of a replay: accuracy against budget, by policy or by language model, and where the samples went.

They need Matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynscale_dspy.replay.bounds import HINDSIGHT, LAGRANGIAN, STATIC
from dynscale_dspy.replay.models import BOUND, Comparison
from dynscale_dspy.replay.table import Replay
from dynscale_dspy.reporting.plots import COLOURS, DASHES, axes, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BOUNDS = (HINDSIGHT, STATIC, LAGRANGIAN)


def plot(result: Replay, path: str | Path | None = None, *, policies: Sequence[str] | None = None) -> Figure:
    """Draw accuracy against budget, one panel a group, and where the samples went.

    Bands are one standard error of the difference from uniform sampling: with few questions a curve's own error is far
    larger, but common to all curves.

    Args:
        result: From :func:`dynscale_dspy.replay.replay`.
        path: Where to write the picture; its suffix says the format.
        policies: Which to draw; all by default.

    Returns:
        The figure.

    Raises:
        ImportError: If Matplotlib is not installed.
    """
    figure = _figure()
    groups = list(dict.fromkeys(result.groups.values()))
    names = [name for name in dict.fromkeys(record.policy for record in result.records) if name not in BOUNDS]
    names = [name for name in names if policies is None or name in policies]
    columns = min(4, len(groups))
    rows = -(-len(groups) // columns)
    figure.set_size_inches(3.4 * columns, 2.9 * (rows + 1) + 0.9)
    parts: Any = figure.subfigures(2, 1, height_ratios=(rows, 1.15))
    upper, lower = parts
    panels = upper.subplots(rows, columns, squeeze=False)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    styles = {name: ("-", "--", ":")[i // len(COLOURS) % 3] for i, name in enumerate(names)}
    unit = result.records[0].unit if result.records else "samples"
    for panel in panels.ravel()[len(groups) :]:
        panel.set_visible(False)
    for panel, group in zip(panels.ravel(), groups, strict=False):
        for name in names:
            budgets, accuracy, error = curve(result, group, name)
            emphasis = 2.2 if name == "knowledge_gradient" else 1.2
            panel.plot(budgets, accuracy, styles[name], color=colours[name], label=name, linewidth=emphasis)
            panel.fill_between(
                budgets, accuracy - error, accuracy + error, color=colours[name], alpha=0.12, linewidth=0
            )
        if any(record.policy == LAGRANGIAN for record in result.records):
            bottom, top = panel.get_ylim()
            budgets, accuracy, _ = curve(result, group, LAGRANGIAN)
            panel.set_ylim(bottom, top + 0.15 * (top - bottom))
            panel.plot(budgets, accuracy, color="0.4", linewidth=1, linestyle=(0, (1, 1)), label=LAGRANGIAN)
        panel.set_xscale("log", base=2)
        ticks = sorted({record.budget for record in result.records})
        labelled = {2**power for power in range(11)}  # all of them would run into each other
        panel.set_xticks(ticks, [f"{tick:g}" if tick in labelled else "" for tick in ticks])
        panel.minorticks_off()
        panel.set_title(group)
        panel.set_xlabel("samples a query" if unit == "samples" else "mean samples' worth of tokens a query")
        panel.set_ylabel("accuracy, %")
        panel.grid(alpha=0.25)
    if groups:
        handles, labels = panels[0, 0].get_legend_handles_labels()
        upper.legend(handles, labels, loc="outside lower center", ncols=min(4, max(len(labels), 1)), fontsize=9)
    _draw_whereabouts(lower, result, names, colours, styles)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def curve(result: Replay, group: str, policy: str) -> tuple[Any, Any, Any]:
    """Budgets, and a policy's mean accuracy over a group at each, with its standard error; both in percent."""
    pools = [group] if policy == LAGRANGIAN else [pool for pool, its in result.groups.items() if its == group]
    at: dict[float, list[float]] = {}
    for record in result.records:
        if record.policy == policy and record.pool in pools:
            at.setdefault(record.budget, []).append(record.accuracy)
    budgets = sorted(budget for budget, values in at.items() if len(values) == len(pools))
    mean = np.array([np.mean(at[budget]) for budget in budgets])
    error = np.array([result.bands.get((group, policy, budget), 0.0) for budget in budgets])
    return budgets, 100 * mean, 100 * error


def plot_budget(result: Replay, ax: Axes | None = None, *, policies: Sequence[str] | None = None) -> Axes:
    """Plot the accuracy of policies against budget, the mean over a replay's pools.

    Bands are one standard error of the difference from uniform sampling, so the curve of uniform itself has none.

    Args:
        result: From :func:`dynscale_dspy.replay.replay`.
        ax: Where to draw.
        policies: Which to draw; all that the replay has by default, bounds left out.

    Raises:
        ValueError: If the replay has none of them.
    """
    names = [name for name in dict.fromkeys(record.policy for record in result.records) if name not in BOUNDS]
    names = [name for name in names if policies is None or name in policies]
    if not names:
        raise ValueError(f"the replay has none of the policies {policies!r}")
    ax = axes(ax)
    groups = list(dict.fromkeys(result.groups.values()))
    for number, name in enumerate(names):
        budgets, accuracy, error = _mean_curve(result, groups, name)
        colour = COLOURS[number % len(COLOURS)]
        ax.plot(budgets, accuracy, DASHES[number % len(DASHES)], color=colour, label=name)
        if error.any():
            ax.fill_between(budgets, accuracy - error, accuracy + error, color=colour, alpha=0.18, linewidth=0)
    _budget_axis(ax, [record.budget for record in result.records])
    ax.set_ylabel("accuracy")
    ax.legend(frameon=False)
    return finish(ax)


def plot_models(comparison: Comparison, ax: Axes | None = None, *, ways: Sequence[str] | None = None) -> Axes:
    """Plot accuracy against cost for each of several language models alone, and for all of them together.

    Models alone are thin; ways to draw from all of them are thick, with bands of one standard error of the difference
    from the best single model in hindsight, which is dotted: no policy, for nobody knows beforehand which it is.

    Args:
        comparison: From :func:`dynscale_dspy.replay.models.compare`.
        ax: Where to draw.
        ways: Which ways to draw from all models; every one that was replayed by default.

    Raises:
        ValueError: If it has none of these ways.
    """
    alone = comparison.curves[: len(comparison.models)]
    together = [curve for curve in comparison.curves[len(alone) + 1 : -1] if ways is None or curve.way in ways]
    if not together:
        had = ", ".join(curve.way for curve in comparison.curves[len(alone) + 1 : -1])
        raise ValueError(f"the comparison has none of the ways {ways!r}: it has {had}")
    ax, bound = axes(ax), comparison.curve(BOUND)
    for number, each in enumerate((*alone, *together, bound)):
        places = [place for place in range(len(comparison.budgets)) if each.accuracy[place] is not None]
        cost = [comparison.budgets[place] for place in places]
        accuracy = np.array([each.mean(place) for place in places], dtype=float)
        if each is bound:
            ax.plot(cost, accuracy, linestyle=(0, (1, 1)), color="0.4", linewidth=1, label=each.way)
            continue
        colour, is_alone = COLOURS[number % len(COLOURS)], number < len(alone)
        name = f"{comparison.models[number]} alone" if is_alone else each.way
        dashes = DASHES[1 + number % 3] if is_alone else "-"
        ax.plot(cost, accuracy, dashes, marker=".", color=colour, linewidth=1.2 if is_alone else 2.2, label=name)
        if not is_alone:
            gains = [each.gain(bound, place) for place in places]
            error = np.array([0.0 if gain is None or not np.isfinite(gain[1]) else gain[1] for gain in gains])
            ax.fill_between(cost, accuracy - error, accuracy + error, color=colour, alpha=0.15, linewidth=0)
    ax.set_xlim(left=0)
    dearest = comparison.models[comparison.costs.index(max(comparison.costs))]
    ax.set_xlabel(f"cost a question, in samples of {dearest}")
    ax.set_ylabel("accuracy")
    ax.legend(frameon=False, fontsize=8)
    return finish(ax)


def draw_models(found: Sequence[Comparison], path: str | Path | None = None) -> Figure:
    """Draw :func:`plot_models` of each comparison, one panel each.

    Args:
        found: The comparisons.
        path: Where to write the picture; its suffix says the format.

    Returns:
        The figure.

    Raises:
        ImportError: If Matplotlib is not installed.
    """
    figure = _figure()
    columns = min(4, len(found))
    rows = -(-len(found) // columns)
    figure.set_size_inches(4.6 * columns, 3.4 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(found) :]:
        panel.set_visible(False)
    for panel, comparison in zip(panels, found, strict=False):
        plot_models(comparison, panel)
        costs = " : ".join(f"{cost:.3g}" for cost in comparison.costs)
        panel.set_title(f"{comparison.dataset}: {', '.join(comparison.models)}, {costs}", fontsize=9)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _figure() -> Figure:
    """A new figure that no window shows.

    Raises:
        ImportError: If Matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need Matplotlib: pip install 'dynscale-dspy[plots]'") from error
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _draw_whereabouts(
    figure: Any, result: Replay, names: Sequence[str], colours: dict[str, str], styles: dict[str, str]
) -> None:
    panel = figure.subplots()
    edges = np.linspace(0, 1, 11)
    budget = None
    for name in names:
        parts = [where for where in result.whereabouts if where.policy == name]
        if not parts:
            continue
        budget = parts[0].budget
        agreement = np.concatenate([where.agreement for where in parts])
        samples = np.concatenate([where.samples for where in parts])
        bins = np.clip(np.digitize(agreement, edges) - 1, 0, 9)
        filled = [b for b in range(10) if (bins == b).any()]
        means = [samples[bins == b].mean() for b in filled]
        panel.plot((edges[filled] + 0.05), means, styles[name], marker=".", color=colours[name], label=name)
    panel.set_xlabel("how far a question's samples agree (share of its most frequent answer)")
    panel.set_ylabel("mean samples drawn")
    panel.set_title("Where the samples went" + ("" if budget is None else f", {budget:g} a query on average"))
    panel.grid(alpha=0.25)


def _budget_axis(ax: Axes, budgets: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(sorted({b for b in budgets if float(np.log2(b)).is_integer()})))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.set_xlabel("samples a call, on average")


def _mean_curve(result: Replay, groups: Sequence[str], policy: str) -> tuple[Any, Any, Any]:
    parts = [curve(result, group, policy) for group in groups]
    common = sorted(set.intersection(*(set(budgets) for budgets, _, _ in parts)))
    pick = [[list(budgets).index(budget) for budget in common] for budgets, _, _ in parts]
    accuracy = np.mean([values[p] for p, (_, values, _) in zip(pick, parts, strict=True)], axis=0) / 100
    errors = [error[p] for p, (_, _, error) in zip(pick, parts, strict=True)]
    # Groups are independent: their errors add in squares.
    return np.array(common), accuracy, np.sqrt(np.sum(np.square(errors), axis=0)) / len(groups) / 100
