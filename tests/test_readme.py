"""Every Python block of the README runs, and its two commands are what CI runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|text)\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.timeout(120)
def test_python_blocks_print_what_is_shown(capsys):
    namespace: dict[str, object] = {"__name__": "readme"}
    printed = []
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "README.md", "exec"), namespace)
            printed.append(capsys.readouterr().out)
        else:
            assert printed.pop() == block
    assert not printed
    assert len(BLOCKS) == 10  # five programs, and what each prints


def test_the_commands():
    (block,) = re.findall(r"```bash\n(.*?)\n```", TEXT, flags=re.DOTALL)
    assert block.splitlines() == ['pip install -e ".[lab]" && dynscale demo', 'pip install -e ".[test]" && pytest']


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 111  # half of them are code and what it prints
    assert len(re.findall(r"^\|[-:| ]+\|$", TEXT, flags=re.MULTILINE)) == 1  # one table
    assert len(re.findall(r"!\[", TEXT)) == 1  # one picture
