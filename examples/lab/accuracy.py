"""How often the model in the box is right, by kind of question: at temperature 0, one sample, the majority of 4 and 8.

The model is asked without HTTP in between, with the very prompts of `dspy.ChainOfThought("question -> answer")`, and
its replies are read by DSPy's own ChatAdapter, so that each reply that cannot be read is counted.

    python examples/lab/accuracy.py [--quick] [--model small] [--level hard] [--seed 1] [--json OUT]
"""

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import dspy
import numpy as np

from dynscale_dspy import lab
from dynscale_dspy.lab.engine import Engine, Sampling
from dynscale_dspy.lab.model import CHECKPOINT, CHECKPOINTS, Llama
from dynscale_dspy.lab.tokenizer import ChatTokenizer

SIGNATURE: Any = dspy.ChainOfThought("question -> answer").predict.signature
ADAPTER = dspy.ChatAdapter()


def read(text: str) -> str | None:
    """Return the answer of a reply, None where the adapter cannot read it."""
    try:
        return ADAPTER.parse(SIGNATURE, text)["answer"]
    except Exception:  # the adapter's error type differs between versions of DSPy
        return None


def majority(answers: list[str | None]) -> str | None:
    """Return the commonest answer, the first one among equals."""
    votes = Counter(answer for answer in answers if answer is not None)
    return votes.most_common(1)[0][0] if votes else None


def sample(
    examples: list[dspy.Example], samples: int, seed: int, temperature: float = 1.0, *, model: str = "large"
) -> list[list[str | None]]:
    """Return the answers of `samples` replies to each question."""
    tokenizer = ChatTokenizer(CHECKPOINT / "tokenizer.json")
    engine = Engine(Llama.load(CHECKPOINTS[model]), tokenizer)
    futures = []
    for i, example in enumerate(examples):
        messages = ADAPTER.format(SIGNATURE, demos=[], inputs={"question": example.question})
        prompt = tokenizer.encode_chat([(message["role"], message["content"]) for message in messages])
        sampling = Sampling(max_tokens=200, seed=seed * 1_000_003 + i, temperature=temperature)
        futures.append(engine.submit(prompt, sampling, samples))
    answers = [[read(completion.text) for completion in future.result()] for future in futures]
    engine.close()
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 questions, 8 samples")
    parser.add_argument("--model", choices=CHECKPOINTS, default="large")
    parser.add_argument("--level", choices=("hard", "mixed"), default="hard")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the rows there")
    arguments = parser.parse_args()
    count, samples = (40, 8) if arguments.quick else (200, 16)

    examples = lab.questions(count, arguments.seed, arguments.level)
    answers = sample(examples, samples, arguments.seed, model=arguments.model)
    greedy = sample(examples, 1, arguments.seed, temperature=0.0, model=arguments.model)
    by_kind = defaultdict(list)
    at_zero = defaultdict(list)
    for example, given, (best,) in zip(examples, answers, greedy, strict=True):
        by_kind[example.kind].append((example.answer, given))
        for kind in (example.kind, "all"):
            at_zero[kind].append(best == example.answer)

    rows = []
    for kind, group in [*sorted(by_kind.items()), ("all", [pair for pairs in by_kind.values() for pair in pairs])]:
        single = [np.mean([answer == right for answer in given]) for right, given in group]
        row = {"kind": kind, "questions": len(group), "samples": samples, "greedy": float(np.mean(at_zero[kind]))}
        row["pass@1"] = float(np.mean(single))
        row["standard_error"] = float(np.std(single) / max(1, len(group) - 1) ** 0.5)
        for votes in (4, 8):
            starts = range(0, samples, votes)  # disjoint groups of votes
            hits = [majority(given[i : i + votes]) == right for right, given in group for i in starts]
            row[f"majority@{votes}"] = float(np.mean(hits))
        row["unreadable"] = sum(answer is None for _, given in group for answer in given)
        rows.append(row)

    votes = ("majority@4", "majority@8")
    print(f"{'kind':15} {'questions':>9} {'greedy':>7} {'pass@1':>15} {votes[0]} {votes[1]} {'unreadable':>10}")
    for row in rows:
        single = f"{row['pass@1']:.3f} +- {row['standard_error']:.3f}"
        numbers = " ".join(f"{row[name]:10.3f}" for name in votes)
        print(
            f"{row['kind']:15} {row['questions']:9} {row['greedy']:7.3f} {single:>15} {numbers} {row['unreadable']:10}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
