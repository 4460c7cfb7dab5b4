"""Run a benchmark and keep its rows for the documentation, with the command and the machine.

python docs/_build/benchmarks.py scale
python docs/_build/benchmarks.py arena --quick
python docs/_build/benchmarks.py confidence --pools POOLS        # a folder of recorded samples
python docs/_build/benchmarks.py replay POOL... [OPTIONS]        # `dynscale replay`, each with its own budget and shared

Then `python docs/_build/tables.py` writes the tables of the pages anew.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def main() -> None:
    name, *options = sys.argv[1:]
    command, rows = replay(options) if name == "replay" else script(name, options)
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


def run(command: list[str]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        subprocess.run([*command, "--json", str(out)], check=True, cwd=ROOT)
        return json.loads(out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
