"""The command line: ``dynscale demo``, ``check``, ``record``, ``replay`` and ``lab serve``."""

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

    demo = commands.add_parser("demo", help="compare the plain program, voting and DynScaling on a real small model")
    demo.add_argument("--questions", type=_positive, default=200, metavar="N")
    demo.add_argument("--budget", type=_positive, default=4, metavar="SAMPLES", help="samples a question, on average")
    demo.add_argument("--threads", type=_positive, default=32, metavar="N", help="requests at a time")
    demo.add_argument(
        "--seed",
        type=int,
        default=2,
        help="seed of questions and samples; of those in the README's table the default's gain is nearest the mean",
    )
    demo.add_argument(
        "--model", metavar="NAME", help="your own model, named the LiteLLM way, e.g. hosted_vllm/Qwen3-8B"
    )
    demo.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="your model's own; none is sent by default, 1 in the box",
    )
    demo.add_argument("--api-base", metavar="URL", help="where it is served, e.g. http://localhost:8000/v1")
    demo.add_argument("--api-key", default="local", metavar="KEY", help="for --api-base; local servers take any")
    demo.add_argument(
        "--models",
        action="store_true",
        help="the two models in the box instead, at prices of 1 to 10: the large one alone, and both at the same cost, "
        "--budget plain answers of the large one",
    )
    demo.add_argument("--json", type=Path, metavar="OUT", help="write the table's rows here")
    demo.set_defaults(run=_demo)

    from dynscale_dspy.tuning import cli as tuning

    checking = commands.add_parser("check", help="say whether scaling a program is worth it, on examples of yours")
    tuning.add_arguments(checking)
    checking.set_defaults(run=tuning.main)

    recording = commands.add_parser("record", help="keep samples of a program, each with a score, to replay them")
    tuning.add_record_arguments(recording)
    recording.set_defaults(run=tuning.record_main)

    from dynscale_dspy.replay import cli as replay

    replaying = commands.add_parser("replay", help="replay allocation policies over recorded samples")
    replay.add_arguments(replaying)
    replaying.set_defaults(run=replay.main)

    lab = commands.add_parser("lab", help="the small language model in the box")
    lab_commands = lab.add_subparsers(required=True, metavar="COMMAND")
    serve = lab_commands.add_parser("serve", help="serve it behind an OpenAI-compatible endpoint on loopback")
    serve.add_argument("--port", type=int, default=8123)
    serve.add_argument("--model", choices=("large", "small"), default="large", help="which of the two models")
    serve.set_defaults(run=_serve)

    options = parser.parse_args(arguments)
    # Without a network LiteLLM spends seconds on downloading its price list; the shipped one will do here.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    return options.run(options)


_NAMES = {
    "plain": "plain",
    "greedy": "plain, temperature 0",
    "uniform": "uniform voting",
    "dynscaling": "DynScaling",
}
"""The demo's methods, as its table names them; single runs of the program first."""


def _demo(options: argparse.Namespace) -> int:
    if options.api_base and not options.model:
        print("--api-base needs --model NAME: what is the model called there?", file=sys.stderr)
        return 2
    if options.models and options.model:
        print("--models asks the two models in the box, and --model one of yours: give one of them", file=sys.stderr)
        return 2
    if options.models:
        return _demo_of_models(options)
    import dspy
    from rich.console import Console

    from dynscale_dspy import BudgetPool, DynScaling, Parallel, Uniform, lab

    for name in ("dspy", "dynscale_dspy"):  # a sample that fails shows in the table
        logging.getLogger(name).setLevel(logging.CRITICAL)
    console = Console()
    questions = _seeded(lab.questions(options.questions, seed=options.seed), options.seed)
    # Voting gets twice as many samples: about what those that see earlier ones cost in tokens.
    count = len(questions)
    once: dict[str, Any] = {"max_samples": 1}  # the program as it is, with nothing done to make its samples differ
    methods: dict[str, tuple[BudgetPool, dict[str, Any]]] = {
        "plain": (BudgetPool(samples=count), once),
        "greedy": (BudgetPool(samples=count), {**once, "temperature": 0}),
        "uniform": (BudgetPool(samples=2 * options.budget * count, policy=Uniform()), {"sampling": Parallel()}),
        "dynscaling": (BudgetPool(samples=options.budget * count), {}),
    }
    rows: list[dict[str, Any]] = []
    with _language_model(options) as lm, dspy.context(lm=lm):
        console.print(
            f"{len(questions)} questions, dspy.ChainOfThought('question -> answer') on {lm.model}, "
            f"{options.budget} samples a question"
        )
        # Imports, connections and tables are ready before the clock starts.
        DynScaling(dspy.ChainOfThought("question -> answer"), budget=2)(**questions[0].inputs())
        for method, (pool, settings) in methods.items():
            program = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool, answer=_number, **settings)
            began = time.perf_counter()
            with _progress(console, method, pool):
                # The set-up is right, as the first call has shown; some servers fail at temperature 0.
                predictions = program.batch(
                    questions, num_threads=options.threads, max_errors=10**6, disable_progress_bar=True
                )
            seconds = time.perf_counter() - began
            right = [
                int(prediction is not None and _number(prediction) == _number(question))
                for prediction, question in zip(predictions, questions, strict=True)
            ]
            spent = pool.statistics().spent
            accuracy, error = _mean_and_error(right)
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
                    "right": right,
                }
            )
    _show(console, rows, methods["dynscaling"][0])
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


