"""How full the wire is: wall clock over the ideal by samples in flight, and beside other ways to draw as many answers.

    python examples/benchmarks/throughput.py [--quick] [--json OUT] [--peers PYTHON] [--arena FOLDER]

The server takes a log-normal time for each reply and runs in a process of its own; so does each method, so that CPU is
that method's alone. The ideal is what the same replies would take if asking cost nothing: each starts as soon as one of
the places is free. A place is a request under way, so a method that asks for eight answers at once holds one.

One question alone comes first (``--part one``). The second part draws up to 1,600 samples with 1 to 1,000 requests in
flight. The third answers questions with eight samples each and a vote, side by side with what DSPy, LiteLLM and others
ship. ``--peers`` is a Python in which `its_hub[lm]`, `langchain-openai` and `pydantic-ai-slim[openai]` are installed;
without it their rows are left out.
``--arena`` is a folder with another server, `fake_server.py`, of the same routes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import json
import logging
import multiprocessing
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

# Only the standard library up here: other methods run this file in an environment without the rest.

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

Answers = list["str | None"]
Run = Callable[[Sequence[str]], Answers]
Method = Callable[[str, int, int], Run]
"""Of a server's address, requests in flight, and samples a question."""

EACH = 8
SPREAD = 0.5
COLUMNS = (
    "part", "method", "questions", "samples", "latency_ms", "in_flight", "peak", "requests", "seconds", "ideal",
    "over_ideal", "cpu_ms", "right",
)  # fmt: skip


# ---- the methods


def ours(engine: str, choices: int = 1, *, threads: bool = False) -> Method:
    """The wrapped program, from tasks or by `batch`."""

    def make(address: str, width: int, samples: int) -> Run:
        import dspy

        from dynscale_dspy import BudgetPool, DynScaling, Parallel, Uniform

        program = dspy.Predict("question -> answer")

        def run(questions: Sequence[str]) -> Answers:
            pool = BudgetPool(per_call=samples, policy=Uniform(), max_concurrency=width)
            qa = DynScaling(program, pool, sampling=Parallel(), max_choices=choices)
            with dspy.context(lm=_lm(address, engine)):
                if threads:
                    asked = [{"question": question} for question in questions]
                    found = qa.batch(asked, num_threads=width, disable_progress_bar=True, in_order=False)
                else:
                    found = _run(_together(qa.acall(question=question) for question in questions))
            return [prediction.answer for prediction in found]

        return run

    return make


def dspy_gather(engine: str) -> Method:
    """`acall` and a vote."""

    def make(address: str, width: int, samples: int) -> Run:
        import dspy

        program = dspy.Predict("question -> answer")

        async def one(question: str) -> str:
            return (await program.acall(question=question)).answer

        def run(questions: Sequence[str]) -> Answers:
            with dspy.context(lm=_lm(address, engine)):
                return _run(_voted(one, questions, width, samples))

        return run

    return make


