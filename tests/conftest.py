import os

# Before anything imports LiteLLM: it would fetch a price list over the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import asyncio
import contextlib
import copy
import functools
import gc
import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import dspy
import pytest
from hypothesis import settings as hypothesis_settings

from dynscale_dspy.execution import shared_request
from dynscale_dspy.execution.capabilities import SERVERS
from dynscale_dspy.testing import FakeServer, FakeStatistics
from tests.support import HAS_ENGINES

hypothesis_settings.register_profile("default", max_examples=100, deadline=None)
hypothesis_settings.register_profile("nightly", max_examples=1000, deadline=None)
hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# The package of this name exports the settings object, which hides the module.
dspy_settings = importlib.import_module("dspy.dsp.utils.settings")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes run the tests, one runs all of a group."""
    if config.getoption("dist") != "loadgroup":
        return None
    from tests.groups import Grouped

    return Grouped(config, log)


def pytest_collection_finish() -> None:
    """What there is before the first test stays: collecting garbage need not go through a million objects each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def models_are_looked_up_once() -> Iterator[None]:
    """With each request DSPy goes through its list of thousands of models, twice; those of the tests are not in it."""
    with pytest.MonkeyPatch.context() as patch:
        try:
            from dspy.clients import capabilities, costs, model_metadata
        except ImportError:  # before DSPy 3.4 there is no list
            yield
            return
        find = functools.cache(model_metadata.model_info)

        def model_info(provider: str, model: str, *, namespaces: Any = None) -> dict[str, Any]:
            return copy.deepcopy(find(provider, model, namespaces=None if namespaces is None else tuple(namespaces)))

        for module in (capabilities, costs, model_metadata):
            patch.setattr(module, "model_info", model_info)
        yield


@pytest.fixture(autouse=True)
def fresh_dspy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test begins with DSPy's default settings and an empty cache in memory, and no test leaves any behind."""
    for name in [name for name in os.environ if name.endswith(("_API_BASE", "_BASE_URL", "_API_KEY"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(dspy_settings, "main_thread_config", copy.deepcopy(dspy_settings.DEFAULT_CONFIG))
    monkeypatch.setattr(dspy_settings, "config_owner_thread_id", None)
    monkeypatch.setattr(dspy_settings, "config_owner_async_task", None)
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=True)


@pytest.fixture(autouse=True)
def unknown_servers() -> None:
    """No test knows what another one found of a server; a later one may listen at the same port."""
    SERVERS.forget()


SHARING = frozenset({"test_docs.py", "test_readme.py", "test_long_prompts.py"})
"""Files in which no test counts a request a sample."""


@pytest.fixture(autouse=True)
def a_request_a_sample(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that do not name LiteLLM count a request a sample, as the native engine makes them.

    Before DSPy 3.4 there is no such engine, and through LiteLLM samples would share requests there. What users paste
    runs as it does for them.
    """
    if "litellm" not in request.node.nodeid and request.path.name not in SHARING:
        monkeypatch.setattr(shared_request, "can_borrow", lambda lm, settings, *, wait, turn=None: False)
        # Tests of refused settings name LiteLLM in their code.
        if not HAS_ENGINES and request.path.name != "test_refused_settings.py":
            monkeypatch.setattr(shared_request, "makes_one_request", lambda lm, settings: False)


@pytest.fixture(scope="session")
def litellm_is_warm() -> None:
    """Importing LiteLLM takes seconds, and more of it is imported by the first call: not while a test counts time."""
    with FakeServer(1, median_latency=0) as fake:
        lm = fake.lm("litellm")
        lm("warm up")
        asyncio.run(lm.acall("warm up"))


@pytest.fixture
def server() -> Iterator[Callable[..., FakeServer]]:
    """Starts fake servers, fast ones unless told otherwise, and stops them after the test."""
    with ExitStack() as running:

        def start(*args: Any, **options: Any) -> FakeServer:
            return running.enter_context(FakeServer(*args, **{"median_latency": 0.003, "sigma": 0.3, **options}))

        yield start


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
