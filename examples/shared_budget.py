"""One budget for every call of a program with two wrapped stages, under dspy.Evaluate with many threads.

It asks twice, once cooler, and keeps the more certain answer. Both stages draw from one pool, which is told how many
calls will come and so cannot be drained by the first of them.

python examples/shared_budget.py
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # without a network LiteLLM waits for its price list

import dspy

from dynscale_dspy import BudgetPool, DynScaling, explain, lab


class CheckedAnswer(dspy.Module):
    """Answers twice: freely, and once more with the first answer to look at."""

    def __init__(self, pool: BudgetPool) -> None:
        super().__init__()
        self.answer = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool)
        self.again = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool, temperature=0.7)

    def forward(self, question: str) -> dspy.Prediction:
        """The more certain of the two answers."""
        predictions = [self.answer(question=question), self.again(question=question)]
        return max(predictions, key=lambda prediction: explain(prediction).confidence)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten questions instead of sixty")
    arguments = parser.parse_args()
    questions = lab.questions(10 if arguments.quick else 60, seed=3)
    with lab.serve() as lm, dspy.context(lm=lm):
        pool = BudgetPool(samples=6 * len(questions)).expect(2 * len(questions))
        evaluate = dspy.Evaluate(
            devset=questions,
            metric=lambda question, prediction, trace=None: prediction.answer.strip() == question.answer,
            num_threads=16,
        )
        print("plain:  ", evaluate(dspy.ChainOfThought("question -> answer")).score, "% right")
        print("wrapped:", evaluate(CheckedAnswer(pool)).score, "% right")
        print(pool)
        print("samples a call -> calls:", dict(pool.statistics().samples_per_call))


if __name__ == "__main__":
    main()
