"""Plots of a pool's history, and what plots of replays and confidence share with them.

Each plot draws on ``ax`` or on a new figure, and returns the Axes. Plots need Matplotlib:
``pip install 'dynscale-dspy[plots]'``. Colours are those of Okabe and Ito, which colour-blind readers can tell apart;
curves also differ in their dashes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dynscale_dspy.reporting.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
DASHES = ("-", "--", ":", "-.")
NO_CALLS = "this pool has answered no call yet"


class HasHistory(Protocol):
    """Anything with a :class:`History`, such as a pool."""

    @property
    def history(self) -> History:
        """Its calls and moments."""
        ...


def plot_allocation(pool: HasHistory | History, ax: Axes | None = None) -> Axes:
    """Plot the samples a call drew against how far they disagree: hard calls should lie high.

    Args:
        pool: A pool that has answered calls, or its history, which holds the latest ones.
        ax: Where to draw.

    Raises:
        ValueError: If no call was answered.
    """
    calls = _history(pool).answered
    if not calls:
        raise ValueError(NO_CALLS)
    ax = axes(ax)
    disagreement = np.array([1 - call.agreement for call in calls])
    samples = np.array([len(call.answers) for call in calls])
    # Calls at the same point are drawn as one larger dot.
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
    return finish(ax)


def plot_price(pool: HasHistory | History, ax: Axes | None = None) -> Axes:
    """Plot the samples spent and the online price over time. The price has the axis on the right.

    Args:
        pool: A pool that has answered calls, or its history.
        ax: Where to draw.

    Raises:
        ValueError: If no call was answered.
    """
    moments = _history(pool).moments
    if not moments:
        raise ValueError(NO_CALLS)
    ax = axes(ax)
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


def _history(pool: HasHistory | History) -> History:
    return pool if isinstance(pool, History) else pool.history


def axes(ax: Axes | None) -> Axes:
    """These axes, or those of a new figure.

    Raises:
        ImportError: If Matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("plots need Matplotlib: pip install 'dynscale-dspy[plots]'") from error
    return plt.subplots(figsize=(5, 3.4), layout="constrained")[1]


def finish(ax: Axes) -> Axes:
    """Give axes the grid and the frame that all plots share, and return them."""
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
