"""What `docs/budgets-promises.md` says cannot be seen: what it comes to, and what helps."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dspy
import httpx
import pytest

from dynscale_dspy import BudgetPool, Cost, DynScaling, Uniform
from dynscale_dspy.testing import questions
from tests.support import ENGINES, needs_lm_errors, one_each

BANK = questions(6)
pytestmark = needs_lm_errors


@contextmanager
def redirecting(to: str) -> Iterator[tuple[str, list[int]]]:
    """A server that sends every request on to another; its address, and the requests it had."""
    had: list[int] = []

    class Door(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            had.append(1)
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(307)
            self.send_header("location", f"{to}/chat/completions")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1", had
        finally:
            server.shutdown()
            thread.join()


def ask(qa: DynScaling, lm: Any) -> int:
    answered = 0
    with dspy.context(lm=lm):
        for question in BANK:
            try:
                answered += bool(qa(question=question.text).answer)
            except Exception:
                break
    return answered


@pytest.mark.parametrize("engine", [*ENGINES, "litellm that follows none"])
def test_a_redirected_request_counts_once_where_it_is_followed_at_all(
    engine: str, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import litellm

    fake = server(BANK)
    with redirecting(fake.url) as (door, had), httpx.Client(follow_redirects=False) as client:
        if "none" in engine:
            monkeypatch.setattr(litellm, "client_session", client)
        lm = fake.lm(engine.partition(" ")[0], num_retries=0).copy(api_base=door)
        pool = BudgetPool(requests=4, per_call=1, policy=Uniform(), max_failures=None)
        answered = ask(one_each(dspy.Predict("question -> answer"), budget=pool), lm)
    now = pool.statistics()
    assert now.reserved == Cost()
    assert now.spent.requests == len(had) <= 4
    assert fake.statistics().requests == answered == (4 if engine == "litellm" else 0)


def test_routes_inside_a_language_model_of_ones_own_count_as_one(server: Any) -> None:
    import litellm

    broken, good = server(BANK, fault_rate=1.0, faults=["500"]), server(BANK)
    where = {"main": broken, "spare": good}
    router = litellm.Router(
        model_list=[
            {"model_name": name, "litellm_params": {"model": "openai/fake", "api_base": at.url, "api_key": "x"}}
            for name, at in where.items()
        ],
        fallbacks=[{"main": ["spare"]}],
        num_retries=0,
    )

    class Routed(dspy.BaseLM):
        def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
            settings = {k: v for k, v in {**self.kwargs, **kwargs}.items() if k not in ("rollout_id", "cache")}
            return router.completion(model=self.model, messages=messages, **settings)

    pool = BudgetPool(requests=4, per_call=1, policy=Uniform())
    answered = ask(DynScaling(dspy.Predict("question -> answer"), pool), Routed("main", temperature=1.0, cache=False))
    now = pool.statistics()
    assert now.reserved == Cost()
    assert answered == now.spent.requests == broken.statistics().requests == good.statistics().requests == 4
    assert now.spent.tokens == good.statistics().prompt_tokens + good.statistics().completion_tokens
