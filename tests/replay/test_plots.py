"""Plots of a replay."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from dynscale_dspy.replay import Pool, Question, replay
from dynscale_dspy.replay.plots import plot_budget
from tests.pictures import ax, picture


@pytest.fixture(autouse=True)
def no_figure_left():
    yield
    plt.close("all")


@picture
def test_budget():
    hard = [Question(f"{i}", tuple("AABAC"[(i + j) % 5] for j in range(16)), frozenset("A")) for i in range(30)]
    easy = [Question(f"easy {i}", ("A",) * 16, frozenset("A")) for i in range(30)]
    result = replay(Pool("mine", (*hard, *easy)), ["knowledge_gradient"], budgets=[1, 2, 4, 8], replicates=20)
    return plot_budget(result, ax=ax()).figure
