"""Run a benchmark and keep its rows for the documentation, with the command and the machine.

python docs/_build/benchmarks.py scale
python docs/_build/benchmarks.py arena --quick
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> None:
    name, *options = sys.argv[1:]
    script = f"examples/benchmarks/{name}.py"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        subprocess.run([sys.executable, ROOT / script, *options, "--json", out], check=True, cwd=ROOT)
        rows = json.loads(out.read_text(encoding="utf-8"))
    kept = {
        "command": " ".join(["python", script, *options]),
        "machine": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "rows": rows,
    }
    (ROOT / "docs" / "benchmarks" / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
