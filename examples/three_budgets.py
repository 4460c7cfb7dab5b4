"""dspy.Evaluate of the plain program, as it is and at temperature 0, and at two budgets: what does the next sample buy?

python examples/three_budgets.py
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # without a network LiteLLM waits for its price list

import dspy
from rich.console import Console
from rich.table import Table

from dynscale_dspy import BudgetPool, DynScaling, lab


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="twelve questions instead of a hundred")
    arguments = parser.parse_args()
    questions = lab.questions(12 if arguments.quick else 100, seed=4)
    table = Table("samples a question", "right, %", "samples", "requests", "tokens")
    with lab.serve(cache=False) as lm, dspy.context(lm=lm):
        evaluate = dspy.Evaluate(
            devset=questions,
            metric=lambda question, prediction, trace=None: prediction.answer.strip() == question.answer,
            num_threads=16,
            display_progress=False,
        )
        once: dict[str, Any] = {"max_samples": 1}  # the program as it is
        greedy = {**once, "temperature": 0}
        rows = (("1, plain", 1, once), ("1, plain, temperature 0", 1, greedy), ("3", 3, {}), ("6", 6, {}))
        for name, budget, settings in rows:
            # Evaluate calls one by one, from threads; told how many come, the pool can save on easy ones for hard ones.
            pool = BudgetPool(samples=budget * len(questions)).expect(len(questions))
            score = evaluate(DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool, **settings)).score
            spent = pool.statistics().spent
            table.add_row(name, f"{score:.1f}", str(spent.samples), str(spent.requests), f"{spent.tokens:,}")
    Console().print(table)


if __name__ == "__main__":
    main()
