"""Every Python block of the README runs, and its two commands are what CI runs."""

from __future__ import annotations

import re
from pathlib import Path

import dspy
import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.timeout(120)
def test_python_blocks_run_in_order(capsys):
    assert len(BLOCKS) >= 3
    namespace: dict[str, object] = {"__name__": "readme"}
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "20 calls answered" in printed and "80 spent, 0 left" in printed
    assert "agree, confidence" in printed
    assert isinstance(namespace["paper"], dspy.Module)


def test_the_commands():
    commands = re.findall(r"```bash\n(.*?)\n```", TEXT, flags=re.DOTALL)
    assert commands == ['pip install -e ".[lab]" && dynscale demo', 'pip install -e ".[test]" && pytest']


def test_it_is_short():
    assert len(TEXT.splitlines()) < 150
    assert len(re.findall(r"^\|[-:| ]+\|$", TEXT, flags=re.MULTILINE)) == 1  # one table
    assert len(re.findall(r"!\[", TEXT)) == 1  # one picture
