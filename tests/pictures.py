"""For tests of plots, which are compared with pictures.

Titles and figures at the axes are left out of the comparison, for fonts differ between machines. What text is left
matplotlib draws otherwise before 3.11, which needs Python 3.11: there plots are drawn and compared with nothing.
"""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynscale_dspy import Cost, KnowledgeGradient
from dynscale_dspy.reporting.history import CallRecord, History, Moment, Recorder

_compared = pytest.mark.mpl_image_compare(
    baseline_dir="baseline", remove_text=True, tolerance=12, style="default", savefig_kwargs={"dpi": 60}
)


def picture(test: Callable[[], Figure]) -> Callable[[], Figure | None]:
    """Compare what a test draws with a picture."""

    @functools.wraps(test)
    def drawn() -> None:
        with plt.style.context("default"):
            test().savefig(io.BytesIO(), dpi=60)

    return _compared(test) if matplotlib.__version_info__ >= (3, 11) else drawn


@dataclass(frozen=True)
class Recorded:
    """As much of a pool as plots need."""

    history: History
    policy: KnowledgeGradient


def recorded() -> Recorded:
    """A pool with calls of every difficulty, as if it had answered them."""
    generator, recorder, spent = np.random.default_rng(0), Recorder(), 0
    for number in range(60):
        law = [1 - number / 80, *[number / 240] * 3]
        answers = tuple(int(a) for a in generator.choice(4, size=2 + number // 5, p=law))
        agreement = max(map(answers.count, answers)) / len(answers)
        spent += len(answers)
        call = CallRecord("program", answers, agreement, 0.9, Cost(samples=len(answers)))
        recorder.add(call, Moment(100.0 + number, Cost(samples=spent), 0.05 + 0.02 * np.sin(number / 9), number))
    return Recorded(recorder.history(), KnowledgeGradient())


def ax() -> Axes:
    """Axes of the size of the pictures."""
    return plt.figure(figsize=(5, 3.4)).add_subplot()
