"""Plots of pools, replays and confidence. Each function draws on ``ax`` or on a new figure, and returns the Axes.

Needs Matplotlib: ``pip install 'dynscale-dspy[plots]'``. Colours are those of Okabe and Ito, told apart by colour-blind
eyes; curves also differ in their dashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from dynscale_dspy.tuning.reliability import calibration_error, reliability, risk_coverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dynscale_dspy.budget.pool import BudgetPool
    from dynscale_dspy.replay import Replay

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
DASHES = ("-", "--", ":", "-.")


def plot_allocation(pool: BudgetPool, ax: Axes | None = None) -> Axes:
    """Samples a call drew against how far its samples disagree: hard calls should lie high.

    Args:
        pool: One that has answered calls; the latest are drawn, see :attr:`BudgetPool.history`.
        ax: Where to draw.

    Raises:
        ValueError: If no call was answered.
    """
    calls = _calls(pool)
    ax = _axes(ax)
    disagreement = np.array([1 - call.agreement for call in calls])
    samples = np.array([len(call.answers) for call in calls])
    # Calls on one point are one larger dot.
    points, counts = np.unique(np.column_stack([disagreement.round(2), samples]), axis=0, return_counts=True)
    ax.scatter(points[:, 0], points[:, 1], s=18 * np.sqrt(counts), color=COLOURS[0], alpha=0.6, linewidths=0)
    edges = np.linspace(0, 1, 6)
    place = np.minimum(np.digitize(disagreement, edges) - 1, 4)
    filled = [number for number in range(5) if (place == number).any()]
    means = [samples[place == number].mean() for number in filled]
    centres = [disagreement[place == number].mean() for number in filled]
    ax.plot(centres, means, color=COLOURS[5], marker="o", markersize=4, label="mean")
    ax.set_xlabel("disagreement of a call's samples")
    ax.set_ylabel("samples drawn")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False)
    return _finish(ax)


def plot_budget(result: Replay, ax: Axes | None = None, *, policies: Sequence[str] | None = None) -> Axes:
    """Accuracy of policies against budget, the mean over a replay's pools.

    Bands are one standard error of the difference from uniform sampling, of which there is none for uniform itself.

    Args:
        result: From :func:`dynscale_dspy.replay.replay`.
        ax: Where to draw.
        policies: Which to draw; all that the replay has by default, bounds left out.

    Raises:
        ValueError: If the replay has none of them.
    """
    from dynscale_dspy.replay.plots import BOUNDS

    names = [name for name in dict.fromkeys(record.policy for record in result.records) if name not in BOUNDS]
    names = [name for name in names if policies is None or name in policies]
    if not names:
        raise ValueError(f"the replay has none of the policies {policies!r}")
    ax = _axes(ax)
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
    return _finish(ax)


def plot_what_if(pool: BudgetPool, ax: Axes | None = None, *, budgets: Sequence[float] | None = None) -> Axes:
    """What other budgets would buy: see :func:`dynscale_dspy.tuning.what_if.what_if`, which gives the numbers.

    The curve is the share of calls whose answer is the one that their samples would settle on in the long run; about
    the vote, not about the truth. The upright line is what the calls drew.

    Args:
        pool: One that has answered calls.
        ax: Where to draw.
        budgets: Mean samples a call.

    Raises:
        ValueError: If no call was answered.
    """
    from dynscale_dspy.tuning.what_if import what_if

    result = what_if(pool, budgets=budgets)
    calls = _calls(pool)
    drawn = sum(len(call.answers) for call in calls) / len(calls)
    ax = plot_budget(result, ax)
    ax.axvline(drawn, color="0.5", linewidth=1, linestyle=":", zorder=0)
    low, high = ax.get_ylim()
    ax.annotate("drawn", (drawn, low + 0.03 * (high - low)), xytext=(4, 0), textcoords="offset points", color="0.4")
    ax.set_ylabel("settled answers")
    return ax


def plot_price(pool: BudgetPool, ax: Axes | None = None) -> Axes:
    """Samples spent and the online price over time. The price has the axis on the right.

    Args:
        pool: One that has answered calls.
        ax: Where to draw.

    Raises:
        ValueError: If no call was answered.
    """
    moments = pool.history.moments
    if not moments:
        raise ValueError("this pool has answered no call yet")
    ax = _axes(ax)
    times = [moment.time - moments[0].time for moment in moments]
    lines = ax.plot(times, [moment.spent.samples for moment in moments], color=COLOURS[0], label="samples spent")
    ax.set_xlabel("seconds")
    ax.set_ylabel("samples spent")
    ax.set_ylim(bottom=0)
    priced = [(time, moment.price) for time, moment in zip(times, moments, strict=True) if moment.price is not None]
    if priced:
        right: Any = ax.twinx()
        lines += right.plot(*zip(*priced, strict=True), "--", color=COLOURS[5], label="price")
        right.set_ylabel("price, worth of a sample")
        right.set_ylim(bottom=0)
        right.spines["top"].set_visible(False)
    ax.legend(handles=lines, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    ax.spines["top"].set_visible(False)
    ax.grid(alpha=0.25)
    return ax


def plot_calibration(confidence: ArrayLike, correct: ArrayLike, ax: Axes | None = None, *, bins: int = 10) -> Axes:
    """Accuracy against confidence; on the diagonal confidence is worth what it says. Bars are one standard error.

    Args:
        confidence: Of each answer, as :func:`dynscale_dspy.explain` gives it.
        correct: Whether it is right.
        ax: Where to draw.
        bins: Bins of equal width over 0 to 1.

    Raises:
        ValueError: If the lengths differ or there is nothing.
    """
    parts = reliability(confidence, correct, bins=bins)
    error = calibration_error(confidence, correct, bins=bins)
    ax = _axes(ax)
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    ax.errorbar(
        [part.confidence for part in parts],
        [part.accuracy for part in parts],
        yerr=[part.error for part in parts],
        color=COLOURS[0],
        marker="o",
        capsize=2,
        label=f"calibration error {error:.3f}",
    )
    low = min(0.5, min(part.accuracy - part.error for part in parts))
    ax.set_xlim(min(0.5, min(part.confidence for part in parts)) - 0.02, 1.02)
    ax.set_ylim(low - 0.02, 1.02)
    ax.set_xlabel("confidence")
    ax.set_ylabel("accuracy")
    ax.legend(frameon=False, loc="upper left")
    return _finish(ax)


def plot_risk_coverage(confidence: ArrayLike, correct: ArrayLike, ax: Axes | None = None) -> Axes:
    """Error rate of the answers kept against the share that is kept, from the surest on.

    Args:
        confidence: Of each answer.
        correct: Whether it is right.
        ax: Where to draw.

    Raises:
        ValueError: If the lengths differ or there is nothing.
    """
    _, coverage, risk = risk_coverage(confidence, correct)
    ax = _axes(ax)
    ax.plot(coverage, risk, color=COLOURS[0], marker=".", label="surest answers first")
    ax.axhline(risk[-1], color="0.6", linewidth=1, linestyle=":", label="all answers")
    ax.set_xlim(0, 1.02)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("coverage, share of answers kept")
    ax.set_ylabel("risk, share of those wrong")
    ax.legend(frameon=False)
    return _finish(ax)


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need Matplotlib: pip install 'dynscale-dspy[plots]'") from error
    return plt.subplots(figsize=(5, 3.4), layout="constrained")[1]


def _finish(ax: Axes) -> Axes:
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _budget_axis(ax: Axes, budgets: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(sorted({b for b in budgets if float(np.log2(b)).is_integer()})))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.set_xlabel("samples a call, on average")


def _mean_curve(result: Replay, groups: Sequence[str], policy: str) -> tuple[Any, Any, Any]:
    from dynscale_dspy.replay.plots import curve

    parts = [curve(result, group, policy) for group in groups]
    common = sorted(set.intersection(*(set(budgets) for budgets, _, _ in parts)))
    pick = [[list(budgets).index(budget) for budget in common] for budgets, _, _ in parts]
    accuracy = np.mean([values[p] for p, (_, values, _) in zip(pick, parts, strict=True)], axis=0) / 100
    errors = [error[p] for p, (_, _, error) in zip(pick, parts, strict=True)]
    # Groups are independent: their errors add in squares.
    return np.array(common), accuracy, np.sqrt(np.sum(np.square(errors), axis=0)) / len(groups) / 100


def _calls(pool: BudgetPool) -> Any:
    calls = [call for call in pool.history.calls if any(answer is not None for answer in call.answers)]
    if not calls:
        raise ValueError("this pool has answered no call yet")
    return calls