@contextlib.contextmanager
def _language_model(options: argparse.Namespace) -> Iterator[dspy.LM]:
    # The cache is off, so that tokens and seconds are what each method really costs.
    settings: dict[str, Any] = {"cache": False}
    if options.temperature is not None:
        settings["temperature"] = options.temperature
    if not options.model:
        from dynscale_dspy import lab

        with lab.serve(engine="auto", **settings) as lm:
            yield lm
        return
    import dspy

    if options.api_base:
        settings |= {"api_base": options.api_base, "api_key": options.api_key}
    yield dspy.LM(options.model, **settings)


def _seeded(questions: list[dspy.Example], seed: int) -> list[dspy.Example]:
    """The questions, each with a seed for the language model.

    The sample's index is added to it, so that every method sees the same k-th sample of a question: the comparison is
    paired. With one seed for all questions they would err together, and intervals over them would be too narrow.
    """
    first = len(questions) * seed
    return [
        question.copy(config={"seed": 64 * (first + number)}).with_inputs("question", "config")
        for number, question in enumerate(questions)
    ]


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
        TextColumn(f"{_NAMES[method]:20}"),
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


def _show(console: Console, rows: list[dict[str, Any]], pool: BudgetPool) -> None:
    from rich.table import Table

    from dynscale_dspy.tuning.paired import better, paired_gain

    table = Table()
    table.add_column("method")
    for name in ("accuracy", "samples", "requests", "tokens", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            _NAMES[row["method"]],
            f"{row['accuracy']:.1%} ± {row['se']:.1%}",
            f"{row['samples']:,}",
            f"{row['requests']:,}",
            f"{row['tokens']:,}",
            f"{row['seconds']:.1f}",
        )
    console.print(table)
    tokens = {row["method"]: row["tokens"] for row in rows}
    right = {row["method"]: row["right"] for row in rows}
    single = better({method: right[method] for method in ("plain", "greedy")})
    for ours, theirs in (("dynscaling", single), ("uniform", single), ("dynscaling", "uniform")):
        times = f", {tokens[ours] / tokens[theirs]:.1f} x its tokens" if tokens[theirs] else ""
        gain = paired_gain(right[ours], right[theirs])
        console.print(f"{_NAMES[ours]} - {_NAMES[theirs]}: {gain} points{times}", highlight=False)
    console.print("(the better of the two plain runs; paired over the questions, with a 95% interval)")
    if not paired_gain(right["dynscaling"], right[single]).is_sure:
        console.print(f"Nothing here is surely better than {_NAMES[single]}: that is enough, or ask more questions.")
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


_RATIO = 10
"""What a token of the demo's large model costs, in tokens of its small one: about what hosted families ask."""


