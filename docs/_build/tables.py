"""Write the tables of the pages that a benchmark's JSON holds: `python docs/_build/tables.py`. A test compares them.

A page marks where: `<!-- table: NAME -->` up to `<!-- end of table -->`. Benchmarks are run by `benchmarks.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kinds
from evidence import GREEDY, OURS, PLAIN, VOTING, measured

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
DATA = {"aime": "AIME", "gpqa-diamond": "GPQA-Diamond", "math": "MATH-500"}


def main() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        made = remade(text)
        if made != text:
            page.write_text(made, encoding="utf-8")
            print(page.relative_to(ROOT))


def remade(text: str) -> str:
    """A page with its tables as the JSON has them now."""
    return re.sub(
        r"(<!-- table: (\w[\w ]*) -->\n).*?(<!-- end of table -->)",
        lambda found: found[1] + TABLES[found[2]]() + found[3] if found[2] in TABLES else found[0],
        text,
        flags=re.DOTALL,
    )


def confidence() -> str:
    """A row a kind of pool and number of samples: means over its pools; and one for each run of the lab model."""
    kept = _load("confidence")
    names = {"open": "of an open range", "closed": "from a few labels", "at once": "from labels, at once"}
    lines = [
        "| answers | pools | samples | accuracy | mean confidence | calibration error | by chance | at most 0.10 "
        "| error of the vote's | AUROC |",
        "|---|" + "---:|" * 9,
    ]
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in kept["rows"]:
        is_lab = row["answers from"].startswith("lab, ")
        groups.setdefault((row["answers from"] if is_lab else names[row["kind"]], row["samples"]), []).append(row)
    for (name, samples), rows in sorted(groups.items(), key=lambda item: (item[0][0].startswith("lab"), item[0])):
        mean = {column: sum(row[column] for row in rows) / len(rows) for column in rows[0] if column in _MEANS}
        cells = [
            name,
            "" if name.startswith("lab") else str(len(rows)),
            str(samples),
            f"{mean['accuracy']:.1%}",
            f"{mean['mean confidence']:.2f}",
            f"{mean['calibration error']:.3f}",
            f"{mean['by chance']:.3f}",
            f"{sum(row['calibration error'] <= 0.1 for row in rows)} of {len(rows)}",
            f"{mean['of the vote']:.3f}",
            f"{mean['AUROC']:.2f}",
        ]
        lines.append(_line(cells))
    return _table(lines, kept)


_MEANS = {"accuracy", "mean confidence", "calibration error", "by chance", "of the vote", "AUROC"}


def replay(budgets_of: str) -> str:
    kept = _load("replay")
    rows = [row for row in kept["rows"] if row["one budget for"] == budgets_of]
    head, *names = "", *DATA.values()
    lines = [_line([head, *(c for name in names for c in (f"{name}: at 2, 4, 8", "reach", "area"))]), "|---" * 10 + "|"]
    for policy in dict.fromkeys(row["policy"] for row in rows):
        cells, bound = [policy], "not a policy" in policy
        for data in DATA:
            row = next(row for row in rows if (row["policy"], row["data"]) == (policy, data))
            # Unbreakable: three numbers on three lines are hard to compare.
            cells.append("\u00a0".join("–" if row[f"at {n}"] is None else f"{100 * row[f'at {n}']:.1f}" for n in (2, 4, 8)))
            cells.append("" if bound else "never" if row["reach"] is None else f"{row['reach']:.1f}")
            cells.append(f"{100 * row['area']:.2f}")
        lines.append(_line(cells))
    return _table(lines, kept)


def demo() -> str:
    names = {
        "plain": "plain program",
        "greedy": "plain program, temperature 0",
        "uniform": "uniform voting, 8 samples a question",
        "dynscaling": "DynScaling, 4 samples a question on average",
    }
    rows = _load("demo")["rows"]
    sets, single = rows[0]["sets"], ("plain", "greedy")
    lines = ["| | accuracy | samples | cost | gain over the better plain run |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        gain = f"{_gain(row)} points, on {row['sets on which it gains']} of {sets} sets"
        cells = [names[row["method"]], f"{row['accuracy']:.1%}", f"{row['samples']:,.0f}", f"{row['cost']:,.0f}"]
        lines.append(_line([*cells, "" if row["method"] in single else gain]))
    told = f"Means of {sets} sets of 200 questions, `--seed 0` to `{sets - 1}`; in brackets 95% intervals, paired over all"
    return "\n".join([*lines, "", f"{told} {rows[0]['questions']:,} questions."]) + "\n"


SINGLE = {"plain": "plain program", "plain, temperature 0": "plain program, temperature 0"}
STRATEGIES = {
    "": "",
    "parallel": "`Parallel`",
    "integrated": "`Integrated`",
    "prefill": "`Integrated`, prefill",
    "sequential": "`Sequential`",
    "learned": '`Integrated(when="learned")`',
    "default": "the default, `Integrated()`",
}


def factorial(price: float, name: str) -> str:
    kept = _load(name)
    policies = {**SINGLE, "uniform": "`Uniform`", "ucb": "`UCB`", "kg": "`KnowledgeGradient`"}
    rows = [row for row in kept["rows"] if row["r"] == price]
    worths = sorted({row["worth"] for row in rows})
    lines = [_line(["policy", "strategy", *map(str, worths)]), "|---" * (2 + len(worths)) + "|"]
    for policy, strategy in dict.fromkeys((row["policy"], row["strategy"]) for row in rows):
        cells = [policies[policy], STRATEGIES[strategy]]
        for worth in worths:
            row = next(r for r in rows if (r["policy"], r["strategy"], r["worth"]) == (policy, strategy, worth))
            if row["accuracy"] is None:
                cells.append("not reached")
                continue
            told = f"for {row['cost']:.1f}" if policy in SINGLE else f"({_gain(row)})"
            cells.append(f"{100 * row['accuracy']:.1f} {told}")
        lines.append(_line(cells))
    return _table(lines, kept)


def factorial_others() -> str:
    kept = _load("factorial_others")
    heads = ["method", "accuracy", "gain, points", "requests", *(f"samples' worth, r = {r}" for r in ("0", "1/4", "1"))]
    lines = [_line(heads), "|---|" + "---:|" * (len(heads) - 1)]
    for row in kept["rows"]:
        worths = [format(row[f"samples' worth, r={r}"], ".1f") for r in ("0", "0.25", "1")]
        gain = "" if row["method"] in SINGLE else _gain(row)
        cells = [SINGLE.get(row["method"], row["method"]), f"{row['accuracy']:.1%}", gain, f"{row['requests']:.1f}"]
        lines.append(_line([*cells, *worths]))
    return _table(lines, kept)


def models() -> str:
    kept = _load("models")
    ways = {way: {**SINGLE, **STRATEGIES}[way] for way in dict.fromkeys(row["strategy"] for row in kept["rows"])}
    lines = [_line(["shown attempts the model", *ways.values()]), "|---|" + "---:|" * len(ways)]
    found: dict[str, list[str]] = {}
    for row in kept["rows"]:
        cell = f"{row['accuracy']:.1%}"
        if row["strategy"] not in SINGLE:
            seeing = f"; {row['seeing']:.0%} see" if row["seeing"] else ""
            cell += f" ({_gain(row)}{seeing})"
        found.setdefault(row["shown attempts it"], []).append(cell)
    return _table([*lines, *(_line([name, *cells]) for name, cells in found.items())], kept)


def overhead() -> str:
    kept = _load("overhead")
    methods = {"bare": "bare program", "litellm": "LiteLLM's `completion`", "apart": "wrapped, apart", "folded": "folded"}
    engines = {"auto": "native", "litellm": "LiteLLM"}
    lines = [_line(["engine", "calls", "answers a query", *methods.values()]), "|---|---|" + "---:|" * (1 + len(methods))]
    by_setting: dict[tuple[str, str, int], dict[str, float]] = {}
    for row in kept["rows"]:
        by_setting.setdefault((row["engine"], row["mode"], row["choices"]), {})[row["method"]] = row["cpu_ms"]
    for (engine, mode, choices), found in by_setting.items():
        cells = [f"{found[method]:.2f}" if method in found else "" for method in methods]
        lines.append(_line([engines[engine], mode, str(choices), *cells]))
    return _table(lines, kept)


def own_cost() -> str:
    """A row a version: instructions and CPU of a sample, bare and wrapped, and what wrapping adds."""
    kept = _load("own_cost")
    lines = ["| | instructions | of them over the bare program | CPU, µs | of it over the bare program |"]
    lines.append("|---|" + "---:|" * 4)
    by_version: dict[str, dict[str, dict[str, int]]] = {}
    for row in kept["rows"]:
        by_version.setdefault(row["version"], {})[row["way"]] = row
    for version, ways in by_version.items():
        bare = ways["bare program"]
        for way, row in ways.items():
            cells = [f"{way}, {version}"]
            for column in ("instructions", "cpu_us"):
                over = f"{row[column] - bare[column]:,}" if row is not bare else ""
                cells += [f"{row[column]:,}", over]
            lines.append(_line(cells))
    return _table(lines, kept)


def long_prompts() -> str:
    """What the default policy gets right for what uniform voting reads and writes, or costs."""
    kept = _load("long_prompts")
    heads = ["uniform voting of", "at as many", "", "right", "over uniform voting", "over it at all those tokens"]
    lines = [_line([*heads, "requests", "samples", "tokens"]), "|---|---|---" + "|---:" * 6 + "|"]
    for row in kept["rows"]:
        gains = [_difference(row.get(name)) for name in ("over uniform", "over its tokens")]
        figures = f"{row['requests']:.1f}", f"{row['drawn']:.1f}", f"{row['tokens']:,.0f}"
        cells = str(row["samples"]), row["at the same"], row["how"], f"{row['right']:.1%}"
        lines.append(_line([*cells, *gains, *figures]))
    return _table(lines, kept)


def _difference(share: list[float] | None) -> str:
    """A difference of two shares with its interval, in points."""
    if share is None:
        return ""
    mean, low, high = (100 * part for part in share)
    return f"{mean:+.1f} [{low:.1f}, {high:.1f}]"


def leases(name: str) -> str:
    kept = _load(name)
    shift = any(row["lag"] is not None for row in kept["rows"])
    heads = ["workers", "accuracy", "loss, points", "budget spent", "samples a message", "messages a second"]
    lines = [_line([*heads, *(["lag"] if shift else [])]), "|---:" * (len(heads) + shift) + "|"]
    for row in kept["rows"]:
        one = row["workers"] == "central"
        assert not row["over_spend"] and not row["unanswered"]  # the page says so
        cells = [
            "one process, no lease" if one else f"{row['workers']:,}",
            f"{row['accuracy']:.2f} %",
            "" if one else f"{row['loss']:.2f}",
            f"{row['spent_percent']:.2f} %",
            "" if one else f"{row['samples_a_message']:.1f}",
            "" if one else f"{row['messages_a_second']:,}",
        ]
        lines.append(_line([*cells, *([f"{row['lag']:,}"] if shift else [])]))
    return _table(lines, kept)


def cluster() -> str:
    kept = _load("cluster")
    heads = ["", "right", "samples", "seconds", "samples a second", "samples a message", "rows lost, twice, failed"]
    lines = [_line([*heads, "over-spent", "not paid", "not seen"]), "|---" + "|---:" * (len(heads) + 2) + "|"]
    for row in kept["rows"]:
        if row["queries"] is None:
            continue  # the actor's own pace, which the text tells
        cells = [
            row["run"],
            f"{row['right_percent']:.2f} %",
            f"{row['samples']:,}",
            f"{row['seconds']:.0f}",
            f"{row['samples_a_second']:.1f}",
            "" if row["samples_a_message"] is None else f"{row['samples_a_message']:.1f}",
            f"{row['lost']}, {row['twice']}, {row['failed']}",
            *(str(row[name]) for name in ("over_spend", "unpaid", "unseen")),
        ]
        lines.append(_line(cells))
    return _table(lines, kept)


def prompts() -> str:
    kept = _load("prompts")
    heads = ["server", "eight samples, asked for", "prompt tokens", "of one sample's", "found in its cache", "seconds"]
    lines = [_line([*heads, "its CPU seconds"]), "|---|---|" + "---:|" * 5]
    for row in kept["rows"]:
        cells = [
            row["server"],
            row["method"],
            f"{row['prompt_tokens']:,.0f}",
            f"{row['of_one']:.2f}",
            "" if row["cached_tokens"] is None else f"{row['cached_tokens']:,.0f}",
            f"{row['seconds']:.2f}",
            "" if row["server_cpu_s"] is None else f"{row['server_cpu_s']:.2f}",
        ]
        lines.append(_line(cells))
    return _table(lines, kept)


def local_servers() -> str:
    kept = _load("local_servers")
    lines = [_line(list(kept["rows"][0])), "|---" * len(kept["rows"][0]) + "|"]
    lines += [_line(list(row.values())) for row in kept["rows"]]
    return _table(lines, kept)


def throughput(part: str, name: str = "throughput") -> str:
    kept = _load(name)
    heads = ["questions", "latency", "in flight", "reached", "requests", "seconds", "of the ideal", "CPU a sample"]
    lines = [_line(["method", *heads]), "|---|" + "---:|" * len(heads)]
    for row in kept["rows"]:
        if row["part"] != part:
            continue
        cells = [
            row["method"],
            str(row["questions"]),
            f"{row['latency_ms']} ms",
            f"{row['in_flight']:,}",
            f"{row['peak']:,}",
            f"{row['requests']:,}",
            f"{row['seconds']:.2f}",
            "" if row["over_ideal"] is None else f"{row['over_ideal']:.2f}",
            f"{row['cpu_ms']:.2f} ms",
        ]
        lines.append(_line(cells))
    return _table(lines, kept)


def real_models(name: str) -> str:
    """A column a model and task; the gain is over the better plain run of that column."""
    kept = _load(name)
    columns = list(dict.fromkeys((row["model"], row["task"]) for row in kept["rows"]))
    found = {(row["model"], row["task"], row["method"], row["budget"]): row for row in kept["rows"]}
    lines = [_line(["", "samples", *(f"{model}, {task}" for model, task in columns)])]
    lines.append("|---|---:|" + "---:|" * len(columns))
    for method, budget in dict.fromkeys((row["method"], row["budget"]) for row in kept["rows"]):
        cells = [method.replace("Parallel", "`Parallel`") if "(" not in method else f"`{method}`", str(budget)]
        for model, task in columns:
            row = found[model, task, method, budget]
            gain, low, high = (100 * row[part] for part in ("gain", "low", "high"))
            own = f"{100 * row['accuracy']:.1f}"
            cells.append(own if low == high == 0 else f"{own} ({gain:+.1f} [{low:+.1f}, {high:+.1f}])")
        lines.append(_line(cells))
    return _table(lines, kept)


def when_it_helps() -> str:
    """A row a model: each way's accuracy, the default's gain over the better plain run, and what it costs."""
    lines = ["| program | model | plain | temperature 0 | uniform voting | default | gain, points | cost |"]
    lines.append("|---|---|" + "---:|" * 6)
    rows = measured()
    for kind, model in dict.fromkeys((row.kind, row.model) for row in rows):
        found = {row.way: row for row in rows if (row.kind, row.model) == (kind, model)}
        ours = found[OURS]
        accuracies = (f"{100 * found[way].accuracy:.1f}" for way in (PLAIN, GREEDY, VOTING, OURS))
        gain = f"{100 * ours.gain:+.1f} [{100 * ours.low:+.1f}, {100 * ours.high:+.1f}]"
        lines.append(_line([kind, model, *accuracies, gain, f"{ours.times:.1f}"]))
    return "\n".join(lines) + "\n"


def orders() -> str:
    kept = _load("real_models_orders")
    columns = list(dict.fromkeys((row["model"], row["task"]) for row in kept["rows"]))
    heads = ["", *(f"{model}, {task}: {what}" for model, task in columns for what in ("mean", "best order"))]
    lines = [_line(heads), "|---|" + "---:|" * (len(heads) - 1)]
    for method in dict.fromkeys(row["method"] for row in kept["rows"]):
        cells = [method]
        for model, task in columns:
            row = next(r for r in kept["rows"] if (r["model"], r["task"], r["method"]) == (model, task, method))
            gain, low, high = (100 * row[part] for part in ("gain", "low", "high"))
            own = f"{100 * row['accuracy']:.1f}"
            cells.append(own if low == high == 0 else f"{own} ({gain:+.1f} [{low:+.1f}, {high:+.1f}])")
            cells.append(f"{100 * row['best order']:.1f}")
        lines.append(_line(cells))
    return _table(lines, kept)


def mixes() -> str:
    """A column a model and task, a row a share of the most frequent label."""
    kept = _load("real_models_mixes")
    columns = list(dict.fromkeys((row["model"], row["task"]) for row in kept["rows"]))
    found = {(row["model"], row["task"], row["frequent"]): row for row in kept["rows"]}
    lines = [_line(["calls", *(f"{model}, {task}" for model, task in columns)]), "|---|" + "---:|" * len(columns)]
    equal = [found[(*column, None)] for column in columns]
    lines.append(_line(["as many of each label: temperature 0", *(f"{100 * row['greedy']:.1f}" for row in equal)]))
    lines.append(_line(["gain", *(_in_points(row, "gain") for row in equal)]))
    lines.append(_line(["gain one by one, 200 calls", *(f"{100 * row['gain one by one']:+.1f}" for row in equal)]))
    for frequent in dict.fromkeys(row["frequent"] for row in kept["rows"] if row["frequent"]):
        rows = [found[(*column, frequent)] for column in columns]
        for told, name in (("mean over labels", "gain"), ("the worst label", "worst")):
            lines.append(_line([f"{frequent:.0%} one label: {told}", *(_in_points(row, name) for row in rows)]))
    return _table(lines, kept)


def _in_points(row: dict[str, Any], name: str) -> str:
    return f"{100 * row[name]:+.1f} [{100 * row[f'{name} low']:+.1f}, {100 * row[f'{name} high']:+.1f}]"


def selection() -> str:
    """A row a set and number of samples: what a vote and the default gain over a random sample."""
    heads = ["outputs", "prompts", "samples", "random", "most votes", "the default", "default over votes", "in halves"]
    lines = [_line([*heads, "best"]), "|---|" + "---:|" * len(heads)]
    for (name, samples), rules in kinds.measured("same").items():
        ours = rules["default"]
        cells = [kinds.SETS[name], str(ours["prompts"]), str(samples), f"{rules['random']['score']:.1f}"]
        cells += [kinds.told(rules[rule]["gain"]) for rule in ("plurality", "default")]
        cells += [kinds.told(ours["over plurality"]), ", ".join(f"{half[0]:+.1f}" for half in ours["halves over plurality"])]
        lines.append(_line([*cells, f"{rules['best']['gain'][0]:+.1f}"]))
    return _table(lines, kinds.kept())


def selection_on_request() -> str:
    """A row a rule that is no default and a set, at the most samples."""
    lines = ["| rule | outputs | samples | over a random sample | over the default |", "|---|---|---:|---:|---:|"]
    most = {name: (samples, rules) for (name, samples), rules in kinds.measured("same").items()}
    for rule in ON_REQUEST:
        for name, (samples, rules) in most.items():
            if rule in rules:
                gains = (kinds.told(rules[rule][of]) for of in ("gain", "over default"))
                lines.append(_line([f"`{rule}`", kinds.SETS[name], str(samples), *gains]))
    return "\n".join(lines) + "\n"


def selection_one_budget() -> str:
    """A row a set, at 4 samples or at what there is: what the bandit gains under each rule over as many for each prompt."""
    lines = ["| outputs | samples | most votes | the default | on request |", "|---|---:|---:|---:|---:|"]
    few = {name: (n, rules) for (name, n), rules in kinds.measured("one budget").items() if n <= 4}
    for name, (samples, rules) in few.items():
        asked = [f"`{rule}`: {kinds.told(rules[rule]['gain'])}" for rule in ON_REQUEST if rule in rules]
        gains = [kinds.told(rules[rule]["gain"]) for rule in ("plurality", "default")]
        lines.append(_line([kinds.SETS[name], str(samples), *gains, "; ".join(asked)]))
    return "\n".join(lines) + "\n"


ON_REQUEST = (
    *("Medoid()", "Ranking()", "Ranking(compose=True)", "Fieldwise(compose=True)", "ElementVote()"),
    "EqualOutputs(run)",
)
"""Rules that are no default."""


def two_models() -> str:
    """A row a way and budget: the lab's two models, alone and together."""
    kept = _load("two_models")
    lines = [_line(["way", "right, %", "gain, points", "cost", "samples of small + large"]), "|---|" + "---:|" * 4]
    for row in kept["rows"]:
        gain = "" if not row["gain"] and not row["low"] + row["high"] else _interval(row)
        drawn = f"{row['small']:.1f} + {row['large']:.1f}"
        lines.append(_line([row["way"], f"{row['right']:.1f}", gain, f"{row['cost']:.2f}", drawn]))
    return _table(lines, kept)


