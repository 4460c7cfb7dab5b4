"""Run a benchmark and keep its rows for the documentation, with the command and the machine.

python docs/_build/benchmarks.py scale
python docs/_build/benchmarks.py arena --quick
python docs/_build/benchmarks.py confidence --pools POOLS        # a folder of recorded samples
python docs/_build/benchmarks.py replay POOL... [OPTIONS]        # `dynscale replay`, each with its own budget and shared
python docs/_build/benchmarks.py demo 20                         # `dynscale demo` with as many seeds

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

ROOT = Path(__file__).parents[2]


def main() -> None:
    name, *options = sys.argv[1:]
    makers = {"replay": replay, "demo": demo}
    command, rows = makers[name](options) if name in makers else script(name, options)
    kept = {
        "command": command,
        "machine": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "rows": rows,
    }
    (ROOT / "docs" / "benchmarks" / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def script(name: str, options: list[str]) -> tuple[str, list[dict[str, Any]]]:
    path = f"examples/benchmarks/{name}.py"
    # A folder is named by its last part: where it lies on this machine says nothing to others.
    told = [Path(option).name if Path(option).is_dir() else option for option in options]
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


def demo(options: list[str]) -> tuple[str, list[dict[str, Any]]]:
    """Means over sets of questions, and how far apart the sets are: a row a method."""
    seeds = int(options[0])
    sets = [run([sys.executable, "-m", "dynscale_dspy.cli", "demo", "--seed", str(seed)]) for seed in range(seeds)]
    by_method = {rows[0]["method"]: rows for rows in zip(*sets, strict=True)}
    ours = [row["accuracy"] for row in by_method["dynscaling"]]
    rows = []
    for method, each in by_method.items():
        gains = [mine - row["accuracy"] for mine, row in zip(ours, each, strict=True)]
        row: dict[str, Any] = {"method": method, "sets of 200 questions": seeds}
        row["accuracy"] = statistics.mean(one["accuracy"] for one in each)
        for name in ("samples", "prompt_tokens", "completion_tokens"):
            row[name] = statistics.mean(one[name] for one in each)
        # As providers charge: a token read at a quarter of one written.
        row["cost"] = row["prompt_tokens"] / 4 + row["completion_tokens"]
        if method != "dynscaling":
            row["gain of dynscaling"] = statistics.mean(gains)
            row["its standard error"] = statistics.stdev(gains) / seeds**0.5
            row["sets on which it gains"] = sum(gain > 0 for gain in gains)
        rows.append(row)
    return f"dynscale demo --seed N, N from 0 to {seeds - 1}", rows


def run(command: list[str]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        subprocess.run([*command, "--json", str(out)], check=True, cwd=ROOT)
        return json.loads(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
