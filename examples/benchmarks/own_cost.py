"""What a sample costs beside the bare program: bytecode instructions, which are exact, and CPU.

    python examples/benchmarks/own_cost.py [--before FOLDER] [--quick] [--json OUT]

The language model answers at once and in this process, so that what is left is Python's work alone. Calls of eight
samples, a request a sample, are awaited one after another, wrapped and bare in turn. Instructions are counted as the
interpreter runs them, and do not depend on what else the machine does. CPU does: of many calls the first decile is
kept, and of some processes the least. ``--before`` is a folder with another version of the package; they take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

SAMPLES = 8
REPLY = "[[ ## reasoning ## ]]\nTwo and two make four.\n\n[[ ## answer ## ]]\n4\n\n[[ ## completed ## ]]"
QUESTION = "What is two and two?"
ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", metavar="FOLDER", type=Path, help="another version of the package")
    parser.add_argument("--calls", type=int, default=100, help="of each kind and process, for CPU")
    parser.add_argument("--repeats", type=int, default=5, help="processes")
    parser.add_argument("--quick", action="store_true", help="10 calls, in one process")
    parser.add_argument("--json", metavar="OUT", type=Path, help="write the rows here")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    calls, repeats = (10, 1) if options.quick else (options.calls, options.repeats)
    if options.measure:
        print(json.dumps(measure(calls)))
        return
    versions = {"before": options.before, "now": ROOT} if options.before else {"now": ROOT}
    runs: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in versions}
    for _ in range(repeats):
        for name, folder in versions.items():
            runs[name].append(_run(folder, calls))
    rows = [
        {"version": name, **min(same, key=lambda row: row["cpu_us"])}
        for name, each in runs.items()
        for same in zip(*each, strict=True)
    ]
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def _run(folder: Path, calls: int) -> list[dict[str, Any]]:
    """The rows of the package in a folder, measured in a process of its own."""
    command = [sys.executable, __file__, "--measure", "--calls", str(calls)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(folder)}
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(calls: int) -> list[dict[str, Any]]:
    """A row for the bare program and one for the wrapped one, a sample."""
    import dspy
    from dspy.lm15 import Message, Response, Usage

    from dynscale_dspy import BudgetPool, DynScaling, Parallel, Uniform

    class Engine:
        def complete(self, request: Any) -> Any:
            usage = Usage(input_tokens=7, output_tokens=3, total_tokens=10)
            message = Message.assistant(REPLY)
            return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)

    class AsyncEngine:
        async def complete(self, request: Any) -> Any:
            await asyncio.sleep(0)
            return Engine().complete(request)

    def lm() -> dspy.LM:  # the wrapped program's tells of its requests from then on
        return dspy.LM(
            "fake/m", engine=Engine(), async_engine=AsyncEngine(), temperature=1.0, cache=False, num_retries=0
        )

    program = dspy.ChainOfThought("question -> answer")
    pool = BudgetPool(per_call=SAMPLES, policy=Uniform())
    qa = DynScaling(program, pool, sampling=Parallel(), max_choices=1)

    async def bare() -> None:
        await asyncio.gather(*(program.acall(question=QUESTION) for _ in range(SAMPLES)))

    async def wrapped() -> None:
        await qa.acall(question=QUESTION)

    loop = asyncio.new_event_loop()

    def asking(calls: Callable[[], Any], lm: dspy.LM) -> Callable[[], None]:
        def ask() -> None:
            with dspy.context(lm=lm):
                loop.run_until_complete(calls())

        return ask

    ways = {"bare program": asking(bare, lm()), "wrapped": asking(wrapped, lm())}
    for ask in ways.values():
        for _ in range(4):  # what is learned and kept at first
            ask()
    counted = {way: _instructions(ask) for way, ask in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(calls):
        for way, ask in ways.items():
            began = time.process_time()
            ask()
            seconds[way].append(time.process_time() - began)
    rows = []
    for way in ways:
        whole, own = counted[way]
        microseconds = 1e6 * sorted(seconds[way])[calls // 10] / SAMPLES
        rows.append({"way": way, "instructions": whole, "of the package": own, "cpu_us": round(microseconds)})
    return rows


def _instructions(ask: Callable[[], None]) -> tuple[int, int]:
    """Bytecode instructions a sample, in all threads; and those of the package's own code."""
    counts = {True: 0, False: 0}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            counts["dynscale_dspy" in frame.f_code.co_filename] += 1
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
    try:
        ask()
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
    return round(sum(counts.values()) / SAMPLES), round(counts[True] / SAMPLES)


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], title="What a sample costs: instructions, and microseconds of CPU")
    for row in rows:
        table.add_row(*(f"{value:,}" if isinstance(value, int) else value for value in row.values()))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
