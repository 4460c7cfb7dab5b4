"""What is cut off before it was sent costs nothing; what may have been sent is booked."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import signal
import threading
from pathlib import Path

import dspy
import httpx
import pytest

from dynscale_dspy import BudgetPool, Cost, DynScaling, Parallel, Price
from dynscale_dspy.execution import sending
from dynscale_dspy.execution.lm_errors import RETRIES_ARE_SEEN
from dynscale_dspy.execution.sending import had_left
from dynscale_dspy.testing import FakeQuestion, FakeServer
from tests.support import settled

BANK = [FakeQuestion("warm", {"4": 1.0}, "4")]
CALLS = 20
"""Of eight samples each: more requests at once than DSPy's native transport has connections."""


def pool_of_eight(**options) -> BudgetPool:
    prices = {"openai/fake": Price(prompt=1, completion=2)}
    return BudgetPool(samples=5000, dollars=100, min_per_call=8, prices=prices, **options)


@pytest.mark.parametrize("end", ["cancel", "stop"])
@pytest.mark.parametrize("engine", ["auto", "litellm"])
def test_requests_that_never_left_are_not_booked(engine, end):
    pool = pool_of_eight()
    program = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel(), max_choices=1)

    async def run(server):
        with dspy.context(lm=server.lm(engine, max_tokens=4000)):
            await program.acall(question="warm")
            booked, made = pool.statistics().spent, server.statistics().requests
            with server.held():  # no reply comes, so no connection gets free
                calls = [asyncio.ensure_future(program.acall(question=f"question {i}")) for i in range(CALLS)]
                while server.statistics().requests < made + 2:
                    await asyncio.sleep(0)
                if end == "stop":
                    pool.stop(cancel=True)
                else:
                    for call in calls:
                        call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
                await settled(pool)
        now_spent = pool.statistics().spent
        return now_spent.requests - booked.requests, now_spent.samples - booked.samples, made

    with FakeServer(BANK) as server:
        requests, samples, made = asyncio.run(run(server))
        arrived = server.statistics().requests - made
    assert 0 < arrived <= requests <= arrived + 8  # some had left, and were not read by the server yet
    assert engine == "litellm" or requests < 8 * CALLS
    assert samples == requests
    assert pool.statistics().open_calls == 0 and pool.statistics().reserved == Cost()


def test_a_shared_request_that_never_left_costs_none_of_its_samples_anything():
    pool = pool_of_eight()
    program = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel(), max_choices=8)

    class Client(dspy.LM):
        turn, asked = asyncio.Semaphore(0), 0

        async def aforward(self, prompt=None, messages=None, **kwargs):
            Client.asked += 1
            async with self.turn:
                return await super().aforward(prompt, messages, **kwargs)

    async def run():
        with dspy.context(lm=Client("openai/fake", api_key="none", max_tokens=100, engine="litellm")):
            call = asyncio.ensure_future(program.acall(question="q"))
            while not Client.asked and not call.done():
                await asyncio.sleep(0)
            assert Client.asked
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    asyncio.run(run())
    assert pool.statistics().spent == Cost() and pool.admission.drawn == 0


# ---- language models of a user's own


class Own(dspy.BaseLM):
    """Sends nothing, and waits for a reply for ever once it would have."""

    def __init__(self) -> None:
        super().__init__(model="openai/own", max_tokens=100)
        self.turn, self.reply = asyncio.Semaphore(2), asyncio.Event()
        self.asked = self.sent = 0

    async def send(self):
        self.sent += 1
        await self.reply.wait()


class InTurn(Own):
    async def aforward(self, prompt=None, messages=None, **kwargs):
        self.asked += 1
        async with self.turn:
            return await self.send()


class Twice(Own):
    """Waits for its turn when it has sent something."""

    async def aforward(self, prompt=None, messages=None, **kwargs):
        await asyncio.sleep(0)
        self.asked += 1
        async with self.turn:
            return await self.send()


class Again(Own):
    """Waits for its turn in a loop."""

    async def aforward(self, prompt=None, messages=None, **kwargs):
        while True:
            self.asked += 1
            async with self.turn:
                await self.send()


class Queued(Own):
    """Hands its request to somebody else, and waits for what comes of it."""

    async def aforward(self, prompt=None, messages=None, **kwargs):
        self.asked += 1
        await self.reply.wait()


