"""A pipeline, five dollars for five hundred questions, unsure answers to a person, and where the money went.

The model is the scripted server for tests, at made-up prices: put your own `dspy.LM` in its place.

python examples/rag_pipeline.py
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # without a network LiteLLM waits for its price list

import dspy

from dynscale_dspy import BudgetPool, DynScaling, Price, explain
from dynscale_dspy.testing import FakeServer


class RAG(dspy.Module):
    """Writes a search query, looks it up, answers."""

    def __init__(self) -> None:
        super().__init__()
        self.query = dspy.ChainOfThought("question -> search_query")
        self.answer = dspy.ChainOfThought("context, question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        query = self.query(question=question).search_query
        context = [f"what your search engine finds for {query}"]
        return self.answer(context=context, question=question)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="forty questions for 40 cents")
    arguments = parser.parse_args()
    count, dollars = (40, 0.40) if arguments.quick else (500, 5.00)
    for_a_person: list[str] = []

    def ask_a_person(prediction: dspy.Prediction, question: str) -> dspy.Prediction:
        for_a_person.append(question)
        return dspy.Prediction(answer=None)

    with FakeServer(count, seed=3, median_latency=0.001) as server:
        lm = server.lm(max_tokens=500)  # so that a request has a most that it can cost
        questions = [dspy.Example(question=q.text, answer=q.answer).with_inputs("question") for q in server.questions]
        with dspy.context(lm=lm):
            # A call is a run of the wrapped program, so there are as many as questions. Without per_call a pool that
            # is capped in money alone draws 8 samples a call at most, on average.
            pool = BudgetPool(
                dollars=dollars, per_call=20, strict=True, prices={lm.model: Price(prompt=1.0, completion=4.0)}
            )
            # Search queries may rightly differ, so the vote is on the result.
            rag = DynScaling(RAG(), budget=pool, answer="answer", min_confidence=0.8, on_low=ask_a_person)
            predictions = rag.batch(questions, num_threads=16, disable_progress_bar=True)
            plain: Any = RAG().batch(questions, num_threads=16, disable_progress_bar=True)

    answered = [(p, q) for p, q in zip(predictions, questions, strict=True) if p is not None and p.answer is not None]
    voted = [explain(p).votes[0].answer for p in predictions if p is not None]
    print(f"asked once: {sum(p.answer == q.answer for p, q in zip(plain, questions, strict=True))} of {count} right")
    print(f"voted:      {sum(a == q.answer for a, q in zip(voted, questions, strict=True))} of {count} right")
    print(f"kept: {len(answered)}, {sum(p.answer == q.answer for p, q in answered)} right; to a person: ", end="")
    print(len(for_a_person))
    print(pool)
    dearest = max(predictions, key=lambda prediction: explain(prediction).cost.nanodollars)
    print("\nThe dearest answer:")
    print(explain(dearest))


if __name__ == "__main__":
    main()
