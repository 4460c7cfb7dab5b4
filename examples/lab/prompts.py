"""What the lab's model reads and writes: DSPy's prompts as text, the replies, and the tokenizer for both."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dspy
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from dynscale_dspy import lab
from dynscale_dspy.sampling.chain import CHECKING, render

SPECIAL = ("<|pad|>", "<|bos|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
PLAIN: Any = dspy.ChainOfThought("question -> answer").predict.signature
REVISING = PLAIN.append("earlier_attempts", dspy.InputField(desc=lab.EARLIER_ATTEMPTS), type_=str)

_READABLE = re.compile(
    r"\[\[ ## reasoning ## \]\]\n(.*)\n\n\[\[ ## answer ## \]\]\n(.*)\n\n\[\[ ## completed ## \]\]", re.DOTALL
)
# Pieces of the questions, and of the replies, that always stand together.
_PIECES = (
    "State the final answer to the following arithmetic problem: ",
    "Solve the following multiplication: ",
    ". Give only the result as your final answer.",
    "Put + or - between the numbers ",
    " so that the result is ",
    "Pick ",
    " of the numbers ",
    " so that their sum is ",
    "Find two numbers whose sum is ",
    " and whose product is ",
    " + ",
    " - ",
    " * ",
    " =",
    ", ",
    " ok",
    " no",
    ";new:",
    "Attempt 1:",
    *(f"\n\nAttempt {number}:" for number in range(2, 17)),
    "\nanswer: ",
    CHECKING.rstrip("\n"),
)


def attempts_text(attempts: Sequence[tuple[str, str]]) -> str:
    """Attempts, each its reasoning and its answer, as `Integrated` renders them."""
    return render(f"{reasoning}\nanswer: {answer}" for reasoning, answer in attempts)


def prompt(question: str, attempts: Sequence[tuple[str, str]] = (), *, prefill: bool = False) -> str:
    """The conversation up to where the model speaks.

    Args:
        question: The question.
        attempts: Earlier attempts at it, if any.
        prefill: Whether the attempts begin the assistant's own message, or are an input field.
    """
    if attempts and not prefill:
        text = _TEMPLATES[1].replace("@Q@", question, 1)
        return text.replace("@A@", attempts_text(attempts), 1)
    text = _TEMPLATES[0].replace("@Q@", question, 1)
    return text + (f"[[ ## reasoning ## ]]\n{attempts_text(attempts)}{CHECKING}" if attempts else "")


def reply(reasoning: str, answer: str, *, prefill: bool = False) -> str:
    """What the model is to say, up to and without the end marker."""
    start = "" if prefill else "[[ ## reasoning ## ]]\n"
    return f"{start}{reasoning}\n\n[[ ## answer ## ]]\n{answer}\n\n[[ ## completed ## ]]"


def read(text: str, *, prefill: bool = False) -> tuple[str, str] | None:
    """The reasoning and the answer of a reply, None where it cannot be read."""
    match = _READABLE.fullmatch(("[[ ## reasoning ## ]]\n" if prefill else "") + text)
    return (match[1], match[2].strip()) if match else None


def _rendered(signature: Any, inputs: dict[str, str]) -> str:
    messages = dspy.ChatAdapter().format(signature, demos=[], inputs=inputs)
    turns = [f"<|{message['role']}|>{message['content']}<|end|>" for message in messages]
    return "".join([*turns, "<|assistant|>"])


_TEMPLATES = (
    _rendered(PLAIN, {"question": "@Q@"}),
    _rendered(REVISING, {"question": "@Q@", "earlier_attempts": "@A@"}),
)


def build_tokenizer(path: Path) -> Tokenizer:
    """Write the tokenizer: bytes, the role markers, and a token for each line and phrase that never varies.

    No token ends in a newline, though some begin with one: then it makes no difference whether an implementation
    matches the leftmost token first, as Hugging Face's does, or the longest, as llama.cpp's does.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    lines = sorted(set(_boilerplate()), key=lambda text: (-len(text), text))
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in lines])
    tokenizer.save(str(path))
    return tokenizer


def _boilerplate() -> list[str]:
    texts: list[str] = []
    for signature, inputs in ((PLAIN, {"question": "Q"}), (REVISING, {"question": "Q", "earlier_attempts": "A"})):
        system, user = dspy.ChatAdapter().format(signature, demos=[], inputs=inputs)
        texts += [system["content"], *system["content"].split("\n")]
        texts.append(user["content"][user["content"].index("\n\nRespond with") :])
    for name in ("question", "earlier_attempts", "reasoning", "answer", "completed"):
        marker = f"[[ ## {name} ## ]]"
        texts += [marker, f"\n\n{marker}"]
    return [text for text in (*texts, *_PIECES) if len(text) > 1 and not text.endswith("\n")]
