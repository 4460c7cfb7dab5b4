"""One wrapped program, one question, and why its answer won. Needs no key: it runs on the model in the box.

python examples/quickstart.py
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # without a network LiteLLM waits for its price list

import dspy

from dynscale_dspy import DynScaling, Integrated, explain, lab


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one question instead of five")
    arguments = parser.parse_args()
    with lab.serve() as lm, dspy.context(lm=lm):
        program = dspy.ChainOfThought("question -> answer")
        independent = DynScaling(program, budget=8)
        integrated = DynScaling(program, budget=8, sampling=Integrated())
        for question in lab.questions(1 if arguments.quick else 5, seed=2):
            print(f"\n{question.question}   (right: {question.answer})")
            print("  plain:", program(**question.inputs()).answer)
            with dspy.context(lm=lm.copy(temperature=0)):
                print("  plain, temperature 0:", program(**question.inputs()).answer)
            for name, wrapped in (("independent", independent), ("integrated", integrated)):
                prediction = wrapped(**question.inputs())
                print(f"  {name}: {prediction.answer}")
                print("    " + str(explain(prediction)).replace("\n", "\n    "))


if __name__ == "__main__":
    main()
