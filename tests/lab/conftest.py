from collections.abc import Iterator

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
def lab_server() -> Iterator[LabServer]:
    with LabServer() as server:
        yield server
