"""Prompts many times longer than replies: what the bandit buys for the tokens of uniform voting in one request.

    python examples/benchmarks/long_prompts.py [--quick] [--json OUT]

A scripted model of known answer distributions, behind HTTP: a prompt of about 170 tokens, replies of about 23. Uniform
voting draws all samples of a question from one request. The default policy then has as many samples a call, as many
in all, or as many tokens or dollars where one token read costs a quarter of one written: for a known set, and for
calls one by one, four at a time, announced where all share a cap. Where it has as many samples, it is also set beside
uniform voting that has as many tokens as these took. Samples see no earlier ones, and
none is greedy: the scripted model at temperature 0 gives its most frequent answer, as no real one does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy

from dynscale_dspy import BudgetPool, DynScaling, Parallel, Price, Uniform
from dynscale_dspy.testing import FakeServer, questions

READ, WRITTEN = 1, 4
"""Dollars for a million tokens."""
AT_ONCE = 4
"""Calls under way."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 questions, one seed")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first-seed", type=int, default=20)
    parser.add_argument("--json", metavar="OUT", type=Path, help="write the rows here")
    options = parser.parse_args()
    count, seeds = (20, 1) if options.quick else (200, options.seeds)
    found: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
    for seed in range(options.first_seed, options.first_seed + seeds):
        for samples in (4, 8):
            for same, how, run in runs(samples, seed, count):
                found.setdefault((samples, same, how), []).append(run)
    rows, voted = [], []
    for (samples, same, how), each in found.items():
        hits, rival = ([hit for run in each for hit in run.pop(name, [])] for name in ("hits", "rival"))
        rows.append({"samples": samples, "at the same": same, "how": how, "right": statistics.mean(hits)})
        if not same:
            voted = hits
        else:
            rows[-1]["over uniform"] = over(hits, voted)
        if rival:
            rows[-1]["over its tokens"] = over(hits, rival)
        rows[-1].update({name: statistics.mean(run[name] for run in each) for name in each[0]})
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


def over(hits: list[bool], others: list[bool]) -> list[float]:
    """The difference of two shares on the same questions, and its 95% interval, paired."""
    differences = [hit - other for hit, other in zip(hits, others, strict=True)]
    mean = statistics.mean(differences)
    error = 1.96 * statistics.stdev(differences) / len(differences) ** 0.5
    return [mean, mean - error, mean + error]


def runs(samples: int, seed: int, count: int) -> list[tuple[str, str, dict[str, Any]]]:
    """Uniform voting, then the default policy at as many tokens and at as many dollars."""
    bank = questions(count, seed=seed)
    with FakeServer(bank, median_latency=0, seed=seed) as server:
        lm = server.lm(max_tokens=60)
        program = dspy.ChainOfThought("question -> answer")
        asked = [{"question": question.text} for question in bank]

        def answer(pool: BudgetPool, *, online: bool = False, choices: int = 8) -> dict[str, Any]:
            server.reset(seed=seed)
            qa = DynScaling(program, pool, sampling=Parallel(), max_choices=choices)
            if online:
                pool = pool if pool.settings.per_call else pool.expect(count)
                with ThreadPoolExecutor(AT_ONCE) as threads:
                    predictions = list(threads.map(lambda inputs: ask(qa, inputs), asked))
            else:
                predictions = qa.batch(asked, num_threads=AT_ONCE, disable_progress_bar=True)
            counted = server.statistics()
            return {
                "written": counted.completion_tokens / counted.samples,
                "hits": [one is not None and one.answer == q.answer for one, q in zip(predictions, bank, strict=True)],
                "requests": counted.requests / count,
                "drawn": counted.samples / count,
                "tokens": (counted.prompt_tokens + counted.completion_tokens) / count,
                "microdollars": (READ * counted.prompt_tokens + WRITTEN * counted.completion_tokens) / count,
            }

        def ask(qa: DynScaling, inputs: dict[str, str]) -> Any:
            with dspy.context(lm=lm):
                return qa(**inputs)

        with dspy.context(lm=lm):
            done = [("", "uniform voting", answer(BudgetPool(per_call=samples, policy=Uniform()), choices=samples))]
            written = done[0][2]["written"]
            tokens, dollars = (round(done[0][2][name] * count) for name in ("tokens", "microdollars"))
            for same, how in (
                ("samples a call", "known set"),
                ("samples a call", "one by one"),
                ("samples in all", "known set"),
            ):
                pool = BudgetPool(per_call=samples) if same == "samples a call" else BudgetPool(samples=samples * count)
                done.append((same, how, drawn := answer(pool, online=how != "known set")))
                more = samples + round((drawn["tokens"] - done[0][2]["tokens"]) / written)
                drawn["rival"] = answer(BudgetPool(per_call=more, policy=Uniform()), choices=more)["hits"]
            prices = {lm.model: Price(READ, WRITTEN)}
            for how in ("known set", "one by one"):
                done.append(("tokens", how, answer(BudgetPool(tokens=tokens), online=how != "known set")))
                pool = BudgetPool(dollars=dollars / 1e6, prices=prices)
                done.append(("dollars", how, answer(pool, online=how != "known set")))
    return done


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    from rich.console import Console
    from rich.table import Table

    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "written"]
    table = Table(*names, title="a question")
    for row in rows:
        table.add_row(*(told(name, row.get(name)) for name in names))
    Console(width=160).print(table)


def told(name: str, value: Any) -> str:
    """A cell of the table."""
    if name == "right":
        return f"{value:.1%}"
    if isinstance(value, list):
        mean, low, high = (100 * part for part in value)
        return f"{mean:+.1f} [{low:.1f}, {high:.1f}]"
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
