"""What confidence is worth: how often answers of each confidence are right, and what abstaining buys.

    python examples/benchmarks/confidence.py [--pools DIR] [--questions 400] [--budget 8]
        [--quick] [--json OUT] [--plot PNG]

Answers questions of the lab model with independent samples and compares the vote's confidence with the truth. With
recorded pools (see `dynscale replay`) it does the same for them, on eight of each question's samples drawn at random.
"""

from __future__ import annotations

import argparse
import json
import os
import zlib
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
import numpy as np
from rich.console import Console
from rich.table import Table

from dynscale_dspy import BudgetPool, DynScaling, KnowledgeGradient, Parallel, Uniform, explain, lab
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.replay import Pool, load_pool
from dynscale_dspy.tuning.reliability import calibration_error, risk_coverage

Scores = tuple[list[float], list[float], list[float]]
"""Confidence of each answer; whether it is right; whether it is the one that its other samples settle on."""


def of_pool(pool: Pool, budget: int, seed: int) -> Scores:
    """Votes on some samples of each question; the others of that question say what its votes settle on."""
    generator = np.random.default_rng([seed, zlib.crc32(pool.name.encode())])
    sure, right, settled = [], [], []
    for question in pool.questions:
        if len(question.answers) < 4 * budget:
            continue
        order = generator.permutation(len(question.answers))
        answers = [question.answers[i] for i in order]
        tally, rest = Tally.of(answers[:budget]), Tally.of(answers[budget:])
        if not tally.valid or not rest.valid:
            continue
        winner = max(tally.votes, key=lambda answer: tally.votes[answer])
        sure.append(tally.confidence)
        right.append(float(winner in question.right))
        settled.append(float(rest.votes.get(winner, 0) == rest.leader))
    return sure, right, settled


def of_lab(count: int, budget: int, seed: int, policy: Any) -> Scores:
    """The lab model answers questions it has not seen. What its votes settle on is not known."""
    questions = lab.questions(count, seed=seed)
    with lab.serve(engine="auto", temperature=1.0, cache=False, seed=seed) as lm, dspy.context(lm=lm):
        pool = BudgetPool(samples=budget * count, policy=policy)
        qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool, sampling=Parallel())
        predictions = qa.batch(questions, num_threads=16, disable_progress_bar=True)
    pairs = [(p, q) for p, q in zip(predictions, questions, strict=True) if p is not None]
    sure = [explain(p).confidence for p, _ in pairs]
    return sure, [float(str(p.answer).strip() == str(q.answer).strip()) for p, q in pairs], []


def row(name: str, scores: Scores) -> dict[str, Any]:
    sure, right, settled = (np.array(part) for part in scores)
    high = sure >= 0.9
    _, coverage, risk = risk_coverage(sure, right)
    return {
        "answers from": name,
        "answers": len(sure),
        "accuracy": float(right.mean()),
        "mean confidence": float(sure.mean()),
        "error to truth": calibration_error(sure, right),
        "error to long run": calibration_error(sure, settled) if len(settled) else None,
        "kept at 0.9": float(high.mean()),
        "right of those": float(right[high].mean()) if high.any() else None,
        "risk at half": float(risk[np.searchsorted(coverage, 0.5)]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=Path, metavar="DIR", help="recorded pools, .jsonl or .jsonl.gz")
    parser.add_argument("--questions", type=int, default=400, metavar="N")
    parser.add_argument("--budget", type=int, default=8, metavar="SAMPLES")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few questions, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="reliability and risk-coverage")
    options = parser.parse_args()
    if options.quick:
        options.questions = 24

    rows, pooled = [], ([], [], [])
    for path in sorted(options.pools.glob("**/*.jsonl*")) if options.pools else ():
        scores = of_pool(load_pool(path), options.budget, options.seed)
        if not scores[0]:
            continue
        rows.append(row(path.name.split(".jsonl")[0], scores))
        for all_, part in zip(pooled, scores, strict=True):
            all_.extend(part)
    if pooled[0]:
        rows.append(row("all pools", pooled))
    measured = {"recorded pools": pooled} if pooled[0] else {}
    for name, policy in (("lab, uniform", Uniform()), ("lab, knowledge gradient", KnowledgeGradient())):
        measured[name] = of_lab(options.questions, options.budget, options.seed, policy)
        rows.append(row(name, measured[name]))

    table = Table(title=f"Confidence of votes, {options.budget} samples a question on average")
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "answers from" else "right")
    for record in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else "" if v is None else str(v) for v in record.values()))
    Console(width=None).print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.plot:
        draw(measured, options.plot)


def draw(measured: dict[str, Scores], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from dynscale_dspy.tuning.plots import plot_calibration, plot_risk_coverage

    figure = Figure(figsize=(4 * len(measured), 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(measured), squeeze=False)
    for (name, (sure, right, _)), upper, lower in zip(measured.items(), *panels, strict=True):
        plot_calibration(sure, right, upper).set_title(name)
        plot_risk_coverage(sure, right, lower)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