def _interval(row: dict[str, Any]) -> str:
    return f"{row['gain']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"


def escalate(ratio: float, apart: bool = True) -> str:
    """A row a kind of pair and way: points over the best single model in hindsight at each budget, and the worst pair."""
    kept = _load("escalate")
    rows = [row for row in kept["rows"] if row["ratio"] == ratio and ("or more" in row["kind"]) == apart]
    budgets = list(dict.fromkeys(row["budget"] for row in rows))
    lines = [_line(["pairs", "way", *(f"{budget:g}" for budget in budgets)]), "|---" * 2 + "|---:" * len(budgets) + "|"]
    for data, kind in dict.fromkeys((row["dataset"], row["kind"]) for row in rows):
        alike = [row for row in rows if (row["dataset"], row["kind"]) == (data, kind)]
        pairs = f"{DATA[data]}, {kind.split(', ')[1].removeprefix('the ')}, {alike[0]['groups']}"
        for way in dict.fromkeys(row["way"] for row in alike):
            owned = {row["budget"]: row for row in alike if row["way"] == way}
            if "not a policy" not in way:
                lines.append(_line([pairs, way, *(_points(owned[budget]) for budget in budgets)]))
                pairs = ""
    return _table(lines, kept)


def _points(row: dict[str, Any]) -> str:
    if row["gain"] is None:
        return "–"
    return f"{100 * row['gain']:+.1f} ± {100 * row['se']:.1f} ({100 * row['worst']:+.1f})".replace(" ", "\u00a0")


