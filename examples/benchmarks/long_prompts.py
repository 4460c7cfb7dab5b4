"""Prompts many times longer than replies: what the bandit buys for the tokens of uniform voting in one request.

    python examples/benchmarks/long_prompts.py [--quick] [--json OUT]

A scripted model of known answer distributions, behind HTTP: a prompt of about 170 tokens, replies of about 23. Uniform
voting draws all samples of a question from one request. The others then have as many tokens, or as many dollars where
one token read costs a quarter of one written. Samples see no earlier ones, and none is greedy: the scripted model at
temperature 0 gives its most frequent answer, as no real one does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy

from dynscale_dspy import BudgetPool, DynScaling, KnowledgeGradient, Parallel, Price, Uniform
from dynscale_dspy.testing import FakeServer, questions

READ, WRITTEN = 1, 4
"""Dollars for a million tokens."""
POLICIES = {"KnowledgeGradient()": KnowledgeGradient(), "KnowledgeGradient(first=4)": KnowledgeGradient(first=4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 questions, one seed")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--json", metavar="OUT", type=Path, help="write the rows here")
    options = parser.parse_args()
    count, seeds = (20, 1) if options.quick else (200, options.seeds)
    found: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
    for seed in range(options.first_seed, options.first_seed + seeds):
        for samples in (4, 8):
            for same, policy, run in runs(samples, seed, count):
                found.setdefault((samples, same, policy), []).append(run)
    rows = [
        {
            "samples": samples,
            "at the same": same,
            "policy": policy,
            **{name: statistics.mean(run[name] for run in each) for name in each[0]},
            "by seed": [run["right"] for run in each],
        }
        for (samples, same, policy), each in found.items()
    ]
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def runs(samples: int, seed: int, count: int) -> list[tuple[str, str, dict[str, Any]]]:
    """Uniform voting, then each policy at as many tokens and at as many dollars."""
    bank = questions(count, seed=seed)
    with FakeServer(bank, median_latency=0, seed=seed) as server:
        lm = server.lm(max_tokens=60)
        program = dspy.ChainOfThought("question -> answer")

        def answer(pool: BudgetPool) -> dict[str, Any]:
            server.reset(seed=seed)
            qa = DynScaling(program, pool, sampling=Parallel())
            asked = [{"question": question.text} for question in bank]
            predictions = qa.batch(asked, num_threads=8, disable_progress_bar=True)
            counted = server.statistics()
            hits = [one is not None and one.answer == q.answer for one, q in zip(predictions, bank, strict=True)]
            return {
                "right": sum(hits) / count,
                "requests": counted.requests / count,
                "drawn": counted.samples / count,
                "tokens": (counted.prompt_tokens + counted.completion_tokens) / count,
                "microdollars": (READ * counted.prompt_tokens + WRITTEN * counted.completion_tokens) / count,
            }

        with dspy.context(lm=lm):
            done = [("", "Uniform()", answer(BudgetPool(per_call=samples, policy=Uniform())))]
            tokens, dollars = (round(done[0][2][name] * count) for name in ("tokens", "microdollars"))
            prices = {lm.model: Price(READ, WRITTEN)}
            for name, policy in POLICIES.items():
                done.append(("tokens", name, answer(BudgetPool(tokens=tokens, policy=policy))))
                pool = BudgetPool(dollars=dollars / 1e6, prices=prices, policy=policy)
                done.append(("dollars", name, answer(pool)))
    return done


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*(name for name in rows[0] if name != "by seed"), title="a question")
    for row in rows:
        told = {**row, "right": f"{row['right']:.1%}"}
        cells = [f"{value:.1f}" if isinstance(value, float) else str(value) for value in told.values()]
        table.add_row(*cells[:-1])
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
