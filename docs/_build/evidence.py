"""What all measured tables say about one question: what is gained over the better plain run, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "benchmarks"
REASONS, AT_ONCE, SCRIPTED = "reasons first", "a label at once", "scripted"
PLAIN, GREEDY, VOTING, OURS = "plain", "plain, temperature 0", "uniform voting", "default"


@dataclass(frozen=True)
class Measured:
    """One way to answer, on one model and task.

    Args:
        kind: Of program.
        model: The model and, where there are several, the task.
        way: Plain, greedy, uniform voting or the library's default.
        samples: Samples a call on average.
        accuracy: Share of right answers.
        gain: Over the better plain run, with its 95% interval.
        low: Its lower end.
        high: Its upper end.
        times: Cost in units of one plain run: requests, or tokens written and a quarter of those read.
    """

    kind: str
    model: str
    way: str
    samples: float
    accuracy: float
    gain: float
    low: float
    high: float
    times: float


def measured() -> list[Measured]:
    """All of them, a model's ways together, the plain ones first."""
    return [*_lab(), *_pretrained(), *_scripted()]


def _lab() -> Iterator[Measured]:
    rows = _rows("demo")
    ways = {"plain": PLAIN, "greedy": GREEDY, "uniform": VOTING, "dynscaling": OURS}
    base = next(row["cost"] for row in rows if row["method"] == "greedy")
    for row in rows:
        each = row["samples"] / row["questions"] * row["sets"]
        yield Measured(REASONS, "the lab's model", ways[row["method"]], each, *_gain(row), row["cost"] / base)


def _pretrained() -> Iterator[Measured]:
    rows = _rows("real_models")
    kept = {(PLAIN, 1): PLAIN, (GREEDY, 1): GREEDY, ("uniform voting, temperature 1", 4): VOTING, ("default", 4): OURS}
    for row in rows:
        way = kept.get((row["method"], row["budget"]))
        if way is not None and row["task"] != "decides at once":  # which is all of them together
            where = row["model"], row["task"]
            base = next(r["cost"] for r in rows if (r["model"], r["task"]) == where and r["method"] == GREEDY)
            yield Measured(AT_ONCE, ", ".join(where), way, row["samples"], *_gain(row), row["cost"] / base)


def _scripted() -> Iterator[Measured]:
    """Six samples a call; its replies have no tokens, so that requests are the cost."""
    ways = {PLAIN: PLAIN, GREEDY: GREEDY, "parallel": VOTING, "default": OURS}
    for row in _rows("models"):
        if row["strategy"] in ways:
            model = f"model that {row['shown attempts it']}"
            yield Measured(SCRIPTED, model, ways[row["strategy"]], row["samples"], *_gain(row), row["samples"])


def _gain(row: dict[str, Any]) -> tuple[float, float, float, float]:
    return row["accuracy"], row["gain"] or 0.0, row["low"] or 0.0, row["high"] or 0.0


def _rows(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["rows"]
