"""The pictures of the concept pages, from real runs against the scripted server: `python docs/_build/pictures.py`."""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
import matplotlib

matplotlib.use("Agg")
import kinds
import matplotlib.pyplot as plt
from evidence import AT_ONCE, OURS, REASONS, SCRIPTED, VOTING, measured
from matplotlib.patches import FancyBboxPatch

from dynscale_dspy import BudgetPool, DynScaling, Parallel, Uniform, explain
from dynscale_dspy.reporting import plots
from dynscale_dspy.testing import FakeServer

FOLDER = Path(__file__).parents[1] / "images"
BLUE, ORANGE, GREEN, GREY = plots.COLOURS[0], plots.COLOURS[1], plots.COLOURS[2], "0.55"


def two_ideas() -> None:
    """Who is sampled (rows), and how (what a sample sees)."""
    figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
    rows = (
        ("an easy call", ["42", "42"], []),
        ("a contested call", ["17", "19"], ["19", "17", "19", "19"]),
        ("a settled call", ["8", "8", "8"], []),
    )
    for row, (name, independent, conditioned) in enumerate(rows):
        y = 2 - row
        ax.text(-0.2, y, name, ha="right", va="center")
        for place, answer in enumerate(independent):
            _box(ax, place, y, answer, BLUE)
        if conditioned:
            ax.annotate("", (3.0, y), (2.0, y), arrowprops={"arrowstyle": "-|>", "color": GREY, "lw": 1.5})
            ax.text(2.5, y + 0.42, "one chain", ha="center", color="0.35", fontsize=9)
        for place, answer in enumerate(conditioned):
            _box(ax, 3.1 + place, y, answer, ORANGE)
    ax.text(0.9, 2.75, "independent samples", ha="center", color=BLUE)
    ax.text(5.0, 1.72, "samples that see the chain", ha="center", color="#9a6a00")
    ax.set_xlim(-2.3, 7.2)
    ax.set_ylim(-0.6, 3.1)
    ax.axis("off")
    _save(figure, "two-ideas")


def pool() -> None:
    """What an even share and a pool give to the same calls."""
    figure, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained", sharey=True)
    with FakeServer(120, seed=1, median_latency=0.001) as server, dspy.context(lm=server.lm()):
        inputs = [{"question": question.text} for question in server.questions]
        for ax, title, policy in (
            (axes[0], "the same for all", Uniform()),
            (axes[1], "a pool", None),
        ):
            budget = BudgetPool(samples=6 * len(inputs), **({"policy": policy} if policy else {}))
            scaled = DynScaling(dspy.Predict("question -> answer"), budget=budget, sampling=Parallel())
            answers = scaled.batch(inputs, num_threads=16, disable_progress_bar=True)
            right = sum(p.answer == q.answer for p, q in zip(answers, server.questions, strict=True))
            drawn = sorted(
                (max(q.answers.values()), len(explain(p).samples))
                for p, q in zip(answers, server.questions, strict=True)
            )
            ax.scatter(*zip(*drawn, strict=True), s=14, color=BLUE, alpha=0.7, linewidths=0)
            ax.set_title(f"{title}: {right} of {len(inputs)} right", fontsize=10)
            ax.set_xlabel("chance of the favourite answer")
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("samples drawn")
    _save(figure, "pool")


def price() -> None:
    """Calls that come one by one: the price finds its level, and spending follows the allowance."""
    with FakeServer(150, seed=2, median_latency=0.001) as server, dspy.context(lm=server.lm()):
        budget = BudgetPool(samples=6 * 150, per_call=6)
        scaled = DynScaling(dspy.Predict("question -> answer"), budget=budget, sampling=Parallel())
        for question in server.questions:
            scaled(question=question.text)
    moments = budget.history.moments
    calls = [moment.calls for moment in moments]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(6, 4), layout="constrained", sharex=True)
    top.plot(calls, [moment.spent.samples for moment in moments], color=BLUE, label="spent")
    top.plot(calls, [6 * count for count in calls], ":", color=GREY, label="allowance, 6 a call")
    top.set_ylabel("samples")
    top.legend(frameon=False)
    priced = [(moment.calls, moment.price) for moment in moments if moment.price is not None]
    bottom.plot(*zip(*priced, strict=True), color=plots.COLOURS[5])
    bottom.set_ylabel("price")
    bottom.set_xlabel("calls answered")
    for ax in (top, bottom):
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylim(bottom=0)
    _save(figure, "price")


