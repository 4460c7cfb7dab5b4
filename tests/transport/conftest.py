from collections.abc import Callable
from typing import Any

import pytest

from dynscale_dspy import BudgetPool, Cost, explain
from dynscale_dspy.sampling.sample import ON_TRIAL
from dynscale_dspy.testing import FakeServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "transport" in item.path.parts and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(60, func_only=True))


@pytest.fixture(autouse=True)
def warmed_up(request: pytest.FixtureRequest) -> None:
    if "litellm" in request.node.name:
        request.getfixturevalue("litellm_is_warm")


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
