"""Pages that are made when the site is built: the notebooks as they were run, and tables from the benchmarks' JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).parents[2]
TITLES = {
    "demo": "The demo, on several sets of questions",
    "arena": "Against other ways to sample, on a scripted server",
    "factorial": "Policies times strategies on the model in the box",
    "factorial_frontier": "What the default costs beside uniform voting, on the model in the box",
    "factorial_others": "Other ways to spend several samples on the same model",
    "confidence": "What confidence is worth, by pool",
    "replay": "Policies replayed over recorded samples",
    "selection": "Which answer wins, by kind of output",
    "escalate": "Several language models under one budget, on recorded samples",
    "two_models": "The lab's two models under one budget",
    "chaos": "Faults, kills and shared books",
    "own_cost": "What a sample costs beside the bare program, before and now",
    "overhead": "What a sample costs: CPU, prompt tokens, latencies",
    "throughput": "How full the wire is, and how others fill it",
    "prompts": "What a long prompt costs eight samples",
    "long_prompts": "What the bandit buys where prompts are long",
    "local_servers": "The model in the box on several servers",
    "cluster": "One budget on a Ray cluster of three nodes",
    "leases": "What leasing a budget costs, from one worker to ten thousand",
    "leases_shift": "The same, where the easier questions come first",
    "leases_large": "The same, ten million questions",
    "scale": "How many calls a pool can serve, and at what cost in time",
}
"""In this order; others follow."""
WIDE = "---\nhide: [toc]\n---\n\n"
ELSEWHERE = {
    "replay": "allocation-measured.md#every-policy",
    "selection": "selection-measured.md",
    "escalate": "models-measured.md#recorded-pairs",
    "two_models": "models-measured.md#the-labs-two-models",
    "own_cost": "speed-measured.md#the-librarys-own-work",
    "overhead": "speed-measured.md#beside-dspy-and-litellm",
    "throughput": "speed-measured.md#how-full-the-wire-is",
    "prompts": "speed-measured.md#long-prompts",
    "long_prompts": "speed-measured.md#long-prompts",
    "factorial_frontier": "integrated-sampling-measured.md#what-the-default-costs",
    "local_servers": "servers-measured.md",
    **dict.fromkeys(("cluster", "leases", "leases_shift", "leases_large"), "distributed-measured.md"),
}
"""Shown on a page of its own."""


def on_files(files: Files, config: Any) -> Files:
    """Add them."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        body, resources = MarkdownExporter().from_filename(str(path))
        folder = f"notebooks/{path.stem}_files"
        for name, content in resources["outputs"].items():
            files.append(File.generated(config, f"{folder}/{name}", content=content))
            body = body.replace(f"]({name})", f"]({path.stem}_files/{name})")
        # Cells are wide, and the headings few.
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=f"{WIDE}{body}"))
    files.append(File.generated(config, "benchmarks.md", content=benchmarks()))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name things as `:class:` and the like, which Markdown does not know."""
    return re.sub(r":(?:class|func|meth|attr|mod|data|exc):<code>(?:~[\w.]*\.)?", "<code>", html)


def benchmarks() -> str:
    """One table for each JSON file: a row a record."""
    text = [
        f"{WIDE}# Benchmarks",
        "",
        "Made from the files that `python docs/_build/benchmarks.py NAME` keeps in `docs/benchmarks/`. Under `--quick` a",
        "benchmark only shows that it runs: few questions, one seed. Times are of the machine named, which was busy with",
        "other things; nothing is tested against them.",
    ]
    paths = {path.stem: path for path in sorted((ROOT / "docs" / "benchmarks").glob("*.json"))}
    for name in [*(name for name in TITLES if name in paths), *(name for name in paths if name not in TITLES)]:
        kept = json.loads(paths[name].read_text(encoding="utf-8"))
        text += ["", f"## {TITLES.get(name, name)}", "", f"`{kept['command']}`, on {kept['machine']}.", ""]
        if name in ELSEWHERE:
            text.append(f"[The table]({ELSEWHERE[name]}).")
        else:
            text += _table(kept["rows"])
    return "\n".join(text) + "\n"


def _table(rows: list[dict[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if len(rows) == 1:  # one record of many columns reads better upright
        return ["| | |", "|---|---|", *(f"| {column} | {_cell(rows[0][column])} |" for column in columns)]
    head = ["| " + " | ".join(column.replace("_", " ") for column in columns) + " |", "|" + "---|" * len(columns)]
    return head + ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value).replace("|", "\\|")