TABLES: dict[str, Callable[[], str]] = {
    "confidence": confidence,
    "cluster": cluster,
    "demo": demo,
    "escalate 10": lambda: escalate(10),
    "escalate 50": lambda: escalate(50),
    "escalate like": lambda: escalate(3, apart=False),
    "two_models": two_models,
    "factorial frontier": lambda: factorial(0.25, "factorial_frontier"),
    "factorial learned": lambda: factorial(0.25, "factorial_learned"),
    "factorial others": factorial_others,
    "factorial seeds": lambda: factorial(0.25, "factorial_seeds"),
    "leases": lambda: leases("leases"),
    "leases large": lambda: leases("leases_large"),
    "leases shift": lambda: leases("leases_shift"),
    "local servers": local_servers,
    "long prompts": long_prompts,
    "mixes": mixes,
    "models": models,
    "orders": orders,
    "overhead": overhead,
    "own cost": own_cost,
    "prompts": prompts,
    "real models": lambda: real_models("real_models"),
    "replay each pool": lambda: replay("each pool"),
    "replay all pools": lambda: replay("all pools"),
    "when it helps": when_it_helps,
    "selection": selection,
    "selection one budget": selection_one_budget,
    "selection on request": selection_on_request,
    "throughput one": lambda: throughput("one", "throughput_one"),
    "throughput peers": lambda: throughput("peers"),
    "throughput width": lambda: throughput("width"),
}


def _gain(row: dict[str, Any]) -> str:
    """A gain in points, and its interval, unless outcomes by question were not kept."""
    gain, *ends = (f"{100 * row[name]:+.1f}" for name in ("gain", "low", "high") if row[name] is not None)
    return f"{gain} [{', '.join(ends)}]" if ends else gain


def _load(name: str) -> dict[str, Any]:
    return json.loads((DOCS / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(lines: list[str], kept: dict[str, Any]) -> str:
    return "\n".join([*lines, "", "```bash", kept["command"], "```"]) + "\n"


if __name__ == "__main__":
    main()
