"""What a long prompt costs eight samples: tokens billed, tokens found in the server's cache, the server's own time.

    python examples/benchmarks/prompts.py [--quick] [--json OUT]
    python examples/benchmarks/prompts.py --server http://127.0.0.1:8080/v1 --model MODEL --pid PID --tokens 4000

Each row asks a few questions that have nothing in common, eight samples each: one after the other is asked alone, all
at once, all at once after one has led, and together as the choices of one request. Two more rows draw one sample after
another, each seeing those before it: in a field behind the question, as this library does, and in front of it.

Without ``--server`` it is the model in the box, whose context is 2,048 tokens, hence its shorter default. Any
OpenAI-compatible server will do; ``--pid`` is its process, for its CPU time (Linux). A server that does not report
cached tokens leaves that column empty.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
from rich.console import Console
from rich.table import Table

from dynscale_dspy import BudgetPool, DynScaling, Parallel, Sequential, Uniform

EACH = 8
WORDS = ("amber", "basalt", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "larch")
COLUMNS = ("method", "samples", "requests", "prompt_tokens", "of_one", "cached_tokens", "seconds", "server_cpu_s")


class Lenient(dspy.ChatAdapter):
    """Takes whatever comes back for the answer: what a model makes of a long text is not the question here."""

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        """The whole reply."""
        return dict.fromkeys(signature.output_fields, completion or "nothing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", metavar="URL", help="ends in /v1; the model in the box without it")
    parser.add_argument("--model", default="lab-arithmetic", help="the model's name there")
    parser.add_argument("--pid", type=int, help="the server's process, for its CPU time")
    parser.add_argument("--tokens", type=int, default=1000, help="of the text that is asked about, roughly")
    parser.add_argument("--characters", type=float, default=1.0, help="in one of the model's tokens, roughly")
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one question, once")
    parser.add_argument("--json", metavar="OUT", help="write the rows here")
    options = parser.parse_args()
    if options.quick:
        options.questions, options.repeats = 1, 1
    with contextlib.ExitStack() as stack:
        if options.server is None:
            options.server, options.pid = stack.enter_context(_lab())
        rows = Bench(options).rows()
    table = Table(*COLUMNS, title=f"{EACH} samples a question about a text of {options.tokens} tokens")
    for row in rows:
        table.add_row(*("" if row[column] is None else str(row[column]) for column in COLUMNS))
    Console(width=150).print(table)
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


class Bench:
    """A server, and texts it has not seen before."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self._drawn = 0

    def rows(self) -> list[dict[str, Any]]:
        """The methods take turns, and each is the median of its repeats."""
        methods: dict[str, Callable[[Sequence[str]], BudgetPool]] = {
            "one sample": lambda texts: self.asked(texts, "auto", samples=1),
            "one after another": lambda texts: self.asked(texts, "auto", at_once=1),
            "all at once": lambda texts: self.asked(texts, "auto"),
            "one leads": lambda texts: self.asked(texts, "auto", leader=True),
            "folded": lambda texts: self.asked(texts, "litellm", max_choices=EACH),
            "seeing earlier ones, behind": lambda texts: self.asked(texts, "auto", sampling=Sequential()),
            "seeing earlier ones, in front": self.in_front,
        }
        seen: dict[str, list[dict[str, Any]]] = {name: [] for name in methods}
        self.once(methods["folded"])  # loads, connects
        for _ in range(self.options.repeats):
            for name, method in methods.items():
                seen[name].append(self.once(method))
        rows = []
        for name, found in seen.items():
            row = {key: None if found[0][key] is None else statistics.median(f[key] for f in found) for key in found[0]}
            rows.append({"method": name, **row})
        for row in rows:
            row["of_one"] = round(row["prompt_tokens"] / rows[0]["prompt_tokens"], 2)
        return [{column: row[column] for column in COLUMNS} for row in rows]

    def once(self, method: Callable[[Sequence[str]], BudgetPool]) -> dict[str, Any]:
        """One method on new texts, per question."""
        texts = [self._text() for _ in range(self.options.questions)]
        cpu, began = self._cpu(), time.perf_counter()
        pool = method(texts)
        seconds, after = time.perf_counter() - began, self._cpu()
        spent, count = pool.statistics().spent, len(texts)
        return {
            "samples": spent.samples // count,
            "requests": round(spent.requests / count, 1),
            "prompt_tokens": round(spent.prompt_tokens / count, 1),
            "cached_tokens": round(spent.cached_tokens / count, 1) or None,
            "seconds": round(seconds / count, 3),
            "server_cpu_s": None if cpu is None or after is None else round((after - cpu) / count, 3),
        }

    def asked(
        self, texts: Sequence[str], engine: str, *, samples: int = EACH, at_once: int | None = None, **options: Any
    ) -> BudgetPool:
        """Samples of each question, one question after another."""
        pool = BudgetPool(per_call=samples, policy=Uniform(), max_concurrency=at_once or EACH)
        settings = {"sampling": Parallel(), "max_choices": 1, **options}
        qa = DynScaling(dspy.Predict("text, question -> answer"), pool, **settings)

        async def ask_all() -> None:
            for text in texts:
                await qa.acall(text=text, question="Which word comes most often?")

        with dspy.context(lm=self._lm(engine), adapter=Lenient()):
            asyncio.run(ask_all())
        return pool

    def in_front(self, texts: Sequence[str]) -> BudgetPool:
        """A program that puts the sample before at the head of the prompt."""
        pool = BudgetPool(samples=EACH * len(texts), policy=Uniform())
        program = dspy.Predict("earlier_attempts, text, question -> answer")
        qa = DynScaling(program, pool, sampling=Parallel(), max_choices=1, max_samples=1)
        with dspy.context(lm=self._lm("auto"), adapter=Lenient()):
            for text in texts:
                earlier = "none"
                for number in range(EACH):
                    asked = {"earlier_attempts": f"{number}: {earlier}", "text": text}
                    earlier = qa(**asked, question="Which word comes most often?").answer
        return pool

    def _text(self) -> str:
        self._drawn += 1
        words = random.Random(self._drawn)
        length = int(self.options.tokens * self.options.characters)
        return " ".join(words.choice(WORDS) for _ in range(length // 5))[:length]

    def _lm(self, engine: str) -> dspy.LM:
        return dspy.LM(
            f"openai/{self.options.model}",
            api_base=self.options.server,
            api_key="local",
            engine=engine,
            cache=False,
            num_retries=0,
            temperature=1.0,
            max_tokens=16,
        )

    def _cpu(self) -> float | None:
        """Seconds of CPU that the server has used."""
        if self.options.pid is None:
            return None
        fields = Path(f"/proc/{self.options.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _lab() -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "dynscale_dspy.cli", "lab", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[2], process.pid
        finally:
            process.terminate()


if __name__ == "__main__":
    main()
