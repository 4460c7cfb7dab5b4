"""The example of a web service, over HTTP on loopback: what becomes of clients that hang up, and of a spent budget."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import dspy
import httpx
import pytest
import uvicorn

from dynscale_dspy import BudgetPool, DynScaling, Integrated, Parallel, Uniform
from dynscale_dspy.testing import FakeServer
from tests.support import until

EXAMPLE = Path(__file__).parent.parent / "examples" / "fastapi_service.py"


@pytest.fixture
def model() -> Iterator[FakeServer]:
    with FakeServer(4, median_latency=0.0) as made:
        yield made


@pytest.fixture
def service(model: FakeServer) -> ModuleType:
    """The example's module, whose samples come from a server that can be held."""
    spec = importlib.util.spec_from_file_location("fastapi_service", EXAMPLE)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    made.app.state.lm = model.lm(cache=False)
    return made


Serve = Callable[[ModuleType, BudgetPool], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves the example with another pool, and returns its address."""
    with contextlib.ExitStack() as stack:

        def begin(service: ModuleType, pool: BudgetPool) -> str:
            service.pool = pool  # type: ignore[attr-defined]
            service.qa = DynScaling(  # type: ignore[attr-defined]
                dspy.ChainOfThought("question -> answer"), pool, sampling=Parallel()
            )
            server = uvicorn.Server(uvicorn.Config(service.app, lifespan="off", log_level="error"))
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(lambda: setattr(server, "should_exit", True))
            return f"http://127.0.0.1:{listening.getsockname()[1]}"

        yield begin


def ask(address: str, route: str, model: FakeServer, **options: Any) -> httpx.Response:
    return httpx.get(f"{address}/{route}", params={"question": model.questions[0].text}, **options)


@contextlib.contextmanager
def asking(address: str, route: str, model: FakeServer) -> Iterator[socket.socket]:
    """A connection on which a question was asked. It hangs up at the end of the block."""
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=60) as connection:
        question = quote(model.questions[0].text)
        connection.sendall(f"GET /{route}?question={question} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield connection


@pytest.mark.parametrize("engine", ["auto", "litellm"])
@pytest.mark.parametrize("route", ["answer", "stream"])
def test_a_client_that_hangs_up_stops_its_samples(
    model: FakeServer, service: ModuleType, serve: Serve, route: str, engine: str
) -> None:
    service.app.state.lm = lm = model.lm(engine=engine, cache=False)
    lm("warm up")  # importing LiteLLM takes seconds
    model.reset()
    pool = BudgetPool(samples=50, min_per_call=6, max_per_call=6, policy=Uniform(first=6))
    address, requests = serve(service, pool), 6 if engine == "auto" else 1  # through LiteLLM samples share one
    with model.held():
        with asking(address, route, model):
            model.wait_until(lambda now: now.in_flight == requests)
        assert model.wait_until(lambda now: now.in_flight == 0).aborted == requests
        until(lambda: pool.statistics().open_calls == 0 and pool.statistics().reserved.samples == 0)
    assert model.statistics().delivered == 0


class Stuck(dspy.Module):
    """Answers twice, and then waits to be cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.answer, self.runs, self.waiting, self.cancelled = dspy.Predict("question -> answer"), 0, 0, 0

    async def aforward(self, question: str) -> dspy.Prediction:
        self.runs += 1
        if self.runs > 2:
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return await self.answer.acall(question=question)  # type: ignore[misc]


def test_a_client_that_hangs_up_in_the_middle_of_a_stream_stops_what_is_left(
    model: FakeServer, service: ModuleType, serve: Serve
) -> None:
    pool, program = BudgetPool(per_call=4, policy=Uniform(first=2)), Stuck()
    address = serve(service, pool)
    sampling = Integrated(independent=2, width=2, when="always")
    service.qa = DynScaling(program, pool, sampling=sampling)  # type: ignore[attr-defined]
    with asking(address, "stream", model) as connection:
        heard = b""
        while b"data: " not in heard:
            heard += connection.recv(1000)
        until(lambda: program.waiting == 2)
    until(lambda: program.cancelled == 2 and pool.statistics().open_calls == 0)
    assert pool.statistics().reserved.samples == 0


def test_a_client_that_stays_has_its_answer(model: FakeServer, service: ModuleType, serve: Serve) -> None:
    address = serve(service, BudgetPool(samples=50, per_call=4))
    told = ask(address, "answer", model).json()
    assert told["answer"] and told["samples"] >= 2
    lines = [line for line in ask(address, "stream", model).text.split("\n\n") if line]
    *status, answer = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert answer["answer"] and all("samples" in each["status"] for each in status) and status
    assert model.statistics().aborted == 0


@pytest.mark.parametrize("route", ["answer", "stream"])
def test_a_spent_budget_is_told_with_figures(model: FakeServer, service: ModuleType, serve: Serve, route: str) -> None:
    now = 1030.0
    pool = BudgetPool(samples=2, period=100, clock=lambda: now)
    address = serve(service, pool)
    assert ask(address, "answer", model).status_code == 200
    refused = ask(address, route, model)
    assert refused.status_code == 429 and refused.headers["retry-after"] == "70"
    assert refused.json()["budget"] == {"samples": {"spent": 2, "reserved": 0, "left": 0}}
    assert "2 of 2 samples of the pool are spent" in refused.json()["detail"]
    assert httpx.get(f"{address}/budget").json()["budget"] == refused.json()["budget"]
    pool.stop()
    stopped = ask(address, route, model)
    assert stopped.status_code == 503 and "the pool was stopped" in stopped.json()["detail"]


def test_what_others_have_reserved_is_told(model: FakeServer, service: ModuleType, serve: Serve) -> None:
    address = serve(service, BudgetPool(samples=4, min_per_call=4))
    with model.held():
        first = threading.Thread(target=ask, args=(address, "answer", model), kwargs={"timeout": 60})
        first.start()
        model.wait_until(lambda now: now.in_flight == 4)
        other = httpx.get(f"{address}/answer", params={"question": model.questions[1].text})
    first.join()
    assert other.status_code == 429 and other.headers["retry-after"] == "1"
    assert other.json()["budget"]["samples"] == {"spent": 0, "reserved": 4, "left": 0}
