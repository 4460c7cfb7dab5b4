"""The command line: ``dynscale demo``, ``dynscale check``, ``dynscale replay`` and ``dynscale lab serve``."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dspy
    from rich.console import Console

    from dynscale_dspy.budget.pool import BudgetPool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="dynscale", description="Better answers from DSPy programs for a budget.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="compare one sample, uniform voting and DynScaling on a real small model")
    demo.add_argument("--questions", type=_positive, default=200, metavar="N")
    demo.add_argument("--budget", type=_positive, default=4, metavar="SAMPLES", help="samples a question, on average")
    demo.add_argument("--threads", type=_positive, default=32, metavar="N", help="requests at a time")
    demo.add_argument(
        "--seed",
        type=int,
        default=16,
        help="seed of questions and samples; the default is the one of 0 to 19 whose gains come nearest the mean",
    )
    demo.add_argument(
        "--model", metavar="NAME", help="your own model, named the LiteLLM way, e.g. hosted_vllm/Qwen3-8B"
    )
    demo.add_argument("--api-base", metavar="URL", help="where it is served, e.g. http://localhost:8000/v1")
    demo.add_argument("--api-key", default="local", metavar="KEY", help="for --api-base; local servers take any")
    demo.add_argument("--json", type=Path, metavar="OUT", help="write the table's rows here")
    demo.set_defaults(run=_demo)

    from dynscale_dspy.tuning import cli as tuning

    checking = commands.add_parser("check", help="say whether scaling a program is worth it, on examples of yours")
    tuning.add_arguments(checking)
    checking.set_defaults(run=tuning.main)

    from dynscale_dspy.replay import cli as replay

    replaying = commands.add_parser("replay", help="replay allocation policies over recorded samples")
    replay.add_arguments(replaying)
    replaying.set_defaults(run=replay.main)

    lab = commands.add_parser("lab", help="the small language model in the box")
    lab_commands = lab.add_subparsers(required=True, metavar="COMMAND")
    serve = lab_commands.add_parser("serve", help="serve it behind an OpenAI-compatible endpoint on loopback")
    serve.add_argument("--port", type=int, default=8123)
    serve.set_defaults(run=_serve)

    options = parser.parse_args(arguments)
    # Without a network LiteLLM spends seconds on downloading its price list; the shipped one will do here.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    return options.run(options)


def _demo(options: argparse.Namespace) -> int:
    if options.api_base and not options.model:
        print("--api-base needs --model NAME: what is the model called there?", file=sys.stderr)
        return 2
    import dspy
    from rich.console import Console

    from dynscale_dspy import BudgetPool, DynScaling, Integrated, KnowledgeGradient, Parallel, Uniform, lab

    for name in ("dspy", "dynscale_dspy"):  # a sample that fails shows in the table
        logging.getLogger(name).setLevel(logging.CRITICAL)
    console = Console()
    questions = lab.questions(options.questions, seed=options.seed)
    # Voting gets twice as many samples: about what those that see earlier ones cost in tokens.
    count = len(questions)
    methods = {
        "single": (BudgetPool(samples=count, policy=Uniform()), Parallel()),
        "uniform": (BudgetPool(samples=2 * options.budget * count, policy=Uniform()), Parallel()),
        "dynscaling": (BudgetPool(samples=options.budget * count, policy=KnowledgeGradient()), Integrated()),
    }
    rows: list[dict[str, Any]] = []
    right: dict[str, list[float]] = {}
    with _language_model(options) as lm, dspy.context(lm=lm):
        console.print(
            f"{len(questions)} questions, dspy.ChainOfThought('question -> answer') on {lm.model}, "
            f"{options.budget} samples a question"
        )
        # Imports, connections and tables are ready before the clock starts.
        DynScaling(dspy.ChainOfThought("question -> answer"), budget=2)(question=questions[0].question)
        for method, (pool, sampling) in methods.items():
            program = DynScaling(
                dspy.ChainOfThought("question -> answer"), budget=pool, sampling=sampling, answer=_number
            )
            began = time.perf_counter()
            with _progress(console, method, pool):
                predictions = program.batch(questions, num_threads=options.threads, disable_progress_bar=True)
            seconds = time.perf_counter() - began
            right[method] = [
                float(prediction is not None and _number(prediction) == _number(question))
                for prediction, question in zip(predictions, questions, strict=True)
            ]
            spent = pool.statistics().spent
            accuracy, error = _mean_and_error(right[method])
            rows.append(
                {
                    "method": method,
                    "accuracy": accuracy,
                    "se": error,
                    "samples": spent.samples,
                    "requests": spent.requests,
                    "tokens": spent.tokens,
                    "prompt_tokens": spent.prompt_tokens,
                    "completion_tokens": spent.completion_tokens,
                    "seconds": round(seconds, 2),
                }
            )
    _show(console, rows, right, methods["dynscaling"][0])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


@contextlib.contextmanager
def _language_model(options: argparse.Namespace) -> Iterator[dspy.LM]:
    # The sample's index is added to the seed, so every method sees the same k-th sample of a question: the
    # comparison is paired. The cache is off, so that tokens and seconds are what each method really costs.
    settings: dict[str, Any] = {"temperature": 1.0, "cache": False, "seed": options.seed}
    if not options.model:
        from dynscale_dspy import lab

        with lab.serve(engine="auto", **settings) as lm:
            yield lm
        return
    import dspy

    if options.api_base:
        settings |= {"api_base": options.api_base, "api_key": options.api_key}
    yield dspy.LM(options.model, **settings)


def _number(example: dspy.Example) -> str | None:
    """Return the integer that an answer states, whatever words are around it; one with several numbers as it is."""
    text = str(example.get("answer") or "").strip().rstrip(".")
    if len(re.findall(r"\d+(?:,\d{3})*", text)) > 1:
        return text
    text = text.replace(",", "")
    word = text.split()[-1] if text.split() else ""
    try:
        return str(int(word))
    except ValueError:
        return word or None


@contextlib.contextmanager
def _progress(console: Console, method: str, pool: BudgetPool) -> Iterator[None]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(f"{method:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("samples, {task.fields[tokens]:,} tokens,"),
        TimeElapsedColumn(),
        TextColumn("gone,"),
        TimeRemainingColumn(),
        TextColumn("to go"),
    )
    total = pool.statistics().limits["samples"]
    finished = threading.Event()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, tokens=0)

        def follow() -> None:
            while not finished.wait(0.1):
                spent = pool.statistics().spent
                progress.update(task, completed=spent.samples, tokens=spent.tokens)

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            finished.set()
            follower.join()


def _show(console: Console, rows: list[dict[str, Any]], right: dict[str, list[float]], pool: BudgetPool) -> None:
    from rich.table import Table

    table = Table()
    table.add_column("method")
    for name in ("accuracy", "samples", "requests", "tokens", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["method"],
            f"{row['accuracy']:.1%} ± {row['se']:.1%}",
            f"{row['samples']:,}",
            f"{row['requests']:,}",
            f"{row['tokens']:,}",
            f"{row['seconds']:.1f}",
        )
    console.print(table)
    for other in ("single", "uniform"):
        gain, error = _mean_and_error(
            [ours - theirs for ours, theirs in zip(right["dynscaling"], right[other], strict=True)]
        )
        console.print(f"dynscaling - {other}: {100 * gain:+.1f} ± {100 * error:.1f} points (paired)")
    console.print("\nWho got how many samples from DynScaling:")
    histogram = pool.statistics().samples_per_call
    widest = max(histogram.values())
    for samples, questions in histogram.items():
        console.print(f"  {samples:3d}  {'█' * math.ceil(40 * questions / widest)} {questions}", highlight=False)


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    count = len(values)
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / max(count - 1, 1)
    return mean, math.sqrt(variance / count)


def _serve(options: argparse.Namespace) -> int:
    from dynscale_dspy.lab.server import LabServer

    with LabServer(port=options.port) as server:
        print(f"{server.model_name} at {server.url} (stop with Ctrl-C)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
