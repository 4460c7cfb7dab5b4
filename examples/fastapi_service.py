"""A web service with one budget for all its requests, and a smaller one inside it for each request.

A client that hangs up stops its samples. A spent budget is a 429, a pool that was stopped or cannot be read a 503; both
say what is spent, reserved and left, and when to come back where that is known.

`python examples/fastapi_service.py` starts it in this process, asks it a few questions at once and stops. To keep it
running: `uvicorn --app-dir examples fastapi_service:app`, and then

    curl 'localhost:8000/answer?question=State+the+final+answer+to+the+following+arithmetic+problem:+41+%2B+27+='
    curl 'localhost:8000/stream?question=State+the+final+answer+to+the+following+arithmetic+problem:+41+%2B+27+='
    curl localhost:8000/budget
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # without a network LiteLLM waits for its price list

import dspy
import httpx
from dspy.streaming import StatusMessage, StreamListener, StreamResponse
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from dynscale_dspy import BudgetExhausted, BudgetPool, DynScaling, SamplingStatus, StorageError, explain, lab

T = TypeVar("T")

# `path="budget.sqlite"` lets several workers share it and keeps it over a restart; with `period="day"` it begins anew.
pool = BudgetPool(samples=200, per_call=6, max_per_call=12)
qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Serves the model in the box for as long as the service lives. A model of yours needs none of this."""
    with lab.serve() as lm:
        app.state.lm = lm
        yield


app = FastAPI(lifespan=lifespan)


# ---- a client that hangs up


class HungUp(Exception):
    """Nobody waits for the reply any more."""


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What comes of the work. It is cancelled, and its samples with it, as soon as the client hangs up.

    A handler has to be `async` for that: FastAPI runs others in threads, which nothing can stop.
    """

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.create_task(work), asyncio.create_task(hung_up())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise HungUp
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.wait({task, watch})


@app.exception_handler(HungUp)
async def nobody(request: Request, error: HungUp) -> Response:
    """What is written to the log; the client does not see it."""
    return Response(status_code=499)


# ---- a budget that is spent


def figures() -> dict[str, dict[str, float]]:
    """What is spent, reserved by calls under way and left, in each unit that has a cap."""
    now, told = pool.statistics(), {}
    for unit, cap in now.limits.items():
        if cap is not None:
            spent, reserved = getattr(now.spent, unit), getattr(now.reserved, unit)
            told[unit] = {"spent": spent, "reserved": reserved, "left": max(cap - spent - reserved, 0)}
    return told


@app.exception_handler(StorageError)
@app.exception_handler(BudgetExhausted)
async def refuse(request: Request, error: Exception) -> JSONResponse:
    """The reply to a call that cannot be paid."""
    if isinstance(error, StorageError):
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "5"})
    now, budget = pool.statistics(), figures()
    seconds = getattr(error, "retry_after", None)  # to the pool's next period, if it has one
    if seconds is None and any(unit["reserved"] for unit in budget.values()):
        seconds = 1  # what calls under way do not need is free again when they end
    headers = {} if seconds is None else {"Retry-After": str(math.ceil(seconds))}
    return JSONResponse({"detail": str(error), "budget": budget}, 429 if now.state == "open" else 503, headers)


# ---- the routes


@app.get("/answer")
async def answer(question: str, request: Request) -> dict[str, Any]:
    """An answer, and how sure the vote is of it."""
    prediction = await while_connected(request, ask(question))
    told = explain(prediction)
    return {"answer": prediction.answer, "confidence": round(told.confidence, 3), "samples": len(told.samples)}


async def ask(question: str) -> dspy.Prediction:
    with dspy.context(lm=app.state.lm), pool.scope(samples=12, deadline=30):
        # DSPy types `acall` as if it were not awaitable.
        return await qa.acall(question=question)  # type: ignore[misc]


@app.get("/stream")
async def stream(question: str, request: Request) -> StreamingResponse:
    """How the vote stands after each round of samples, and then the answer, as server-sent events."""
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    telling = asyncio.create_task(tell(question, events))
    telling.add_done_callback(lambda _: events.put_nowait({}))
    try:
        first = await while_connected(request, events.get())  # a spent budget is known before anything is sent
        if telling.done():
            telling.result()
    except BaseException:
        telling.cancel()
        raise

    async def lines() -> AsyncIterator[str]:
        try:
            event = first
            while event:
                yield f"data: {json.dumps(event)}\n\n"
                event = await while_connected(request, events.get())
            telling.result()  # whatever went wrong meanwhile
        except HungUp:
            pass
        finally:
            telling.cancel()

    return StreamingResponse(lines(), media_type="text/event-stream")


async def tell(question: str, events: asyncio.Queue[dict[str, Any]]) -> None:
    listener = StreamListener(signature_field_name="answer")
    streamed = dspy.streamify(qa, SamplingStatus(), stream_listeners=[listener], is_async_program=True)
    try:
        with dspy.context(lm=app.state.lm), pool.scope(samples=12, deadline=30):
            async for item in streamed(question=question):  # type: ignore[union-attr]
                if isinstance(item, StatusMessage):
                    events.put_nowait({"status": item.message})
                elif isinstance(item, StreamResponse):
                    events.put_nowait({"answer": item.chunk})
    except Exception as error:
        raise alone(error) from None


def alone(error: Exception) -> Exception:
    """The error itself: before 3.4 DSPy wraps what goes wrong in a stream in groups of one."""
    while len(inner := getattr(error, "exceptions", ())) == 1:
        error = inner[0]
    return error


@app.get("/budget")
async def budget() -> dict[str, Any]:
    """What is spent, reserved and left."""
    now = pool.statistics()
    return {"budget": figures(), "tokens": now.spent.tokens, "answered": now.closed_calls}


async def try_it(count: int) -> None:
    questions = lab.questions(count, seed=5)
    async with lifespan(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://local") as client:
        replies = await asyncio.gather(
            *(client.get("/answer", params={"question": question.question}, timeout=60) for question in questions)
        )
        for question, reply in zip(questions, replies, strict=True):
            print(question.question, reply.status_code, reply.json(), f"(right: {question.answer})")
        told = await client.get("/stream", params={"question": questions[0].question}, timeout=60)
        print(*told.text.split("\n\n"), sep="\n")
        print((await client.get("/budget")).json())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three questions instead of twelve")
    arguments = parser.parse_args()
    asyncio.run(try_it(3 if arguments.quick else 12))


if __name__ == "__main__":
    main()
