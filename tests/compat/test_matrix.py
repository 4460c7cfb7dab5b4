"""Every cell of docs/compatibility.md: a program plain and scaled, driven one way, under an adapter and an engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compat.matrix import HOLES, WAYS, Hole, cells
from tests.compat.rows import DSPY, ROWS, Row
from tests.compat.server import ModelServer
from tests.compat.table import BEGIN, END, expected, newest, render

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_program_works_wrapped_as_it_does_plain(row: Row, way: str, model: ModelServer, quiet: None) -> None:
    if row.skipped:
        pytest.skip(row.skipped)
    for cell in cells(row, way):
        try:
            cell.run(model)
        except Hole:
            assert (row.name, way) in HOLES, f"{cell.name}: DSPy cannot run the plain program this way"
        except AssertionError as error:
            raise AssertionError(f"{cell.name}: {error}") from error
        else:
            assert (row.name, way) not in HOLES, f"{cell.name}: a hole has closed, tell the page"


@pytest.mark.skipif(not newest(), reason=f"the page is about the newest DSPy, this is {DSPY}")
def test_the_page_has_the_table_of_these_cells() -> None:
    text = PAGE.read_text(encoding="utf-8")
    between = text.partition(BEGIN)[2].partition(END)[0]
    assert between.strip() == render(expected()).strip(), "run: python -m tests.compat --table --write"
