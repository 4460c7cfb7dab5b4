from typing import Any

import dspy
import numpy as np

from dynscale_dspy import lab
from dynscale_dspy.lab.tokenizer import ChatTokenizer

QUESTION = "State the final answer to the following arithmetic problem: 41 + 27 - 13 ="
ATTEMPTS = "Attempt 1:\n41+27=68;68-13=55\nanswer: 55\n\nAttempt 2:\n41+27=58;58-13=45\nanswer: 45"
PLAIN: Any = dspy.ChainOfThought("question -> answer").predict.signature
REVISING = PLAIN.append("earlier_attempts", dspy.InputField(desc=lab.EARLIER_ATTEMPTS), type_=str)


def chat(question: str = QUESTION, earlier_attempts: str | None = None) -> list[dict[str, Any]]:
    """The messages the model was trained on: DSPy's own, for the plain program or the revising one."""
    inputs = {"question": question}
    if earlier_attempts is None:
        return dspy.ChatAdapter().format(PLAIN, demos=[], inputs=inputs)
    return dspy.ChatAdapter().format(REVISING, demos=[], inputs={**inputs, "earlier_attempts": earlier_attempts})


def encode(tokenizer: ChatTokenizer, messages: list[dict[str, Any]]) -> list[int]:
    return tokenizer.encode_chat([(message["role"], message["content"]) for message in messages])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