def _demo_of_models(options: argparse.Namespace) -> int:
    """The two models in the box: each as it is, and for one cost the large one alone and both together."""
    from rich.console import Console

    from dynscale_dspy import BudgetPool, DynScaling, Price, lab

    for name in ("dspy", "dynscale_dspy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    console = Console()
    questions = _seeded(lab.questions(options.questions, seed=options.seed), options.seed)
    count, most = len(questions), {"max_samples": 1}
    rows: list[dict[str, Any]] = []
    given: dict[str, Any] = {"cache": False, "engine": "auto"}
    given |= {} if options.temperature is None else {"temperature": options.temperature}
    with lab.serve(model="small", **given) as small, lab.serve(**given) as large:
        import dspy

        prices = {small.model: Price(prompt=0.1, completion=0.4)}
        prices[large.model] = Price(prompt=0.1 * _RATIO, completion=0.4 * _RATIO)
        console.print(
            f"{count} questions, dspy.ChainOfThought('question -> answer') on two models; a token of the large one "
            f"costs {_RATIO} of the small one"
        )
        each = {"small": {"small": small}, "large": {"large": large}, "both": {"small": small, "large": large}}
        for lms in (each["small"], each["large"]):  # connections and tables are ready before the clock starts
            with contextlib.suppress(Exception):  # samples that cannot be read
                DynScaling(dspy.ChainOfThought("question -> answer"), budget=2, lms=lms)(**questions[0].inputs())

        def answer(method: str, lms: dict[str, Any], pool: BudgetPool, **settings: Any) -> dict[str, Any]:
            """A row of the table."""
            program = DynScaling(
                dspy.ChainOfThought("question -> answer"), budget=pool, answer=_number, lms=lms, **settings
            )
            began = time.perf_counter()
            predictions = program.batch(
                questions, num_threads=options.threads, max_errors=10**6, disable_progress_bar=True
            )
            seconds = time.perf_counter() - began
            right = [
                int(prediction is not None and _number(prediction) == _number(question))
                for prediction, question in zip(predictions, questions, strict=True)
            ]
            spent, history = pool.statistics().spent, pool.history.models
            # A single language model has no name in reports.
            samples = {name: history[name].samples if name in history else 0 for name in each["both"]}
            samples = samples if len(lms) > 1 else {**samples, next(iter(lms)): spent.samples}
            accuracy, error = _mean_and_error(right)
            rows.append(
                {"method": method, "accuracy": accuracy, "se": error, "samples": samples, "dollars": spent.dollars}
            )
            rows[-1] |= {"seconds": round(seconds, 2), "right": right}
            return rows[-1]

        for name in ("small", "large"):
            answer(f"{name}, plain", each[name], BudgetPool(samples=count, prices=prices), **most)
            greedy = BudgetPool(samples=count, prices=prices)
            answer(f"{name}, temperature 0", each[name], greedy, **most, temperature=0)
        unit = next(row["dollars"] for row in rows if row["method"] == "large, plain")
        for name, words in (("large", "large, DynScaling"), ("both", "small and large, DynScaling")):
            answer(words, each[name], BudgetPool(dollars=options.budget * unit, prices=prices))
    _show_models(console, rows, unit, options.budget)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _show_models(console: Console, rows: list[dict[str, Any]], unit: float, budget: int) -> None:
    from rich.table import Table

    from dynscale_dspy.tuning.paired import better, paired_gain

    table = Table()
    table.add_column("method")
    for name in ("accuracy", "small + large", "cost", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["method"],
            f"{row['accuracy']:.1%} ± {row['se']:.1%}",
            " + ".join(f"{number:,}" for number in row["samples"].values()),
            f"{row['dollars'] / unit:.2f}",
            f"{row['seconds']:.1f}",
        )
    console.print(table)
    right = {row["method"]: row["right"] for row in rows}
    *plain, alone, both = right
    single = better({method: right[method] for method in plain})
    for other in (alone, single):
        console.print(f"{both} - {other}: {paired_gain(right[both], right[other])} points", highlight=False)
    console.print(f"(cost in plain runs of the large model, {budget} for DynScaling; paired, with a 95% interval)")
    if not paired_gain(right[both], right[alone]).is_sure:
        console.print("Neither is surely better than the other: docs/models.md says when several models pay.")


def _serve(options: argparse.Namespace) -> int:
    from dynscale_dspy.lab.server import LabServer

    with LabServer(port=options.port, model=options.model) as server:
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
