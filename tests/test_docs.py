"""Every Python block of the page on budgets runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dynscale_dspy.testing import FAULTS

TEXT = (Path(__file__).parent.parent / "docs" / "budgets.md").read_text(encoding="utf-8")


@pytest.mark.timeout(120)
def test_python_blocks_run_in_order(capsys):
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(blocks) >= 2
    namespace: dict[str, object] = {"__name__": "budgets"}
    for block in blocks:
        exec(compile(block, "budgets.md", "exec"), namespace)
    first, second = capsys.readouterr().out.strip().splitlines()
    assert first.startswith("BudgetPool(0 of 1000 samples, 0 of 3000 calls, 0 of 2000000 tokens, 0 of 5 dollars")
    scope, pool = map(int, second.split())
    assert 4 <= scope == pool <= 6


def test_every_fault_of_the_fake_server_is_explained():
    words = {
        "429": "429,",
        "429_retry_after": "Retry-After",
        "500": "500;",
        "503": "503",
        "context_length": "prompt too long",
        "hang": "hang",
        "stall": "stall",
        "reset": "reset",
        "truncated_body": "truncated body",
        "malformed_json": "malformed JSON",
        "empty_choices": "no choices",
        "null_content": "null content",
        "empty_content": "empty or null",
        "refusal": "refusal",
        "content_filter": "content filter",
        "prose": "without the fields asked for",
        "length": "cut off",
        "slow": "slow first byte",
        "extra_choice": "one too many",
        "no_usage": "usage missing",
        "absurd_usage": "absurd",
        "usage_of_one": "usage of one choice",
    }
    assert set(words) == set(FAULTS)
    for word in words.values():
        assert word in TEXT
