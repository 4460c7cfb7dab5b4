from __future__ import annotations

import pytest

from dynscale_dspy._words import counted


@pytest.mark.parametrize(
    ("number", "unit", "words"),
    [(0, "sample", "0 samples"), (1, "sample", "1 sample"), (1200, "query", "1,200 queries"), (1, "query", "1 query")],
)
def test_one_is_singular(number, unit, words):
    assert counted(number, unit) == words
