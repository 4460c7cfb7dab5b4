"""Plots of a pool's history."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from dynscale_dspy import BudgetPool
from dynscale_dspy.reporting import plots
from tests.pictures import ax, picture, recorded


@pytest.fixture(autouse=True)
def no_figure_left():
    yield
    plt.close("all")


@picture
def test_allocation():
    return plots.plot_allocation(recorded(), ax=ax()).figure


@picture
def test_price():
    return plots.plot_price(recorded(), ax=ax()).figure


def test_without_axes_a_new_figure_is_made():
    first, second = plots.plot_price(recorded()), plots.plot_price(recorded())
    assert first.figure is not second.figure


def test_a_history_alone_will_do():
    drawn = plots.plot_price(recorded().history, ax=ax())
    assert drawn.lines[0].get_ydata()[-1] == sum(len(call.answers) for call in recorded().history.calls)
    assert plots.plot_allocation(recorded().history, ax=ax()).get_ylabel() == "samples drawn"


@pytest.mark.parametrize("plot", [plots.plot_allocation, plots.plot_price])
def test_a_pool_without_calls_is_refused(plot):
    with pytest.raises(ValueError, match="answered no call"):
        plot(BudgetPool(samples=1))
