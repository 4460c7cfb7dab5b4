"""Plots of what other budgets would buy, and of what confidence was worth."""

from __future__ import annotations

import importlib

import matplotlib.pyplot as plt
import numpy as np
import pytest

from dynscale_dspy import BudgetPool, Cost
from dynscale_dspy.reporting.history import CallRecord
from dynscale_dspy.tuning import plots
from tests.pictures import ax, picture, recorded


@pytest.fixture(autouse=True)
def no_figure_left():
    yield
    plt.close("all")


def scores() -> tuple[list[float], list[bool]]:
    generator = np.random.default_rng(1)
    sure = generator.uniform(0.5, 1, 400).round(2)
    return sure.tolist(), (generator.random(400) < sure - 0.1).tolist()


@picture
def test_what_if():
    return plots.plot_what_if(recorded(), ax=ax()).figure


def test_single_runs_that_are_recorded_are_marked_at_one_sample():
    pool = BudgetPool(samples=1)
    for answers in [(0, 0, 0), (0, 1, 1, 1)]:
        samplers = ("greedy", *["independent"] * (len(answers) - 1))
        pool.record(CallRecord("program", answers, 1.0, 0.9, Cost(samples=len(answers)), samplers))
    axes = plots.plot_what_if(pool, budgets=[1, 2])
    marks = {line.get_label(): list(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "None"}
    assert marks == {"plain program, temperature 0": [1]}
    assert "plain program, temperature 0" in {text.get_text() for text in axes.get_legend().get_texts()}


@picture
def test_calibration():
    return plots.plot_calibration(*scores(), ax=ax()).figure


@picture
def test_risk_coverage():
    return plots.plot_risk_coverage(*scores(), ax=ax()).figure


def test_a_pool_without_calls_is_refused():
    with pytest.raises(ValueError, match="answered no call"):
        plots.plot_what_if(BudgetPool(samples=1))


def test_all_plots_are_found_where_version_0_1_had_them():
    old = importlib.import_module("dynscale_dspy.plots")
    for name in ("allocation", "budget", "calibration", "price", "risk_coverage", "what_if"):
        assert callable(getattr(old, f"plot_{name}"))
    assert old.plot_what_if is plots.plot_what_if and old.COLOURS[0] == "#0072B2"
