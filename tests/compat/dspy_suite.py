"""``python tests/compat/dspy_suite.py --dspy PATH``: DSPy's own tests, plain and with its predictors scaled.

PATH is a source tree of DSPy; the installed DSPy is what is tested. Its tests run three times, each in a process of
its own: plain; with every ``dspy.Predict`` made anywhere scaled in place, as :func:`dynscale_dspy.wrap` does; and with
every ``dspy.Predict`` and ``dspy.ChainOfThought`` that the tests themselves make inside a ``DynScaling``. A call takes
one sample, so a test that passes plain should pass scaled.

Prints two Markdown tables: the counts, and each test that passes plain and fails scaled, with why that has to be or
what went wrong. Exits with 1 if one of them is not explained. Arguments after ``--`` go to pytest, such as files of
the tree. It takes about ten minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WAYS = {"plain": "plain", "wrap": "`wrap`", "DynScaling": "`DynScaling`"}
OPTIONS = ["-q", "-n", "0", "-p", "no:cacheprovider", "--continue-on-collection-errors", "--timeout", "120"]

MORE_CALLS = "counts all modules that are called: a wrapper is one more"
ATTRIBUTES = (
    "compares `vars()` of a predictor and its copy: a scaled one has its scaling there, and the copy has a copy"
)
EXPLAINED: Mapping[str, str] = {
    "tests/callback/test_callback.py::test_callback_complex_module": MORE_CALLS,
    "tests/callback/test_callback.py::test_callback_async_module": MORE_CALLS,
    "tests/evaluate/test_evaluate.py::test_parallel_program_callbacks_are_children": MORE_CALLS,
    "tests/primitives/test_base_module.py::test_deepcopy_basic": ATTRIBUTES,
    "tests/primitives/test_base_module.py::test_deepcopy_with_nested_modules": ATTRIBUTES,
    "tests/primitives/test_base_module.py::test_deepcopy_with_uncopyable_modules": ATTRIBUTES,
}
"""Why tests fail that pass plain, by the beginning of their name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dspy", type=Path, required=True, help="a source tree of DSPy")
    parser.add_argument("--ways", nargs="*", choices=[*WAYS][1:], default=[*WAYS][1:], help="how to scale")
    parser.add_argument("--json", type=Path, help="also write every outcome here")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("pytest", nargs="*", help="options and paths for pytest")
    options = parser.parse_args()
    if options.one:
        sys.exit(run_here(options.one[0], Path(options.one[1]), options.pytest))
    outcomes = {way: run(way, options.dspy, options.pytest) for way in ("plain", *options.ways)}
    if options.json:
        options.json.write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
    table, explained = render(outcomes)
    print(table)
    sys.exit(not explained)


Outcomes = Mapping[str, tuple[str, str]]
"""The outcome and the last words of each test by its name."""


def run(way: str, tree: Path, arguments: list[str]) -> Outcomes:
    """Run the tests of a tree one way, in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "outcomes.json")
        command = [sys.executable, __file__, "--dspy", str(tree), "--one", way, str(told), "--", *arguments]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        # LiteLLM would fetch a price list.
        environment = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": os.pathsep.join(paths)}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        if not told.exists():
            raise SystemExit(f"the tests did not run:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return json.loads(told.read_text(encoding="utf-8"))


def run_here(way: str, told: Path, arguments: list[str]) -> int:
    """Run them in this process, and write the outcomes to a file."""
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).parent]
    import pytest

    import dynscale_dspy  # noqa: F401  # the installed DSPy comes with it, before the tree's own is on the path

    SCALED[way]()
    recorder = Recorder()
    code = pytest.main([*OPTIONS, *(arguments or ["tests"])], plugins=[recorder])
    told.write_text(json.dumps(recorder.outcomes), encoding="utf-8")
    return int(code)


class Recorder:
    """A plugin of pytest that keeps the outcome of each test."""

    def __init__(self) -> None:
        self.outcomes: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            reached = getattr(report.longrepr, "reprcrash", None)
            words = str(reached.message if reached else report.longrepr or "")
            self.outcomes[report.nodeid] = report.outcome, words.splitlines()[0] if words else ""


# ---- scaling what the tests make


def scale_in_place() -> None:
    """Have every predictor scaled as soon as it is made."""
    import dspy

    from dynscale_dspy import BudgetPool, wrap

    def scaled(made: Any) -> Any:
        if isinstance(made, dspy.Predict) and type(made).__module__.startswith("dspy."):
            with contextlib.suppress(ValueError):  # it has no answer to vote on
                wrap(made, BudgetPool(per_call=1))
        return made

    _after_each_construction(scaled)


def scale_around() -> None:
    """Have every predictor that a test makes inside a wrapper."""
    import dspy

    from dynscale_dspy import DynScaling

    def scaled(made: Any) -> Any:
        if type(made) in (dspy.Predict, dspy.ChainOfThought) and _made_by_a_test():
            with contextlib.suppress(ValueError):
                return DynScaling(made, budget=1)
        return made

    _after_each_construction(scaled)


def _after_each_construction(change: Callable[[Any], Any]) -> None:
    from dspy.primitives.module import ProgramMeta

    plain = ProgramMeta.__call__

    def made(kind: Any, *arguments: Any, **options: Any) -> Any:
        return change(plain(kind, *arguments, **options))

    ProgramMeta.__call__ = made  # type: ignore[method-assign]


def _made_by_a_test() -> bool:
    # This function, `scaled`, `made`, and who constructs.
    name = sys._getframe(3).f_globals.get("__name__", "")
    return name.startswith("tests.") or Path(sys._getframe(3).f_code.co_filename).name.startswith(("test_", "conftest"))


SCALED: Mapping[str, Callable[[], None]] = {
    "plain": lambda: None,
    "wrap": scale_in_place,
    "DynScaling": scale_around,
}


# ---- what is printed


def render(outcomes: Mapping[str, Outcomes]) -> tuple[str, bool]:
    """The tables, and whether every difference is explained."""
    plain = outcomes["plain"]
    lines = ["| predictors | passed | failed | skipped | pass plain, fail scaled |", "|---|---|---|---|---|"]
    differing: dict[str, dict[str, str]] = {}
    for way, found in outcomes.items():
        counts = Counter(outcome for outcome, _ in found.values())
        worse = {
            name: found.get(name, ("missing", "the test was not run"))[1]
            for name, (outcome, _) in plain.items()
            if outcome == "passed" and found.get(name, ("missing", ""))[0] != "passed"
        }
        for name, words in worse.items():
            differing.setdefault(name, {})[way] = words
        numbers = " | ".join(str(counts[kind]) for kind in ("passed", "failed", "skipped"))
        lines.append(f"| {WAYS[way]} | {numbers} | {len(worse) if way != 'plain' else ''} |")
    lines += ["", "| test | fails under | why |", "|---|---|---|"]
    explained = True
    for name, found in sorted(differing.items()):
        reason = next((reason for start, reason in EXPLAINED.items() if name.startswith(start)), None)
        explained = explained and reason is not None
        why = reason or f"not explained: {next(iter(found.values()))[:160]}".replace("|", "\\|")
        lines.append(f"| `{name}` | {', '.join(WAYS[way] for way in found)} | {why} |")
    return "\n".join(lines), explained


if __name__ == "__main__":
    main()