def when_it_helps() -> None:
    """What the default gains over the better plain run, against what it costs, beside uniform voting."""
    figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
    colours = {REASONS: BLUE, AT_ONCE: ORANGE, SCRIPTED: GREEN}
    ax.axhline(0, color="0.3", lw=1)
    labels: set[str] = set()
    beside: dict[int, int] = {}
    for row in measured():
        if row.way not in (VOTING, OURS):
            continue
        place = beside[round(row.times)] = beside.get(round(row.times), -1) + 1  # those of one cost stand side by side
        ours = row.way == OURS
        label = f"{row.kind}: {'the default' if ours else 'uniform voting'}"
        spread = [[100 * (row.gain - row.low)], [100 * (row.high - row.gain)]]
        ax.errorbar(
            row.times * 1.05**place,
            100 * row.gain,
            yerr=spread,
            fmt="o" if ours else "s",
            color=colours[row.kind],
            mfc=colours[row.kind] if ours else "white",
            alpha=1 if ours else 0.6,
            elinewidth=1,
            label=None if label in labels else label,
        )
        labels.add(label)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("cost, in runs of the plain program")
    ax.set_ylabel("points over the better plain run")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    _save(figure, "when-it-helps")


def which_wins() -> None:
    """What most votes and the default gain over a random sample, by kind of output."""
    most = {name: (samples, rules) for (name, samples), rules in kinds.measured("same").items()}
    figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
    ax.axvline(0, color="0.3", lw=1)
    for row, (_, rules) in enumerate(most.values()):
        for rule, label, colour, offset in (("plurality", "most votes", ORANGE, 0.14), ("default", "the default", BLUE, -0.14)):
            gain, low, high = rules[rule]["gain"]
            spread = [[gain - low], [high - gain]]
            y = len(most) - row + offset
            ax.errorbar(gain, y, xerr=spread, fmt="o", ms=5, color=colour, elinewidth=1.2, label=None if row else label)
    names = [f"{kinds.SETS[name]}, n = {samples}" for name, (samples, _) in most.items()]
    ax.set_yticks([len(most) - row for row in range(len(most))], names)
    ax.set_xlabel("points over a random sample")
    ax.legend(frameon=False, loc="lower right")
    ax.grid(axis="x", alpha=0.25)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    _save(figure, "which-wins")


def two_models() -> None:
    """How often answers are right for what they cost: the lab's two models, each alone and together."""
    rows = json.loads((FOLDER.parent / "benchmarks" / "two_models.json").read_text(encoding="utf-8"))["rows"]
    figure, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for beginning, label, colour in (
        ("large, default", "large, default", ORANGE),
        ("small and large, default", "small and large", BLUE),
    ):
        line = sorted((row["cost"], row["right"]) for row in rows if row["way"].startswith(beginning))
        ax.plot(*zip(*line, strict=True), "o-", color=colour, label=label)
    for way, marker in (
        ("small, temperature 0", "s"),
        ("large, temperature 0", "D"),
        ("small, uniform voting of 8", "v"),
        ("large, uniform voting of 4", "^"),
    ):
        row = next(row for row in rows if row["way"] == way)
        ax.plot(row["cost"], row["right"], marker, color=GREY, label=way)
    ax.set_xlabel("cost a question, in plain answers of the large model")
    ax.set_ylabel("right, %")
    ax.set_xlim(left=0)
    ax.legend(frameon=False, fontsize=9, loc="lower center")
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    _save(figure, "two-models")


def _box(ax: plt.Axes, x: float, y: float, text: str, colour: str) -> None:
    style = "round,pad=0.02,rounding_size=0.12"
    ax.add_patch(FancyBboxPatch((x, y - 0.27), 0.8, 0.54, boxstyle=style, facecolor=colour, edgecolor="none"))
    ax.text(x + 0.4, y, text, ha="center", va="center", color="white" if colour == BLUE else "black")


def _save(figure: plt.Figure, name: str) -> None:
    figure.savefig(FOLDER / f"{name}.png", dpi=130, facecolor="white")
    plt.close(figure)


if __name__ == "__main__":
    two_ideas()
    pool()
    price()
    when_it_helps()
    which_wins()
    two_models()
