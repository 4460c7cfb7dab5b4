"""What confidence is worth: how often answers of each confidence are right, how well it tells right from wrong.

    python examples/benchmarks/confidence.py [--pools DIR] [--labels FILE] [--questions 400] [--samples 2 4 8]
        [--orders 20] [--quick] [--json OUT] [--plot PNG]

Answers questions of the lab model, and compares the confidence of each call with the truth: the expected calibration
error over ten bins of equal width, and the area under the ROC curve (AUROC: how often a right answer has the higher
confidence of a right and a wrong one). With recorded pools (see `dynscale replay`) it does the same for some of each
question's samples, drawn at random in several orders, one call after the other as a pool of its own would see them.
A file of label distributions (JSON lines with "model", "labels", "p", "gold") stands for programs that decide at once.

"by chance" is the error that exact confidences would show on so many questions. "of the vote" is the error of the
probability that the winner stays ahead (`selection.evidence().confidence`), which is about the vote and not the truth.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
import numpy as np
from rich.console import Console
from rich.table import Table

from dynscale_dspy import BudgetPool, DynScaling, KnowledgeGradient, Parallel, Uniform, explain, lab
from dynscale_dspy.allocation.confidence import LABELS, Agreement, Answers, chance_right
from dynscale_dspy.allocation.tally import Tally
from dynscale_dspy.execution.introspection import LONGEST_LABEL
from dynscale_dspy.replay import Pool, Question, load_pool
from dynscale_dspy.tuning.reliability import auroc, calibration_error, risk_coverage


@dataclass
class Scores:
    """Of each answer: its confidence, that of the vote alone, whether it is right, and the number of its question."""

    sure: list[float] = field(default_factory=list)
    vote: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    question: list[int] = field(default_factory=list)

    def add(self, sure: float, vote: float, right: bool, question: int) -> None:
        self.sure.append(sure)
        self.vote.append(vote)
        self.right.append(float(right))
        self.question.append(question)


SHOWN = "answers from", "kind", "samples", "accuracy", "mean confidence", "calibration error", "by chance", "AUROC"

Draw = tuple[int, list[str | None], frozenset[str]]
"""A question's number, the samples of one call of it, and its right answers."""


def scored(calls: Iterator[list[Draw]], answers: Answers) -> Scores:
    """Calls one after the other, each list of them under a pool of its own, which learns as it goes."""
    scores = Scores()
    for order in calls:
        known = Agreement()
        for question, samples, right in order:
            tally = Tally.of(samples)
            agree = known.tell(*samples[:2]) if None not in samples[:2] and len(samples) > 1 else None
            sure = chance_right(tally, known.rate(besides=agree), known.answers(answers))
            winner = max(tally.votes, key=lambda each: tally.votes[each], default=None)  # of equal ones the first
            scores.add(sure, tally.confidence, winner in right, question)
    return scores


def of_pool(pool: Pool, samples: int, orders: int, generator: np.random.Generator) -> Iterator[list[Draw]]:
    for _ in range(orders):
        order = []
        for number in generator.permutation(len(pool.questions)):
            question = pool.questions[number]
            if len(question.answers) >= samples:
                drawn = generator.permutation(len(question.answers))[:samples]
                order.append((int(number), [question.answers[i] for i in drawn], question.right))
        yield order


def kind_of(pool: Pool) -> Answers:
    """What a program's types would say: whether its answers are a few labels, and are written at once."""
    if len(frozenset().union(*(question.right for question in pool.questions))) > LABELS:
        return Answers.OPEN
    tokens = [count for question in pool.questions for count in question.tokens or ()]
    return Answers.AT_ONCE if tokens and np.mean(tokens) <= LONGEST_LABEL else Answers.CLOSED


def of_labels(
    rows: list[dict[str, Any]], samples: int, orders: int, temperature: float, greedy: bool, generator: Any
) -> Iterator[list[Draw]]:
    """Calls of a program that decides at once; the first sample may be at temperature 0."""
    for _ in range(orders):
        order = []
        for number in generator.permutation(len(rows)):
            row = rows[number]
            p = np.array(row["p"]) ** (1 / temperature)
            drawn = list(generator.choice(row["labels"], size=samples, p=p / p.sum()))
            if greedy:
                drawn[0] = row["labels"][int(np.argmax(row["p"]))]
            order.append((int(number), drawn, frozenset([row["gold"]])))
        yield order


def of_lab(count: int, budget: int, seed: int, policy: Any, **settings: Any) -> tuple[Scores, Pool]:
    """The lab model answers questions it has not seen: what the library says of each, and the samples it drew."""
    questions = lab.questions(count, seed=seed)
    with lab.serve(engine="auto", temperature=1.0, cache=False, seed=seed) as lm, dspy.context(lm=lm):
        pool = BudgetPool(samples=budget * count, policy=policy)
        qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool, **settings)
        predictions = qa.batch(questions, num_threads=16, disable_progress_bar=True)
    scores, recorded = Scores(), []
    for number, (prediction, question) in enumerate(zip(predictions, questions, strict=True)):
        if prediction is None:
            continue
        told, gold = explain(prediction), str(question.answer).strip()
        votes = [told.key for told in told.samples]
        is_right = str(prediction.answer).strip() == gold
        scores.add(told.confidence, Tally.of(votes).confidence, is_right, number)
        answers = tuple(None if sample.key is None else str(sample.answer).strip() for sample in told.samples)
        recorded.append(Question(str(number), answers, frozenset([gold])))
    return scores, Pool("lab", tuple(recorded))


