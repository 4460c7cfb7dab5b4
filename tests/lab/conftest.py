import os
from collections.abc import Iterator

# LiteLLM would otherwise fetch its price map from the network when it is imported.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
import pytest

from dynscale_dspy.lab.engine import Engine
from dynscale_dspy.lab.model import CHECKPOINT, Llama
from dynscale_dspy.lab.server import LabServer
from dynscale_dspy.lab.tokenizer import ChatTokenizer


@pytest.fixture(scope="session")
def model() -> Llama:
    return Llama.load(CHECKPOINT)


@pytest.fixture(scope="session")
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer(CHECKPOINT / "tokenizer.json")


@pytest.fixture
def engine(model: Llama, tokenizer: ChatTokenizer) -> Iterator[Engine]:
    engine = Engine(model, tokenizer)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def server() -> Iterator[LabServer]:
    with LabServer() as server:
        yield server


def chat(question: str, **fields: str) -> list[dict[str, str]]:
    """The messages of the program the model was trained in."""
    signature = dspy.ChainOfThought("question -> answer").predict.signature
    return dspy.ChatAdapter().format(signature, demos=[], inputs={"question": question})
