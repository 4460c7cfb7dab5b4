"""Plots of a replay."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from dynscale_dspy.replay import Pool, Question, replay
from dynscale_dspy.replay.models import BOUND, STRATEGIES, Comparison, compare, shared
from dynscale_dspy.replay.plots import draw_models, plot_budget, plot_models
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


def two_models() -> Comparison:
    """A weak model and a strong one, whose samples cost ten times as much."""
    pools = []
    for model, right in (("weak", 2), ("strong", 4)):
        answers = [tuple("A" if (i + j) % 5 < right else "BCD"[j % 3] for j in range(32)) for i in range(30)]
        questions = tuple(Question(f"{i}", said, frozenset("A"), (100,) * 32) for i, said in enumerate(answers))
        pools.append(Pool(f"lab__{model}__sums", questions))
    [both] = shared(pools)
    ways = {name: STRATEGIES[name] for name in ("Escalate", "ladder")}
    return compare(both, [1, 10], strategies=ways, budgets=[0.5, 1, 2, 3], replicates=3)


@picture
def test_models():
    return plot_models(two_models(), ax=ax()).figure


def test_each_model_has_a_curve_and_so_have_both():
    found = two_models()
    drawn = plot_models(found, ax=ax(), ways=["Escalate"])
    lines = {line.get_label(): line for line in drawn.lines}
    assert list(lines) == ["weak alone", "strong alone", "Escalate", BOUND]
    assert list(lines["strong alone"].get_xdata()) == [1, 2, 3]  # half a sample is none
    assert list(lines["Escalate"].get_ydata()) == [found.curve("Escalate").mean(place) for place in range(4)]
    assert drawn.get_xlabel() == "cost a question, in samples of strong"
    with pytest.raises(ValueError, match=r"none of the ways \['luck'\]: it has Escalate, ladder"):
        plot_models(found, ways=["luck"])


def test_every_comparison_has_its_panel(tmp_path):
    found = two_models()
    figure = draw_models([found] * 5, tmp_path / "models.png")
    assert [panel.get_visible() for panel in figure.axes] == [True] * 5 + [False] * 3
    assert figure.axes[0].get_title() == "sums: weak, strong, 1 : 10"
    assert (tmp_path / "models.png").stat().st_size > 10_000
