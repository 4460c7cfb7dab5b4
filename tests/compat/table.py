"""The compatibility table as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import dspy
from packaging.version import Version

from tests.compat.matrix import HOLES, WAYS, Cell, Hole, cells
from tests.compat.rows import DSPY, ROWS
from tests.compat.server import ModelServer

BEGIN, END = "<!-- table: python -m tests.compat --table -->", "<!-- end of table -->"
NEWEST = "3.4"

Results = Mapping[tuple[str, str], str]


def newest() -> bool:
    """Whether the installed DSPy is the one the page is about."""
    return Version(NEWEST) <= DSPY


def expected() -> Results:
    """The table if every cell comes out as the tests demand."""
    return _results(lambda cell: (cell.row.name, cell.way) not in HOLES)


def measured(server: ModelServer) -> Results:
    """The table as it comes out, each cell run here and now."""

    def passes(cell: Cell) -> bool:
        try:
            cell.run(server)
        except Hole:
            return False
        return True

    dspy.disable_logging()
    try:
        return _results(passes)
    finally:
        dspy.enable_logging()


def _results(passes: Callable[[Cell], bool]) -> Results:
    results = {}
    for row in ROWS:
        for way in WAYS:
            if row.deno:
                results[row.name, way] = "skipped: needs Deno"
                continue
            outcomes = [passes(cell) for cell in cells(row, way)]
            passed = sum(outcomes)
            results[row.name, way] = f"{passed} of {len(outcomes)}" if passed else f"hole: {HOLES[row.name, way]}"
    return results


def render(results: Results) -> str:
    """Rows, columns and totals."""
    lines = [
        f"| program | {' | '.join(WAYS)} |",
        f"|---|{'---|' * len(WAYS)}",
        *(f"| {row.name} | {' | '.join(results[row.name, way] for way in WAYS)} |" for row in ROWS),
    ]
    counts = {"passed": 0, "holes": 0, "skipped": 0}
    for row in ROWS:
        for way in WAYS:
            number = len(cells(row, way))
            result = results[row.name, way]
            kind = "skipped" if result.startswith("skipped") else "holes" if result.startswith("hole") else "passed"
            counts[kind] += number
    lines += [
        "",
        f"{len(ROWS)} programs, {sum(counts.values())} cells: {counts['passed']} pass, {counts['holes']} are holes in "
        f"DSPy, {counts['skipped']} are skipped.",
    ]
    return "\n".join(lines)
