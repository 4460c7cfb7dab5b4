"""What was measured of which answer wins, by kind of output: the rows that tables and pictures are made of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SETS = {
    "short_text__llama-13b__triviaqa-250": "short answers, LLaMA-13B",
    "list__gpt-4o-mini__biodivner": "entity lists, gpt-4o-mini",
    "list__meta-llama-3.1-70b-instruct__biodivner": "entity lists, Llama-3.1-70B",
    "record__gpt-4-cot__mini-crosswords-20": "ten short fields, gpt-4",
    "answers as records": "ten unrelated labels, gpt-3.5-turbo",
    "record__llama3-8b__abstract-extraction": "five text fields, Llama-3-8B",
    "code__gpt-3.5-turbo__humaneval": "code, gpt-3.5-turbo",
    "code__codellama-34b-instruct__humaneval": "code, CodeLlama-34B",
    "made here: rankings": "rankings, scripted",
}
"""Sets by what a page calls them; others are not shown."""


def kept() -> dict[str, Any]:
    """The file."""
    path = Path(__file__).parents[1] / "benchmarks" / "selection.json"
    return json.loads(path.read_text(encoding="utf-8"))


def measured(table: str) -> dict[tuple[str, int], dict[str, dict[str, Any]]]:
    """The rows of a table by set and number of samples, and by rule, in the order in which pages show the sets.

    Args:
        table: Its name.
    """
    found: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    rows = [row for row in kept()["rows"] if row["table"] == table]
    for name in SETS:
        for row in rows:
            if row["set"] == name:
                found.setdefault((name, row["samples"]), {})[row["rule"]] = row
    return found


def told(gain: list[float]) -> str:
    """A gain in points, and its interval."""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*gain)