def row(name: str, answers: Answers, samples: int, scores: Scores) -> dict[str, Any]:
    sure, right = np.array(scores.sure), np.array(scores.right)
    high = sure >= 0.9
    _, coverage, risk = risk_coverage(sure, right)
    return {
        "answers from": name,
        "kind": answers.name.lower().replace("_", " "),
        "samples": samples,
        "questions": len(set(scores.question)),
        "accuracy": float(right.mean()),
        "mean confidence": float(sure.mean()),
        "calibration error": calibration_error(sure, right),
        "by chance": by_chance(sure, np.array(scores.question)),
        "of the vote": calibration_error(scores.vote, right),
        "AUROC": auroc(sure, right),
        "kept at 0.9": float(high.mean()),
        "right of those": float(right[high].mean()) if high.any() else None,
        "risk at half": float(risk[np.searchsorted(coverage, 0.5)]),
    }


def by_chance(sure: Any, question: Any, draws: int = 50) -> float:
    """The calibration error of confidences that are exactly right, over so many questions."""
    generator = np.random.default_rng(0)
    luck = generator.random((draws, int(question.max()) + 1))
    return float(np.mean([calibration_error(sure, each[question] < sure) for each in luck]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=Path, metavar="DIR", help="recorded pools, .jsonl or .jsonl.gz")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="label distributions, .jsonl or .jsonl.gz")
    parser.add_argument("--questions", type=int, default=400, metavar="N")
    parser.add_argument("--samples", type=int, nargs="+", default=[2, 4, 8], metavar="N")
    parser.add_argument("--orders", type=int, default=20, metavar="N", help="times each recorded question is asked")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few questions, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="reliability and risk-coverage")
    options = parser.parse_args()
    if options.quick:
        options.questions, options.orders = 24, 2
    most = max(options.samples)

    rows: list[dict[str, Any]] = []
    measured: dict[str, Scores] = {}

    def take(name: str, answers: Answers, samples: int, scores: Scores, *, shown: bool = False) -> None:
        rows.append(row(name, answers, samples, scores))
        if shown:
            measured[name] = scores

    def generator(name: str, samples: int) -> np.random.Generator:
        return np.random.default_rng([options.seed, samples, zlib.crc32(name.encode())])

    for path in sorted(options.pools.glob("**/*.jsonl*")) if options.pools else ():
        pool = load_pool(path)
        name, answers = path.name.split(".jsonl")[0], kind_of(pool)
        for samples in options.samples:
            scores = scored(of_pool(pool, samples, options.orders, generator(name, samples)), answers)
            take(name, answers, samples, scores)
    for name, greedy, temperature in (("T 1.0", False, 1.0), ("greedy, then T 0.3", True, 0.3)):
        for model, known in labelled(options.labels).items() if options.labels else ():
            for samples in options.samples:
                calls = of_labels(known, samples, options.orders, temperature, greedy, generator(model + name, samples))
                take(f"{model}, {name}", Answers.AT_ONCE, samples, scored(calls, Answers.AT_ONCE))
    scores, recorded = of_lab(options.questions, most, options.seed, Uniform(), sampling=Parallel())
    for samples in options.samples[:-1]:
        calls = of_pool(recorded, samples, options.orders, generator("lab", samples))
        take("lab, uniform", Answers.OPEN, samples, scored(calls, Answers.OPEN))
    take("lab, uniform", Answers.OPEN, most, scores, shown=True)
    scores, _ = of_lab(options.questions, most, options.seed, KnowledgeGradient(), sampling=Parallel())
    take("lab, knowledge gradient", Answers.OPEN, most, scores, shown=True)
    scores, _ = of_lab(options.questions, 4, options.seed, KnowledgeGradient())
    take("lab, as DynScaling samples", Answers.OPEN, 4, scores, shown=True)

    table = Table(title="Confidence, and how often it is right")
    for name in SHOWN:
        table.add_column(name, justify="left" if name in ("answers from", "kind") else "right")
    for record in rows:
        values = [record[name] for name in SHOWN]
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else "" if v is None else str(v) for v in values))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.plot:
        draw(measured, options.plot)


def labelled(path: Path) -> dict[str, list[dict[str, Any]]]:
    by_model: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        for line in lines:
            by_model[json.loads(line)["model"]].append(json.loads(line))
    return by_model


def draw(measured: dict[str, Scores], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from dynscale_dspy.tuning.plots import plot_calibration, plot_risk_coverage

    figure = Figure(figsize=(4 * len(measured), 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(measured), squeeze=False)
    for (name, scores), upper, lower in zip(measured.items(), *panels, strict=True):
        plot_calibration(scores.sure, scores.right, upper).set_title(name)
        plot_risk_coverage(scores.sure, scores.right, lower)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