def dspy_choices(engine: str) -> Method:
    """`n` and `dspy.majority`."""

    def make(address: str, width: int, samples: int) -> Run:
        import dspy

        class Voted(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.ask = dspy.Predict("question -> answer", n=samples)

            def forward(self, question: str) -> Any:
                return dspy.majority(self.ask(question=question))

        return _batch(Voted(), address, engine, width)

    return make


def dspy_best_of(engine: str) -> Method:
    """`BestOfN` with a reward that is never enough, so that it draws all of them."""

    def make(address: str, width: int, samples: int) -> Run:
        import dspy

        best = dspy.BestOfN(
            dspy.Predict("question -> answer"), N=samples, reward_fn=lambda _, found: 0.0, threshold=1.0
        )
        return _batch(best, address, engine, width)

    return make


def litellm_alone(address: str, width: int, samples: int) -> Run:
    """`litellm.acompletion` and a vote."""
    import litellm

    litellm.suppress_debug_info = True

    async def one(question: str) -> str | None:
        reply: Any = await litellm.acompletion(
            "openai/fake", messages=[_message(question)], api_base=address, api_key="local", temperature=1.0
        )
        return _read(reply.choices[0].message.content)

    return lambda questions: _run(_voted(one, questions, width, samples))


def its_hub(address: str, width: int, samples: int) -> Run:
    """Its self-consistency."""
    from its_hub import OpenAICompatibleLanguageModel, SelfConsistency  # pyright: ignore[reportMissingImports]
    from its_hub.core.orchestrator import LMOrchestrator  # pyright: ignore[reportMissingImports]

    def run(questions: Sequence[str]) -> Answers:
        async def main() -> Answers:
            lm = OpenAICompatibleLanguageModel(endpoint=address, api_key="local", model_name="fake")
            vote = SelfConsistency(
                consistency_space_projection_func=lambda text: _read(text) or "",
                orchestrator=LMOrchestrator(max_concurrency=width),
            )
            found = await _together(vote.ainfer(lm, question, budget=samples) for question in questions)
            await lm.close()
            return [_read(reply["content"]) for reply in found]

        return _run(main())

    return run


def langchain(address: str, width: int, samples: int, *, choices: bool) -> Run:
    """`ChatOpenAI(n=...)`, or `RunnableParallel` of as many."""
    from langchain_core.messages import HumanMessage  # pyright: ignore[reportMissingImports]
    from langchain_core.runnables import RunnableLambda, RunnableParallel  # pyright: ignore[reportMissingImports]
    from langchain_openai import ChatOpenAI  # pyright: ignore[reportMissingImports]

    settings = {"model": "fake", "base_url": address, "api_key": "local", "temperature": 1.0}
    if choices:
        several = ChatOpenAI(**settings, n=samples)

        async def ask(question: str) -> str | None:
            reply = await several.agenerate([[HumanMessage(question)]])
            return _vote(_read(generation.text) for generation in reply.generations[0])

        chain = RunnableLambda(ask)
    else:
        single = ChatOpenAI(**settings) | RunnableLambda(lambda message: _read(message.content))
        chain = RunnableParallel({f"sample{i}": single for i in range(samples)}) | RunnableLambda(
            lambda found: _vote(found.values())
        )
    return lambda questions: _run(chain.abatch(list(questions), config={"max_concurrency": width}))


def pydantic_ai(address: str, width: int, samples: int) -> Run:
    """`Agent.run` and a vote."""
    from pydantic_ai import Agent  # pyright: ignore[reportMissingImports]
    from pydantic_ai.models.openai import OpenAIChatModel  # pyright: ignore[reportMissingImports]
    from pydantic_ai.providers.openai import OpenAIProvider  # pyright: ignore[reportMissingImports]

    def run(questions: Sequence[str]) -> Answers:
        agent = Agent(OpenAIChatModel("fake", provider=OpenAIProvider(base_url=address, api_key="local")))

        async def one(question: str) -> str | None:
            return _read((await agent.run(question)).output)

        return _run(_voted(one, questions, width, samples))

    return run


METHODS: dict[str, Method] = {
    "ours, folded": ours("litellm", EACH),
    "ours, folded, threads": ours("litellm", EACH, threads=True),
    "ours, native": ours("auto"),
    "ours, native, threads": ours("auto", threads=True),
    "ours, LiteLLM": ours("litellm"),
    "dspy n=8 and majority, LiteLLM": dspy_choices("litellm"),
    "dspy n=8 and majority, native": dspy_choices("auto"),
    "dspy acall and gather, native": dspy_gather("auto"),
    "dspy acall and gather, LiteLLM": dspy_gather("litellm"),
    "dspy BestOfN, native": dspy_best_of("auto"),
    "plain LiteLLM": litellm_alone,
}
PEERS: dict[str, Method] = {
    "its_hub": its_hub,
    "LangChain n=8": lambda *of: langchain(*of, choices=True),
    "LangChain RunnableParallel": lambda *of: langchain(*of, choices=False),
    "pydantic-ai": pydantic_ai,
}
FOLDED = ("folded", "n=8 and majority, LiteLLM", "LangChain n=8")
ALONE = (
    "ours, native", "ours, native, threads", "ours, folded", "ours, LiteLLM", "dspy n=8 and majority, native",
    "dspy n=8 and majority, LiteLLM",
)  # fmt: skip
WIDTHS = {
    "ours, native": (1, 10, 100, 1000),
    "dspy acall and gather, native": (1, 10, 100, 1000),
    "ours, native, threads": (1, 10, 100),
    "ours, folded": (1, 10, 100, 1000),
}


def _lm(address: str, engine: str) -> Any:
    import dspy

    return dspy.LM(
        "openai/fake", api_base=address, api_key="local", engine=engine, cache=False, num_retries=0, temperature=1.0
    )


def _batch(module: Any, address: str, engine: str, width: int) -> Run:
    import dspy

    def run(questions: Sequence[str]) -> Answers:
        examples = [dspy.Example(question=question).with_inputs("question") for question in questions]
        with dspy.context(lm=_lm(address, engine)):
            found = module.batch(examples, num_threads=width, disable_progress_bar=True)
        return [prediction.answer for prediction in found]

    return run


_loop = asyncio.new_event_loop()
"""One for the warm-up and the run: clients keep their connections in it."""


def _run(work: Any) -> Any:
    return _loop.run_until_complete(work)


async def _together(asked: Iterable[Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*asked)


async def _voted(
    one: Callable[[str], Awaitable[str | None]], questions: Sequence[str], width: int, samples: int
) -> Answers:
    places = asyncio.Semaphore(width)

    async def sample(question: str) -> str | None:
        async with places:
            return await one(question)

    async def ask(question: str) -> str | None:
        return _vote(await _together(sample(question) for _ in range(samples)))

    return await _together(ask(question) for question in questions)


def _message(question: str) -> dict[str, str]:
    return {"role": "user", "content": question}


def _read(text: str | None) -> str | None:
    """The last number of a reply."""
    numbers = re.findall(r"-?\d+", text or "")
    return numbers[-1] if numbers else None


def _vote(answers: Iterable[str | None]) -> str | None:
    read = [answer for answer in answers if answer is not None]
    return Counter(read).most_common(1)[0][0] if read else None


# ---- measuring one, in a process of its own


def measure(name: str, address: str, width: int, samples: int, count: int) -> dict[str, Any]:
    """One run of one method: a first call to load and connect, then all questions."""
    logging.disable(logging.CRITICAL)
    bank = _get(address, "/questions")[:count]
    run = {**METHODS, **PEERS}[name](address, width, samples)
    run([bank[0]["text"]])
    _reset(address)
    cpu, began = time.process_time(), time.perf_counter()
    answers = run([question["text"] for question in bank])
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    counted = _get(address, "/stats")
    right = sum(_read(answer) == question["answer"] for answer, question in zip(answers, bank, strict=True))
    return {
        "seconds": seconds,
        "cpu_ms": 1000 * cpu / (count * samples),
        "requests": counted["requests"],
        "peak": counted["max_inflight"],
        "drawn": counted["samples"],
        "right": right / count,
    }


def _get(address: str, path: str) -> Any:
    with urllib.request.urlopen(address.removesuffix("/v1") + path, timeout=30) as reply:
        return json.load(reply)


def _reset(address: str) -> None:
    request = urllib.request.Request(address.removesuffix("/v1") + "/reset", data=b"{}", method="POST")
    urllib.request.urlopen(request, timeout=30).close()


# ---- the rows


class Bench:
    """A server and the rows measured on it."""

    def __init__(self, address: str, latency: float, options: argparse.Namespace) -> None:
        self.address = address
        self.latency = latency
        self.options = options
        self.rows: list[dict[str, Any]] = []

    def add(self, part: str, name: str, count: int, samples: int, width: int) -> None:
        """Run a method in a process of its own, some times, and keep the median."""
        interpreter = self.options.peers if name in PEERS else sys.executable
        command = [interpreter, __file__, "--method", name, "--address", self.address]
        command += ["--width", str(width), "--samples", str(samples), "--questions", str(count)]
        runs = []
        for _ in range(self.options.repeats):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{name}, {width} in flight: failed, {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                return
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        found = sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]
        if found["drawn"] < count * samples:
            print(f"{name}, {width} in flight: drew {found['drawn']} of {count * samples}", file=sys.stderr)
            return
        ideal = self._ideal(count, 1 if any(word in name for word in FOLDED) else samples, width)
        row = {"part": part, "method": name, "questions": count, "samples": samples, "in_flight": width}
        row |= {"latency_ms": round(1000 * self.latency), "peak": found["peak"], "requests": found["requests"]}
        row |= {"seconds": round(found["seconds"], 2), "right": round(found["right"], 3)}
        row |= {"ideal": ideal and round(ideal, 2), "over_ideal": ideal and round(found["seconds"] / ideal, 2)}
        row["cpu_ms"] = round(statistics.median(run["cpu_ms"] for run in runs), 2)
        self.rows.append({column: row[column] for column in COLUMNS})
        print(f"{name}, {width} in flight: {row['seconds']} s", file=sys.stderr, flush=True)

    def _ideal(self, count: int, requests: int, width: int) -> float | None:
        """Seconds until the last reply, if each request starts as soon as a place is free; None on another's server."""
        if self.options.arena:
            return None
        from dynscale_dspy.testing import FakeServer, questions

        bank = questions(200, seed=0)
        server = FakeServer(bank, median_latency=self.latency, sigma=SPREAD)
        delays = [server.delay(question, attempt) for question in bank[:count] for attempt in range(requests)]
        places = [0.0] * min(width, len(delays))
        for delay in delays:
            heapq.heappush(places, heapq.heappop(places) + delay)
        return max(places)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("all", "one", "width", "peers"), default="all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", metavar="PYTHON", help="an interpreter that has the other libraries")
    parser.add_argument("--arena", metavar="FOLDER", type=Path, help="a folder with another server")
    parser.add_argument("--quick", action="store_true", help="16 questions, few methods, once each")
    parser.add_argument("--json", metavar="OUT", help="write the rows here")
    for name, kind in (("method", str), ("address", str), ("width", int), ("samples", int), ("questions", int)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        print(json.dumps(measure(options.method, options.address, options.width, options.samples, options.questions)))
        return
    _allow_connections()
    count = 16 if options.quick else 200
    options.repeats = 1 if options.quick else options.repeats
    rows = []
    with _serving(0.2, options.arena) as address:
        bench = Bench(address, 0.2, options)
        for name in ALONE if options.part in ("all", "one") else ():
            bench.add("one", name, 1, EACH, EACH)
        for name, widths in WIDTHS.items() if options.part in ("all", "width") else ():
            for width in widths if not options.quick else widths[-1:]:
                # At one in flight 1,600 samples would take minutes.
                asked = min(count, max(4, 2 * width))
                bench.add("width", name, asked, EACH, width)
        if not options.quick and options.part in ("all", "peers"):
            for name in _compared(options):
                bench.add("peers", name, 64, EACH, 512)
        rows += bench.rows
    with _serving(0.05, options.arena) as address:
        bench = Bench(address, 0.05, options)
        for width in (64,) if options.quick else (64, 256):
            for name in _compared(options) if options.part in ("all", "peers") else ():
                bench.add("peers", name, count, EACH, width)
        rows += bench.rows
    show(rows)
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


def _compared(options: argparse.Namespace) -> list[str]:
    if options.quick:
        return ["ours, folded", "ours, native", "dspy n=8 and majority, native"]
    return [*METHODS, *(PEERS if options.peers else ())]


def _allow_connections() -> None:
    """A thousand requests in flight are more files than most systems allow a process at first."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, most) if most > 0 else 8192, most))


@contextlib.contextmanager
def _serving(latency: float, folder: Path | None) -> Iterator[str]:
    if folder is not None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, str(folder / "fake_server.py"), "--port", str(port), "--sigma", str(SPREAD)]
        command += ["--median-ms", str(1000 * latency)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                process.stdout.readline()
                yield f"http://127.0.0.1:{port}/v1"
            finally:
                process.terminate()
        return
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_serve, args=(there, latency), daemon=True)
    server.start()
    try:
        yield here.recv()
    finally:
        here.send("stop")
        server.join(10)


def _serve(pipe: Any, latency: float) -> None:
    from dynscale_dspy.testing import FakeServer, questions

    with FakeServer(questions(200, seed=0), median_latency=latency, sigma=SPREAD) as server:
        pipe.send(server.url)
        pipe.recv()


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*("" if row[column] is None else str(row[column]) for column in COLUMNS))
    Console(width=170).print(table)


if __name__ == "__main__":
    main()
