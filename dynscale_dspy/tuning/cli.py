"""``dynscale check`` says in a shell whether scaling a program is worth it; ``dynscale record`` keeps its samples."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dynscale_dspy._shell import (
    Refused,
    add_language_model,
    check_language_model,
    check_writable,
    language_model,
    line_of,
    number,
    positive,
    whole,
)
from dynscale_dspy._words import counted

if TYPE_CHECKING:
    import dspy

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``check`` to a parser."""
    parser.description = (
        "Answer the examples with a program as it is, at temperature 0, by a vote and by sampling as the library does "
        "by default, and say whether more samples are worth their cost."
    )
    _add_common(parser, "a few dozen calls, with labels if you have them")
    parser.add_argument("--samples", type=positive, default=4, metavar="N", help="samples a call (default: 4)")
    parser.add_argument(
        "--budget", type=positive, metavar="SAMPLES", help="most samples that the check draws (default: all it needs)"
    )
    parser.add_argument("--dollars", type=number, metavar="D", help="most dollars that it spends")
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="fixes the orders of votes (default: 0)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures here")


def add_record_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``record`` to a parser."""
    parser.description = (
        "Draw independent samples of a program for each example, score each, and write them to a file that `dynscale "
        "replay` reads."
    )
    _add_common(parser, "calls, with what the metric or a label needs")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.jsonl", help="the file to write")
    parser.add_argument("--samples", type=positive, default=8, metavar="N", help="samples an example (default: 8)")
    parser.add_argument("--seed", type=whole, default=0, metavar="N", help="seeds the samples (default: 0)")


def _add_common(parser: argparse.ArgumentParser, examples: str) -> None:
    parser.add_argument("program", type=Path, metavar="PROGRAM.py", help="a file that defines the program")
    about = f"JSON lines, JSON or CSV: {examples}"
    parser.add_argument("--examples", type=Path, required=True, metavar="FILE", help=about)
    parser.add_argument("--name", default="program", help="what the program is called in its file (default: program)")
    about = "a function in that file, metric(example, prediction); by default an answer equal to the label is right"
    parser.add_argument("--metric", metavar="NAME", help=about)
    add_language_model(parser, default="what the file configures", names=("--model", "--lm"))
    parser.add_argument("--threads", type=positive, metavar="N", help="samples at a time (default: DSPy's setting)")


def check(arguments: argparse.Namespace) -> None:
    """Run ``check``.

    Raises:
        Refused: If it cannot be run as it was given.
    """
    from dynscale_dspy.tuning import checks

    check_writable("--json", arguments.json)
    caps = {"samples": arguments.budget, "dollars": arguments.dollars}
    budget = {unit: cap for unit, cap in caps.items() if cap is not None}
    found = _measured(arguments, checks.check, budget=budget or None)
    sys.stdout.write(f"{found}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(found.as_dict(), indent=1) + "\n", encoding="utf-8")


def record(arguments: argparse.Namespace) -> None:
    """Run ``record``.

    Raises:
        Refused: If it cannot be run as it was given.
    """
    from dynscale_dspy.tuning import recording

    pool = _measured(arguments, recording.record, path=arguments.out)
    for each in pool.skipped:
        sys.stderr.write(f"skipped: {each}\n")
    samples = sum(len(question.samples) for question in pool.questions)
    sys.stdout.write(f"{arguments.out}: {counted(samples, 'sample')} of {counted(len(pool.questions), 'example')}\n")


def _measured(arguments: argparse.Namespace, measure: Callable[..., T], **options: Any) -> T:
    """What a function makes of the program, the examples and the metric that a shell names."""
    from dynscale_dspy.tuning.examples import read_examples

    check_language_model(arguments)
    try:
        examples = read_examples(arguments.examples)
    except OSError as error:
        raise Refused(f"--examples {arguments.examples} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise Refused(f"--examples {error}") from None
    defined = _defined_in(arguments.program)
    program = _program(defined, arguments)
    metric = None
    if arguments.metric:
        metric = defined.get(arguments.metric)
        if metric is None:
            raise Refused(f"--metric: {arguments.program} defines no {arguments.metric}")
    with _language_model(program, arguments):
        try:
            return measure(
                program,
                examples,
                metric,
                samples=arguments.samples,
                num_threads=arguments.threads,
                seed=arguments.seed,
                display_progress=True,
                **options,
            )
        except Exception as error:  # whatever it is, a shell wants a line
            raise Refused(line_of(error)) from error


def _defined_in(path: Path) -> dict[str, Any]:
    """What a file of Python defines."""
    if not path.is_file():
        raise Refused(f"there is no file {path}")
    name = f"_checked_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    if spec is None or spec.loader is None:
        raise Refused(f"{path} is no file of Python: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # signatures look up their types there
    sys.path.insert(0, str(path.absolute().parent))  # as for a script
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Refused(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    return vars(module)


def _program(defined: dict[str, Any], arguments: argparse.Namespace) -> dspy.Module:
    import dspy

    program = defined.get(arguments.name)
    if isinstance(program, dspy.Module):
        return program
    others = [name for name, value in defined.items() if isinstance(value, dspy.Module)]
    if isinstance(program, type) and issubclass(program, dspy.Module):
        raise Refused(f"{arguments.name} in {arguments.program} is a class: make one, program = {arguments.name}()")
    what = f"defines no {arguments.name}" if program is None else f"has no dspy.Module in {arguments.name}"
    remedy = f"--name {others[0]} is one" if others else "write program = dspy.ChainOfThought('question -> answer')"
    raise Refused(f"{arguments.program} {what}: {remedy}")


@contextlib.contextmanager
def _language_model(program: dspy.Module, arguments: argparse.Namespace) -> Iterator[None]:
    import dspy

    from dynscale_dspy._naming import named_predictors

    if arguments.model:
        with dspy.context(lm=language_model(arguments)):
            yield
        return
    if dspy.settings.lm is None and any(predictor.lm is None for _, predictor in named_predictors(program)):
        raise Refused(
            f"no language model: give --model MODEL such as openai/gpt-4o-mini, or call dspy.configure(lm=...) in "
            f"{arguments.program}"
        )
    yield
