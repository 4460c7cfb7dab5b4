import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from dynscale_dspy import BudgetPool, Cost, explain
from dynscale_dspy.sampling.sample import ON_TRIAL
from dynscale_dspy.testing import FakeServer, FakeStatistics


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "transport" in item.path.parts and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(60, func_only=True))


@pytest.fixture(scope="session")
def litellm_is_warm() -> None:
    """Importing LiteLLM takes seconds, and more of it is imported by the first call: not while a test counts time."""
    with FakeServer(1, median_latency=0) as fake:
        lm = fake.lm("litellm")
        lm("warm up")
        asyncio.run(lm.acall("warm up"))


@pytest.fixture(autouse=True)
def warmed_up(request: pytest.FixtureRequest) -> None:
    if "litellm" in request.node.name:
        request.getfixturevalue("litellm_is_warm")


@pytest.fixture
def release_when() -> Callable[..., AbstractContextManager[None]]:
    """Inside the block, the server keeps every reply back until its counters meet a condition."""

    @contextlib.contextmanager
    def release(server: FakeServer, condition: Callable[[FakeStatistics], bool], timeout: float = 20) -> Iterator[None]:
        holding = threading.Event()

        def wait() -> None:
            # If the condition is never met the test goes on, and finds out for itself.
            with server.held(), contextlib.suppress(TimeoutError):
                holding.set()
                server.wait_until(condition, timeout)

        thread = threading.Thread(target=wait)
        thread.start()
        holding.wait()
        try:
            yield
        finally:
            thread.join()

    return release


@pytest.fixture
def assert_exact() -> Callable[..., None]:
    """The pool's books agree with what the server counted, and nothing is left open. One request is one sample."""

    def check(pool: BudgetPool, server: FakeServer, predictions: list[Any]) -> None:
        now, counted = pool.statistics(), server.statistics()
        assert now.reserved == Cost()
        assert now.open_calls == 0
        assert now.spent.samples == now.spent.requests == counted.requests
        for unit, limit in now.limits.items():
            assert limit is None or getattr(now.spent, unit) <= limit
        votes = sum(votes.total for prediction in predictions for votes in explain(prediction).votes)
        on_trial = sum(s.problem == ON_TRIAL for prediction in predictions for s in explain(prediction).samples)
        assert votes + on_trial == counted.delivered

    return check
