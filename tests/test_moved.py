"""Modules of version 0.1 under their old names."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from dynscale_dspy._moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_module_warns_and_finds_its_names(old):
    sys.modules.pop(f"dynscale_dspy.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"^dynscale_dspy.{old} has moved: import from dynscale_dspy."):
        module = importlib.import_module(f"dynscale_dspy.{old}")
    for new in MOVED[old]:
        home = importlib.import_module(f"dynscale_dspy.{new}")
        for name in getattr(home, "__all__", [n for n in vars(home) if not n.startswith("_")]):
            assert getattr(module, name) is not None or getattr(home, name) is None
    with pytest.raises(AttributeError, match="has no attribute 'nothing_of_this_name'"):
        module.nothing_of_this_name


def test_the_warning_names_the_line_that_imports():
    script = "import warnings\nwarnings.simplefilter('error')\nfrom dynscale_dspy.storage import SQLiteStore"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "DeprecationWarning: dynscale_dspy.storage has moved" in run.stderr
