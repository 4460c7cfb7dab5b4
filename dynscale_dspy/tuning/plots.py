"""Plots of estimates for other budgets, and of how far confidence can be trusted. They need Matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from numpy.typing import ArrayLike

from dynscale_dspy.replay.plots import plot_budget
from dynscale_dspy.reporting.plots import COLOURS, axes, finish
from dynscale_dspy.sampling.samplers import GREEDY
from dynscale_dspy.tuning.reliability import calibration_error, reliability, risk_coverage
from dynscale_dspy.tuning.what_if import SINGLE, what_if

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dynscale_dspy.budget.pool import BudgetPool


def plot_what_if(pool: BudgetPool, ax: Axes | None = None, *, budgets: Sequence[float] | None = None) -> Axes:
    """Plot how other budgets would change answers; :func:`dynscale_dspy.tuning.what_if.what_if` gives the numbers.

    The curve is the share of calls whose answer is the one that the vote would settle on with very many samples. It
    says nothing about which answers are right, and nothing about the plain program at temperature 0, unless such runs
    are among the records: they are then marked at one sample. The vertical line marks how many samples calls drew on
    average.

    Args:
        pool: A pool that has answered calls.
        ax: Where to draw.
        budgets: Mean samples a call.

    Raises:
        ValueError: If no call was answered.
    """
    result = what_if(pool, budgets=budgets)
    calls = pool.history.answered
    drawn = sum(len(call.answers) for call in calls) / len(calls)
    ax = plot_budget(result, ax)
    ax.axvline(drawn, color="0.5", linewidth=1, linestyle=":", zorder=0)
    low, high = ax.get_ylim()
    ax.annotate("drawn", (drawn, low + 0.03 * (high - low)), xytext=(4, 0), textcoords="offset points", color="0.4")
    for name, run in result.single.items():
        marker = "o" if name == GREEDY.name else "s"
        ax.plot([1], [run.accuracy], marker, color="0.3", markerfacecolor="none", label=SINGLE[name])
    if result.single:
        ax.legend(frameon=False)
    ax.set_ylabel("settled answers")
    return ax


def plot_calibration(confidence: ArrayLike, correct: ArrayLike, ax: Axes | None = None, *, bins: int = 10) -> Axes:
    """Plot accuracy against confidence, which are equal on the diagonal. Bars are one standard error.

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
    ax = axes(ax)
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
    ax.legend(frameon=False, loc="best")
    return finish(ax)


def plot_risk_coverage(confidence: ArrayLike, correct: ArrayLike, ax: Axes | None = None) -> Axes:
    """Plot the error rate of the answers kept against the share kept, the most confident ones first.

    Args:
        confidence: Of each answer.
        correct: Whether it is right.
        ax: Where to draw.

    Raises:
        ValueError: If the lengths differ or there is nothing.
    """
    _, coverage, risk = risk_coverage(confidence, correct)
    ax = axes(ax)
    ax.plot(coverage, risk, color=COLOURS[0], marker=".", label="surest answers first")
    ax.axhline(risk[-1], color="0.6", linewidth=1, linestyle=":", label="all answers")
    ax.set_xlim(0, 1.02)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("coverage, share of answers kept")
    ax.set_ylabel("risk, share of those wrong")
    ax.legend(frameon=False)
    return finish(ax)
