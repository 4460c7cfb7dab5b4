"""Completions a second of the lab server, for several numbers of concurrent clients.

The server runs in this process and the clients in another, as two programs on one machine would.

    python examples/lab/throughput.py [--quick] [--json OUT]
"""

import argparse
import asyncio
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import httpx

from dynscale_dspy import lab

SIGNATURE: Any = dspy.ChainOfThought("question -> answer").predict.signature


async def drive(url: str, model: str, concurrency: int, count: int) -> dict[str, float]:
    """Send `count` requests from `concurrency` clients, each sending its next one when answered."""
    adapter = dspy.ChatAdapter()
    prompts = [
        adapter.format(SIGNATURE, demos=[], inputs={"question": example.question})
        for example in lab.questions(count, seed=0)
    ]
    numbered = iter(enumerate(prompts))
    latencies: list[float] = []
    tokens = 0

    async def work(client: httpx.AsyncClient) -> None:
        nonlocal tokens
        for seed, messages in numbered:
            start = time.perf_counter()
            body = {"model": model, "messages": messages, "max_tokens": 60, "seed": seed}
            response = await client.post(f"{url}/chat/completions", json=body)
            response.raise_for_status()
            latencies.append(time.perf_counter() - start)
            tokens += response.json()["usage"]["completion_tokens"]

    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(timeout=120, limits=limits) as client:
        start = time.perf_counter()
        await asyncio.gather(*(work(client) for _ in range(concurrency)))
        wall = time.perf_counter() - start
    latencies.sort()
    return {
        "concurrency": concurrency,
        "completions": count,
        "completions_per_second": count / wall,
        "tokens_per_second": tokens / wall,
        "tokens_per_completion": tokens / count,
        "median_latency_seconds": latencies[count // 2],
    }


def measure(url: str, model: str, concurrency: int, count: int) -> dict[str, float]:
    """Return one row; runs in the clients' process."""
    asyncio.run(drive(url, model, concurrency, 10))  # warms up
    return asyncio.run(drive(url, model, concurrency, count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about a fifth of the requests")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the rows there")
    arguments = parser.parse_args()

    rows = []
    print("concurrency  completions/s  tokens/s  tokens each  median latency")
    with lab.LabServer() as server, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as clients:
        for concurrency in (1, 8, 32, 64):
            count = max(15, 4 * concurrency) if arguments.quick else max(100, 20 * concurrency)
            row = clients.submit(measure, server.url, server.model_name, concurrency, count).result()
            rows.append(row)
            print(
                f"{concurrency:11} {row['completions_per_second']:14.1f} {row['tokens_per_second']:9.0f} "
                f"{row['tokens_per_completion']:12.1f} {row['median_latency_seconds'] * 1000:12.0f} ms"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
