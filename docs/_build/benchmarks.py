"""Run a benchmark and keep its rows for the documentation, with the command and the machine.

python docs/_build/benchmarks.py scale
python docs/_build/benchmarks.py arena --quick
python docs/_build/benchmarks.py confidence --pools POOLS        # a folder of recorded samples
python docs/_build/benchmarks.py replay POOL... [OPTIONS]        # `dynscale replay`, each with its own budget and shared
python docs/_build/benchmarks.py escalate POOL... [OPTIONS]      # `dynscale replay --prices`, at three ratios of prices
python docs/_build/benchmarks.py models [--state FOLDER]         # a part of a script, named in PARTS; so are others
python docs/_build/benchmarks.py demo 20 [FOLDER]                # `dynscale demo` with as many seeds, kept in a folder

Then `python docs/_build/tables.py` writes the tables of the pages anew.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dynscale_dspy.tuning.paired import better, paired_gain

ROOT = Path(__file__).parents[2]
PARTS = {
    "factorial_seeds": "factorial --policies uniform,kg --strategies parallel,sequential,integrated,default --largest 8",
    "factorial_learned": "factorial --set 13 --seeds 1 --largest 8 --policies kg,uniform "
    "--strategies parallel,integrated,default",
    "factorial_frontier": "factorial --set 14 --seeds 1 --questions 300 --largest 16 --policies kg,uniform "
    "--strategies parallel,default",
    "factorial_others": "factorial --part others",
    "models": "factorial --part models --seeds 3",
}
"""Tables of their own, by the script that makes them and its options."""


def main() -> None:
    name, *options = sys.argv[1:]
    makers = {"replay": replay, "demo": demo, "escalate": escalate}
    command, rows = makers[name](options) if name in makers else script(name, options)
    kept = {
        "command": command,
        "machine": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "rows": rows,
    }
    (ROOT / "docs" / "benchmarks" / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def script(name: str, options: list[str]) -> tuple[str, list[dict[str, Any]]]:
    name, *part = PARTS.get(name, name).split()
    options = [*part, *options]
    path = f"examples/benchmarks/{name}.py"
    # What is there is named by its last part: where it lies on this machine says nothing to others.
    told = [Path(option).name if Path(option).exists() else option for option in options]
    return " ".join(["python", path, *told]), run([sys.executable, path, *options])


def replay(options: list[str]) -> tuple[str, list[dict[str, Any]]]:
    """Accuracy at 2, 4 and 8 samples a query, reach and area: a row a policy and group."""
    rows = []
    for share in ([], ["--share"]):
        result = run([sys.executable, "-m", "dynscale_dspy.cli", "replay", *options, *share])
        for summary in result["summaries"]:
            group, policy = summary["group"], summary["policy"]
            row: dict[str, Any] = {"one budget for": "all pools" if share else "each pool"}
            row |= {"data": group, "policy": policy}
            for budget in (2, 4, 8):
                found = [
                    record["accuracy"]
                    for record in result["records"]
                    if record["policy"] == policy
                    and record["budget"] == budget
                    and result["groups"].get(record["pool"], record["pool"]) == group
                ]
                row[f"at {budget}"] = sum(found) / len(found) if found else None
            rows.append({**row, "reach": summary["reach_uniform32"], "area": summary["area"]})
    told = [option for option in options if not Path(option).is_file()]
    return " ".join(["dynscale replay POOL...", *told]) + ", without and with --share", rows


def escalate(options: list[str]) -> tuple[str, list[dict[str, Any]]]:
    """Gains over the best single model in hindsight: a row a ratio of prices, kind of pair, way and budget."""
    rows = []
    for ratio in (10, 50, 3):
        found = run([sys.executable, "-m", "dynscale_dspy.cli", "replay", "--prices", f"1,{ratio}", *options])
        rows += [{"ratio": ratio, **row} for row in found["summaries"]]
    told = [option for option in options if not Path(option).is_file()]
    return " ".join(["dynscale replay POOL... --prices 1,10", *told]) + ", and at 1,50 and 1,3", rows


def demo(options: list[str]) -> tuple[str, list[dict[str, Any]]]:
    """A row a method, over several sets of questions; its gain over the better plain run is paired over all questions.

    Sets that are finished are kept in the second option's folder, if there is one: a run that was stopped goes on there.
    """
    seeds = int(options[0])
    sets = []
    for seed in range(seeds):
        kept = Path(options[1]) / f"{seed}.json" if options[1:] else None
        if kept is not None and kept.exists():
            sets.append(json.loads(kept.read_text(encoding="utf-8")))
            continue
        sets.append(run([sys.executable, "-m", "dynscale_dspy.cli", "demo", "--seed", str(seed)]))
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(sets[-1]), encoding="utf-8")
    by_method = {rows[0]["method"]: rows for rows in zip(*sets, strict=True)}
    right = {method: [hit for row in each for hit in row["right"]] for method, each in by_method.items()}
    single = better({method: right[method] for method in ("plain", "greedy")})
    rows = []
    for method, each in by_method.items():
        row: dict[str, Any] = {"method": method, "sets": seeds, "questions": len(right[method])}
        row["accuracy"] = statistics.mean(right[method])
        for name in ("samples", "requests", "prompt_tokens", "completion_tokens"):
            row[name] = statistics.mean(one[name] for one in each)
        # As providers charge: a token read at a quarter of one written.
        row["cost"] = row["prompt_tokens"] / 4 + row["completion_tokens"]
        gain = paired_gain(right[method], right[single])
        gains = [one["accuracy"] - base["accuracy"] for one, base in zip(each, by_method[single], strict=True)]
        row |= {"over": single, "gain": gain.mean, "low": gain.low, "high": gain.high}
        row["sets on which it gains"] = sum(gain > 0 for gain in gains)
        if method == "dynscaling":
            nearest = min(range(seeds), key=lambda seed: abs(gains[seed] - gain.mean))
            print(f"the seed whose gain comes nearest the mean, for the command's default: {nearest}")
        rows.append(row)
    return f"dynscale demo --seed N, N from 0 to {seeds - 1}", rows


def run(command: list[str]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        subprocess.run([*command, "--json", str(out)], check=True, cwd=ROOT)
        return json.loads(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
