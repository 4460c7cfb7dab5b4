"""Plots, compared with pictures: text is left out of the comparison, for fonts differ between machines."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from dynscale_dspy import BudgetPool, Cost, plots
from dynscale_dspy.replay import Pool, Question, replay
from dynscale_dspy.reporting.history import CallRecord, Moment

picture = pytest.mark.mpl_image_compare(
    baseline_dir="baseline", remove_text=True, tolerance=12, style="default", savefig_kwargs={"dpi": 60}
)


@pytest.fixture(autouse=True)
def no_figure_left():
    yield
    plt.close("all")


def recorded() -> BudgetPool:
    """A pool with calls of every difficulty, as if it had answered them."""
    generator, pool, spent = np.random.default_rng(0), BudgetPool(samples=1000), 0
    for number in range(60):
        law = [1 - number / 80, *[number / 240] * 3]
        answers = tuple(int(a) for a in generator.choice(4, size=2 + number // 5, p=law))
        agreement = max(map(answers.count, answers)) / len(answers)
        spent += len(answers)
        call = CallRecord("program", answers, agreement, 0.9, Cost(samples=len(answers)))
        pool._recorder.add(call, Moment(100.0 + number, Cost(samples=spent), 0.05 + 0.02 * np.sin(number / 9), number))
    return pool


def scores() -> tuple[list[float], list[bool]]:
    generator = np.random.default_rng(1)
    sure = generator.uniform(0.5, 1, 400).round(2)
    return sure.tolist(), (generator.random(400) < sure - 0.1).tolist()


def ax():
    return plt.figure(figsize=(5, 3.4)).add_subplot()


@picture
def test_allocation():
    return plots.plot_allocation(recorded(), ax=ax()).figure


@picture
def test_what_if():
    return plots.plot_what_if(recorded(), ax=ax()).figure


@picture
def test_price():
    return plots.plot_price(recorded(), ax=ax()).figure


@picture
def test_calibration():
    return plots.plot_calibration(*scores(), ax=ax()).figure


@picture
def test_risk_coverage():
    return plots.plot_risk_coverage(*scores(), ax=ax()).figure


@picture
def test_budget():
    hard = [Question(f"{i}", tuple("AABAC"[(i + j) % 5] for j in range(16)), frozenset("A")) for i in range(30)]
    easy = [Question(f"easy {i}", ("A",) * 16, frozenset("A")) for i in range(30)]
    result = replay(Pool("mine", (*hard, *easy)), ["knowledge_gradient"], budgets=[1, 2, 4, 8], replicates=20)
    return plots.plot_budget(result, ax=ax()).figure


def test_without_axes_a_new_figure_is_made():
    first, second = plots.plot_price(recorded()), plots.plot_price(recorded())
    assert first.figure is not second.figure


@pytest.mark.parametrize("plot", [plots.plot_allocation, plots.plot_what_if, plots.plot_price])
def test_a_pool_without_calls_is_refused(plot):
    with pytest.raises(ValueError, match="answered no call"):
        plot(BudgetPool(samples=1))