@pytest.mark.parametrize("kind, booked", [(InTurn, 2), (Twice, 8), (Again, 8), (Queued, 8)])
def test_a_language_model_of_the_users_own_that_waits_for_its_turn_first_has_sent_nothing(kind, booked):
    pool = pool_of_eight()
    program = DynScaling(dspy.Predict("question -> answer"), pool, sampling=Parallel(), max_choices=1)

    async def run():
        lm = kind()
        with dspy.context(lm=lm):
            call = asyncio.ensure_future(program.acall(question="q"))
            while lm.asked < 8:
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    asyncio.run(run())
    assert pool.statistics().spent.requests == booked
    assert pool.statistics().spent.samples == booked


def test_a_free_connection_is_waited_for_before_anything_is_sent_in_threads_as_well():
    with FakeServer(BANK) as server, server.held():
        client = httpx.Client(limits=httpx.Limits(max_connections=1), timeout=None)
        body = {"model": "fake", "messages": [{"role": "user", "content": "warm"}]}
        first = threading.Thread(target=lambda: client.post(f"{server.url}/chat/completions", json=body), daemon=True)
        first.start()
        server.wait_until(lambda seen: seen.requests == 1)
        caught = None
        before = signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            client.post(f"{server.url}/chat/completions", json=body)
        except KeyboardInterrupt as error:
            caught = error
        finally:
            signal.signal(signal.SIGALRM, before)
    assert caught is not None
    inner = caught.__traceback__.tb_next  # without this function, which is no coroutine and might have sent before
    assert not had_left(caught.with_traceback(inner))
    assert had_left(KeyboardInterrupt())


def _interrupt(number, frame):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "module, name, never, before",
    [
        ("openai._base_client", "retries_taken", 0, 1),
        ("dspy.clients.execution", "attempt", 0, 1),
        ("httpx._client", "history", [], ["a redirect"]),
    ],
)
def test_what_was_made_before_may_have_been_answered(module, name, never, before):
    code = f"def request({name}):\n    wait()"
    scope = {"__name__": module, "wait": _named("httpcore._async.connection_pool", "wait_for_connection")}
    exec(code, scope)
    assert not had_left(_raised_by(lambda: scope["request"](never)))
    assert had_left(_raised_by(lambda: scope["request"](before)))


@pytest.mark.skipif(not RETRIES_ARE_SEEN, reason="before DSPy 3.4 LiteLLM makes the retries")
def test_a_request_that_was_refused_and_is_to_be_made_again_is_booked():
    class Direct(dspy.Module):
        async def aforward(self, question):
            return dspy.Prediction(answer=(await dspy.settings.lm.acall(question))[0])

    pool = BudgetPool(samples=5000, max_per_call=1)
    program = DynScaling(Direct(), pool)

    async def run(server):
        with dspy.context(lm=server.lm(num_retries=3)):
            calls = [asyncio.ensure_future(program.acall(question=f"question {i}")) for i in range(8 * CALLS)]
            await asyncio.to_thread(server.wait_until, lambda seen: seen.requests > 8 * CALLS)
            for call in calls:  # many wait for a connection, for the second time
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await settled(pool)

    with FakeServer(BANK, fault_rate=1, faults=["429_retry_after"], retry_after=0.2, median_latency=0.02) as server:
        asyncio.run(run(server))
        asked = {body["messages"][-1]["content"] for body in server.bodies}
    assert len(asked) <= pool.statistics().spent.requests <= 8 * CALLS


def test_some_providers_of_litellm_are_asked_in_the_thread_that_makes_the_request_up():
    scope = {"__name__": "litellm.main"}
    exec("def acompletion(custom_llm_provider):\n    raise KeyboardInterrupt", scope)
    assert not had_left(_raised_by(lambda: scope["acompletion"]("openai")))
    assert had_left(_raised_by(lambda: scope["acompletion"]("petals")))


def _named(module, function):
    scope = {"__name__": module}
    exec(f"def {function}():\n    raise KeyboardInterrupt", scope)
    return scope[function]


def _raised_by(act):
    try:
        act()
    except KeyboardInterrupt as error:
        return error.with_traceback(error.__traceback__.tb_next.tb_next)
    raise AssertionError("nothing was raised")


def test_the_places_it_knows_are_there():
    """If one is gone, what waits there is booked though it has not left."""
    missing = []
    for place in sorted(sending._BEFORE | sending._BEFORE_AT | sending._TURNS):
        module, function = place.split(":")
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            continue  # another DSPy, or a client that is not installed
        if found is None or found.origin is None:
            continue
        tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        if function not in names:
            missing.append(place)
    assert not missing
