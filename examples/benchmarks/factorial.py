"""Does seeing earlier attempts pay? Policies times ways to sample, at equal cost, on the model in the box.

    python examples/benchmarks/factorial.py [--quick] [--json OUT] [--plot OUT.png] [--state FOLDER]

The plain program comes first, as it is and at temperature 0. A cell is a policy and a strategy. It answers the same
held-out questions at several numbers of samples, through HTTP and LiteLLM, and its cost is counted in tokens: those
written plus r times those read, for r = 0, 1/4 and 1. Accuracy at the cost of so many plain samples a question is
interpolated between the two runs next to it. Its gain is over the better of the two plain runs, with a 95% interval
paired over the questions, the seeds averaged.

`--part transitions` measures instead what one conditioned sample does in each state of the tally: how often it repairs
a wrong leader and breaks a right one, beside what one more independent sample does. `--part models` lets scripted
models that lose or gain by earlier attempts answer. `--part others` runs recursive self-aggregation (arXiv 2509.26626)
and what DSPy ships for several samples.

Everything is seeded and kept in the state folder, replies in DSPy's cache and finished runs in `runs.jsonl`: a run that
was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
import numpy as np
from dspy.utils.callback import BaseCallback
from rich.console import Console
from rich.table import Table

from dynscale_dspy import (
    UCB,
    BudgetPool,
    DynScaling,
    Integrated,
    KnowledgeGradient,
    Parallel,
    Sequential,
    Uniform,
    explain,
    lab,
)
from dynscale_dspy.lab.model import CHECKPOINT
from dynscale_dspy.lab.tokenizer import ChatTokenizer
from dynscale_dspy.sampling.chain import render
from dynscale_dspy.testing import FakeServer, questions
from dynscale_dspy.tuning.paired import Interval, better, paired_gain

POLICIES: dict[str, Callable[[], Any]] = {"uniform": Uniform, "ucb": UCB, "kg": KnowledgeGradient}
CHAINS = partial(Integrated, when="close", first="own")
"""Chains where the vote is close, and a first sample like the others: each idea by itself."""
STRATEGIES: dict[str, Callable[[], Any]] = {
    "default": Integrated,
    "parallel": Parallel,
    "sequential": Sequential,
    "integrated": CHAINS,
    "prefill": partial(CHAINS, rendering="prefill"),
    "half": partial(CHAINS, share=0.5),
    "late": partial(CHAINS, independent=4),
    "late half": partial(CHAINS, independent=4, share=0.5),
    "learned": partial(CHAINS, when="learned"),
    "contested": partial(CHAINS, when="contested"),
    "always": partial(CHAINS, when="always"),
    "repeats": partial(CHAINS, repeats=True),
}
SINGLE = {"plain": None, "plain, temperature 0": 0.0}
"""The plain program, and the temperature that it is asked at; None for the language model's own."""
SAMPLES = (1, 2, 3, 4, 6, 8, 12, 16)
PRICES = (0.0, 0.25, 1.0)
WORTHS = (2, 4, 8, 16)
SIGNATURE: Any = dspy.ChainOfThought("question -> answer").predict.signature
REVISING = SIGNATURE.append("earlier_attempts", dspy.InputField(desc=lab.EARLIER_ATTEMPTS), type_=str)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("factorial", "transitions", "models", "others"), default="factorial")
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--set", type=int, default=12, help="which held-out questions: lab.questions(..., seed=SET)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--policies", default="uniform,ucb,kg", help=", ".join(POLICIES))
    parser.add_argument("--strategies", default="parallel,sequential,integrated,prefill", help=", ".join(STRATEGIES))
    parser.add_argument("--largest", type=int, default=max(SAMPLES), help="most samples a question")
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--state", type=Path, help="folder of replies and finished runs; temporary by default")
    parser.add_argument("--quick", action="store_true", help="12 questions, few cells")
    parser.add_argument("--json", metavar="OUT", type=Path, help="write the rows here")
    parser.add_argument("--plot", metavar="OUT", type=Path, help="draw accuracy against cost here")
    options = parser.parse_args()
    if options.quick:
        options.questions, options.seeds, options.largest = 12, 1, 3
        options.policies, options.strategies = "uniform,kg", "parallel,integrated"
    with contextlib.ExitStack() as stack:
        state = options.state or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        state.mkdir(parents=True, exist_ok=True)
        dspy.configure_cache(disk_cache_dir=str(state / "replies"), memory_max_entries=200_000)
        bench = Bench(stack.enter_context(_server()), state, lab.questions(options.questions, options.set), options)
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        parts = {"factorial": factorial, "transitions": transitions, "models": models, "others": others}
        rows = parts[options.part](bench, seeds, options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """The lab's server in a process of its own, so that it does not share Python's lock with the clients."""
    command = [sys.executable, "-m", "dynscale_dspy.cli", "lab", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().split()
            if len(line) < 3:
                raise RuntimeError("the lab server did not start")
            yield line[2]
        finally:
            process.terminate()


class Tokens(BaseCallback):
    """Counts the tokens of every request, those answered from the cache too: what it costs without one."""

    def __init__(self) -> None:
        self._tokenizer = ChatTokenizer(CHECKPOINT / "tokenizer.json")
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.read = self.written = self.requests = 0

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Count what is read."""
        messages = [(message["role"], message["content"]) for message in inputs["messages"]]
        count = len(self._tokenizer.encode_chat(messages))
        with self._lock:
            self.read += count
            self.requests += 1

    def on_lm_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        """Count what is written, end marker included."""
        texts = [output if isinstance(output, str) else (output or {}).get("text") or "" for output in outputs or []]
        count = sum(len(self._tokenizer.encode(text)) + 1 for text in texts)
        with self._lock:
            self.written += count


class Bench:
    """Questions, the language model, and the runs that are finished."""

    def __init__(self, address: str, state: Path, examples: list[dspy.Example], options: argparse.Namespace) -> None:
        self.examples = examples
        self.threads = options.threads
        self._set = options.set
        self.tokens = Tokens()
        self._address = address
        self._file = state / "runs.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self._finished = {json.dumps(run["name"]): run for run in map(json.loads, lines)}

    def lm(self, seed: int, question: str = "") -> dspy.LM:
        """The model in the box. A sample's index is added to the seed, so replies are reproducible.

        Each question has a seed of its own: with one for all, a sample's draws would be the same for every question,
        and 400 questions would err together.
        """
        options: dict[str, Any] = {"temperature": 1.0, "max_tokens": 256, "num_retries": 0}
        if "engine" in dspy.LM.__init__.__code__.co_varnames:
            options["engine"] = "litellm"
        options["seed"] = 1_000_000 * (1000 * zlib.crc32(question.encode()) + seed)
        return dspy.LM("openai/lab-arithmetic", api_base=self._address, api_key="lab", **options)

    def once(self, name: list[Any], run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A run's record; computed unless it is already in the state."""
        name = [self._set, len(self.examples), *name]
        found = self._finished.get(json.dumps(name))
        if found is None:
            self.tokens.clear()
            began = time.perf_counter()
            found = {"name": name, **run(), "seconds": round(time.perf_counter() - began, 1)}
            found |= {"read": self.tokens.read, "written": self.tokens.written, "requests": self.tokens.requests}
            self._finished[json.dumps(name)] = found
            with self._file.open("a") as file:
                file.write(json.dumps(found) + "\n")
        return found

    def cell(self, policy: str, strategy: str, samples: int, seed: int) -> dict[str, Any]:
        """One run of one cell."""

        def run() -> dict[str, Any]:
            pool = BudgetPool(samples=samples * len(self.examples), policy=POLICIES[policy](), seed=seed)
            return self._answered(DynScaling(Seeded(self, seed), pool, sampling=STRATEGIES[strategy]()), seed)

        return self.once([policy, strategy, samples, seed], run)

    def single(self, name: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """The runs of the plain program. At temperature 0 there is one: seeds change nothing."""

        def run(seed: int) -> dict[str, Any]:
            pool = BudgetPool(samples=len(self.examples), seed=seed)
            plain = DynScaling(Seeded(self, seed), pool, max_samples=1, temperature=SINGLE[name])
            return self._answered(plain, seed)

        differs = SINGLE[name] is None
        return [self.once([name, seed], partial(run, seed)) for seed in (seeds if differs else seeds[:1])]

    def _answered(self, qa: DynScaling, seed: int) -> dict[str, Any]:
        """The run of a program on all questions."""
        with dspy.context(lm=self.lm(seed), callbacks=[self.tokens], max_errors=10**6):
            predictions = qa.batch(self.examples, num_threads=self.threads, disable_progress_bar=True)
        reports = [explain(prediction) for prediction in predictions if prediction is not None]
        drawn = [sample for report in reports for sample in report.samples]
        return {
            "right": [
                int(prediction is not None and prediction.answer.strip() == example.answer)
                for prediction, example in zip(predictions, self.examples, strict=True)
            ],
            "rounds": float(np.mean([report.rounds for report in reports])),
            "conditioned": sum(bool(sample.shown) for sample in drawn) / len(drawn),
        }

    def cost(self, run: dict[str, Any], price: float) -> float:
        """Tokens a question: those written, and those read at their price."""
        return (run["written"] + price * run["read"]) / len(self.examples)

    def together(self, work: Callable[[dspy.Example], Any], seed: int) -> list[Any]:
        """The same work for every question, side by side."""

        def one(example: dspy.Example) -> Any:
            with dspy.context(lm=self.lm(seed, example.question), callbacks=[self.tokens]):
                return work(example)

        with ThreadPoolExecutor(self.threads) as executor:
            return list(executor.map(one, self.examples))

    def attempt(self, question: str, number: int, shown: Sequence[Attempt] = ()) -> Attempt | None:
        """One sample, fresh or with attempts shown; None if it cannot be read."""
        program = dspy.Predict(REVISING if shown else SIGNATURE)
        inputs = {"question": question}
        if shown:
            texts = [f"{reasoning}\nanswer: {answer}" for reasoning, answer in shown]
            inputs["earlier_attempts"] = render(texts)
        seed = dspy.settings.lm.kwargs["seed"] + number
        try:
            prediction = program(**inputs, config={"rollout_id": number or None, "seed": seed})
        except Exception:  # the adapter's error type differs between versions of DSPy
            return None
        return prediction.reasoning, prediction.answer.strip()


class Seeded(dspy.Module):
    """The program, with each question's own seed."""

    def __init__(self, bench: Bench, seed: int) -> None:
        super().__init__()
        self.answer = dspy.ChainOfThought("question -> answer")
        self._lms = {example.question: bench.lm(seed, example.question) for example in bench.examples}

    def forward(self, question: str) -> dspy.Prediction:
        """Answer it."""
        with dspy.context(lm=self._lms[question]):
            return self.answer(question=question)


Attempt = tuple[str, str]  # the reasoning and the answer


# ---- the factorial


def factorial(bench: Bench, seeds: Sequence[int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The table at equal cost, and the plot."""
    console = Console(width=160)
    cells = [(p, s) for p in options.policies.split(",") for s in options.strategies.split(",")]
    numbers = [number for number in SAMPLES if number <= options.largest]
    unit = {price: _unit(bench, seeds, numbers[-1], price) for price in PRICES}
    runs: dict[tuple[str, str], list[list[dict[str, Any]]]] = {}
    for policy, strategy in cells:
        runs[policy, strategy] = []
        for seed in seeds:
            done = []
            for number in numbers:
                done.append(bench.cell(policy, strategy, number, seed))
                if bench.cost(done[-1], 0.0) > numbers[-1] * unit[0.0]:
                    break  # dearer than any column at any price
            runs[policy, strategy].append(done)
        console.print(f"{policy} x {strategy}: done", style="dim")
    single = {name: bench.single(name, seeds) for name in SINGLE}
    right = {name: np.mean([run["right"] for run in each], 0) for name, each in single.items()}
    base = right[better(right)]
    rows = []
    for price in PRICES:
        for worth in [w for w in WORTHS if w <= numbers[-1]]:
            for name, each in single.items():
                cost = float(np.mean([bench.cost(run, price) for run in each]))
                row = _row(bench, [[run] for run in each], None, price, cost / unit[price], cost)
                rows.append({"policy": name, "strategy": "", **row, "worth": worth, "cost": cost / unit[price]})
            for cell in cells:
                row = _row(bench, runs[cell], base, price, worth, worth * unit[price])
                rows.append({"policy": cell[0], "strategy": cell[1], **row, "cost": worth})
    for price in PRICES:
        _show_factorial(console, [row for row in rows if row["r"] == price], price)
    if options.plot:
        _plot(bench, runs, single, unit, options.plot)
    return rows


def _unit(bench: Bench, seeds: Sequence[int], number: int, price: float) -> float:
    """What a plain sample costs."""
    runs = [bench.cell("uniform", "parallel", number, seed) for seed in seeds]
    return float(np.mean([bench.cost(run, price) for run in runs])) / number


def _curve(bench: Bench, runs: list[list[dict[str, Any]]], price: float, cost: float) -> np.ndarray | None:
    """Each question's accuracy at a cost, the seeds averaged; None where no run costs as much."""
    curves = []
    for done in runs:
        costs = [bench.cost(run, price) for run in done]
        above = next((i for i, c in enumerate(costs) if c >= cost * 0.97), None)
        if above is None:
            return None
        right = np.array(done[above]["right"], float)
        if above and costs[above] > cost:
            share = (cost - costs[above - 1]) / (costs[above] - costs[above - 1])
            right = share * right + (1 - share) * np.array(done[above - 1]["right"], float)
        elif costs[above] > cost * 1.03:
            return None  # not even one sample
        curves.append(right)
    return np.mean(curves, 0)


def _row(
    bench: Bench, runs: list[list[dict[str, Any]]], base: np.ndarray | None, price: float, worth: float, cost: float
) -> dict[str, Any]:
    right = _curve(bench, runs, price, cost)
    near = [min(done, key=lambda run: abs(bench.cost(run, price) - cost)) for done in runs]
    row: dict[str, Any] = {"r": price, "worth": worth, "questions": len(bench.examples), "seeds": len(runs)}
    row |= {"accuracy": None, **_gained(None)}
    if right is not None:
        row["accuracy"] = float(right.mean())
        if base is not None:
            row |= _gained(paired_gain(right, base))
    for name in ("read", "written", "requests"):
        row[name] = float(np.mean([run[name] for run in near])) / len(bench.examples)
    for name in ("rounds", "conditioned", "seconds"):
        row[name] = float(np.mean([run[name] for run in near]))
    return row


def _show_factorial(console: Console, rows: list[dict[str, Any]], price: float) -> None:
    table = Table(title=f"accuracy in % at the cost of N plain samples a question; a token read costs {price:g}")
    for name in ("policy", "strategy"):
        table.add_column(name)
    worths = sorted({row["worth"] for row in rows})
    for worth in worths:
        table.add_column(f"N={worth}", justify="right")
        table.add_column("over the better plain run", justify="right")
    for name in ("samples seen", "requests", "rounds", "seconds"):
        table.add_column(name, justify="right")
    for cell in dict.fromkeys((row["policy"], row["strategy"]) for row in rows):
        mine = {row["worth"]: row for row in rows if (row["policy"], row["strategy"]) == cell}
        texts = []
        for worth in worths:
            row = mine[worth]
            paid = f" for {row['cost']:.1f}" if row["policy"] in SINGLE else ""
            texts.append("-" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}{paid}")
            known = row["gain"] is not None
            texts.append(
                f"{100 * row['gain']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]" if known else ""
            )
        last = mine[worths[-1]]
        texts += [f"{last['conditioned']:.0%}", f"{last['requests']:.1f}", f"{last['rounds']:.1f}"]
        table.add_row(*cell, *texts, f"{last['seconds']:.0f}")
    console.print(table)


def _plot(
    bench: Bench,
    runs: dict[Any, list[list[dict[str, Any]]]],
    single: dict[str, list[dict[str, Any]]],
    unit: dict[float, float],
    path: Path,
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    price = 0.25
    policies = list(dict.fromkeys(policy for policy, _ in runs))
    figure, axes = pyplot.subplots(1, len(policies), figsize=(4.2 * len(policies), 3.6), sharey=True, squeeze=False)
    for axis, policy in zip(axes[0], policies, strict=True):
        for (name, each), marker in zip(single.items(), "sD", strict=True):
            cost = np.mean([bench.cost(run, price) for run in each]) / unit[price]
            accuracy = 100 * np.mean([run["right"] for run in each])
            axis.plot([cost], [accuracy], marker, color="0.3", markerfacecolor="none", label=name)
            axis.axhline(accuracy, color="0.6", linewidth=0.8, linestyle=":")
        for (mine, strategy), seeds in runs.items():
            if mine != policy:
                continue
            count = min(map(len, seeds))
            costs = [np.mean([bench.cost(done[i], price) for done in seeds]) / unit[price] for i in range(count)]
            rights = [100 * np.mean([np.mean(done[i]["right"]) for done in seeds]) for i in range(count)]
            axis.plot(costs, rights, marker=".", label=strategy)
        axis.set_xscale("log", base=2)
        axis.set_xlim(0.9, 20)
        axis.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(POLICIES[policy].__name__)
        axis.set_xlabel("cost a question, in plain samples (r = 1/4)")
    axes[0][0].set_ylabel("accuracy, %")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


# ---- what a conditioned sample changes


def transitions(bench: Bench, seeds: Sequence[int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """By state of the tally: one conditioned sample and one independent one, against the leader."""
    first = (2,) if options.quick else (2, 4, 8)
    found: dict[tuple[int, str], list[list[bool]]] = defaultdict(list)
    for seed in seeds:
        for count in first:
            run = bench.once(
                ["transitions", count, seed],
                lambda count=count, seed=seed: {
                    "states": bench.together(lambda example: _transition(bench, example, count), seed)
                },
            )
            for state in run["states"]:
                if state is not None:
                    found[count, _state(state[0])].append(state[1])
    rows = []
    for (count, state), hits in sorted(found.items()):
        leader, conditioned, independent = np.array(hits, bool).T
        row = {"votes": count, "state": state, "calls": len(hits), "leader right": leader.mean()}
        for name, sample in (("conditioned", conditioned), ("independent", independent)):
            row[f"{name} right"] = sample.mean()
            row[f"{name} repairs"] = int((sample & ~leader).sum())
            row[f"{name} breaks"] = int((~sample & leader).sum())
        rows.append({key: value if isinstance(value, (int, str)) else float(value) for key, value in row.items()})
    table = Table(*rows[0], title="one more sample, by the votes so far")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)
    return rows


def _state(pattern: str) -> str:
    """The state of a tally, such as "2-1-1": how far the leading answer is ahead."""
    votes = list(map(int, pattern.split("-")))
    if len(votes) == 1:
        return "one answer"
    lead = votes[0] - votes[1]
    return f"lead of {lead}" if lead < 3 else "lead of 3 or more"


def _shown(read: Sequence[Attempt], key: object) -> list[Attempt]:
    """One attempt for each of the four leading answers, in an order of the key's own."""
    votes = Counter(answer for _, answer in read)
    shown = list({answer: (reasoning, answer) for reasoning, answer in reversed(read)}.values())
    shown.sort(key=lambda attempt: -votes[attempt[1]])
    shown = shown[:4]
    random.Random(str(key)).shuffle(shown)
    return shown


def _transition(bench: Bench, example: dspy.Example, count: int) -> tuple[str, list[bool]] | None:
    attempts = [bench.attempt(example.question, number) for number in range(count)]
    read = [attempt for attempt in attempts if attempt is not None]
    if not read:
        return None
    votes = Counter(answer for _, answer in read)
    state = "-".join(map(str, sorted(votes.values(), reverse=True)))
    shown = _shown(read, example.question)
    leader = votes.most_common(1)[0][0]
    conditioned = bench.attempt(example.question, 100 + count, shown)
    independent = bench.attempt(example.question, 200 + count)
    answers = [leader, *(attempt[1] if attempt else None for attempt in (conditioned, independent))]
    return state, [answer == example.answer for answer in answers]


# ---- models that lose or gain by what they are shown


def models(bench: Bench, seeds: Sequence[int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A scripted model that raises its answers' chances to a power when shown attempts: 0 is any of them at random."""
    count = 30 if options.quick else 200
    bank = questions(count, seed=3)
    examples = [dspy.Example(question=asked.text, answer=asked.answer).with_inputs("question") for asked in bank]
    names = {0: "takes any", 1: "does not mind", 2: "sharpens", 3: "sharpens more"}
    ways: dict[str, dict[str, Any]] = {name: {"max_samples": 1, "temperature": SINGLE[name]} for name in SINGLE}
    ways |= {name: {"sampling": STRATEGIES[name]()} for name in ("parallel", "integrated", "learned", "default")}

    def answered(power: int, way: str, seed: int) -> dict[str, Any]:
        with FakeServer(bank, seed=seed, sharpen=power - 1.0, median_latency=0.003) as server:
            pool = BudgetPool(samples=(1 if way in SINGLE else 6) * count, seed=seed)
            qa = DynScaling(dspy.ChainOfThought("question -> answer"), pool, **ways[way])
            lm = server.lm()
            lm.cache = False  # each run is to ask anew
            with dspy.context(lm=lm):
                predictions = qa.batch(examples, num_threads=8, disable_progress_bar=True)
        seeing = [bool(sample.shown) for made in predictions for sample in explain(made).samples]
        right = [int(made.answer == example.answer) for made, example in zip(predictions, examples, strict=True)]
        return {"right": right, "seeing": float(np.mean(seeing)), "samples": len(seeing) / count}

    rows = []
    for power in (0, 2) if options.quick else names:
        runs = {
            way: [bench.once(["models", power, way, seed], partial(answered, power, way, seed)) for seed in seeds]
            for way in ways
        }
        right = {way: np.mean([run["right"] for run in each], 0) for way, each in runs.items()}
        base = right[better({name: right[name] for name in SINGLE})]
        for way, each in runs.items():
            gain = paired_gain(right[way], base)
            rows.append(
                {"shown attempts it": names[power], "power": power, "strategy": way, "questions": count}
                | {"samples": round(each[0]["samples"]), "seeing": float(np.mean([run["seeing"] for run in each]))}
                | {"accuracy": float(right[way].mean()), **_gained(None if way in SINGLE else gain)}
            )
    table = Table(*rows[0], title="six samples a question, KnowledgeGradient; gains over the better plain run")
    for row in rows:
        table.add_row(*("" if v is None else f"{v:.1%}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=140).print(table)
    return rows


def _gained(gain: Interval | None) -> dict[str, Any]:
    """The gain of a row; of the plain runs there is none."""
    if gain is None:
        return {"gain": None, "low": None, "high": None}
    return {"gain": gain.mean, "low": gain.low, "high": gain.high}


# ---- other ways to spend several samples


def others(bench: Bench, seeds: Sequence[int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Recursive self-aggregation, and DSPy's own."""
    methods: dict[str, Callable[[dspy.Example], Any]] = {
        f"RSA, 4 at a time, shown {shown}, {steps} steps": lambda example, shown=shown, steps=steps: _aggregate(
            bench, example.question, shown, steps
        )
        for shown in (2, 3, 4)
        for steps in (2, 4)
    }
    methods["dspy.majority of 8"] = _dspy_majority
    methods["dspy.BestOfN, N=8, any answer will do"] = _dspy_best_of
    methods["dspy.MultiChainComparison of 3"] = _dspy_comparison
    if options.quick:
        methods = dict(list(methods.items())[:1])
    unit = {price: _unit(bench, seeds, 1, price) for price in PRICES}
    runs_of = {name: bench.single(name, seeds) for name in SINGLE}
    for name, method in methods.items():
        runs_of[name] = [
            bench.once(
                ["others", name, seed],
                lambda method=method, seed=seed: {
                    "right": [
                        int(answer == example.answer)
                        for answer, example in zip(bench.together(method, seed), bench.examples, strict=True)
                    ]
                },
            )
            for seed in seeds
        ]
    rights = {name: np.mean([run["right"] for run in runs], 0) for name, runs in runs_of.items()}
    base = rights[better({name: rights[name] for name in SINGLE})]
    rows = []
    for name, runs in runs_of.items():
        right = rights[name]
        row: dict[str, Any] = {"method": name, "accuracy": float(right.mean()), "questions": len(bench.examples)}
        for price in PRICES:
            row[f"samples' worth, r={price:g}"] = float(np.mean([bench.cost(run, price) for run in runs])) / unit[price]
        row["requests"] = float(np.mean([run["requests"] for run in runs])) / len(bench.examples)
        row["seconds"] = float(np.mean([run["seconds"] for run in runs]))
        rows.append(row | _gained(None if name in SINGLE else paired_gain(right, base)))
    table = Table(*rows[0])
    for row in rows:
        texts = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values())
        table.add_row(*("" if text == "None" else text for text in texts))
    Console(width=160).print(table)
    return rows


def _aggregate(bench: Bench, question: str, shown: int, steps: int) -> str | None:
    """Recursive self-aggregation: each member is renewed from a random subset of the last population; then a vote."""
    chooser = random.Random(f"{question} {shown}")
    population = [bench.attempt(question, number) for number in range(4)]
    for step in range(1, steps):
        readable = [attempt for attempt in population if attempt is not None]
        subsets = [chooser.sample(readable, min(shown, len(readable))) for _ in range(4)]
        population = [
            bench.attempt(question, 1000 * shown + 4 * step + member, subset) for member, subset in enumerate(subsets)
        ]
    votes = Counter(attempt[1] for attempt in population if attempt is not None)
    return votes.most_common(1)[0][0] if votes else None


def _several(example: dspy.Example, count: int) -> Any:
    return dspy.ChainOfThought("question -> answer")(question=example.question, config={"n": count})


def _dspy_majority(example: dspy.Example) -> str | None:
    try:
        completions = _several(example, 8)
        return dspy.majority(completions, field="answer").answer.strip()
    except Exception:
        return None


def _dspy_best_of(example: dspy.Example) -> str | None:
    best = dspy.BestOfN(
        dspy.ChainOfThought("question -> answer"), N=8, reward_fn=lambda _, p: float(bool(p.answer)), threshold=1.0
    )
    try:
        return best(question=example.question).answer.strip()
    except Exception:
        return None


def _dspy_comparison(example: dspy.Example) -> str | None:
    try:
        completions = _several(example, 3).completions
        attempts = [
            {"rationale": reasoning, "answer": answer}
            for reasoning, answer in zip(completions.reasoning, completions.answer, strict=True)
        ]
        return dspy.MultiChainComparison("question -> answer", M=3)(attempts, question=example.question).answer.strip()
    except Exception:
        return None


if __name__ == "__main__":
    main()
