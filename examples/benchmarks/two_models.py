"""Do two language models under one budget pay? The lab's two, asked live, beside each alone at several budgets.

    python examples/benchmarks/two_models.py [--quick] [--questions 400] [--ratio 10] [--json OUT]

Every way answers the same held-out questions as one known set, with samples of its own. Prices are made up: a token of
the large model costs `--ratio` times one of the small one. Cost is counted in plain answers of the large model. Gains
are over the large model alone, uniformly sampled 4 times, with 95% intervals paired over the questions.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
import numpy as np
from rich.console import Console
from rich.table import Table

from dynscale_dspy import BestOf, BudgetPool, DynScaling, Escalate, Parallel, Price, Uniform, explain, lab
from dynscale_dspy.tuning.paired import paired_gain

BASE = "large, uniform voting of 4"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 questions")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--seed", type=int, default=21, help="of the questions")
    parser.add_argument("--ratio", type=float, default=10.0, help="price of the large model over that of the small one")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    count = 8 if arguments.quick else arguments.questions
    questions = lab.questions(count, seed=arguments.seed)
    with lab.serve(model="small", cache=False) as small, lab.serve(cache=False) as large:
        rows = measured(questions, small, large, arguments.ratio)
    for row in rows:
        row.update(questions=count, ratio=arguments.ratio)
    table = Table("way", "right, %", "gain, points", "cost", "small + large", title="samples a question by model")
    for row in rows:
        gain = "" if row["way"] == BASE else f"{row['gain']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"
        drawn = f"{row['small']:.2f} + {row['large']:.2f}"
        table.add_row(row["way"], f"{row['right']:.1f}", gain, f"{row['cost']:.2f}", drawn)
    Console(width=100).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def measured(questions: list[dspy.Example], small: dspy.LM, large: dspy.LM, ratio: float) -> list[dict[str, Any]]:
    """A row for each way and budget."""
    prices = {small.model: Price(prompt=0.1, completion=0.4), large.model: Price(0.1 * ratio, 0.4 * ratio)}
    both = {"small": small, "large": large}
    only = {"small": {"small": small}, "large": {"large": large}}

    def pool(samples: float | None = None, plain: float | None = None, **options: Any) -> BudgetPool:
        # A cap in dollars is in plain answers of the large model a question; samples are then bounded by it alone.
        caps = {"samples": samples * len(questions)} if samples else {}
        if plain:
            caps["dollars"] = plain * unit * len(questions)
        return BudgetPool(**caps, prices=prices, **options)

    ways: list[tuple[str, Callable[[], DynScaling]]] = []

    def way(name: str, lms: Any, options: dict[str, Any], **budget: Any) -> None:
        if "uniform" in name:
            budget["policy"] = Uniform()
        ways.append((name, lambda: DynScaling(program(), pool(**budget), lms=lms, **options)))

    for name in ("small", "large"):
        way(f"{name}, plain", only[name], {"max_samples": 1}, samples=1)
        way(f"{name}, temperature 0", only[name], {"max_samples": 1, "temperature": 0}, samples=1)
    for name, most in (("small", 8), ("large", 4)):
        way(f"{name}, uniform voting of {most}", only[name], {"sampling": Parallel()}, samples=most)
    unit = 1.0  # of the first rows, whose caps are in samples
    found = [answered(name, make(), questions) for name, make in ways]
    unit = next(row["dollars"] for row in found if row["way"] == "large, plain") / len(questions)
    ways.clear()
    for plain in (1, 2, 3, 4):
        way(f"large, default, at {plain}", only["large"], {}, plain=plain)
        way(f"small and large, default, at {plain}", both, {}, plain=plain)
    for rule in (Escalate(), BestOf()):
        way(f"small and large, {type(rule).__name__}, at 2", both, {"sampling": rule}, plain=2)
    found += [answered(name, make(), questions) for name, make in ways]
    base = next(row["hits"] for row in found if row["way"] == BASE)
    for row in found:
        interval = paired_gain(row["hits"], base)
        row["gain"], row["low"], row["high"] = (100 * bound for bound in interval)
        row["cost"] = row.pop("dollars") / len(questions) / unit
        del row["hits"]
    return found


def program() -> dspy.Module:
    """The program that all ways run."""
    return dspy.ChainOfThought("question -> answer")


def answered(name: str, qa: DynScaling, questions: list[dspy.Example]) -> dict[str, Any]:
    """All questions, answered in one way."""
    predictions = qa.batch(questions, num_threads=16, disable_progress_bar=True)
    hits = [p is not None and p.answer.strip() == q.answer for p, q in zip(predictions, questions, strict=True)]
    drawn = {"small": 0, "large": 0}
    for prediction in predictions:
        for sample in explain(prediction).samples if prediction is not None else ():
            # A single language model has no name in reports.
            drawn[sample.model or name.partition(",")[0]] += 1
    shares = {model: number / len(questions) for model, number in drawn.items()}
    dollars = qa.pool.statistics().spent.dollars
    return {"way": name, "right": 100 * float(np.mean(hits)), "hits": hits, "dollars": dollars, **shares}


if __name__ == "__main__":
    main()
