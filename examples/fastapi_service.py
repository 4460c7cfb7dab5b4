"""A web service with one budget for all its requests, and a smaller one inside it for each request.

`python examples/fastapi_service.py` starts it in this process, asks it a few questions at once and stops. To keep it
running: `uvicorn --app-dir examples fastapi_service:app`, and then

    curl 'localhost:8000/answer?question=State+the+final+answer+to+the+following+arithmetic+problem:+41+%2B+27+='
    curl localhost:8000/budget
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # without a network LiteLLM waits for its price list

import dspy
import httpx
from fastapi import FastAPI, HTTPException

from dynscale_dspy import BudgetExhausted, BudgetPool, DynScaling, explain, lab

# `path="budget.sqlite"` lets several workers share it and keeps it over a restart.
pool = BudgetPool(samples=200, per_call=6, max_per_call=12)
qa = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Serves the model in the box for as long as the service lives. A model of yours needs none of this."""
    with lab.serve() as lm:
        app.state.lm = lm
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/answer")
async def answer(question: str) -> dict[str, Any]:
    """An answer, and how sure the vote is of it."""
    try:
        with dspy.context(lm=app.state.lm), pool.scope(samples=12, deadline=30):
            # DSPy types `acall` as if it were not awaitable.
            prediction: dspy.Prediction = await qa.acall(question=question)  # type: ignore[misc]
    except BudgetExhausted as error:
        raise HTTPException(status_code=429, detail=str(error)) from error
    told = explain(prediction)
    return {"answer": prediction.answer, "confidence": round(told.confidence, 3), "samples": len(told.samples)}


@app.get("/budget")
async def budget() -> dict[str, Any]:
    """What is spent."""
    statistics = pool.statistics()
    return {"samples": statistics.spent.samples, "tokens": statistics.spent.tokens, "answered": statistics.closed_calls}


async def try_it(count: int) -> None:
    questions = lab.questions(count, seed=5)
    async with lifespan(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://local") as client:
        replies = await asyncio.gather(
            *(client.get("/answer", params={"question": question.question}, timeout=60) for question in questions)
        )
        for question, reply in zip(questions, replies, strict=True):
            print(question.question, reply.status_code, reply.json(), f"(right: {question.answer})")
        print((await client.get("/budget")).json())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three questions instead of twelve")
    arguments = parser.parse_args()
    asyncio.run(try_it(3 if arguments.quick else 12))


if __name__ == "__main__":
    main()
