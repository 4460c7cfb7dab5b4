"""A cheap language model and a dear one under one budget in dollars: the dear one where the cheap one is unsure.

Both are in the box, and their prices are made up. With your own: dspy.LM("hosted_vllm/...", api_base=...) and
dspy.LM("openai/...").

python examples/two_models.py
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # without a network LiteLLM waits for its price list

import dspy

from dynscale_dspy import BudgetPool, DynScaling, Price, explain, lab


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten questions instead of forty")
    arguments = parser.parse_args()
    questions = lab.questions(10 if arguments.quick else 40, seed=5)
    with lab.serve(model="small") as cheap, lab.serve() as dear:
        prices = {cheap.model: Price(prompt=0.1, completion=0.4), dear.model: Price(prompt=1, completion=4)}
        pool = BudgetPool(dollars=0.01, prices=prices).expect(len(questions))
        program = dspy.ChainOfThought("question -> answer")
        qa = DynScaling(program, budget=pool, lms={"small": cheap, "large": dear})
        predictions = qa.batch(questions)
    right = [p.answer.strip() == q.answer for p, q in zip(predictions, questions, strict=True)]
    print(f"{sum(right)} of {len(questions)} are right")
    print(explain(predictions[0]))
    print(pool)


if __name__ == "__main__":
    main()
