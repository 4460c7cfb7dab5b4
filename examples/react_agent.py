"""A ReAct agent with a tool, wrapped: each sample is a whole run of the agent, and the vote is on its final answer.

Tools run once a sample, so wrap agents whose tools only read. It runs on a scripted server on loopback, since the model
in the box knows no tools; with a model of yours the program is the same.

python examples/react_agent.py
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # without a network LiteLLM waits for its price list

import dspy

from dynscale_dspy import BudgetPool, DynScaling, Parallel, explain
from dynscale_dspy.testing import FakeServer


def search(query: str) -> str:
    """Look something up."""
    return f"one result for {query!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="four questions instead of twenty")
    arguments = parser.parse_args()
    with FakeServer(20) as server, dspy.context(lm=server.lm()):
        questions = server.questions[: 4 if arguments.quick else 20]
        # A run of the agent is several requests, so calls are capped too.
        pool = BudgetPool(samples=5 * len(questions), requests=30 * len(questions)).expect(len(questions))
        agent = dspy.ReAct("question -> answer", tools=[search], max_iters=3)  # type: ignore[arg-type]
        scaled = DynScaling(agent, budget=pool, answer="answer", sampling=Parallel())
        for question in questions:
            prediction = scaled(question=question.text)
            told = explain(prediction)
            steps = sum(name.startswith("tool_name") for name in prediction.trajectory)
            print(f"{question.text} {prediction.answer} (right: {question.answer}; {steps} steps in the winning run)")
            print(f"  {told.summary}; {told.cost.requests} requests")
        print(pool)


if __name__ == "__main__":
    main()
