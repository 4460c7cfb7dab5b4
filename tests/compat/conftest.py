import asyncio
from collections.abc import Iterator

import dspy
import pytest

from tests.compat.server import ModelServer


@pytest.fixture(scope="session")
def one_server() -> Iterator[ModelServer]:
    """One server a process, warmed up: importing LiteLLM takes seconds, which no test is to count."""
    running = ModelServer()
    lm = running.lm("litellm")
    lm("warm up")
    asyncio.run(lm.acall("warm up"))
    yield running
    running.close()


@pytest.fixture
def model(one_server: ModelServer) -> ModelServer:
    """A language model on loopback, with its counters at zero."""
    one_server.reset()
    return one_server


@pytest.fixture
def quiet() -> Iterator[None]:
    """Some of DSPy's modules tell on the log what fails on purpose here."""
    dspy.disable_logging()
    yield
    dspy.enable_logging()
