"""Compare the NumPy model with Hugging Face transformers, number by number.

Needs `pip install torch transformers` besides this library. For each prompt, transformers computes the next-token
log-probabilities at every position of the reply in one uncached pass, in float32 and again in float64; the NumPy model
reads the prompt and then the reply token by token through its cache, all prompts side by side. transformers loads the
shipped float16 checkpoint; give `--original FOLDER` to load the bfloat16 checkpoint it was converted from instead.

    python examples/lab/check_against_transformers.py [--original FOLDER]
"""

import argparse
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from transformers import LlamaForCausalLM  # pyright: ignore[reportMissingImports]
from transformers.utils import logging  # pyright: ignore[reportMissingImports]

from dynscale_dspy import lab
from dynscale_dspy.lab.model import CHECKPOINT, Cache, Llama
from dynscale_dspy.lab.tokenizer import ChatTokenizer

logging.set_verbosity_error()
logging.disable_progress_bar()
REPLY = 40


def prompts() -> list[list[dict[str, str]]]:
    """Return forty conversations: the trained prompts of both forms, and others the model was not trained for."""
    plain: Any = dspy.ChainOfThought("question -> answer").predict.signature
    revising = plain.append("earlier_attempts", dspy.InputField(desc=lab.EARLIER_ATTEMPTS), type_=str)
    adapter = dspy.ChatAdapter()
    conversations = []
    for i, example in enumerate(lab.questions(36, seed=5, level="mixed")):
        if i < 24:
            conversations.append(adapter.format(plain, demos=[], inputs={"question": example.question}))
        else:
            attempts = "\n\n".join(f"Attempt {k}:\n{example.question[-9:]}={k}\nanswer: {k}" for k in range(1, i - 20))
            inputs = {"question": example.question, "earlier_attempts": attempts}
            conversations.append(adapter.format(revising, demos=[], inputs=inputs))
    conversations += [
        [{"role": "user", "content": text}]
        for text in ("Hello!", "Grüße, 世界 🙂", "1" * 300, "The quick brown fox jumps over the lazy dog. " * 40)
    ]
    return conversations


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, default=CHECKPOINT)
    folder = parser.parse_args().original

    tokenizer = ChatTokenizer(CHECKPOINT / "tokenizer.json")
    model = Llama.load(CHECKPOINT)
    ids = [tokenizer.encode_chat([(m["role"], m["content"]) for m in messages]) for messages in prompts()]

    # Sample the replies with the NumPy model, keeping its log-probabilities at every generated position.
    random = np.random.default_rng(0)
    rows = range(len(ids))
    cache = Cache(model.config, len(ids))
    logits = model.forward(cache, rows, ids)
    steps, replies = [], []
    for _ in range(REPLY):
        logprobs = log_softmax(logits)
        steps.append(logprobs)
        tokens = [int(random.choice(len(row), p=np.exp(row) / np.exp(row).sum())) for row in logprobs]
        replies.append(tokens)
        logits = model.forward(cache, rows, [[token] for token in tokens])
    ours = np.stack(steps, axis=1)  # (prompts, REPLY, vocabulary)

    def reference(dtype: torch.dtype) -> np.ndarray:
        network = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(dtype)
        rows = []
        for row, prompt in enumerate(ids):
            tokens = [*prompt, *(step[row] for step in replies)]
            with torch.inference_mode():
                logits = network(torch.tensor([tokens])).logits[0].numpy()
            rows.append(log_softmax(logits[len(prompt) - 1 : -1]))
        return np.stack(rows)

    single, double = reference(torch.float32), reference(torch.float64)
    print(f"{len(ids)} prompts of {min(map(len, ids))} to {max(map(len, ids))} tokens, {REPLY} positions each")
    print(f"log-probabilities compared: {ours.size}; absolute differences:")
    likely = double > np.log(1e-4)
    for name, left, right in (
        ("ours, transformers float32", ours, single),
        ("ours, transformers float64", ours, double),
        ("transformers float32, transformers float64", single, double),
    ):
        difference = np.abs(left - right)
        print(
            f"{name:45} largest {difference.max():.1e}, mean {difference.mean():.1e}, "
            f"largest where p > 0.0001: {difference[likely].max():.1e}"
        )


if __name__ == "__main__":
    main()
