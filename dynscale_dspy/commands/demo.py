"""``dynscale demo``: the plain program, voting and DynScaling, compared on a real small model or on yours."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynscale_dspy import _progress
from dynscale_dspy._shell import (
    Refused,
    add_language_model,
    check_language_model,
    check_writable,
    language_model,
    line_of,
    number,
    positive,
    quiet,
    whole,
)
from dynscale_dspy._words import counted

if TYPE_CHECKING:
    import dspy
    from rich.console import Console

    from dynscale_dspy.budget.pool import BudgetPool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``demo`` to a parser."""
    parser.description = (
        "Answer questions of arithmetic with a program as it is, at temperature 0, by a vote and by DynScaling, and "
        "show what each gets right and costs."
    )
    parser.add_argument("--questions", type=positive, default=200, metavar="N", help="how many (default: 200)")
    parser.add_argument(
        "--budget", type=positive, default=4, metavar="SAMPLES", help="samples a question, on average (default: 4)"
    )
    parser.add_argument("--threads", type=positive, default=32, metavar="N", help="requests at a time (default: 32)")
    parser.add_argument(
        "--seed",
        type=whole,
        default=2,
        metavar="N",
        help="fixes questions and samples; of those in the README's table the default's gain is nearest the mean "
        "(default: 2)",
    )
    add_language_model(parser, default="the one in the box")
    about = "its temperature (default: none is sent; 1 in the box)"
    parser.add_argument("--temperature", type=number, metavar="T", help=about)
    parser.add_argument(
        "--models",
        action="store_true",
        help="the two models in the box instead, at prices of 1 to 10: the large one alone, and both at the same cost, "
        "--budget plain answers of the large one",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the table's rows here")


_NAMES = {
    "plain": "plain",
    "greedy": "plain, temperature 0",
    "uniform": "uniform voting",
    "dynscaling": "DynScaling",
}
"""The demo's methods, as its table names them; single runs of the program first."""


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        Refused: If it cannot be run as it was given.
    """
    check_language_model(options)
    check_writable("--json", options.json)
    try:
        from rich.console import Console  # noqa: F401

        from dynscale_dspy import lab  # noqa: F401
    except ImportError as error:
        raise Refused(f"{error}: pip install 'dynscale-dspy[lab]'") from error

    if options.models and options.model:
        raise Refused("--models asks the two models in the box, and --model one of yours: give one of them")
    with quiet("dspy", "dynscale_dspy"):  # a sample that fails shows in the table
        _of_models(options) if options.models else _of_ways(options)


def _of_ways(options: argparse.Namespace) -> None:
    """One model: the program as it is, at temperature 0, uniform voting and the default."""
    import dspy
    from rich.console import Console

    from dynscale_dspy import BudgetPool, DynScaling, Parallel, Uniform, lab
    from dynscale_dspy.execution.choices_route import can_borrow

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
            f"{counted(len(questions), 'question')}, dspy.ChainOfThought('question -> answer') on {lm.model}, "
            f"{counted(options.budget, 'sample')} a question"
        )
        # Imports, connections and tables are ready before the clock starts.
        try:
            DynScaling(dspy.ChainOfThought("question -> answer"), budget=2)(**questions[0].inputs())
        except Exception as error:  # whatever it is, a shell wants a line
            raise Refused(f"{lm.model} does not answer: {line_of(error)}") from error
        can_borrow(lm, {"n": 2}, wait=True)
        for method, (pool, settings) in methods.items():
            program = DynScaling(dspy.ChainOfThought("question -> answer"), budget=pool, answer=_number, **settings)
            began = time.perf_counter()
            with _progress.named(_NAMES[method]):
                # The set-up is right, as the first call has shown; some servers fail at temperature 0.
                predictions = program.batch(questions, num_threads=options.threads, max_errors=10**6)
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
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _language_model(options: argparse.Namespace) -> Iterator[dspy.LM]:
    # The cache is off, so that tokens and seconds are what each method really costs.
    settings: dict[str, Any] = {"cache": False}
    if options.temperature is not None:
        settings["temperature"] = options.temperature
    if not options.model:
        from dynscale_dspy import lab

        if options.max_tokens:
            settings["max_tokens"] = options.max_tokens
        with lab.serve(engine="auto", **settings) as lm:
            yield lm
        return
    yield language_model(options, **settings)


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


def _of_models(options: argparse.Namespace) -> None:
    """The two models in the box: each as it is, and for one cost the large one alone and both together."""
    import dspy
    from rich.console import Console

    from dynscale_dspy import BudgetPool, DynScaling, Price, lab

    console = Console()
    questions = _seeded(lab.questions(options.questions, seed=options.seed), options.seed)
    count, most = len(questions), {"max_samples": 1}
    rows: list[dict[str, Any]] = []
    given: dict[str, Any] = {"cache": False, "engine": "auto"}
    given |= {} if options.temperature is None else {"temperature": options.temperature}
    with lab.serve(model="small", **given) as small, lab.serve(**given) as large:
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
            with _progress.named(method):
                predictions = program.batch(questions, num_threads=options.threads, max_errors=10**6)
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
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


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
